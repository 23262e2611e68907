"""What a concept does, by all that a run's pictures tell of it.

Told twice by the same edits: by what pictures were given, and by what they had.

The edits of a slot are a two-way layout (Fisher 1925): pictures that show value v were given value w. Under

    Δ[i, w] = a_w − e_v(i) + noise,   a_w = e_w + b_w,

e is what the values do to the score and b what the editor's drawing of them does besides. The mean of the
edits to w tells e_w + b_w, less what those pictures showed. What pictures *had* tells e alone: given the same
value, those that lost w moved otherwise than those that lost another. Pictures that show w are fewer, so
that is the less precise one; how far the two differ beyond chance, over all concepts asked, is how far the
editor's drawing is off, and weighs them. Where a value may be absent, what replaces it is another change:
there the edits tell alone.

All of this is of pictures as the editor rebuilds them. What rebuilding does to a score may differ between
those that show w and others: an autoencoder blurs beards, say, and the mouth that they frame. The pictures
tell how much, by the score of each less that of its reconstruction, regressed on the values that it shows.
That contrast, shrunk by how far it stands out of its noise over all concepts (Morris 1983), is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag

from diffexplain.records import Interval
from diffexplain.statistics import Floats

ENOUGH = 8  # pictures that show a value, from which they tell what it does
ALONE = 0.999  # leverage from which a picture is all that tells of some value
Z = 1.959964  # of a 95 % interval


class Slot(NamedTuple):
    """Leaves that exclude each other, and whether a picture may show none of them."""

    leaves: tuple[str, ...]
    empties: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """A concept's effect, in the score's unit."""

    given: float  # mean Δ of the edits to it
    had: float  # the same contrast by pictures that show it already; nan where they are too few
    lost: float  # what rebuilding takes from it, shrunk; 0 where nothing tells
    in_all: Interval  # all of it, weighed by precision; 95 %, the editor's drawing included


def told(
    changes: Mapping[str, Mapping[str, float]], slots: Iterable[Slot], lost: Mapping[str, float] | None = None
) -> dict[str, Told]:
    """Each concept's effect, from the Δ of its additions by image and the score that rebuilding each took.

    A picture that all of a slot's measured values were added to but one shows that one; a picture that all
    were added to shows none of them. Others are left out.
    """
    measured = [Slot(tuple(w for w in slot.leaves if changes.get(w)), slot.empties) for slot in slots]
    layouts = [_Layout.of(slot, changes) for slot in measured if slot.leaves]
    off, taken = _off(layouts), _lost([slot.leaves for slot in measured], changes, lost or {})
    return {w: each for layout in layouts for w, each in layout.told(off, taken).items()}


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
    def of(cls, slot: Slot, changes: Mapping[str, Mapping[str, float]]) -> _Layout:
        concepts = slot.leaves
        names = sorted({image for w in concepts for image in changes[w]})
        table = np.array([[changes[w].get(image, nan) for w in concepts] for image in names])  # (n, K)
        there = np.isfinite(table)
        given = np.nanmean(table, 0)
        pull = np.where(there, table - given, 0) / there.sum(0)  # each image's on `given`
        had, back = _had(table, there)
        if slot.empties:
            had, back = np.full_like(had, nan), np.full_like(back, nan)
        return cls(tuple(concepts), given, had, *(np.sum(a * b, 0) for a, b in
                   ((pull, pull), (back, back), (pull, back))))  # fmt: skip

    @property
    def beyond(self) -> Floats:
        """Squared differences of the estimates less their variance, where there are both."""
        square = (self.given - self.had) ** 2
        found = square - (self.variance_given + self.variance_had - 2 * self.covariance)
        return np.asarray(found[np.isfinite(found)])

    def told(self, off: float, taken: Mapping[str, tuple[float, float]]) -> dict[str, Told]:
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
            lost, unsure = taken.get(w, (0.0, 0.0))
            value = weight * given + (1 - weight) * other + lost
            variance = weight**2 * v + (1 - weight) ** 2 * u + 2 * weight * (1 - weight) * c + unsure
            error = sqrt(max(variance, 0.0))
            in_all = Interval(float(value), float(value - Z * error), float(value + Z * error))
            found[w] = Told(float(given), float(had), float(lost), in_all)
        return found


def _shown(there: np.ndarray) -> np.ndarray:
    """Which value each picture shows (n,), by those added to it (n, K); K: none of them, K + 1: unknown."""
    k, missing = there.shape[1], (~there).sum(1)
    return np.asarray(np.where(missing == 1, (~there).argmax(1), np.where(missing == 0, k, k + 1)))


def _contrasts(counts: Floats) -> Floats:
    """Each value against the others, as so many pictures show them and none of them: (K, K + 1).

    nan where too few show the value.
    """
    k = len(counts) - 1
    found = np.full((k, k + 1), nan)
    for w in range(k):
        others = np.where(np.arange(k + 1) == w, 0.0, counts)
        if counts[w] >= ENOUGH and others.sum():
            found[w] = -others / others.sum()
            found[w, w] = 1
    return found


def _had(table: Floats, there: np.ndarray) -> tuple[Floats, Floats]:
    """The contrasts by what pictures had (K,), and each image's pull on them (n, K); nan where too few tell.

    Least squares of Δ on the value given and the value had, which are known up to a constant that no contrast
    holds; images are clusters (Liang & Zeger 1986).
    """
    n, k = table.shape
    had = _shown(there)
    image, given = np.nonzero(there & (had <= k)[:, None])
    counts = np.bincount(had, minlength=k + 2)[: k + 1].astype(float)
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
    contrast = np.pad(_contrasts(counts), ((0, 0), (k, 0)))
    return contrast @ fitted, score @ inverse @ contrast.T


def _lost(
    slots: Sequence[Sequence[str]], changes: Mapping[str, Mapping[str, float]], lost: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """What rebuilding takes from each concept, shrunk, and the variance that is left.

    Least squares on the values of all slots at once, an image a row; variance HC3 (MacKinnon & White 1985).
    """
    images, slots = sorted(lost), [slot for slot in slots if len(slot) > 1]
    if not images or not slots:
        return {}
    tables = [np.array([[image in changes[w] for w in slot] for image in images]) for slot in slots]
    blocks = [np.eye(there.shape[1] + 2)[_shown(there)] for there in tables]  # values, none of them, unknown
    design = np.concatenate(blocks, 1)
    contrasts = block_diag(*(np.pad(_contrasts(b.sum(0)[:-1]), ((0, 0), (0, 1))) for b in blocks))
    y, inverse = np.array([lost[image] for image in images]), np.linalg.pinv(design)
    leverage = np.einsum("ij,ji->i", design, inverse)
    pull = contrasts @ inverse  # (concepts, images)
    alone = leverage > ALONE  # nothing tells how much such a picture errs
    known = np.isfinite(pull).all(1) & (np.abs(pull[:, alone]) < 1e-9).all(1)
    if not known.any() or len(images) - leverage.sum() < ENOUGH:
        return {}
    residuals = np.where(alone, 0.0, (y - design @ (inverse @ y)) / np.where(alone, 1.0, 1 - leverage))
    found, variance = pull[known] @ y, pull[known] ** 2 @ residuals**2
    true = max(0.0, float((found**2 - variance).mean()))
    kept = true / (true + variance) if true > 0 else np.zeros(len(found))
    concepts = [w for slot in slots for w in slot]
    return {
        concepts[i]: (float(share * x), float(share * v))
        for i, share, x, v in zip(np.flatnonzero(known), kept, found, variance, strict=True)
    }
