"""Shares of attribute values that an imperfect reader counted: correction, intervals, tests.

A reader that mistakes a third of the men for women makes any class look female. Its confusion matrix,
counted on labelled pictures, undoes that (Rogan & Gladen 1978, for any number of values), and its own
uncertainty goes into the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from diffexplain.errors import InputError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

DRAWS = 2000  # from the posterior; the ends of an interval move by about a fortieth of its width
TABLES = 9999  # random tables of a permutation test: p down to 0.0001
JEFFREYS = 0.5
LEAST = 10  # labelled pictures of a value below which a reader is not calibrated
BLIND = 0.05  # smallest singular value of a confusion matrix that can be undone


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Whether two groups of pictures differ in an attribute."""

    effect_size: float  # Cramér's V, 0 to 1
    p: float


def counted(readings: ArrayLike, values: int) -> Counts:
    """How often each of `values` values was read; -1 (cannot be seen) does not count."""
    read = np.asarray(readings, dtype=np.int64)
    return np.bincount(read[read >= 0], minlength=values).astype(np.int64)


def confusion(readings: ArrayLike, truths: ArrayLike, values: Sequence[str]) -> Counts:
    """Labelled pictures by true value (rows) and value read (columns), (K, K).

    Raises InputError when a value has fewer than 10 pictures.
    """
    read, true = np.asarray(readings, dtype=np.int64), np.asarray(truths, dtype=np.int64)
    if read.shape != true.shape:
        raise InputError(f"{read.size} readings and {true.size} labels: give one label to each picture")
    seen = (read >= 0) & (true >= 0)
    table = np.zeros((len(values), len(values)), dtype=np.int64)
    np.add.at(table, (true[seen], read[seen]), 1)
    short = [f"{v} ({n})" for v, n in zip(values, table.sum(1), strict=True) if n < LEAST]
    if short:
        raise InputError(
            f"too few labelled pictures to calibrate the reader: {', '.join(short)}; "
            f"give at least {LEAST} of each value"
        )
    return table


def corrected_shares(
    counts: ArrayLike, table: ArrayLike, *, confidence: float = 0.95, seed: int = 0
) -> tuple[Share, ...]:
    """True shares behind the counts of an imperfect reader, (K,), with intervals.

    Jeffreys posteriors of the read shares and of each row of the confusion matrix (true × read, counts);
    each draw p is undone by its matrix, π = M⁻ᵀ p, and clipped to [0, 1]. The value is the plain
    estimate from the raw frequencies, put onto the simplex. With the count of a perfect reader on the
    diagonal only, this is the multinomial share with its Jeffreys interval.

    Raises InputError when nothing was counted, or the reader cannot tell the values apart.
    """
    read, matrix = np.asarray(counts, dtype=np.float64), np.asarray(table, dtype=np.float64)
    if matrix.shape != (len(read), len(read)):
        raise InputError(f"counts {read.shape} and confusion matrix {matrix.shape} do not fit")
    if read.sum() == 0:
        raise InputError("no picture shows this attribute: nothing to count")
    rates = matrix / matrix.sum(1, keepdims=True)  # (true, read)
    if np.linalg.svd(rates, compute_uv=False)[-1] < BLIND:
        raise InputError(
            "the reader cannot tell the values of this attribute apart on the labelled pictures; "
            "choose another judge, or fewer values"
        )
    value = _onto_simplex(np.linalg.solve(rates.T, read / read.sum()))
    rng = np.random.default_rng(seed)
    seen = rng.dirichlet(read + JEFFREYS, DRAWS)  # (S, read)
    drawn = np.stack([rng.dirichlet(row + JEFFREYS, DRAWS) for row in matrix], axis=2)  # (S, read, true)
    shares = np.linalg.solve(drawn, seen[:, :, None])[:, :, 0]
    tail = (1 - confidence) / 2
    low, high = np.clip(np.quantile(shares, [tail, 1 - tail], axis=0), 0, 1)
    return tuple(
        Share(float(v), float(min(a, v)), float(max(b, v))) for v, a, b in zip(value, low, high, strict=True)
    )


def _onto_simplex(x: Floats) -> Floats:
    """The nearest shares (Euclidean; Duchi et al. 2008)."""
    ordered = np.sort(x)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(x) + 1)
    return np.asarray(np.maximum(x - excess[ordered > excess][-1], 0), dtype=np.float64)


def difference(counts: ArrayLike, reference: ArrayLike, *, seed: int = 0) -> Difference:
    """Permutation χ² test of two groups' counts (K,), and Cramér's V.

    Raw readings are compared: one reader read both groups, so where the true shares are equal, the read
    ones are too, whatever its errors. Tables are drawn with both margins fixed (Patefield 1981).
    Values that nobody shows are left out; with fewer than two values, V is 0 and p is 1.
    """
    both = np.stack([np.asarray(counts, dtype=np.int64), np.asarray(reference, dtype=np.int64)])
    both = both[:, both.sum(0) > 0]
    if both.shape[1] < 2 or (both.sum(1) == 0).any():
        return Difference(0.0, 1.0)
    rows, columns = both.sum(1), both.sum(0)
    expected = np.outer(rows, columns) / both.sum()
    seen = float(((both - expected) ** 2 / expected).sum())
    drawn = stats.random_table(rows, columns, seed=np.random.default_rng(seed)).rvs(TABLES)
    chance = ((drawn - expected) ** 2 / expected).sum((1, 2))
    p = (1 + int((chance >= seen * (1 - 1e-9)).sum())) / (1 + TABLES)
    return Difference(math.sqrt(seen / both.sum()), p)
