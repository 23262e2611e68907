"""Answers joined to what was shown: a row for each question that a counted reader answered."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from diffexplain.study.booklets import Page, booklet
from diffexplain.study.records import Answer, Reader, Study

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, slots=True)
class Tally:
    """One answer, unblinded.

    `score`: attribute 1 (right) or 0; ratings 1 to 5; side by side +1 for the first method of the pair, −1
    for the second, 0 for no difference; nan where a choice is a mere category.
    """

    reader: str
    booklet: int
    page: int
    kind: str
    unit: str
    method: str
    ask: str
    category: int  # number of the choice; side by side 0 is the first method, wherever it stood
    choice: str  # its text
    score: float
    choices: int  # how many there were
    seconds: float


@dataclass(frozen=True, slots=True)
class People:
    """Who took part."""

    began: int
    finished: int
    inattentive: int  # finished, but failed an attention check; not counted
    counted: int
    seconds: float  # median of a page, of those counted; nan when there are none


def tallies(
    study: Study, readers: Sequence[Reader], answers: Sequence[Answer]
) -> tuple[People, tuple[Tally, ...]]:
    """The answers of everyone who finished and passed all attention checks, checks left out."""
    given: dict[str, list[Answer]] = {}
    for answer in answers:
        given.setdefault(answer.reader, []).append(answer)
    finished = [reader for reader in readers if reader.finished]
    joined = {r.name: _joined(booklet(study, r.booklet), given.get(r.name, [])) for r in finished}
    passed = {name: rows for name, rows in joined.items() if all(t.score == 1 for t in _checks(rows))}
    found = tuple(t for rows in passed.values() for t in rows if t.kind != "check")
    pages = sorted({(t.reader, t.page): t.seconds for t in found}.values())
    median = pages[len(pages) // 2] if pages else math.nan
    return People(len(readers), len(finished), len(finished) - len(passed), len(passed), median), found


def frame(found: Iterable[Tally]) -> DataFrame:
    """The rows as a pandas table."""
    import pandas as pd

    return pd.DataFrame([asdict(tally) for tally in found])


def _checks(rows: Iterable[Tally]) -> list[Tally]:
    return [tally for tally in rows if tally.kind == "check"]


def _joined(pages: Sequence[Page], answers: Sequence[Answer]) -> list[Tally]:
    found = []
    for answer in answers:
        page = pages[answer.page]
        item, ask = page.item, next(a for a in page.item.asks if a.name == answer.ask)
        category = answer.choice
        if item.kind == "side" and page.swapped and category < 2:
            category = 1 - category
        score, text = _score(item.kind, category, ask.truth), ask.choices[answer.choice]
        who = (answer.reader, answer.booklet, answer.page)
        what = (item.kind, item.unit, item.method, ask.name)
        found.append(Tally(*who, *what, category, text, score, len(ask.choices), answer.seconds))
    return found


def _score(kind: str, category: int, truth: int | None) -> float:
    if truth is not None:
        return float(category == truth)
    if kind == "rating":
        return float(category + 1)
    if kind == "side":
        return (1.0, -1.0, 0.0)[category]
    return math.nan
