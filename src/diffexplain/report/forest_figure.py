"""Forests: a line a row, its value with the 95 % interval on one axis. Of audits, units, mitigations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import TYPE_CHECKING, NamedTuple

from diffexplain.errors import InputError, RunError
from diffexplain.records.audit import AuditResult, FairnessGap, MitigationResult
from diffexplain.records.spurious import Shortcut, SpuriousResult
from diffexplain.report import wording
from diffexplain.report.drawing import (
    DOWN,
    QUIET,
    TWO_COLUMNS,
    UP,
    blank,
    matplotlib_drawing,
    put_text,
    shortened,
)
from diffexplain.report.rows import ALPHA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOREST = 30  # rows at most
LEFT, RIGHT = 0.3, 0.76  # of the axis, in the figure's width


class Line(NamedTuple):
    """One row of a forest."""

    name: str
    value: float
    low: float
    high: float
    told: str  # to its right
    up: bool  # which colour
    sure: bool = True  # else hollow
    mark: float = nan  # a diamond: the truth, or a reference


class Kind(NamedTuple):
    """What one figure shows; `origin`: where its vertical line stands, nan for none."""

    lines: Sequence[Line]
    what: str
    origin: float = 0.0
    shares: bool = False  # from 0 to 1, else without bounds


def forest(lines: Sequence[Line], what: str, *, origin: float = 0.0, shares: bool = False) -> Figure:
    """Values with intervals on one axis, from the top; drawn inside `matplotlib_drawing`."""
    shown = lines[:FOREST]
    drawn = blank(TWO_COLUMNS, 0.7 + 0.19 * len(shown))
    high = drawn.get_figheight()
    axes = drawn.add_axes((LEFT, 0.35 / high, RIGHT - LEFT, 1 - 0.5 / high))
    if isfinite(origin):
        axes.axvline(origin, color="#999999", linewidth=0.6)
    for y, line in enumerate(reversed(shown)):
        tone = UP if line.up else DOWN
        axes.plot([line.low, line.high], [y, y], color=tone, linewidth=1)
        axes.plot(
            line.value, y, "o", color=tone, markerfacecolor=tone if line.sure else "white", markersize=4
        )
        if isfinite(line.mark):
            axes.plot(line.mark, y, "D", color="black", markerfacecolor="none", markersize=3.5)
        side = {"transform": axes.get_yaxis_transform(), "va": "center"}
        put_text(axes, -0.02, y, line.name, ha="right", **side)
        put_text(axes, 1.02, y, line.told, color=QUIET, **side)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    _bound(axes, shown, shares)
    axes.set_yticks([])
    axes.spines[["left", "right", "top"]].set_visible(False)
    put_text(drawn, (LEFT + RIGHT) / 2, 0.02 / high, what, ha="center", va="center")
    return drawn


def question(direction: str, concept: str) -> str:
    """A line's name: the sign, and the end of a long path."""
    return f"{wording.sign(direction)} {shortened(concept, 44)}"


def audit_figure(result: AuditResult, kind: str | None) -> Figure:
    """`shares` or `gaps`, by default the first that it has. Raises InputError, RunError, MissingExtra."""
    about = f"change in log-odds of {result.target}"
    shares = Kind(_shares(result), "share of the pictures; diamond: the reference", nan, shares=True)
    return _drawn("an audit", {"shares": shares, "gaps": Kind(_gaps(result), about)}, kind)


def spurious_figure(result: SpuriousResult, kind: str | None) -> Figure:
    """`units`: how often each shows the object; or `shortcuts`. Raises InputError, RunError, MissingExtra."""
    what = f"share of a unit’s pictures that show {result.request.object}"
    units = Kind(_units(result), what, result.calibration.threshold, shares=True)
    about = f"change in log-odds of {result.request.target}"
    return _drawn("a report on units", {"units": units, "shortcuts": Kind(_shortcuts(result), about)}, kind)


def mitigation_figure(result: MitigationResult, kind: str | None) -> Figure:
    """`gap` or `accuracy`, before and after. Raises InputError, MissingExtra."""
    about = f"change in log-odds of {result.target} by {', '.join(result.shortcuts)}"
    accuracy = Kind(_accuracies(result), "balanced accuracy", nan, shares=True)
    return _drawn("a mitigation", {"gap": Kind(_left(result), about), "accuracy": accuracy}, kind)


def _drawn(what: str, kinds: Mapping[str, Kind], asked: str | None) -> Figure:
    if asked is not None and asked not in kinds:
        raise InputError(f"kind {asked!r}: {what} is drawn as {' or '.join(kinds)}")
    name = asked or next((name for name, kind in kinds.items() if kind.lines), next(iter(kinds)))
    if not kinds[name].lines:
        raise RunError(f"figure {name}: {what} without any, so there is nothing to draw")
    with matplotlib_drawing():
        kind = kinds[name]
        return forest(kind.lines, kind.what, origin=kind.origin, shares=kind.shares)


def _bound(axes: Axes, shown: Sequence[Line], shares: bool) -> None:
    """The axis; one wide interval does not push the others together."""
    if shares:
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(lambda x, _: wording.percent(x))
        return
    most = max((abs(line.value) for line in shown if isfinite(line.value)), default=0.0)
    if most:
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -4 * most), min(high, 4 * most))


def _tested(item: FairnessGap | Shortcut, value: float) -> Line:
    """An effect that was tested: hollow where q is not below 0.05."""
    told = f"{_effect(value, item.low, item.high)}, q {wording.chance(item.q)}"
    name = question(item.direction, item.concept)
    return Line(name, value, item.low, item.high, told, value > 0, item.q < ALPHA)


def _gaps(result: AuditResult) -> list[Line]:
    return [_tested(g, g.gap) for g in result.gaps]


def _shares(result: AuditResult) -> list[Line]:
    """The value of each attribute that differs most from the reference's."""
    lines = []
    for s in result.shares:
        i = s.strongest
        share, other = s.shares[i], s.reference_shares[i]
        told = f"{wording.percent(share)}, {s.against} {wording.percent(other)}, q {wording.chance(s.q)}"
        name = shortened(f"{s.label}: {s.attribute}/{s.values[i]}", 44)
        lines.append(Line(name, share, s.low[i], s.high[i], told, share > other, s.q < ALPHA, other))
    return lines


def _units(result: SpuriousResult) -> list[Line]:
    return [
        Line(
            shortened(u.unit, 44), u.presence, u.low, u.high,
            f"{wording.percent(u.presence)} ({wording.span(u.low, u.high)}), {u.verdict}",
            u.presence > result.calibration.threshold, u.verdict != "undecided",
        )
        for u in result.units
    ]  # fmt: skip


def _shortcuts(result: SpuriousResult) -> list[Line]:
    return [_tested(s, s.effect) for s in result.shortcuts]


def _left(result: MitigationResult) -> list[Line]:
    both = (("before", result.before), ("after", result.after))
    return [Line(name, s.gap, s.low, s.high, _effect(s.gap, s.low, s.high), s.gap > 0) for name, s in both]


def _accuracies(result: MitigationResult) -> list[Line]:
    both = (("before", result.before), ("after", result.after))
    return [
        Line(
            name, s.accuracy, s.accuracy_low, s.accuracy_high,
            f"{wording.percent(s.accuracy)} ({wording.span(s.accuracy_low, s.accuracy_high)})", up=True,
        )
        for name, s in both
    ]  # fmt: skip


def _effect(value: float, low: float, high: float) -> str:
    return f"{wording.signed(value)} ({wording.interval(low, high)})"
