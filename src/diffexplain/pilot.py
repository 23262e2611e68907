"""How many pictures and seeds a wanted interval needs, from the rows of a pilot run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, nan, sqrt

import numpy as np
from scipy.stats import t as student

from diffexplain.errors import InputError
from diffexplain.records import Effect

MOST = 1_000_000  # pictures beyond which a width is out of reach
SEEDS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Spread:
    """Where a question's variance lies: between pictures, and between seeds of one picture."""

    concept: str
    direction: str
    images: int  # of the pilot
    between: float  # standard deviation of pictures' true changes, log-odds
    within: float  # of one seed's reading around its picture's; nan where the pilot had one seed

    def width(self, images: int, seeds: int = 1) -> float:
        """Full width of the 95 % interval expected from so many pictures and seeds (Student's t)."""
        if images < 2:
            return float("inf")
        reading = 0.0 if self.within != self.within else self.within**2 / seeds
        return float(2 * student.ppf(0.975, images - 1) * sqrt((self.between**2 + reading) / images))

    def needed(self, width: float, seeds: int = 1) -> int:
        """The fewest pictures whose interval is no wider; `MOST` where even that many do not do."""
        low, high = 1, 2
        while self.width(high, seeds) > width and high < MOST:
            low, high = high, min(2 * high, MOST)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.width(middle, seeds) > width else (low, middle)
        return high


@dataclass(frozen=True, slots=True)
class Need:
    """What a wanted width takes for one question: pictures in all, by seeds a picture."""

    spread: Spread
    width: float  # of the interval that the pilot itself expects
    images: dict[int, int]  # seeds -> pictures to give


def spreads(rows: Sequence[Effect]) -> list[Spread]:
    """The variance components of every reported question, the widest first (one-way analysis of variance)."""
    table: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.stage == "report" and row.eligible:
            table[row.concept, row.direction][row.image].append(row.change)
    found = [_spread(key, list(images.values())) for key, images in table.items() if len(images) > 1]
    return sorted(found, key=lambda s: -s.width(s.images))


def _spread(key: tuple[str, str], images: Sequence[Sequence[float]]) -> Spread:
    """Unequal seeds: the harmonic mean of their number stands for it."""
    means = np.array([np.mean(x) for x in images])
    freedom = sum(len(x) - 1 for x in images)
    if not freedom:
        return Spread(*key, len(images), float(means.std(ddof=1)), nan)
    within = sum(float(np.var(x)) * len(x) for x in images) / freedom
    per = len(images) / sum(1 / len(x) for x in images)
    between = max(0.0, float(means.var(ddof=1)) - within / per)
    return Spread(*key, len(images), sqrt(between), sqrt(within))


def needs(rows: Sequence[Effect], width: float, *, images: int) -> list[Need]:
    """Pictures to give so that each question's 95 % interval is `width` log-odds wide at most.

    `images`: how many the pilot was given; the share of them that were eligible and reported
    is taken to stay. Raises InputError for a width that is not above 0, and a pilot without rows.
    """
    if not width > 0:
        raise InputError(f"width {width:g}: give the wanted width of an interval in log-odds, above 0")
    found = spreads(rows)
    if not found:
        raise InputError("the pilot has no question with two eligible pictures: give it more pictures")
    several = any(s.within == s.within for s in found)
    made = []
    for s in found:
        share = s.images / images  # of what was given, eligible and reported: the race's half is in it
        counts = {k: ceil(s.needed(width, k) / share) for k in (SEEDS if several else (1,))}
        made.append(Need(s, s.width(s.images, 1), counts))
    return made
