"""Figures for papers, after DiffEx's (Kazimi et al. 2025): vector text and lines, fonts embedded.

An original is framed red, an edit black, the score stands in a white badge at the top left, and the axis
runs between the two class names. Blue and orange tell directions apart for every kind of colour vision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from diffexplain.errors import InputError, RunError
from diffexplain.records import Effect
from diffexplain.report import regions, wording
from diffexplain.report.drawing import (
    DOWN,
    EDITED,
    ORIGINAL,
    QUIET,
    TWO_COLUMNS,
    UP,
    blank,
    matplotlib_drawing,
    picture,
    put_text,
    shortened,
)
from diffexplain.report.evidence import Key, evidence
from diffexplain.report.finished import Finished
from diffexplain.report.forest_figure import LEFT, RIGHT, Line, forest, question
from diffexplain.report.page import distinct, hero
from diffexplain.report.rows import Node, Row, rows, tree
from diffexplain.report.unit_figure import unit_figure
from diffexplain.store import read_kind, read_picture, read_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS, LINES, LEAVES = 7, 4, 12  # at most: attributes, pictures, sub-types
_WIDE, _TALL, _SIDE = 0.98, 1.32, 0.68  # inches: a cell of the hierarchy, its picture


def figure_of(folder: Path, kind: str | None = None) -> Figure:
    """A figure of any finished run, from its folder: by default `hierarchy`, and `units` of a synthesis.

    Raises InputError for a kind that it has not, RunError when there is nothing to draw, MissingExtra.
    """
    if read_kind(folder) != "synthesis":
        return figure(Finished.read(folder), kind or "hierarchy")
    if kind not in (None, "units"):
        raise InputError(f"figure kind {kind!r}: a synthesis is drawn as units")
    return unit_figure(read_result(folder), partial(read_picture, folder))


def figure(run: Finished, kind: str) -> Figure:
    """Draw one figure of a run: `hierarchy`, `grid`, `pairs` or `forest`.

    Raises InputError for another kind, RunError when the run measured nothing to draw, MissingExtra.
    """
    draw = _KINDS.get(kind)
    if draw is None:
        only = "; units is of a synthesis" if kind == "units" else ""
        raise InputError(f"figure kind {kind!r}: choose {', '.join(_KINDS)}{only}")
    ranked = [row for row in rows(run.result) if row.measured]
    if not ranked:
        raise RunError(f"figure {kind}: no question of this run was measured, so there is nothing to draw")
    with matplotlib_drawing():
        return draw(run, ranked)


def _forest(run: Finished, ranked: Sequence[Row]) -> Figure:
    """Effects with intervals on one axis; hollow where undecided, a diamond where truth is known."""
    lines = [
        Line(
            question(r.direction, r.concept), r.effect, r.low, r.high,
            f"{wording.signed(r.effect)} ({wording.interval(r.low, r.high)}), q {wording.chance(r.q)}",
            r.effect > 0, row.found, row.truth,
        )
        for row in ranked
        for r in (row.result,)
    ]  # fmt: skip
    drawn = forest(lines, "change in log-odds")
    _sides(drawn, run, LEFT, RIGHT, 0.02 / drawn.get_figheight(), line=False)
    return drawn


def _pairs(run: Finished, ranked: Sequence[Row]) -> Figure:
    """The strongest pairs on the axis between the two class names."""
    chosen = list(reversed(hero(ranked)))  # away from the target on the left
    if not chosen:
        raise RunError("figure pairs: the run kept no pictures to show")
    count, gap = len(chosen), 0.02
    wide = (1 - gap * (count - 1)) / count
    inches = TWO_COLUMNS * min(1.0, count / 3)
    tall = inches * wide / 2
    drawn = blank(inches, tall + 0.75)
    for k, (row, e) in enumerate(chosen):
        left, base, high = k * (wide + gap), 0.75 / (tall + 0.75), tall / (tall + 0.75)
        before, after = regions.pixels(run.picture, e.reconstruction), regions.pixels(run.picture, e.edited)
        half = wide / 2 - 0.003
        picture(drawn.add_axes((left, base, half, high)), before, ORIGINAL, _badge(e, "before"))
        edited = drawn.add_axes((left + wide / 2 + 0.003, base, half, high))
        picture(edited, after, EDITED, _badge(e, "after"), before)
        r, middle = row.result, left + wide / 2
        tone = UP if r.effect > 0 else DOWN
        head = f"{wording.sign(r.direction)} {shortened(row.name, 22)}  {wording.signed(r.effect)}"
        put_text(drawn, middle, base - 0.02, head, ha="center", va="top", color=tone, weight="bold")
        low = f"{shortened(r.concept, 30)}\n{wording.interval(r.low, r.high)}"
        put_text(drawn, middle, base - 0.17 / (tall + 0.75), low, ha="center", va="top", color=QUIET, size=6)
    _sides(drawn, run, 0.0, 1.0, 0.03)
    return drawn


def _grid(run: Finished, ranked: Sequence[Row]) -> Figure:
    """Pictures down, attributes across; small changes with a magnified inset."""
    found = evidence(run.result, run.effects)
    able = [row for row in ranked if found[row.result.concept, row.result.direction].pictures]
    chosen = distinct([row for row in able if row.found] or able)[:COLUMNS]
    held = [
        {e.image: e for e in found[row.result.concept, row.result.direction].counted if e.edited}
        for row in chosen
    ]
    images = [image for image, _ in Counter(i for column in held for i in sorted(column)).most_common(LINES)]
    if not images:
        raise RunError("figure grid: the run kept no pictures to show")
    cell, head = TWO_COLUMNS / (COLUMNS + 1), 0.42
    high = head + cell * len(images)
    drawn = blank(cell * (len(chosen) + 1), high)

    def place(line: int, column: int) -> Axes:
        x, width = column / (len(chosen) + 1), 1 / (len(chosen) + 1)
        y = 1 - (head + (line + 1) * cell) / high
        return drawn.add_axes((x + 0.02 * width, y + 0.02 * cell / high, 0.96 * width, 0.96 * cell / high))

    put_text(drawn, 0.5 / (len(chosen) + 1), 1 - 0.38 / high, "original", ha="center", va="bottom")
    for column, row in enumerate(chosen, 1):
        at, r = (column + 0.5) / (len(chosen) + 1), row.result
        name = f"{wording.sign(r.direction)} {shortened(row.name, 16)}"
        put_text(drawn, at, 1 - 0.23 / high, name, ha="center", va="bottom", weight="bold")
        tone = UP if r.effect > 0 else DOWN
        put_text(drawn, at, 1 - 0.38 / high, wording.signed(r.effect), ha="center", va="bottom", color=tone)
    for line, image in enumerate(images):
        any_edit = next(column[image] for column in held if image in column)
        before = regions.pixels(run.picture, any_edit.reconstruction)
        picture(place(line, 0), before, ORIGINAL, _badge(any_edit, "before"))
        for column, edits in enumerate(held, 1):
            if e := edits.get(image):
                after = regions.pixels(run.picture, e.edited)
                picture(place(line, column), after, EDITED, _badge(e, "after"), before)
    return drawn


def _hierarchy(run: Finished, ranked: Sequence[Row]) -> Figure:
    """The tree of sub-types under each attribute, on one picture as far as it goes; the original on top."""
    kept = {row.result.concept for row in _leading(ranked)}
    roots = tree(row for row in ranked if _above(row.result.concept, kept))
    found = evidence(run.result, run.effects)
    held = {key: {e.image: e for e in behind.counted if e.edited} for key, behind in found.items()}
    common = Counter(i for edits in held.values() for i in sorted(edits)).most_common(1)
    image = common[0][0] if common else ""
    places: list[Place] = []
    columns = _arrange(roots, places)
    depth = max(place.node.depth for place in places) + (2 if image else 1)
    sheet = _Sheet(blank(_WIDE * columns, _TALL * depth))
    middle = columns / 2 - 0.5
    if image:
        first = next(edits[image] for edits in held.values() if image in edits)
        axes = sheet.axes(middle, 0)
        picture(axes, regions.pixels(run.picture, first.reconstruction), ORIGINAL, _badge(first, "before"))
        sheet.text(middle, 0, 0.72, "original", weight="bold", size=6.5)
    for place in places:
        line = place.node.depth + (1 if image else 0)
        above = place.parent if place.parent is not None else middle if image else None
        if above is not None:
            sheet.join(above, place.column, line)
        _node(sheet, run, place, line, held, image)
    return sheet.drawn


def _node(
    sheet: _Sheet,
    run: Finished,
    place: Place,
    line: int,
    held: Mapping[Key, Mapping[str, Effect]],
    image: str,
) -> None:
    """A concept's picture, name and effect; where it was not asked itself, its name."""
    label = shortened(place.node.name, 18)
    if not place.node.rows:
        sheet.text(place.column, line, 0.45, label, weight="bold")
        return
    row = place.node.rows[0]
    r = row.result
    e = held.get((r.concept, r.direction), {}).get(image) or next(iter(r.examples), None)
    if e is not None:
        before, after = regions.pixels(run.picture, e.reconstruction), regions.pixels(run.picture, e.edited)
        picture(sheet.axes(place.column, line), after, EDITED, _badge(e, "after"), before)
    tone = (UP if r.effect > 0 else DOWN) if row.found else QUIET
    sheet.text(place.column, line, 0.72, f"{wording.sign(r.direction)} {label}", weight="bold", size=6.5)
    told = f"{wording.signed(r.effect)} ({wording.signed(r.low, 1)}, {wording.signed(r.high, 1)})"
    sheet.text(place.column, line, 0.83, told, size=5.5, color=tone)


_KINDS: dict[str, Callable[[Finished, Sequence[Row]], Figure]] = {
    "hierarchy": _hierarchy, "grid": _grid, "pairs": _pairs, "forest": _forest,
}  # fmt: skip
KINDS = tuple(_KINDS)


def _leading(ranked: Sequence[Row]) -> list[Row]:
    """The strongest questions that have none below them, one a concept."""
    paths = {row.result.concept for row in ranked}
    leaves = [r for r in ranked if not any(p.startswith(r.result.concept + "/") for p in paths)]
    return list({row.result.concept: row for row in reversed(leaves)}.values())[::-1][:LEAVES]


def _above(concept: str, kept: set[str]) -> bool:
    return any(path == concept or path.startswith(concept + "/") for path in kept)


class Place(NamedTuple):
    """Where a concept stands: its column, and its parent's."""

    node: Node
    column: float
    parent: float | None


def _arrange(nodes: Sequence[Node], places: list[Place]) -> int:
    """Put the leaves side by side and every parent above the middle of its children; returns the width."""
    width = 0

    def put(node: Node) -> float:
        nonlocal width
        if not node.children:
            width += 1
            return float(width - 1)
        mine = [(child, put(child)) for child in node.children]
        middle = (mine[0][1] + mine[-1][1]) / 2
        places.extend(Place(child, column, middle) for child, column in mine)
        return middle

    places.extend([Place(node, put(node), None) for node in nodes])
    return width


class _Sheet:
    """A figure of equal cells, by column and line, in inches."""

    def __init__(self, drawn: Figure) -> None:
        self.drawn = drawn
        self.width, self.height = drawn.get_figwidth(), drawn.get_figheight()

    def axes(self, column: float, line: int) -> Axes:
        """Of the cell's picture."""
        x, y = (column + 0.5) * _WIDE - _SIDE / 2, self.height - line * _TALL - _SIDE
        return self.drawn.add_axes((x / self.width, y / self.height, _SIDE / self.width, _SIDE / self.height))

    def text(self, column: float, line: int, below: float, text: str, **style: Any) -> None:
        """Centred, `below` inches under the cell's top."""
        x, y = (column + 0.5) * _WIDE, self.height - line * _TALL - below
        put_text(self.drawn, x / self.width, y / self.height, text, ha="center", va="top", **style)

    def join(self, parent: float, column: float, line: int) -> None:
        """An elbow from the parent's text down to a cell."""
        from matplotlib.lines import Line2D

        top = self.height - line * _TALL
        xs = [(at + 0.5) * _WIDE / self.width for at in (parent, parent, column, column)]
        ys = [(top + rise) / self.height for rise in (_TALL - 0.97, 0.12, 0.12, 0.03)]
        path = Line2D(xs, ys, transform=self.drawn.transFigure, color="#999999", linewidth=0.7, zorder=0)
        self.drawn.add_artist(path)


def _sides(drawn: Figure, run: Finished, left: float, right: float, at: float, *, line: bool = True) -> None:
    """The axis between the two class names."""
    away, target = wording.sides(run.result.request)
    if line:
        high = at + 0.14 / drawn.get_figheight()
        drawn.add_artist(_arrow((left, high), (right, high), drawn))
    put_text(drawn, left, at, f"← {shortened(away, 40)}", ha="left", va="center", color=DOWN, weight="bold")
    put_text(drawn, right, at, f"{shortened(target, 40)} →", ha="right", va="center", color=UP, weight="bold")


def _arrow(start: tuple[float, float], end: tuple[float, float], drawn: Figure) -> Any:
    from matplotlib.patches import FancyArrowPatch

    style: dict[str, Any] = {
        "arrowstyle": "<->",
        "color": QUIET,
        "linewidth": 0.7,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    return FancyArrowPatch(start, end, transform=drawn.transFigure, mutation_scale=6, **style)


def _badge(e: Effect, when: str) -> str:
    probability = e.probability_before if when == "before" else e.probability_after
    return wording.badge(probability, e.score_before if when == "before" else e.score_after)
