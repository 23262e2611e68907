"""The shared axis of effects: where a bar, its interval and the true effect are drawn, in percent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil, floor, inf, isfinite, log10, nan

#: an interval wider than this many times the largest effect is cut, so that it cannot flatten the rest.
_REACH = 1.6


@dataclass(frozen=True, slots=True)
class Bar:
    """One effect on the axis; every number is a position in percent, nan where there is none."""

    start: float  # of the bar that joins zero and the effect
    width: float
    point: float
    low: float = nan  # of the interval
    high: float = nan
    cut_low: bool = False  # the interval goes on beyond the axis
    cut_high: bool = False
    truth: float = nan


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis in log-odds that always shows zero."""

    low: float
    high: float
    step: float

    @classmethod
    def over(cls, effects: Iterable[float], ends: Iterable[float] = ()) -> Axis:
        """The axis that holds these effects, and the ends of their intervals within reason."""
        held = [x for x in effects if isfinite(x)]
        most = max((abs(x) for x in held), default=0.0) or 1.0
        held += [min(max(x, -_REACH * most), _REACH * most) for x in ends if isfinite(x)]
        low, high = min([0.0, *held]), max([0.0, *held])
        margin = 0.04 * ((high - low) or 2.0)
        return cls(low - margin, high + margin, _step(high - low + 2 * margin))

    def at(self, value: float) -> float:
        """Position in percent; beyond the axis its end, nan for nan."""
        if value != value:
            return nan
        return 100.0 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)

    @property
    def zero(self) -> float:
        """Position of no effect."""
        return self.at(0.0)

    def ticks(self) -> Iterator[tuple[float, float]]:
        """(value, position) of each tick; zero is one of them."""
        for k in range(ceil(self.low / self.step), floor(self.high / self.step) + 1):
            yield k * self.step, self.at(k * self.step)

    def bar(self, effect: float, low: float = nan, high: float = nan, truth: float = nan) -> Bar:
        """Where one effect is drawn."""
        zero, point = self.zero, self.at(effect)
        start, width = (min(zero, point), abs(zero - point)) if isfinite(point) else (zero, 0.0)
        return Bar(
            start, width, point, self.at(low), self.at(high), low < self.low, high > self.high, self.at(truth)
        )


def _step(length: float) -> float:
    """1, 2 or 5 times a power of ten, for three to six ticks."""
    if not 0 < length < inf:
        return 1.0
    rough = length / 5
    power = 10.0 ** floor(log10(rough))
    return next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough)
