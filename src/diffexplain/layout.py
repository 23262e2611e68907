"""What a concept does, told twice by the same edits: by what pictures were given, and by what they had.

The edits of a slot are a two-way layout (Fisher 1925): pictures that show value v were given value w. Under

    Δ[i, w] = a_w − e_v(i) + noise,   a_w = e_w + b_w,

e is what the values do to the score and b what the editor's drawing of them does besides. The mean of the
edits to w tells e_w + b_w, less what those pictures showed. What pictures *had* tells e alone: given the same
value, those that lost w moved otherwise than those that lost another. Pictures that show w are fewer, so
that is the less precise one; how far the two differ beyond chance, over all concepts asked, is how far the
editor's drawing is off, and weighs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt

import numpy as np

from diffexplain.records import Interval
from diffexplain.statistics import Floats

ENOUGH = 8  # pictures that show a value, from which they tell what it does
Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True, slots=True)
class Told:
    """A concept's effect, in the score's unit."""

    given: float  # mean Δ of the edits to it
    had: float  # the same contrast by pictures that show it already; nan where they are too few
    both: Interval  # weighed by their precision; 95 %, the editor's drawing included


def told(changes: Mapping[str, Mapping[str, float]], slots: Iterable[Sequence[str]]) -> dict[str, Told]:
    """Each concept's effect, from the Δ of its additions by image; `slots`: leaves that exclude each other.

    A picture that all of a slot's measured values were added to but one shows that one; a picture that all
    were added to shows none of them. Others are left out.
    """
    measured = [[w for w in slot if changes.get(w)] for slot in slots]
    layouts = [_Layout.of(slot, changes) for slot in measured if slot]
    off = _off(layouts)
    return {w: each for layout in layouts for w, each in layout.told(off).items()}


def _off(layouts: Sequence[_Layout]) -> float:
    """Variance of what the editor's drawing does, over concepts: differences beyond their own variance."""
    beyond = np.concatenate([layout.beyond for layout in layouts]) if layouts else np.zeros(0)
    return max(0.0, float(beyond.mean())) if len(beyond) else 0.0


@dataclass(frozen=True, slots=True)
class _Layout:
    """One slot: both estimates, (K,), and their variances and covariance over images."""

    concepts: tuple[str, ...]
    given: Floats
    had: Floats
    variance_given: Floats
    variance_had: Floats
    covariance: Floats

    @classmethod
    def of(cls, concepts: Sequence[str], changes: Mapping[str, Mapping[str, float]]) -> _Layout:
        names = sorted({image for w in concepts for image in changes[w]})
        table = np.array([[changes[w].get(image, nan) for w in concepts] for image in names])  # (n, K)
        there = np.isfinite(table)
        given = np.nanmean(table, 0)
        pull = np.where(there, table - given, 0) / there.sum(0)  # each image's on `given`
        had, back = _had(table, there)
        return cls(tuple(concepts), given, had, *(np.sum(a * b, 0) for a, b in
                   ((pull, pull), (back, back), (pull, back))))  # fmt: skip

    @property
    def beyond(self) -> Floats:
        """Squared differences of the estimates less their variance, where there are both."""
        square = (self.given - self.had) ** 2
        found = square - (self.variance_given + self.variance_had - 2 * self.covariance)
        return np.asarray(found[np.isfinite(found)])

    def told(self, off: float) -> dict[str, Told]:
        """The concepts' effects, where the editor's drawing has the variance `off`."""
        found = {}
        for w, given, had, v, u, c in zip(
            self.concepts, self.given, self.had, self.variance_given + off, self.variance_had,
            self.covariance, strict=True,
        ):  # fmt: skip
            known = not isnan(had)
            other, u, c = (had, u, c) if known else (given, 0.0, 0.0)
            spread = v + u - 2 * c
            weight = min(max((u - c) / spread, 0.0), 1.0) if known and spread > 0 else 1.0
            value = weight * given + (1 - weight) * other
            variance = weight**2 * v + (1 - weight) ** 2 * u + 2 * weight * (1 - weight) * c
            error = sqrt(max(variance, 0.0))
            both = Interval(float(value), float(value - Z * error), float(value + Z * error))
            found[w] = Told(float(given), float(had), both)
        return found


def _had(table: Floats, there: np.ndarray) -> tuple[Floats, Floats]:
    """The contrasts by what pictures had (K,), and each image's pull on them (n, K); nan where too few tell.

    Least squares of Δ on the value given and the value had, which are known up to a constant that no contrast
    holds; images are clusters (Liang & Zeger 1986).
    """
    n, k = table.shape
    missing = (~there).sum(1)
    had = np.where(missing == 1, (~there).argmax(1), k)  # k: none of them
    clear = missing <= 1
    image, given = np.nonzero(there & clear[:, None])
    counts = np.bincount(had[clear], minlength=k + 1).astype(float)
    if k < 2 or not len(image):
        return np.full(k, nan), np.full((n, k), nan)
    design = np.zeros((len(image), 2 * k + 1))
    design[np.arange(len(image)), given] = 1
    design[np.arange(len(image)), k + had[image]] -= 1
    free = k + np.count_nonzero(counts) - 1  # less the constant
    if np.linalg.matrix_rank(design) < free:
        return np.full(k, nan), np.full((n, k), nan)  # as where two values always replace each other
    y = table[image, given]
    inverse = np.linalg.pinv(design.T @ design)
    fitted = inverse @ (design.T @ y)
    score = np.zeros((n, 2 * k + 1))
    np.add.at(score, image, design * (y - design @ fitted)[:, None])
    contrast = np.zeros((k, 2 * k + 1))
    for w in range(k):
        others = np.where(np.arange(k + 1) == w, 0.0, counts)
        if counts[w] < ENOUGH or not others.sum():
            contrast[w] = nan
            continue
        contrast[w, k:] = -others / others.sum()
        contrast[w, k + w] = 1
    return contrast @ fitted, score @ inverse @ contrast.T
