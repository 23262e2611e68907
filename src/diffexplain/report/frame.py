"""What every page shares: the templates, their filters, our CSS and script, and how a page gets to disk."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from math import isfinite, nan
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from diffexplain.errors import RunError
from diffexplain.report import wording
from diffexplain.report.album import Album

_FILTERS = ("signed", "plain", "percent", "points", "chance", "count", "duration", "sign", "lead")
_CONTROLS = {c: "�" for c in (*range(0x20), *range(0x7F, 0xA0)) if chr(c) not in "\t\n\r"}


def render(
    template: str,
    album: Album,
    data: Callable[[], Mapping[str, Any]] = dict,
    names: Mapping[str, str] | None = None,
    **context: Any,
) -> str:
    """One page. Whatever comes from a user is escaped; the only markup that passes is our CSS and script.

    `data()` is called last, when the page has numbered the pictures that it shows; the page's script reads
    it. `names`: file names of input pictures by content hash.
    """
    script = asset("report.js")
    environment = _environment(album, names or {})
    body = environment.get_template(template).render(
        version=package_version(),
        style=Markup(asset("report.css")),  # our own file, no user text in it
        script=Markup(script),
        script_hash=_hash(script),
        ratio=album.ratio,
        data=lambda: {**data(), "pictures": album.uris()},
        **context,
    )
    return body + "\n"


def fragment(template: str, album: Album, **context: Any) -> str:
    """A part of another page, for notebooks: no script, pictures in place by `picture(hash)`."""
    environment = _environment(album, {})
    environment.globals["picture"] = album.uri
    return environment.get_template(template).render(**context)


def write(html: str, path: Path) -> Path:
    """Write a page completely or not at all. Raises RunError when it cannot be written."""
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(html, "utf-8", newline="\n")
        partial.replace(path)
    except OSError as problem:
        raise RunError(f"report {str(path)!r} cannot be written: {problem.strerror}") from problem
    return path


def asset(name: str) -> str:
    """A file beside this one, as text."""
    return files(__package__).joinpath(name).read_text("utf-8")


def package_version() -> str:
    """Of diffexplain."""
    try:
        return version("diffexplain")
    except PackageNotFoundError:
        return "not installed"


def _environment(album: Album, names: Mapping[str, str]) -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(asset),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
    )
    for name in _FILTERS:
        environment.filters[name] = getattr(wording, name)
    environment.filters["place"] = _place
    environment.globals.update(
        interval=wording.interval,
        badge=wording.badge,
        flipped=wording.flipped,
        number=album.number,
        finite=isfinite,
        nan=nan,
        file_name=lambda image: names.get(image, image[:12]),
    )
    return environment


def _visible(value: Any) -> Any:
    """Control characters have no place in HTML, and a terminal that shows the file would obey them."""
    return value.translate(_CONTROLS) if isinstance(value, str) else value


def _place(position: float) -> str:
    """A position as CSS writes it."""
    return f"{position:.2f}%"


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
