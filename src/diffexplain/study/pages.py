"""The page that a reader sees: one template, filled by the server or standing alone as one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from diffexplain.errors import InputError, RunError
from diffexplain.study.booklets import booklet
from diffexplain.study.records import PICTURES, Study

MAX_STATIC = 300 << 20  # bytes of a page that stands alone


def served_page(study: Study, state: Mapping[str, Any]) -> str:
    """The page as the server sends it; style and script are files beside it, pictures below /p/."""
    policy = (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'"
    )
    about = {"title": study.title, "consent": study.consent, "pictures": {}, **state}
    return _rendered(study, policy, about, style=None, script=None)


def write_static(folder: Path | str, path: Path, readers: int) -> Path:
    """One file for all readers, who get a number each (`page.html#7`) and send back the file that it saves.

    Raises InputError when it would be larger than a browser bears, RunError when it cannot be written.
    """
    study = Study.read(folder)
    if readers < 1:
        raise InputError(f"readers {readers}: give a whole number of at least 1")
    booklets = [[page.shown() for page in booklet(study, i)] for i in range(readers)]
    names = {name for item in study.items for panel in item.panels for name in panel.pictures}
    pictures = {name: _uri(Path(folder) / PICTURES / f"{name}.webp") for name in sorted(names)}
    if (size := sum(map(len, pictures.values()))) > MAX_STATIC:
        raise InputError(f"a static page of {size / 1e6:.0f} MB is too large: fewer items, or `study serve`")
    style, script = asset("study.css"), asset("study.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    state = {"study": study.number, "title": study.title, "consent": study.consent, "booklets": booklets,
             "pictures": pictures}  # fmt: skip
    html = _rendered(
        study, policy, state, Markup(style), Markup(script)
    )  # our own files, no user text in them
    try:
        path.write_text(html, "utf-8", newline="\n")
    except OSError as error:
        raise RunError(f"page {str(path)!r} cannot be written: {error.strerror}") from error
    return path


def asset(name: str) -> str:
    """A file beside this one, as text."""
    return files(__package__).joinpath(name).read_text("utf-8")


def _rendered(
    study: Study, policy: str, state: Mapping[str, Any], style: Markup | None, script: Markup | None
) -> str:
    environment = jinja2.Environment(
        autoescape=True, loader=jinja2.FunctionLoader(asset), trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    template = environment.get_template("study.html.j2")
    return template.render(title=study.title, policy=policy, state=dict(state), style=style, script=script)


def _uri(path: Path) -> str:
    try:
        return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}): build the study again") from error


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
