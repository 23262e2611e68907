"""Core, spurious or undecided: two lines of evidence, each with its interval.

Presence (DiffExplainer, Pennisi et al. 2025): do pictures that excite a unit show the object? Interventions:
does the unit answer to the object, or to all else? A verdict follows from an interval, never from a point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_ind

from diffexplain.errors import InputError
from diffexplain.records import Interval
from diffexplain.records.spurious import Calibration, Causal, Verdict
from diffexplain.statistics import FEWEST, Estimate, exact_interval, mean_effect, ratio

Floats = NDArray[np.float64]
HALF = 0.5  # the share of a unit's variance that decides between core and spurious


@dataclass(frozen=True, slots=True)
class SpuriousOptions:
    """How a verdict is reached; raises InputError for values out of range, and for too few pictures."""

    pictures: int = 48  # held-out ones of each unit, of the plain and of the neutral prompt
    confidence: float = 0.95  # of the intervals that verdicts follow from
    least: float = 0.002  # share of a picture below which nothing counts as found
    usual: float = 0.25  # of the usual area must be there for the object to count as there
    grow: float = 0.03  # of the side, by which a region is made larger before it is drawn over
    tries: int = 3  # drawings of a region without the object, of which the emptiest counts
    rounds: int = 3  # of each step of the drawing (RePaint)
    margin: float = 0.5  # log-odds that an effect must exceed for a concept to be called a shortcut

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence {self.confidence:g}: give a share between 0 and 1, such as 0.95")
        if (need := needed(HALF, self.confidence)) > self.pictures:
            raise InputError(
                f"held-out {self.pictures}: too few for a verdict at confidence {self.confidence:g}; "
                f"give at least {need} pictures"
            )
        if not (0 < self.least < 1 and 0 < self.usual <= 1 and 0 <= self.grow < 0.5 and self.margin >= 0):
            raise InputError("least and usual are shares, grow is below a half, margin is at least 0")
        if self.tries < 1 or self.rounds < 1:
            raise InputError(f"tries {self.tries}, rounds {self.rounds}: give whole numbers of at least 1")

    @staticmethod
    def of(given: SpuriousOptions | Mapping[str, Any] | None) -> SpuriousOptions:
        """From a mapping, or one in hand. Raises InputError for an unknown name."""
        if isinstance(given, SpuriousOptions):
            return given
        known = [f.name for f in fields(SpuriousOptions)]
        if unknown := [name for name in given or {} if name not in known]:
            raise InputError(f"option {', '.join(unknown)} is unknown; known are {', '.join(known)}")
        return SpuriousOptions(**(given or {}))


def needed(rate: float, confidence: float) -> int:
    """Pictures from which both verdicts can be had against a rate: all of them, or none, show the object.

    From the exact interval (Clopper & Pearson 1934) of n of n and of 0 of n.
    """
    if not 0 < rate < 1:
        return 1
    tail = math.log((1 - confidence) / 2)
    return math.floor(max(tail / math.log(rate), tail / math.log(1 - rate))) + 1


def calibrate(
    plain: Floats, neutral: Floats, options: SpuriousOptions, *, segmenter: str, words: str, **prompts: str
) -> Calibration:
    """When the object counts as there, and the rate between class and neutral pictures, from its areas (N,).

    Raises InputError when the segmenter does not find the object in plain-prompt pictures: it cannot judge
    this class; and when the pictures are too few for the rate found, saying how many are needed.
    """
    found = plain[plain >= options.least]
    area = max(options.least, options.usual * float(np.median(found))) if len(found) else options.least
    there, else_there = plain >= area, neutral >= area
    if there.mean() < HALF:
        raise InputError(
            f"segmenter {segmenter!r} finds {words!r} in only {int(there.sum())} of {len(there)} "
            "plain-prompt pictures, so it cannot judge this class and nothing is said of it; choose another "
            "--segmenter, other words for --object or another --plain"
        )
    rate = float(there.mean() + else_there.mean()) / 2
    differ = exact_interval(int(there.sum()), len(there), options.confidence)[0] > else_there.mean()
    if differ and (need := needed(rate, options.confidence)) > len(plain):
        raise InputError(
            f"held-out {len(plain)}: too few for a verdict at confidence {options.confidence:g} against a "
            f"rate of {rate:.2f}; give at least {need} pictures"
        )
    return Calibration(
        area=area,
        plain=float(there.mean()),
        neutral=float(else_there.mean()),
        threshold=rate if differ else math.nan,
        pictures=len(plain),
        **prompts,
    )


def surpassed(excited: Floats, usual: Floats, options: SpuriousOptions) -> bool:
    """Whether pictures excite a unit (N,) no less than those of the plain prompt do (M,), as far as one sees.

    One-sided Welch test (1947). Pictures that excite it surely less were not found to be what it looks for.
    """
    less = ttest_ind(excited, usual, equal_var=False, alternative="less").pvalue
    return not less < 1 - options.confidence  # nan, where nothing varies, is no proof


def by_presence(
    areas: Floats, calibration: Calibration, options: SpuriousOptions, *, reached: bool = True
) -> tuple[Interval, Verdict]:
    """How often a unit's pictures show the object, and what its interval against the threshold says.

    Undecided where the unit was not reached, or the threshold lies in the interval.
    """
    there = areas >= calibration.area
    low, high = exact_interval(int(there.sum()), len(there), options.confidence)
    verdict: Verdict = "undecided"
    if reached and low > calibration.threshold:
        verdict = "core"
    if reached and high < calibration.threshold:
        verdict = "spurious"
    return Interval(float(there.mean()), low, high), verdict


def by_intervention(
    base: Floats,
    no_object: Floats,
    no_placebo: Floats,
    object_only: Floats,
    options: SpuriousOptions,
) -> Causal | None:
    """What the object's region, a placebo and all else do to a number (N,), paired over pictures.

    Were the object there in half of the pictures, its share of the variance would be E[d²]/4 over
    E[d²]/4 + E[r²]/2, d the change by taking it away and r that by drawing all else anew (Jansen's estimate
    of a Sobol index, 1999). Core: the share's interval lies above one half and the object changes more than
    the placebo does; spurious: it lies below. None for fewer than 8 pictures.
    """
    n = len(base)
    if n < FEWEST:
        return None
    names, level = [str(i) for i in range(n)], options.confidence
    object_, placebo, rest = base - no_object, base - no_placebo, base - object_only
    own, other = object_**2 / 4, rest**2 / 2
    value, low, high = ratio(own, own + other, names, confidence=level)
    beyond = mean_effect(object_**2 - placebo**2, names, confidence=level)
    verdict: Verdict = "undecided"
    if low > HALF and beyond.low > 0:
        verdict = "core"
    if high < HALF:
        verdict = "spurious"
    return Causal(
        images=n,
        base=float(base.mean()),
        no_object=_interval(mean_effect(object_, names, confidence=level)),
        no_placebo=_interval(mean_effect(placebo, names, confidence=level)),
        no_rest=_interval(mean_effect(rest, names, confidence=level)),
        share=Interval(value, low, high),
        beyond_placebo=_interval(beyond),
        verdict=verdict,
    )


def joined(
    presence: Verdict, causal: Verdict, *, reached: bool = True, leaning: bool | None = None
) -> tuple[Verdict, bool | None]:
    """One verdict of both lines, and whether they agree (None where one is undecided).

    The object in a unit's pictures is needed for core and is no proof of it: they may show it beside what
    excites the unit more. So what interventions find spurious is spurious; core needs pictures that do not
    speak against it. `leaning`: whether the mere estimate of the line that is undecided lies on the core
    side; the other one does not decide alone against it. Undecided where the unit was not reached.
    """
    if not reached:
        return "undecided", None
    agree = None if "undecided" in (presence, causal) else presence == causal
    if causal == "spurious":
        return "spurious", agree
    if agree is not None:
        return ("core" if agree else "undecided"), agree
    alone = causal if presence == "undecided" else presence
    against = leaning is not None and alone != "undecided" and (alone == "core") != leaning
    return ("undecided" if against else alone), None


def leaning(presence: Interval, calibration: Calibration, causal: Causal | None) -> bool | None:
    """The side of the estimate of the line that is undecided, for `joined`; None where there is none.

    That of presence, if both are: it decides nothing.
    """
    if causal is not None and causal.verdict == "undecided":
        return causal.share.value > HALF
    return None if math.isnan(calibration.threshold) else presence.value > calibration.threshold


def _interval(estimate: Estimate) -> Interval:
    return Interval(estimate.mean, estimate.low, estimate.high)


def as_floats(values: Any) -> Floats:
    """An array of float64."""
    return np.asarray(values, dtype=np.float64)
