"""Estimates, intervals and corrections for effects measured on pictures; knows no model and no picture.

The unit is the image: seeds are repeated readings of one image, so values are averaged within an image
first and only the spread between images counts (a cluster bootstrap; Davison & Hinkley 1997, §3.8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from diffexplain.errors import InputError

Floats = NDArray[np.float64]

FEWEST = 8  # images from which the bootstrap is used: below, 1,999 resamples repeat each other
RESAMPLES = 1999  # (B + 1)·α is a whole number at the usual levels (Davison & Hinkley 1997, §5.2)
FLOOR = 1 / 3  # least spread of a resample, as a share of the sample's
ROUNDING = 1e-9  # spread below this share of the values is rounding, not information


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over images with its interval and the p-value of "the mean is 0"."""

    mean: float
    low: float
    high: float
    p: float
    clusters: int  # images
    rows: int  # values, seeds included


def cluster_means(values: ArrayLike, clusters: ArrayLike) -> Floats:
    """Mean of each cluster's values, in the order of the sorted cluster names.

    The order of the rows does not matter, to the last bit.
    Raises InputError when the lengths differ or a value is not finite.
    """
    x, names = np.asarray(values, dtype=np.float64), np.asarray(clusters)
    if x.ndim != 1 or x.shape != names.shape:
        raise InputError(f"values {x.shape} and clusters {names.shape} differ: give one image to each value")
    if not np.isfinite(x).all():
        raise InputError("values hold nan or inf: leave out the rows that have no score")
    _, index = np.unique(names, return_inverse=True)
    order = np.lexsort((x, index))
    sums = np.bincount(index[order], x[order])  # (clusters,)
    return np.asarray(sums / np.maximum(np.bincount(index), 1), dtype=np.float64)


def mean_effect(values: ArrayLike, clusters: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Mean over images of the within-image mean, with a studentised interval and p-value.

    p is the one-sample t-test's on the image means. The interval is the bootstrap-t (Efron &
    Tibshirani 1993, §12.5; second-order accurate: Hall 1992, §3.5) from 8 images on, since effects are
    skewed (many pictures hardly move, a few move far) and the t interval, used below 8, then covers too
    little. For strong skew one of the two may exclude 0 just before the other does.

    No image: all nan and p = 1. One: an infinite interval and p = 1. All images alike: the interval is
    that point and p the two-sided sign test's 2^(1 − n), or 1 at zero; p is never 0.
    Raises InputError as `cluster_means`, and for a confidence outside (0, 1).
    """
    _check(confidence)
    means = np.sort(cluster_means(values, clusters))  # sorted: names of images do not matter either
    n, rows = len(means), int(np.size(np.asarray(values)))
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 1.0, 0, rows)
    mean = float(means.mean())
    if n == 1:
        return Estimate(mean, -math.inf, math.inf, 1.0, 1, rows)
    sd = float(means.std(ddof=1))
    if sd <= ROUNDING * float(np.abs(means).max()):
        return Estimate(mean, mean, mean, 2.0 ** (1 - n) if mean else 1.0, n, rows)
    t = mean / (sd / math.sqrt(n))
    p = max(2 * float(special.stdtr(n - 1, -abs(t))), float(np.finfo(float).tiny))
    low, high = _bounds(means, confidence)  # of T = (mean − μ) / sd
    return Estimate(mean, mean - high * sd, mean - low * sd, p, n, rows)


def _bounds(means: Floats, confidence: float) -> tuple[float, float]:
    """Quantiles of T* = (mean* − mean) / sd*: the bootstrap-t, or Student's t below `FEWEST` images.

    sd* is kept above a third of sd, so that a resample of nearly one value does not stretch the interval
    without bound (log-normal values, n = 8: its mean width halves), and T* exists where values are tied.
    """
    n, level = len(means), (1 - confidence) / 2
    if n < FEWEST:
        t = float(special.stdtrit(n - 1, 1 - level)) / math.sqrt(n)
        return -t, t
    # Coverage measured at 95 %, 4,000 draws each (in brackets: of the t interval). "30 % move": Δ is
    # N(3, 1) for 30 % of the images and N(0, 0.1) for the others.
    #   n    normal       exponential  log-normal   30 % move
    #   8    .952 (.949)  .943 (.888)  .907 (.830)  .926 (.894)
    #   16   .960 (.951)  .956 (.914)  .930 (.863)  .974 (.918)
    #   32   .952 (.951)  .955 (.928)  .932 (.889)  .978 (.938)
    #   64   .959 (.953)  .954 (.933)  .947 (.912)  .968 (.942)
    z = (means - means.mean()) / means.std()
    counts = _resamples(n).astype(np.float64)  # (RESAMPLES, n)
    shift = counts @ z / n
    spread = np.sqrt(np.maximum(counts @ (z * z) / n - shift * shift, FLOOR**2))
    low, high = np.quantile(shift / spread, [level, 1 - level], method="weibull")
    scale = math.sqrt((n - 1) / n)  # z is in units of the sd with divisor n, T in that with n − 1
    return float(low) * scale, float(high) * scale


@lru_cache(maxsize=16)
def _resamples(n: int) -> NDArray[np.uint16]:
    """How often each of `n` sorted values is drawn in each resample, (RESAMPLES, n).

    One fixed plan for each n, so an interval depends on nothing but the values, and shifts, scales and
    flips exactly with them: resamples come in mirrored pairs, and the sample itself is one.
    """
    rng, pairs = np.random.default_rng(n), RESAMPLES // 2
    drawn = rng.integers(n, size=(pairs, n)) + n * np.arange(pairs)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=pairs * n).reshape(pairs, n)
    return np.concatenate([counts, counts[:, ::-1], np.ones((1, n))]).astype(np.uint16)


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence}: give a share between 0 and 1, such as 0.95")


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Adjusted p-values that control the false discovery rate (Benjamini & Hochberg 1995).

    For independent questions. A nan stays nan and does not count as a question. Raises InputError for p
    outside [0, 1].
    """
    return _adjusted(p, "fdr_bh")


def benjamini_yekutieli(p: ArrayLike) -> Floats:
    """Adjusted p-values that control the false discovery rate under any dependence.

    Benjamini & Yekutieli 2001, theorem 1.3: as `benjamini_hochberg`, times 1 + 1/2 + … + 1/m. For questions
    asked of the same pictures, whose edits share a reconstruction. nan and errors as there.
    """
    return _adjusted(p, "fdr_by")


def harmonic(questions: int) -> float:
    """1 + 1/2 + … + 1/m, which Benjamini–Yekutieli pays for any dependence."""
    return math.fsum(1 / k for k in range(1, questions + 1))


def _adjusted(p: ArrayLike, method: str) -> Floats:
    from statsmodels.stats.multitest import multipletests

    q = np.array(p, dtype=np.float64)
    asked = ~np.isnan(q)
    if ((q[asked] < 0) | (q[asked] > 1)).any():
        raise InputError("p holds values outside [0, 1]: give p-values")
    if asked.any():
        q[asked] = multipletests(q[asked], method=method)[1]
    return q


def paired_difference(
    a_by_cluster: Mapping[str, float], b_by_cluster: Mapping[str, float], *, confidence: float = 0.95
) -> Estimate:
    """Mean of a − b over the clusters that both have. Raises InputError as `mean_effect`."""
    common = sorted(a_by_cluster.keys() & b_by_cluster.keys())
    return mean_effect([a_by_cluster[c] - b_by_cluster[c] for c in common], common, confidence=confidence)


def ratio(
    values: ArrayLike, per: ArrayLike, clusters: ArrayLike, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean of the values per mean of `per`, a Wald ratio (Wald 1940), and its bootstrap interval.

    How far the score moves for each unit by which the concept's presence moves. Percentiles over resamples
    of images (Davison & Hinkley 1997, §5.3), values and `per` together. Where a resample's mean of `per` is
    not above 0 the ratio has no meaning: the interval is then without bounds, as Fieller's is. All nan below
    `FEWEST` images, and where the mean of `per` is not above 0. Raises InputError as `cluster_means`.
    """
    _check(confidence)
    above, below = cluster_means(values, clusters), cluster_means(per, clusters)
    n = len(above)
    if n < FEWEST or below.mean() <= ROUNDING:
        return math.nan, math.nan, math.nan
    counts = _resamples(n).astype(np.float64)  # (RESAMPLES, n)
    order = np.lexsort((below, above))
    tops, bottoms = counts @ above[order], counts @ below[order]
    level = (1 - confidence) / 2
    value = float(above.mean() / below.mean())
    if np.mean(bottoms <= ROUNDING * n) > level:
        return value, -math.inf, math.inf
    drawn = tops[bottoms > 0] / bottoms[bottoms > 0]
    low, high = np.quantile(drawn, [level, 1 - level], method="weibull")
    return value, min(float(low), value), max(float(high), value)


def influence(
    values: ArrayLike, clusters: ArrayLike, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Root mean square of Δ over images and its interval: how far a concept moves scores either way.

    For racing inner nodes whose children cancel in the mean. The interval is the delta method's on
    ln mean(Δ²) with t quantiles; on that scale a mean square is closest to normal, and at 2 to 4 images
    the interval is wide upwards where one on mean(Δ²) itself is too short. The relative spread of the
    squares counts as 1/n at least: a smaller one among few images is luck. Noise alone has an influence
    above 0, so a positive lower bound is no discovery.

    No image: all nan. One: (value, 0, inf). All zero: (0, 0, 0), for want of a scale.
    Raises InputError as `mean_effect`.
    """
    _check(confidence)
    squares = cluster_means(np.square(np.asarray(values, dtype=np.float64)), clusters)
    n = len(squares)
    if n == 0:
        return math.nan, math.nan, math.nan
    value = math.sqrt(float(squares.mean()))
    if n == 1:
        return value, 0.0, math.inf
    if value == 0:
        return 0.0, 0.0, 0.0
    spread = max(float((squares / squares.mean()).std(ddof=1)), 1 / n)
    error = spread / math.sqrt(n)  # of ln mean(Δ²)
    reach = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * error / 2
    return value, value * math.exp(-reach), value * math.exp(reach)


def exact_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share (Clopper & Pearson 1934); (0, 1) when nothing was tried.

    Raises InputError when there are more successes than tries.
    """
    _check(confidence)
    if not 0 <= successes <= n:
        raise InputError(f"successes={successes} of n={n}: give 0 <= successes <= n")
    tail = (1 - confidence) / 2
    low = special.betaincinv(successes, n - successes + 1, tail) if successes else 0.0
    high = special.betaincinv(successes + 1, n - successes, 1 - tail) if successes < n else 1.0
    return float(low), float(high)


def minimal_detectable(n: int, sd: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Least mean effect that a two-sided one-sample t-test on `n` images finds with this power.

    `sd` is the spread between images, in the unit of the answer; inf below two images. Solves the
    noncentral t for δ√n (Cohen 1988, §2.3) without the far tail, which is below 10⁻⁵ here. (statsmodels'
    solver stops short at few images and small alpha: n = 5, alpha 0.001: 3.8 for 6.0.)
    Raises InputError for alpha outside (0, 1) or power outside [0.5, 1).
    """
    if not (0 < alpha < 1 and 0.5 <= power < 1):
        raise InputError(f"alpha={alpha}, power={power}: give 0 < alpha < 1 and 0.5 <= power < 1")
    if n < 2:
        return math.inf
    critical = special.stdtrit(n - 1, 1 - alpha / 2)
    return float(special.nctdtrinc(n - 1, 1 - power, critical)) / math.sqrt(n) * sd
