"""The page of `find_spurious`: units and their verdicts, pictures with masks, interventions, shortcuts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan
from pathlib import Path
from typing import NamedTuple

from diffexplain.records import Interval
from diffexplain.records.audit import FairnessGap
from diffexplain.records.spurious import Causal, Looked, Shortcut, SpuriousResult, UnitVerdict
from diffexplain.report import wording
from diffexplain.report.album import Album
from diffexplain.report.beside import Plate, Table
from diffexplain.report.frame import render, write

LOOKS = {
    "plain": "the plain prompt",
    "neutral": "the neutral prompt",
    "base": "what the others are measured from",
    "no object": "the object drawn over",
    "no placebo": "a region as large drawn over (marked)",
    "object only": "all but the object drawn anew",
}
AGREEMENT = {True: "agree", False: "contradict each other", None: "one of them is undecided"}


class Shown(NamedTuple):
    """One unit as the page shows it."""

    unit: UnitVerdict
    sentence: str
    plates: Sequence[Plate]
    causal: Table | None
    agreement: str


def write_spurious_report(result: SpuriousResult, picture: Callable[[str], bytes], path: Path) -> Path:
    """Write it as one self-contained HTML file that opens offline; return its path.

    `picture(hash)` gives a stored picture as PNG bytes. Raises RunError when the file cannot be written.
    """
    return write(spurious_page(result, picture), path)


def spurious_page(result: SpuriousResult, picture: Callable[[str], bytes]) -> str:
    """The page as text."""
    request = result.request
    return render(
        "spurious.html.j2",
        Album(picture),
        title=question(result),
        question=question(result),
        answer=answer(result),
        result=result,
        request=request,
        summary=summary(result.units),
        units=[_shown(u, result) for u in result.units],
        looks=[(LOOKS[name], plates) for name in LOOKS if (plates := _plates(result, name))],
        target=_table(result.target, "log-odds of the class") if result.target else None,
        shortcuts=shortcut_table(result.shortcuts),
        asked=_asked(result),
    )


def question(result: SpuriousResult) -> str:
    """What was asked."""
    r = result.request
    return f"Does {r.classifier} look at {r.object!r} when it says {r.target!r}?"


def answer(result: SpuriousResult) -> list[str]:
    """Verdicts by kind, then the shortcuts."""
    found = []
    for verdict, words in (
        ("core", f"see {result.request.object!r}"),
        ("spurious", "see something else"),
        ("undecided", "are undecided"),
    ):
        mine = [u.unit for u in result.units if u.verdict == verdict]
        if mine:
            found.append(f"{len(mine)} of {len(result.units)} units {words}: {', '.join(mine)}.")
    if result.shortcuts:
        named = ", ".join(f"{s.concept} ({wording.signed(s.effect)})" for s in result.shortcuts)
        found.append(f"Shortcuts: {named}.")
    return found


def summary(units: Sequence[UnitVerdict]) -> Table:
    """One row a unit: its verdict and what that rests on."""
    head = ("unit", "verdict", "object present", "95 % interval", "by presence", "share of variance",
            "by intervention", "carries")  # fmt: skip
    rows = tuple(
        (
            u.unit, u.verdict, wording.percent(u.presence), wording.span(u.low, u.high), u.by_presence,
            _of(u.causal.share) if u.causal else wording.NOTHING,
            u.causal.verdict if u.causal else wording.NOTHING, wording.signed(u.contribution),
        )
        for u in units
    )  # fmt: skip
    return Table(head, rows)


def _shown(u: UnitVerdict, result: SpuriousResult) -> Shown:
    c = result.calibration
    bar = f"; a verdict needs it on one side of {wording.percent(c.threshold)}"
    sentence = (
        f"{wording.percent(u.presence)} of {u.pictures} pictures that excite it show the object "
        f"({wording.span(u.low, u.high)}){bar}."
        if u.reached
        else "Not reached: its pictures excite it no more than neutral ones, or less than those of the "
        "plain prompt, so they say nothing."
    )
    plates = [plate(r, f"activation {wording.plain(r.activation, 2)}") for r in u.examples]
    table = _table(u.causal, "activation") if u.causal else None
    return Shown(u, sentence, plates, table, AGREEMENT[u.agree])


def _table(c: Causal, what: str) -> Table:
    """The interventions on one number."""
    rows = (
        (
            "the object",
            wording.signed(c.no_object.value),
            wording.interval(c.no_object.low, c.no_object.high),
        ),
        ("a region as large", *_cells(c.no_placebo)),
        ("all but the object", *_cells(c.no_rest)),
        ("the object's share of the variance", _of(c.share), c.verdict),
    )
    told = f"Mean over {c.images} pictures; {what} before: {wording.signed(c.base)}."
    return Table(("drawn anew", f"fall of the {what}", "95 % interval"), rows, told)


def _cells(i: Interval) -> tuple[str, str]:
    return wording.signed(i.value), wording.interval(i.low, i.high)


def _of(i: Interval) -> str:
    return f"{wording.percent(i.value)} ({wording.span(i.low, i.high)})"


def _plates(result: SpuriousResult, look: str) -> list[Plate]:
    rows = [r for r in result.examples if r.look == look]
    return [plate(r, f"score {wording.signed(r.score, 1)}") for r in rows]


def plate(row: Looked, badge: str) -> Plate:
    """A picture with the object marked, and how much of it the object takes."""
    marked = "region" if row.look == "no placebo" else "object"
    return Plate(row.masked, f"{marked} {wording.percent(row.area)}", badge)


def weighed(told: FairnessGap | Shortcut) -> tuple[str, str, str]:
    """What pictures that show the value already tell, what rebuilding takes, and all together."""
    if told.in_all is None:
        return (wording.NOTHING,) * 3
    had, lost = (wording.NOTHING if isnan(x) else wording.signed(x) for x in (told.back, told.lost))
    span = wording.interval(told.in_all.low, told.in_all.high)
    return had, lost, f"{wording.signed(told.in_all.value)} ({span})"


def shortcut_table(found: Sequence[Shortcut]) -> Table | None:
    """One row a shortcut; None where there is none."""
    if not found:
        return None
    rows = tuple(
        (
            f"{wording.sign(s.direction)}{s.concept}", wording.signed(s.effect),
            wording.interval(s.low, s.high), wording.chance(s.q),
            *weighed(s), _of(s.inside) if s.inside else wording.NOTHING, s.why,
        )
        for s in found
    )  # fmt: skip
    head = (
        "concept", "effect, log-odds", "95 % interval", "q", "by what pictures had", "lost in rebuilding",
        "in all", "of its change on the object", "why",
    )  # fmt: skip
    return Table(head, rows)


def _asked(result: SpuriousResult) -> list[tuple[str, str]]:
    r, c = result.request, result.calibration
    return [
        ("Classifier", r.classifier),
        ("Target", r.target),
        ("Object", r.object),
        ("Diffusion model", r.editor),
        ("Segmenter", r.segmenter),
        ("Plain prompt", c.prompt),
        ("Neutral prompt", c.neutral_prompt),
        ("Object counts as there from", f"{100 * c.area:.1f} % of a picture"),
        ("There in plain, in neutral pictures", f"{wording.percent(c.plain)}, {wording.percent(c.neutral)}"),
        ("Rate a verdict is measured against", wording.percent(c.threshold)),
        ("Pictures a unit", wording.count(c.pictures)),
        ("Real pictures", wording.count(len(r.images))),
        ("Time", wording.duration(result.seconds)),
    ]
