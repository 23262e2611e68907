"""Answers of other kinds as parts of a page: a synthesis, verdicts on units, an audit, a mitigation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from math import isfinite

from diffexplain.records import SynthesisResult, TargetResult
from diffexplain.records.audit import (
    AttributeGap,
    AttributeShares,
    AuditResult,
    FairnessGap,
    MitigationResult,
    Reading,
    Standing,
)
from diffexplain.records.spurious import SpuriousResult, UnitVerdict
from diffexplain.report import spurious, synthesis, wording
from diffexplain.report.beside import Plate, Section, Table

MADE = 8  # pictures shown of a target
UNITS, MASKED = 3, 4  # units whose pictures are shown, those that carry most; pictures of each


def synthesis_sections(result: SynthesisResult) -> tuple[Section, ...]:
    """A part for each target: what it wants to see, beside the plain prompt and the others."""
    plain = result.request.plain
    found = [_target(result, t, p) for t, p in zip(result.targets, plain, strict=True)]
    return _with_notes(found, result.notes)


def spurious_sections(result: SpuriousResult) -> tuple[Section, ...]:
    """Verdicts with the masked pictures of the units that carry most; the shortcuts, if there are any."""
    r, told = result.request, spurious.answer(result)
    how = (
        "By presence, a unit is core where the pictures that excite it surely show the object; by "
        "intervention, where the object surely makes more than half of the variance. Red marks what "
        f"{r.segmenter} takes for the object; the badge is the unit’s activation."
    )
    plates = [plate for unit in strongest(result.units) for plate in _masked(unit)]
    parts = [
        Section(spurious.question(result), (*told, how), (spurious.summary(result.units),), tuple(plates))
    ]
    if (table := spurious.shortcut_table(result.shortcuts)) is not None:
        said = f"Concepts that move {r.target} although they should not."
        parts.append(Section(f"Shortcuts of {r.target}", (said,), (table,)))
    return _with_notes(parts, result.notes)


def audit_sections(result: AuditResult) -> tuple[Section, ...]:
    """What edits of attributes do to the answer; how attributes are spread in the pictures of each class."""
    parts = []
    if result.gaps:
        beyond = f", less what they do to {result.twin}" if result.twin else ""
        told = (
            f"Attributes were changed in real pictures, and nothing else: the mean change of the log-odds of "
            f"{result.target}{beyond}, with 95 % intervals by picture, and how often the answer flips.",
            *(_verdict(a, result.margin) for a in result.attribute_gaps),
        )
        parts.append(Section(f"Audit by edits: {_listed(result)}", told, (_gap_table(result.gaps),)))
    if result.shares:
        counted = (
            f"Attributes as read by {result.judge} in pictures that maximise a class and in a reference’s: "
            "shares with 95 % intervals; V is Cramér’s, q Benjamini–Hochberg’s over classes × attributes."
        )
        tables = (*_share_tables(result.shares), *_reader(result.readings))
        parts.append(Section(f"Audit by counts: {_listed(result)}", (counted,), tables))
    if not parts:
        parts.append(Section(f"Audit: {_listed(result)}", ("Nothing could be measured.",)))
    return _with_notes(parts, result.notes)


def mitigation_sections(result: MitigationResult) -> tuple[Section, ...]:
    """The classifier before and after, on pictures kept apart."""
    damped = f", units {', '.join(map(str, result.units))} damped" if result.units else ""
    told = (
        f"{', '.join(result.shortcuts)} taken out of {result.classifier} (method {result.method}{damped}): "
        f"{wording.percent(result.effect_ratio)} of the shortcut’s gap is left, "
        f"{wording.plain(result.accuracy_loss, 1)} points of balanced accuracy are lost. Both are of "
        f"{result.held_out_images} pictures kept apart; {result.training_images} were learnt from."
    )
    head = (
        "classifier",
        "the shortcut’s gap",
        "95 % interval",
        "flips",
        "balanced accuracy",
        "95 % interval",
    )
    rows = (_standing("before", result.before), _standing("after", result.after))
    return _with_notes([Section("Mitigation: before and after", (told,), (Table(head, rows),))], result.notes)


def strongest(units: Sequence[UnitVerdict]) -> Sequence[UnitVerdict]:
    """Those that carry most of the class; as asked where that is not known."""
    return sorted(units, key=lambda u: -u.contribution if isfinite(u.contribution) else 0.0)[:UNITS]


# -- a synthesis, units -------------------------------------------------------------------------------


def _target(result: SynthesisResult, t: TargetResult, plain: str) -> Section:
    r = result.request
    hard = f"In real words: {t.hard_prompt}." if t.hard_prompt else ""
    told = (f"{synthesis.sentence(t)} These pictures are made by {r.editor}, not edited.", t.caption, hard)
    table = synthesis.figures(t)
    asked = f" The plain prompt: “{plain}”." if plain else ""
    caption = f"Mean over {wording.count(r.seeds)} seeds that the optimisation has not seen.{asked}"
    return Section(
        f"Synthesised for {t.target}",
        tuple(filter(None, told)),
        (Table(table.head, table.rows, caption),),
        tuple(synthesis.plate(s, {}) for s in t.examples[:MADE]),
    )


def _masked(u: UnitVerdict) -> Iterator[Plate]:
    for row in u.examples[:MASKED]:
        made = spurious.plate(row, wording.plain(row.activation, 2))
        yield Plate(made.picture, f"{u.unit}, {u.verdict}: {made.caption}", made.badge)


# -- an audit -----------------------------------------------------------------------------------------


def _listed(result: AuditResult) -> str:
    return ", ".join(result.attributes)


def _verdict(a: AttributeGap, margin: float) -> str:
    said = "matters" if a.matters(margin) else "is not shown to matter"
    beyond = f" beyond ±{margin:g}" if margin else ""
    gap = (
        f"{wording.signed(a.gap)} ({wording.interval(a.low, a.high)}), {wording.sign(a.direction)}{a.concept}"
    )
    return f"{a.attribute} {said}{beyond}: q {wording.chance(a.q)}, largest gap {gap}."


def _gap_table(gaps: Sequence[FairnessGap]) -> Table:
    head = (
        "edit", "gap, log-odds", "95 % interval", "q", "by what pictures had", "lost in rebuilding", "in all",
        "flips", "95 % interval", "happened", "images",
    )  # fmt: skip
    rows = tuple(
        (
            f"{wording.sign(g.direction)}{g.concept}", wording.signed(g.gap), wording.interval(g.low, g.high),
            wording.chance(g.q), *spurious.weighed(g), wording.percent(g.flip_rate),
            wording.span(g.flip_low, g.flip_high), wording.percent(g.success_rate), wording.count(g.images),
        )
        for g in gaps
    )  # fmt: skip
    note = (
        "One row an edit; it happened where the judge saw it. "
        "By what pictures had: the same gap from pictures that show the value already, which the editor's "
        "drawing of it cannot touch. Lost in rebuilding: what the editor's reconstruction takes from it, by "
        "the pictures themselves. In all: these and the gap, weighed by their precision."
    )
    return Table(head, rows, note)


def _share_tables(counted: Sequence[AttributeShares]) -> Iterator[Table]:
    """One table a class and reference; V and q stand in an attribute's first row."""

    def which(s: AttributeShares) -> tuple[str, str]:
        return s.label, s.against

    for (label, against), some in groupby(sorted(counted, key=which), which):
        other = {"plain": "plain prompt", "twin": "its twin"}[against]
        rows = tuple(row for s in some for row in _share_rows(s))
        head = ("attribute and value", "share", "95 % interval", other, "V", "q")
        yield Table(head, rows, f"{label}, against {other}")


def _share_rows(s: AttributeShares) -> Iterator[tuple[str, ...]]:
    for i, value in enumerate(s.values):
        test = (wording.plain(s.effect_size, 2), wording.chance(s.q)) if i == 0 else ("", "")
        yield (
            f"{s.attribute}: {value}", wording.percent(s.shares[i]), wording.span(s.low[i], s.high[i]),
            wording.percent(s.reference_shares[i]), *test,
        )  # fmt: skip


def _reader(readings: Sequence[Reading]) -> Iterator[Table]:
    """How well the reader knows each value, where it was calibrated."""
    rows = tuple(row for r in readings for row in _reading_rows(r))
    if rows:
        caption = "The reader on labelled pictures; the shares above are corrected for its errors"
        yield Table(("attribute and value", "labelled", "read right", "most often taken for"), rows, caption)


def _reading_rows(r: Reading) -> Iterator[tuple[str, ...]]:
    for i, (value, read) in enumerate(zip(r.values, r.confusion, strict=True)):
        wrong = [n if k != i else 0 for k, n in enumerate(read)]
        mistaken = f"{r.values[wrong.index(max(wrong))]} ({max(wrong)})" if max(wrong) else wording.NOTHING
        right = wording.percent(read[i] / sum(read)) if sum(read) else wording.NOTHING
        yield f"{r.attribute}: {value}", wording.count(sum(read)), right, mistaken


def _standing(when: str, s: Standing) -> tuple[str, ...]:
    return (
        when, wording.signed(s.gap), wording.interval(s.low, s.high), wording.percent(s.flip_rate),
        wording.percent(s.accuracy), wording.span(s.accuracy_low, s.accuracy_high),
    )  # fmt: skip


def _with_notes(parts: Iterable[Section], notes: Sequence[str]) -> tuple[Section, ...]:
    """What a reader must know before believing the numbers stands in the first part."""
    first, *rest = parts
    said = tuple(f"Note: {note}" for note in notes)
    return (Section(first.title, (*first.paragraphs, *said), first.tables, first.plates), *rest)
