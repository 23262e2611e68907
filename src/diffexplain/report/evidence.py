"""Which rows of a run stand behind each result, and which were made for it besides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffexplain.records import ConceptResult, Effect, Result

#: a question: concept and direction.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One question's rows: those behind its effect, those that do not count, and those at other strengths."""

    counted: tuple[Effect, ...] = ()
    apart: tuple[Effect, ...] = ()
    slides: tuple[Effect, ...] = ()

    @property
    def pictures(self) -> bool:
        """Whether there is a pair to show."""
        return any(row.reconstruction and row.edited for row in (*self.counted, *self.apart))

    def by_image(self) -> dict[str, float]:
        """Mean change of the score over an image's seeds, counted rows alone; log-odds by content hash."""
        changes: dict[str, list[float]] = defaultdict(list)
        for row in self.counted:
            changes[row.image].append(row.change)
        return {image: float(np.mean(values)) for image, values in changes.items()}


def evidence(result: Result, rows: Iterable[Effect]) -> dict[Key, Evidence]:
    """The rows of each question. A measured inner node that was not edited itself is its leaves' rows.

    Without any row for a measured question its examples stand in.
    """
    table: dict[Key, list[Effect]] = defaultdict(list)
    for row in rows:
        table[row.concept, row.direction].append(row)
    asked = {c.concept for c in result.concepts} | {concept for concept, _ in table}
    inner = {path.rsplit("/", depth)[0] for path in asked for depth in range(1, path.count("/") + 1)}
    return {(c.concept, c.direction): _of(c, table, inner) for c in result.concepts}


def _of(result: ConceptResult, table: Mapping[Key, Sequence[Effect]], inner: set[str]) -> Evidence:
    own = table.get((result.concept, result.direction), ())
    counted = [row for row in own if row.stage == "report" and row.eligible]
    if result.status == "measured" and not counted:
        below = result.concept + "/"
        counted = [
            row
            for (concept, direction), found in table.items()
            if concept.startswith(below) and concept not in inner and direction == result.direction
            for row in found
            if row.stage == "report" and row.eligible
        ]
    slides = tuple(row for row in own if row.stage == "slide")
    rest = (row for row in own if row.stage != "slide")
    apart = tuple(row for row in rest if not (row.stage == "report" and row.eligible))
    return Evidence(tuple(counted) or result.examples, apart, slides)
