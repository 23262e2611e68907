"""Runs as pandas tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import nan
from typing import TYPE_CHECKING, Any

from diffexplain.errors import InputError, MissingExtra
from diffexplain.records import SynthesisResult
from diffexplain.records.audit import AttributeShares, AuditResult, FairnessGap, MitigationResult
from diffexplain.records.spurious import SpuriousResult
from diffexplain.report.finished import Finished

if TYPE_CHECKING:
    from pandas import DataFrame


def table(rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    """Rows of plain values as a table. Raises MissingExtra without pandas."""
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("pandas", "tables") from None
    return pd.DataFrame.from_records(list(rows))


def concepts(run: Finished) -> DataFrame:
    """One row a question, as ranked; `truth` where a world knows it."""
    known = run.result.truth
    rows = []
    for c in run.result.concepts:
        row = {k: v for k, v in asdict(c).items() if k != "examples"}
        rows.append(row if known is None else {**row, "truth": known.get(f"{c.direction} {c.concept}")})
    return table(rows)


def targets(result: SynthesisResult) -> DataFrame:
    """One row a target of a synthesis; `words` are the nearest ones of the prompt shown."""
    rows = []
    for t in result.targets:
        nested = ("restarts", "examples", "compared")
        words = " ".join(near[0].token for near in t.restarts[t.chosen].words if near)
        rows.append({**{k: v for k, v in asdict(t).items() if k not in nested}, "words": words})
    return table(rows)


def audited(result: AuditResult, kind: str | None) -> DataFrame:
    """`shares`: one row a class, attribute and reference; `gaps`: one row an edit.

    By default the first that it has. Raises InputError for another kind, MissingExtra.
    """
    kinds: dict[str, Sequence[AttributeShares | FairnessGap]] = {"shares": result.shares, "gaps": result.gaps}
    if kind is not None and kind not in kinds:
        raise InputError(f"kind {kind!r}: the table of an audit is of {' or '.join(kinds)}")
    return table(asdict(row) for row in kinds[kind or ("shares" if result.shares else "gaps")])


def units(result: SpuriousResult) -> DataFrame:
    """One row a unit; `share` is the object's share of the variance, nan where nothing was drawn anew."""
    rows = []
    for u in result.units:
        row = {k: v for k, v in asdict(u).items() if k not in ("causal", "contents", "examples")}
        share = asdict(u.causal.share) if u.causal else {"value": nan, "low": nan, "high": nan}
        causal = {"share": share["value"], "share_low": share["low"], "share_high": share["high"]}
        by = {"by_intervention": u.causal.verdict if u.causal else None}
        rows.append({**row, "words": " ".join(u.words), **causal, **by})
    return table(rows)


def standings(result: MitigationResult) -> DataFrame:
    """Two rows, before and after, with the shortcuts that were taken out."""
    both = (("before", result.before), ("after", result.after))
    shortcuts = ", ".join(result.shortcuts)
    return table({"when": when, "shortcuts": shortcuts, **asdict(s)} for when, s in both)


def effects(run: Finished) -> DataFrame:
    """One row an edit, as in effects.sqlite, with the input picture's file name and the change."""
    names = run.names
    return table(
        {"file": names.get(e.image, ""), **asdict(e), "change": e.change, "succeeded": e.succeeded}
        for e in run.effects
    )
