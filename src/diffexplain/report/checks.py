"""What checks a run's effects: placebo edits, the gate, a second editor, other concepts that moved along."""

from __future__ import annotations

from math import isfinite

from diffexplain.records import (
    Agreement,
    ConceptResult,
    Entanglement,
    GateLimits,
    Interval,
    Placebo,
    Result,
)
from diffexplain.report import wording
from diffexplain.report.beside import Plate, Section, Table

MOVED = 0.05  # presence change from which a concept is listed as moved along
LISTED = 12  # questions of the table of entanglement


def checks(result: Result) -> list[Section]:
    """One part of the page for each check that the run has."""
    found = []
    if result.placebo:
        found.append(_placebo(result.placebo))
    if result.gate:
        found.append(_gate(result.gate, result))
    if result.second and result.request.second:
        found.append(_second(result.second, result))
    if result.entanglement and (table := _moved(result.entanglement)).rows:
        told = "Mean change of presence of concepts that an edit was to leave alone, where it is largest."
        found.append(Section("What else moved", (told,), (table,)))
    return found


def finer(c: ConceptResult) -> list[str]:
    """What a run knows of one effect beyond its size; empty where it made no such check."""
    said = []
    if c.beyond_placebo:
        said.append(f"over a placebo {_told(c.beyond_placebo)}")
    if c.per_presence:
        said.append(f"for each unit of presence gained {_told(c.per_presence)}")
    if isfinite(c.partial):
        said.append(f"less what moved along {wording.signed(c.partial)}")
    if isfinite(c.passed):
        kept = f"{wording.percent(c.passed)} of the edits pass the gate"
        over = f", {wording.signed(c.effect_passed)} over those" if isfinite(c.effect_passed) else ""
        said.append(kept + over)
    if c.second:
        verdict = {True: ", both find it", False: ", only one finds it", None: ""}[c.supported]
        said.append(f"by the second editor {_told(c.second)}, q {wording.chance(c.second_q)}{verdict}")
    if isfinite(c.detectable):
        said.append(f"least detectable ±{wording.plain(c.detectable, 2)}")
    return said


def _told(value: Interval) -> str:
    return f"{wording.signed(value.value)} ({wording.interval(value.low, value.high)})"


def _placebo(p: Placebo) -> Section:
    verdict = (
        "It moves the score: what an edit does by itself is part of every effect."
        if p.moves
        else ("It does not move the score detectably.")
    )
    told = (
        f"Edits that ask for nothing, about as large as the run’s median edit ({wording.plain(p.size)} for "
        f"{wording.plain(p.wanted)} mean change, {wording.percent(p.area)} for "
        f"{wording.percent(p.wanted_area)} of the pixels), change the score by {wording.signed(p.effect)} "
        f"log-odds (95 % interval {wording.interval(p.low, p.high)}, p {wording.chance(p.p)}, {p.images} "
        f"images). {verdict}"
    )
    plates = [
        Plate(name, when, badge)
        for e in p.examples
        if e.reconstruction and e.edited
        for name, when, badge in (
            (e.reconstruction, "before", wording.badge(e.probability_before, e.score_before)),
            (e.edited, "after a placebo", wording.badge(e.probability_after, e.score_after)),
        )
    ]
    return Section("Edits that ask for nothing", (told,), plates=tuple(plates))


def _gate(g: GateLimits, result: Result) -> Section:
    told = (
        f"An edit passes where the concept’s presence reaches {wording.plain(g.presence, 2)} and gains "
        f"{wording.plain(g.gain, 2)}, nothing outside its region changes by more than "
        f"{wording.plain(g.outside)} on average, and no other concept’s presence by more than "
        f"{wording.plain(g.others, 2)}. Effects count every eligible edit; the effect over edits that pass "
        "is described beside it."
    )
    failed = [c for c in result.concepts if c.status == "measured" and c.passed < 0.5]
    rows = tuple(
        (f"{wording.sign(c.direction)} {c.concept}", wording.percent(c.passed), wording.signed(c.effect),
         wording.signed(c.effect_passed))
        for c in failed
    )  # fmt: skip
    table = Table(
        ("question", "pass", "effect", "over those that pass"), rows, "Fewer than half of the edits pass"
    )
    return Section("Did the edits happen, and stay local?", (told,), (table,) if rows else ())


def _second(a: Agreement, result: Result) -> Section:
    told = (
        f"{result.request.second} made the edits again on the same pictures: over {a.questions} questions "
        f"its effects correlate with those of {result.request.editor} by {wording.plain(a.correlation, 2)} "
        f"(ranks {wording.plain(a.rank_correlation, 2)}), {wording.percent(a.same_sign)} have the same sign."
    )
    rows = tuple(
        (f"{wording.sign(c.direction)} {c.concept}", _told(Interval(c.effect, c.low, c.high)),
         _told(c.second), {True: "yes", False: "no", None: wording.NOTHING}[c.supported])
        for c in result.concepts if c.second
    )  # fmt: skip
    head = ("question", result.request.editor, result.request.second or "", "both find it")
    return Section("A second editor’s opinion", (told,), (Table(head, rows),) if rows else ())


def _moved(e: Entanglement) -> Table:
    """The questions that moved other concepts most, with up to three of these."""
    lines = []
    for question, changes in zip(e.questions, e.change, strict=True):
        known = [(c, v) for c, v in zip(e.concepts, changes, strict=True) if isfinite(v) and abs(v) >= MOVED]
        if known:
            known.sort(key=lambda one: -abs(one[1]))
            told = ", ".join(f"{c} {wording.signed(v)}" for c, v in known[:3])
            lines.append((abs(known[0][1]), (question, told)))
    lines.sort(key=lambda line: -line[0])
    return Table(("question", "moved along"), tuple(row for _, row in lines[:LISTED]))
