"""How many people does a study need? Counts for its three kinds of question."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from diffexplain.errors import InputError

Asked = Literal["accuracy", "preference", "rating"]

EFFICIENCY = 3 / math.pi  # of Wilcoxon's test against the t-test on normal values (Lehmann 1975)
MOST = 100_000


@dataclass(frozen=True, slots=True)
class People:
    """How many people, what that was computed from, and what the test then finds."""

    asked: Asked
    people: int
    answers: int
    power: float  # reached with this many
    inflation: float  # 1 + (items − 1)·ρ: a reader's answers are alike


def people_needed(
    asked: Asked,
    expected: float,
    *,
    chance: float = 0.25,
    items: int = 8,
    alike: float = 0.1,
    spread: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> People:
    """Fewest people with whom a two-sided test at `alpha` finds what is expected with this power.

    accuracy: `expected` share of right answers against `chance`, exact binomial test. preference: `expected`
    share that prefers the one method, against one half, likewise. rating: `expected` difference between two
    methods in points, by Wilcoxon's test on readers' differences, where `spread` is the standard deviation of
    one answer and each reader rates `items` pages, half of each method. `alike`: the correlation ρ of one
    reader's answers, by which shares are corrected (Kish 1965: 1 + (items − 1)·ρ).
    Raises InputError for values out of range, or where more than 100,000 people would be needed.
    """
    _check(asked, expected, chance, items, alike, spread, alpha, power)
    if asked == "rating":
        return _rating(expected, items, alike, spread, alpha, power)
    against = chance if asked == "accuracy" else 0.5
    inflation = 1 + (items - 1) * alike
    return _share(asked, expected, against, items, inflation, alpha, power)


def _share(
    asked: Asked, expected: float, against: float, items: int, inflation: float, alpha: float, power: float
) -> People:
    def reached(people: int) -> float:
        return binomial_power(max(1, int(people * items / inflation)), expected, against, alpha)

    people = _least(reached, power)
    return People(asked, people, people * items, reached(people), inflation)


def _rating(difference: float, items: int, alike: float, spread: float, alpha: float, power: float) -> People:
    """A reader's mean difference has variance 4·(1 − ρ)·spread² / items: what is alike cancels."""
    from statsmodels.stats.power import TTestPower

    if items < 2:
        raise InputError(f"items {items}: a reader must rate both methods; give at least 2")
    effect = abs(difference) / (spread * math.sqrt(4 * (1 - alike) / items))

    def reached(people: int) -> float:
        found = TTestPower().power(effect, max(2.0, people * EFFICIENCY), alpha, alternative="two-sided")
        return float(found)

    people = max(_least(reached, power), 6)  # below 6 Wilcoxon's p cannot pass 0.05
    return People("rating", people, people * items, reached(people), 1.0)


def binomial_power(n: int, expected: float, against: float, alpha: float = 0.05) -> float:
    """Power of the exact two-sided binomial test with n answers (each tail at alpha / 2)."""
    from scipy.stats import binom

    high = binom.isf(alpha / 2, n, against) + 1  # fewest right answers that are too many
    low = binom.ppf(alpha / 2, n, against) - 1
    return float(binom.sf(high - 1, n, expected) + binom.cdf(low, n, expected))


def _least(reached: Callable[[int], float], power: float) -> int:
    """The fewest people from whom on the power is reached, by doubling and halving, then a short walk.

    An exact test's power goes up and down by a little; the walk back finds the last dip.
    """
    high = 1
    while reached(high) < power:
        high *= 2
        if high > MOST:
            raise InputError(f"more than {MOST} people: what is expected lies too near to chance")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) >= power else (middle, high)
    ahead = [n for n in range(high, high + 12) if reached(n) < power]
    return ahead[-1] + 1 if ahead else high


def _check(asked: str, expected: float, chance: float, items: int, alike: float, spread: float, alpha: float,
           power: float) -> None:  # fmt: skip
    if asked not in ("accuracy", "preference", "rating"):
        raise InputError(f"kind {asked!r}: choose accuracy, preference or rating")
    against = {"accuracy": chance, "preference": 0.5, "rating": 0.0}[asked]
    if not (math.isfinite(expected) and expected != against and (asked == "rating" or 0 <= expected <= 1)):
        raise InputError(f"expected {expected:g}: give a {asked} other than {against:g} that you count on")
    ranges = {"chance": (chance, 0.0, 1.0), "alpha": (alpha, 0.0, 1.0), "power": (power, 0.0, 1.0)}
    for name, (value, low, high) in ranges.items():
        if not low < value < high:
            raise InputError(f"{name} {value:g}: give a number between {low:g} and {high:g}")
    if items < 1 or not 0 <= alike < 1 or not spread > 0:
        given = f"items {items}, alike {alike:g}, spread {spread:g}"
        raise InputError(f"{given}: give items >= 1, 0 <= alike < 1, spread > 0")
