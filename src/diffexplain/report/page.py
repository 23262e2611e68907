"""Puts a run's result into the template and writes the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from diffexplain.records import Effect, JointPath, Result
from diffexplain.report import frame, record, wording
from diffexplain.report.album import Album
from diffexplain.report.axis import Axis
from diffexplain.report.beside import Plate, Section
from diffexplain.report.checks import checks, finer
from diffexplain.report.evidence import evidence
from diffexplain.report.gallery import galleries
from diffexplain.report.overlays import Overlays, known_overlays
from diffexplain.report.rows import ALPHA, Row, rows, tree

RANKED = 15  # rows of the ranking
PAIRS = 4  # before/after pairs shown of the joint path
HERO = 4  # pairs in the strip at the top


class Step(NamedTuple):
    """One line of the joint path: its text and what that question showed alone."""

    text: str
    row: Row | None


def write_report(
    result: Result,
    picture: Callable[[str], bytes],
    path: Path,
    *,
    effects: Iterable[Effect] = (),
    beside: Sequence[Section] = (),
    overlays: Overlays | None = None,
    title: str | None = None,
) -> Path:
    """Write the run's result as one self-contained HTML file that opens offline; return its path.

    `picture(hash)` gives a stored picture as PNG bytes. `effects`: all rows of the run, to show every
    picture of a concept; without them its examples. `beside`: further parts of the page. `overlays`: what the
    run keeps to draw over its pictures. The same input gives the same bytes. Raises RunError when the file
    cannot be written.
    """
    return frame.write(
        page(result, picture, effects=effects, beside=beside, overlays=overlays, title=title), path
    )


def page(
    result: Result,
    picture: Callable[[str], bytes],
    *,
    effects: Iterable[Effect] = (),
    beside: Sequence[Section] = (),
    overlays: Overlays | None = None,
    title: str | None = None,
) -> str:
    """The page as text."""
    album, request = Album(picture), result.request
    names = dict(zip(request.images, request.names, strict=False))
    ranked = rows(result)
    found = evidence(result, effects)
    shown = [e for behind in found.values() for e in (*behind.counted, *behind.apart)]
    over = known_overlays(result, shown, picture, overlays or Overlays())
    return frame.render(
        "report.html.j2",
        album,
        lambda: galleries(ranked, found, album, names, over),
        names,
        title=title or wording.question(request),
        question=wording.question(request),
        result=result,
        request=request,
        answer=wording.answer(result, ranked),
        sides=wording.sides(request),
        hero=hero(ranked),
        ranked=ranked,
        roots=tree(ranked),
        axis=axis(ranked),
        measured=[row for row in ranked if row.measured],
        steps=_steps(result.joint, ranked),
        joint_axis=_joint_axis(result.joint, ranked),
        pictured={row.number for row in ranked if found[row.result.concept, row.result.direction].pictures},
        beside=(*checks(result), *maps(result, hero(ranked), over), *beside),
        finer=finer,
        asked=record.asked(result),
        spent=record.spent(result),
        settings=record.settings(request),
        methods=record.methods(result),
        limits=record.limits(result),
        citation=record.citation(request),
        alpha=ALPHA,
        shown=RANKED,
        pairs=PAIRS,
    )


def maps(result: Result, strongest: Sequence[tuple[Row, Effect]], over: Overlays) -> list[Section]:
    """Grad-CAM of the pairs at the top, where the run keeps it."""
    plates = [
        Plate(over.maps[name], f"{row.result.direction} {row.name}: {when}", badge)
        for row, e in strongest
        if e.reconstruction in over.maps and e.edited in over.maps
        for name, when, badge in (
            (e.reconstruction, "before", wording.badge(e.probability_before, e.score_before)),
            (e.edited, "after", wording.badge(e.probability_after, e.score_after)),
        )
    ]
    told = (
        f"Where the evidence for {result.request.target} lies in each picture: the positive part of layer "
        f"{over.layer}’s channels, weighted by the mean gradient of the score (Selvaraju et al. 2017), from "
        "black to yellow. A map tells where, not what: it names no concept and has no size in log-odds. An "
        "opened concept shows it for its strongest pairs."
    )
    return [Section("Grad-CAM on the same pictures", (told,), plates=tuple(plates))] if plates else []


def hero(ranked: Sequence[Row]) -> list[tuple[Row, Effect]]:
    """The strongest pairs of both sides, from the furthest towards the target to the furthest away.

    Only discoveries, where there are any; a concept and one of its sub-types are not both shown.
    """
    shown = [row for row in ranked if row.measured and row.result.examples]
    apart = distinct([row for row in shown if row.found] or shown[:2])
    up = [row for row in apart if row.result.effect > 0]
    down = [row for row in apart if row.result.effect < 0]
    half = HERO // 2
    chosen = up[: max(half, HERO - len(down))] + down[: max(half, HERO - len(up))]
    return [(row, clearest(row)) for row in sorted(chosen, key=lambda row: -row.result.effect)]


def clearest(row: Row) -> Effect:
    """The example whose probability moved most with the effect; the first where there is none."""
    up = 1.0 if row.result.effect > 0 else -1.0
    moved = [up * e.probability_change for e in row.result.examples]
    known = [m if isfinite(m) else -2.0 for m in moved]  # (examples,)
    return row.result.examples[known.index(max(known))]


def axis(ranked: Sequence[Row]) -> Axis:
    """The axis that all measured effects share."""
    measured = [row for row in ranked if row.measured]
    effects = [row.result.effect for row in measured] + [row.truth for row in measured]
    return Axis.over(effects, chain.from_iterable((row.result.low, row.result.high) for row in measured))


def distinct(candidates: Iterable[Row]) -> list[Row]:
    """The candidates without those above or below one before them in the tree."""
    kept: list[Row] = []
    for row in candidates:
        if not any(_related(row, other) for other in kept):
            kept.append(row)
    return kept


def _related(one: Row, other: Row) -> bool:
    a, b = one.result.concept + "/", other.result.concept + "/"
    return one.result.direction == other.result.direction and (a.startswith(b) or b.startswith(a))


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
