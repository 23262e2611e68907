"""Two runs side by side: which effects changed, with intervals on the difference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from diffexplain.errors import InputError
from diffexplain.records import ConceptResult, Effect, Request
from diffexplain.report.evidence import Evidence, Key, evidence
from diffexplain.report.finished import Finished
from diffexplain.report.rows import ALPHA
from diffexplain.statistics import Estimate, benjamini_hochberg, paired_difference

if TYPE_CHECKING:
    from pandas import DataFrame

#: parts of a request that two runs may differ in and a reader must know.
_TOLD = ("classifier", "target", "versus", "corpus", "corpus_hash", "editor", "screen", "judge", "seeds")


@dataclass(frozen=True, slots=True)
class Change:
    """One question in both runs; effects and their difference (second − first) in log-odds."""

    concept: str
    direction: str
    first: float
    first_low: float
    first_high: float
    second: float
    second_low: float
    second_high: float
    difference: float
    low: float  # 95 % interval of the difference
    high: float
    p: float
    q: float  # Benjamini–Hochberg over all questions of the contrast
    images: int  # behind the difference; of both runs together where not paired
    paired: bool  # by image
    examples: tuple[Effect, ...] = ()  # one of each run, of the same image where both have one

    @property
    def found(self) -> bool:
        """Whether the effect changed, at q < 0.05."""
        return self.q < ALPHA


@dataclass(frozen=True, slots=True)
class Contrast:
    """The answer of `compare`: what changed from the first run to the second, largest changes first."""

    first: Request
    second: Request
    changes: tuple[Change, ...]
    differing: tuple[tuple[str, str, str], ...]  # (part of the request, first, second)
    first_only: tuple[str, ...]  # questions measured in one run alone
    second_only: tuple[str, ...]

    def to_frame(self) -> DataFrame:
        """One row a question, as a pandas table. Raises MissingExtra without pandas."""
        from diffexplain.report.tables import table

        rows = [asdict(change) for change in self.changes]
        return table([{k: v for k, v in row.items() if k != "examples"} for row in rows])

    def _repr_html_(self) -> str:
        from diffexplain.report.notebook import contrast_fragment

        return contrast_fragment(self)


def contrast(first: Finished, second: Finished) -> Contrast:
    """Compare two runs question by question, over the questions that both measured.

    Where both edited the same images (two of them at least) the difference is paired by image; else it is
    Welch's, of independent samples. Raises InputError when no question was measured in both.
    """
    one, other = _measured(first), _measured(second)
    common = [key for key in one if key in other]
    if not common:
        raise InputError(
            f"the runs of {first.result.request.classifier!r} and {second.result.request.classifier!r} "
            "measured no question in common: compare runs over one corpus, with a larger beam or an "
            "exhaustive search"
        )
    changes = [_change(one[key], other[key]) for key in common]
    qs = benjamini_hochberg([change.p for change in changes])
    changes = [replace(change, q=float(q)) for change, q in zip(changes, qs, strict=True)]
    changes.sort(key=lambda c: (-abs(c.difference), c.concept, c.direction))
    return Contrast(
        first=first.result.request,
        second=second.result.request,
        changes=tuple(changes),
        differing=differing(first.result.request, second.result.request),
        first_only=_asked(one.keys() - other.keys()),
        second_only=_asked(other.keys() - one.keys()),
    )


def differing(first: Request, second: Request) -> tuple[tuple[str, str, str], ...]:
    """What the two were asked differently, in words."""
    told = [(name, getattr(first, name), getattr(second, name)) for name in _TOLD]
    found = [(name, _word(a), _word(b)) for name, a, b in told if a != b]
    if set(first.images) != set(second.images):
        shared = len(set(first.images) & set(second.images))
        a, b = (f"{len(request.images)}, {shared} shared" for request in (first, second))
        found.append(("images", a, b))
    return tuple(found)


def _asked(keys: Iterable[Key]) -> tuple[str, ...]:
    return tuple(f"{direction} {concept}" for concept, direction in sorted(keys))


def _word(value: Any) -> str:
    return "none" if value is None else str(value)


def _measured(run: Finished) -> dict[Key, tuple[ConceptResult, Evidence]]:
    found = evidence(run.result, run.effects)
    measured = [c for c in run.result.concepts if c.status == "measured" and math.isfinite(c.effect)]
    return {(c.concept, c.direction): (c, found[c.concept, c.direction]) for c in measured}


def _change(first: tuple[ConceptResult, Evidence], second: tuple[ConceptResult, Evidence]) -> Change:
    (a, behind_a), (b, behind_b) = first, second
    estimate, paired = difference(behind_a.by_image(), behind_b.by_image())
    return Change(
        concept=a.concept,
        direction=a.direction,
        first=a.effect,
        first_low=a.low,
        first_high=a.high,
        second=b.effect,
        second_low=b.low,
        second_high=b.high,
        difference=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        p=estimate.p,
        q=math.nan,
        images=estimate.clusters,
        paired=paired,
        examples=_examples(behind_a, behind_b),
    )


def difference(first: Mapping[str, float], second: Mapping[str, float]) -> tuple[Estimate, bool]:
    """Mean of second − first with its interval, and whether it is paired by image.

    Not paired: Welch's t; nan and p = 1 with fewer than two images on a side.
    """
    if len(first.keys() & second.keys()) >= 2:
        return paired_difference(second, first), True
    a, b = np.array(list(first.values())), np.array(list(second.values()))
    count = len(a) + len(b)
    mean = float(b.mean() - a.mean()) if len(a) and len(b) else math.nan
    if min(len(a), len(b)) < 2 or not (a.std() or b.std()):
        return Estimate(mean, math.nan, math.nan, 1.0, count, count), False
    from scipy.stats import ttest_ind

    test = ttest_ind(b, a, equal_var=False)
    ends = test.confidence_interval(0.95)
    return Estimate(mean, float(ends.low), float(ends.high), float(test.pvalue), count, count), False


def _examples(first: Evidence, second: Evidence) -> tuple[Effect, ...]:
    """The pair of edits of one image whose changes differ most; else the strongest of each run."""
    mine = {(e.image, e.seed): e for e in first.counted if e.edited}
    others = {(e.image, e.seed): e for e in second.counted if e.edited}
    shared = sorted(mine.keys() & others.keys())
    if shared:
        most = max(shared, key=lambda key: abs(others[key].change - mine[key].change))
        return mine[most], others[most]
    strongest = [max(held.values(), key=lambda e: abs(e.change)) for held in (mine, others) if held]
    return tuple(strongest) if len(strongest) == 2 else ()
