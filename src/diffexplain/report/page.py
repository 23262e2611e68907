"""Puts a run's result into the template and writes the page."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from itertools import chain
from math import isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from diffexplain.errors import RunError
from diffexplain.records import Effect, JointPath, Request, Result
from diffexplain.report import wording
from diffexplain.report.album import Album
from diffexplain.report.axis import Axis
from diffexplain.report.rows import ALPHA, Row, rows, tree

RANKED = 15  # rows of the ranking
PAIRS = 4  # before/after pairs shown for one question
HERO = 4  # pairs in the strip at the top

Fact = tuple[str, str]


class Step(NamedTuple):
    """One line of the joint path: its text and what that question showed alone."""

    text: str
    row: Row | None


def write_report(
    result: Result, picture: Callable[[str], bytes], path: Path, *, title: str | None = None
) -> Path:
    """Write the run's result as one self-contained HTML file that opens offline; return its path.

    `picture(hash)` gives a stored picture as PNG bytes. The same result gives the same bytes.
    Raises RunError when the file cannot be written.
    """
    html = page(result, picture, title=title)
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(html, "utf-8", newline="\n")
        partial.replace(path)
    except OSError as problem:
        raise RunError(f"report {str(path)!r} cannot be written: {problem.strerror}") from problem
    return path


def page(result: Result, picture: Callable[[str], bytes], *, title: str | None = None) -> str:
    """The page as text."""
    album = Album(picture)
    template = _environment(album, result.request).from_string(_asset("report.html.j2"))
    ranked = rows(result)
    script = _asset("report.js")
    body = template.render(
        title=title or wording.question(result.request),
        question=wording.question(result.request),
        result=result,
        request=result.request,
        answer=wording.answer(result, ranked),
        sides=wording.sides(result.request),
        hero=hero(ranked),
        ranked=ranked,
        roots=tree(ranked),
        axis=_axis(ranked),
        measured=[row for row in ranked if row.measured],
        steps=_steps(result.joint, ranked),
        joint_axis=_joint_axis(result.joint, ranked),
        asked=_asked(result),
        spent=_spent(result),
        settings=_settings(result.request),
        alpha=ALPHA,
        shown=RANKED,
        pairs=PAIRS,
        version=_version(),
        style=Markup(_asset("report.css")),  # our own file, no user text in it
        script=Markup(script),
        script_hash=_hash(script),
        ratio=album.ratio,
        pictures=album.uris,
    )
    return body + "\n"


def hero(ranked: Sequence[Row]) -> list[tuple[Row, Effect]]:
    """The strongest pairs of both sides, from the furthest towards the target to the furthest away.

    Only discoveries, where there are any; a concept and one of its sub-types are not both shown.
    """
    shown = [row for row in ranked if row.measured and row.result.examples]
    apart = _apart([row for row in shown if row.found] or shown[:2])
    up = [row for row in apart if row.result.effect > 0]
    down = [row for row in apart if row.result.effect < 0]
    half = HERO // 2
    chosen = up[: max(half, HERO - len(down))] + down[: max(half, HERO - len(up))]
    return [(row, _clearest(row)) for row in sorted(chosen, key=lambda row: -row.result.effect)]


def _clearest(row: Row) -> Effect:
    """The example whose probability moved most with the effect; the first where there is none."""
    up = 1.0 if row.result.effect > 0 else -1.0
    moved = [up * e.probability_change for e in row.result.examples]
    known = [m if isfinite(m) else -2.0 for m in moved]  # (examples,)
    return row.result.examples[known.index(max(known))]


def _apart(candidates: Iterable[Row]) -> list[Row]:
    kept: list[Row] = []
    for row in candidates:
        if not any(_related(row, other) for other in kept):
            kept.append(row)
    return kept


def _related(one: Row, other: Row) -> bool:
    a, b = one.result.concept + "/", other.result.concept + "/"
    return one.result.direction == other.result.direction and (a.startswith(b) or b.startswith(a))


def _axis(ranked: Sequence[Row]) -> Axis:
    measured = [row for row in ranked if row.measured]
    effects = [row.result.effect for row in measured] + [row.truth for row in measured]
    return Axis.over(effects, chain.from_iterable((row.result.low, row.result.high) for row in measured))


def _steps(joint: JointPath | None, ranked: Sequence[Row]) -> list[Step]:
    if joint is None:
        return []
    alone = {(row.result.direction, row.result.concept): row for row in ranked}
    keys = zip(joint.directions, joint.concepts, strict=True)
    return [Step(text, alone.get(key)) for text, key in zip(joint.steps, keys, strict=False)]


def _joint_axis(joint: JointPath | None, ranked: Sequence[Row]) -> Axis:
    if joint is None:
        return Axis.over(())
    alone = [step.row.result for step in _steps(joint, ranked) if step.row and step.row.measured]
    ends = [joint.low, joint.high, *(end for r in alone for end in (r.low, r.high))]
    return Axis.over([joint.effect, *(r.effect for r in alone)], ends)


def _asked(result: Result) -> list[Fact]:
    request = result.request
    statuses = [c.status for c in result.concepts]
    facts = [
        ("Classifier", request.classifier),
        ("Target", request.target + (f" against {request.versus}" if request.versus else "")),
        ("Mean score of the reconstructions", wording.signed(result.score_mean)),
        ("Corpus", f"{request.corpus} (hash {request.corpus_hash})"),
        ("Editor", request.editor),
        *([("Screening editor of the race", request.screen)] if request.screen else []),
        ("Judge of presence", request.judge),
        ("Segmenter", request.segmenter or "none"),
        ("Images", wording.count(len(request.images))),
        ("Seeds per image", wording.count(request.seeds)),
        ("Budget", "none" if request.budget is None else f"{wording.count(request.budget)} edits"),
    ]
    if agreed := result.agreement:
        told = (
            f"over {agreed.questions} questions, on other pictures: correlation "
            f"{wording.plain(agreed.correlation, 2)}, of ranks {wording.plain(agreed.rank_correlation, 2)}, "
            f"same sign {wording.plain(agreed.same_sign, 2)}"
        )
        facts.append(("Screened against confirmed effects", told))
    counted = [f"{statuses.count(s)} {s}" for s in ("measured", "ruled out", "not eligible")]
    return [*facts, ("Questions", f"{len(statuses)}: " + ", ".join(counted))]


def _spent(result: Result) -> list[Fact]:
    cost, drift = result.cost, result.drift
    return [
        ("Time", wording.duration(cost.seconds)),
        ("Edits", wording.count(cost.edits)),
        ("Inversions", wording.count(cost.inversions)),
        ("UNet evaluations", wording.count(cost.evaluations)),
        ("Drift of the pictures", f"{wording.plain(255 * drift.pixels, 1)} of 255 grey levels"),
        ("Drift of the score", f"{wording.plain(drift.score, 2)} log-odds"),
        ("Drift of the score, signed", f"{wording.signed(drift.score_signed)} log-odds"),
    ]


def _settings(request: Request) -> list[Fact]:
    return [*_flat(request.search, "search"), *_flat(request.settings, "settings")]


def _flat(values: Mapping[str, Any], prefix: str) -> Iterable[Fact]:
    for key, value in sorted(values.items()):
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, name)
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)


def _environment(album: Album, request: Request) -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    named = dict(zip(request.images, request.names, strict=False))
    for name in ("signed", "plain", "percent", "points", "chance", "count", "duration", "sign"):
        environment.filters[name] = getattr(wording, name)
    environment.filters["place"] = _place
    environment.globals.update(
        interval=wording.interval,
        badge=wording.badge,
        flipped=wording.flipped,
        number=album.number,
        finite=isfinite,
        nan=nan,
        file_name=lambda image: named.get(image, image[:12]),
    )
    return environment


def _place(position: float) -> str:
    """A position as CSS writes it."""
    return f"{position:.2f}%"


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _version() -> str:
    try:
        return version("diffexplain")
    except PackageNotFoundError:
        return "not installed"
