"""Runs as pandas tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from diffexplain.errors import MissingExtra
from diffexplain.records import SynthesisResult
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


def effects(run: Finished) -> DataFrame:
    """One row an edit, as in effects.sqlite, with the input picture's file name and the change."""
    names = run.names
    return table(
        {"file": names.get(e.image, ""), **asdict(e), "change": e.change, "succeeded": e.succeeded}
        for e in run.effects
    )
