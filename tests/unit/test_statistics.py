"""Intervals, tests and corrections against analytic answers, other libraries and simulation."""

import math
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.stats.power import TTestPower

from diffexplain.errors import InputError
from diffexplain.statistics import (
    Estimate,
    benjamini_hochberg,
    benjamini_yekutieli,
    cluster_means,
    exact_interval,
    harmonic,
    influence,
    mean_effect,
    minimal_detectable,
    paired_difference,
    ratio,
)

light = settings(max_examples=40, deadline=None)

# whole numbers over 64: shifts and scales by powers of two are then exact
NUMBERS = st.integers(-(2**14), 2**14).map(lambda k: k / 64)


@st.composite
def samples(draw: st.DrawFn, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(least, 30))
    values = draw(arrays(float, n, elements=NUMBERS))
    return values, draw(arrays(np.int64, n, elements=st.integers(0, 20)))


def same(a: Estimate, b: Estimate, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(
        [a.mean, a.low, a.high, a.p], [b.mean, b.low, b.high, b.p], rtol=tolerance, atol=tolerance
    )
    assert (a.clusters, a.rows) == (b.clusters, b.rows)


def moved(e: Estimate, scale: float, shift: float) -> Estimate:
    ends = sorted((e.low * scale + shift, e.high * scale + shift))
    return Estimate(e.mean * scale + shift, ends[0], ends[1], e.p, e.clusters, e.rows)


# --- the mean ---------------------------------------------------------------------------------------


def test_every_image_counts_once_however_many_seeds_it_has():
    values, images = [1, 3, 10, 20, 30, 40], ["b", "b", "a", "c", "c", "c"]
    assert cluster_means(values, images).tolist() == [10, 2, 30]
    estimate = mean_effect(values, images)
    assert estimate.mean == 14
    assert (estimate.clusters, estimate.rows) == (3, 6)


@pytest.mark.parametrize("n", [2, 3, 4, 7])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_few_images_get_students_interval(n, confidence):
    x = np.random.default_rng(n).normal(0.5, 2, n)
    estimate = mean_effect(x, range(n), confidence=confidence)
    ours = stats.ttest_1samp(x, 0)
    assert estimate.p == pytest.approx(ours.pvalue)
    assert (estimate.low, estimate.high) == pytest.approx(ours.confidence_interval(confidence))


@pytest.mark.parametrize("n", [8, 16, 64])
def test_p_is_students_and_the_bootstrap_agrees_with_it_on_normal_data(n):
    x = stats.norm.ppf((np.arange(n) + 0.5) / n) + 0.3
    estimate, student = mean_effect(x, range(n)), stats.ttest_1samp(x, 0)
    low, high = student.confidence_interval()
    assert estimate.p == pytest.approx(student.pvalue)
    assert (estimate.high - estimate.low) / (high - low) == pytest.approx(1, abs=0.25 if n == 8 else 0.1)
    assert estimate.low + estimate.high == pytest.approx(2 * estimate.mean)  # symmetric data


def test_the_bootstrap_is_the_published_one():
    """Against a plain loop of Efron & Tibshirani's bootstrap-t, other random numbers."""
    x, rng = np.random.default_rng(3).exponential(2, 20), np.random.default_rng(11)
    t = []
    for _ in range(20_000):
        y = rng.choice(x, 20)
        t.append((y.mean() - x.mean()) / (y.std(ddof=1) / math.sqrt(20)))
    error, estimate = x.std(ddof=1) / math.sqrt(20), mean_effect(x, range(20))
    assert estimate.low == pytest.approx(x.mean() - np.quantile(t, 0.975) * error, rel=0.05)
    assert estimate.high == pytest.approx(x.mean() - np.quantile(t, 0.025) * error, rel=0.05)


def test_skewed_data_get_a_longer_arm_on_the_long_side():
    x = np.random.default_rng(0).exponential(1, 16)
    estimate = mean_effect(x, range(16))
    assert estimate.high - estimate.mean > 1.3 * (estimate.mean - estimate.low)


@light
@given(samples(), st.sampled_from([0.25, 1.0, 4.0]), st.integers(-64, 64))
def test_shifting_and_scaling_the_values_shifts_and_scales_the_interval(sample, scale, shift):
    values, images = sample
    before, after = mean_effect(values, images), mean_effect(values * scale + shift, images)
    expected = moved(before, scale, shift)
    np.testing.assert_allclose(
        [after.mean, after.low, after.high],
        [expected.mean, expected.low, expected.high],
        rtol=1e-8,
        atol=1e-8,
    )
    if shift == 0:
        assert after.p == pytest.approx(before.p)


@light
@given(samples(), st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_the_names_of_images_matter(sample, random):
    values, images = sample[0] / 10, sample[1]  # sums of these round
    order = list(range(len(values)))
    random.shuffle(order)
    names = list(range(100))
    random.shuffle(names)
    assert mean_effect(values[order], images[order]) == mean_effect(values, images)
    renamed = [f"image {names[i]}" for i in images]
    assert mean_effect(values, renamed) == mean_effect(values, images)


@light
@given(samples())
def test_flipping_signs_flips_the_interval(sample):
    values, images = sample
    same(mean_effect(-values, images), moved(mean_effect(values, images), -1, 0))


@light
@given(samples(least=0))
def test_the_mean_lies_in_its_interval_and_p_is_a_probability(sample):
    values, images = sample
    estimate = mean_effect(values, images)
    assume(estimate.clusters)
    assert estimate.low <= estimate.mean <= estimate.high
    assert 0 < estimate.p <= 1
    wider = mean_effect(values, images, confidence=0.99)
    assert wider.low <= estimate.low + 1e-9
    assert wider.high >= estimate.high - 1e-9


# --- edges ------------------------------------------------------------------------------------------


def test_no_image():
    estimate = mean_effect([], [])
    assert math.isnan(estimate.mean)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert (estimate.p, estimate.clusters, estimate.rows) == (1, 0, 0)


def test_one_image():
    assert mean_effect([1, 2], ["a", "a"]) == Estimate(1.5, -math.inf, math.inf, 1.0, 1, 2)


@pytest.mark.parametrize("n", [2, 5, 8, 40])
def test_images_all_alike(n):
    assert mean_effect([0.3] * n, range(n)) == Estimate(0.3, 0.3, 0.3, 2.0 ** (1 - n), n, n)
    assert mean_effect([0.0] * n, range(n)) == Estimate(0, 0, 0, 1, n, n)


def test_rounding_is_not_read_as_certainty():
    x = 1.1 + 1e-15 * np.arange(12)
    assert mean_effect(x, range(12)).p == 2.0**-11


def test_p_never_underflows_to_zero():
    assert 0 < mean_effect(1 + 1e-7 * np.arange(400), range(400)).p < 1e-300


def test_many_ties_give_a_finite_interval():
    estimate = mean_effect([0] * 7 + [5], range(8))
    assert estimate.low < 0
    assert 1 < estimate.high < 10


@pytest.mark.parametrize(
    ("values", "images"),
    [([1.0, math.nan], ["a", "b"]), ([1.0, math.inf], ["a", "b"]), ([1.0], ["a", "b"]), ([[1.0]], [["a"]])],
)
def test_values_that_are_no_scores_are_refused(values, images):
    with pytest.raises(InputError, match="values"):
        mean_effect(values, images)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_that_is_no_share_is_refused(confidence):
    for ask in (mean_effect, influence):
        with pytest.raises(InputError, match=f"confidence={confidence}"):
            ask([1, 2], [1, 2], confidence=confidence)


# --- does it keep its promise -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "mean", "n", "least"),
    [
        (lambda r, n: r.normal(1, 1, n), 1.0, 8, 0.93),
        (lambda r, n: r.normal(1, 1, n), 1.0, 16, 0.93),
        (lambda r, n: r.exponential(1, n), 1.0, 8, 0.92),
        (lambda r, n: r.exponential(1, n), 1.0, 16, 0.93),
        (lambda r, n: np.where(r.random(n) < 0.3, r.normal(3, 1, n), 0), 0.9, 16, 0.94),
    ],
    ids=["normal 8", "normal 16", "exponential 8", "exponential 16", "30 % move 16"],
)
def test_coverage(draw, mean, n, least):
    rng = np.random.default_rng(1)
    found = [mean_effect(draw(rng, n), range(n)) for _ in range(1000)]
    assert least <= np.mean([e.low <= mean <= e.high for e in found]) <= 0.985


@pytest.mark.parametrize("n", [3, 8, 16])
def test_p_values_are_uniform_under_the_null(n):
    rng = np.random.default_rng(2)
    images = np.repeat(np.arange(n), 2)
    p = [  # two seeds share their image's value: only images are independent
        mean_effect(np.repeat(rng.logistic(0, 1, n), 2) + rng.normal(0, 0.3, 2 * n), images).p
        for _ in range(1000)
    ]
    assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.07
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_an_interval_takes_less_than_three_milliseconds():
    x, images = np.random.default_rng(0).normal(size=16), range(16)
    mean_effect(x, images)
    taken = []
    for _ in range(20):
        start = time.perf_counter()
        mean_effect(x, images)
        taken.append(time.perf_counter() - start)
    assert min(taken) < 3e-3


# --- corrections ------------------------------------------------------------------------------------


def test_benjamini_hochberg_by_hand():
    q = benjamini_hochberg([0.01, 0.04, 0.03, 0.5])
    assert q.tolist() == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert benjamini_hochberg([]).tolist() == []


def test_what_was_not_asked_does_not_count():
    q = benjamini_hochberg([0.01, math.nan, 0.04])
    assert math.isnan(q[1])
    assert q[[0, 2]].tolist() == pytest.approx(benjamini_hochberg([0.01, 0.04]).tolist())
    assert np.isnan(benjamini_hochberg([math.nan])).all()


@pytest.mark.parametrize("wrong", [-0.1, 1.1])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(InputError, match="p holds"):
        benjamini_hochberg([0.5, wrong])


@light
@given(arrays(float, st.integers(1, 40), elements=st.floats(0, 1, allow_subnormal=False)))
def test_corrected_values_are_larger_in_the_same_order_and_scipys(p):
    given_p, q = p.copy(), benjamini_hochberg(p)
    assert (p == given_p).all()  # not changed in place
    assert (q >= p).all()
    assert (q <= 1).all()
    assert (np.diff(q[np.argsort(p, kind="stable")]) >= 0).all()
    np.testing.assert_allclose(q, stats.false_discovery_control(p), rtol=1e-12, atol=1e-300)


def test_false_discoveries_stay_at_the_level_asked():
    rng, wrong = np.random.default_rng(4), 0
    for _ in range(300):
        p = [mean_effect(rng.normal(0, 1, 6), range(6)).p for _ in range(20)]
        wrong += bool((benjamini_hochberg(p) < 0.05).any())
    assert wrong / 300 <= 0.07


@light
@given(arrays(float, st.integers(1, 40), elements=st.floats(0, 1, allow_subnormal=False)))
def test_any_dependence_costs_a_harmonic_number(p):
    q = benjamini_yekutieli(p)
    np.testing.assert_allclose(q, stats.false_discovery_control(p, method="by"), rtol=1e-12, atol=1e-300)
    plain = benjamini_hochberg(p)
    np.testing.assert_allclose(q, np.minimum(1, plain * harmonic(len(p))), rtol=1e-9, atol=1e-300)


def test_harmonic_numbers():
    assert [harmonic(m) for m in (0, 1, 2, 3)] == pytest.approx([0, 1, 1.5, 11 / 6])


def test_any_dependence_is_kept_where_the_plain_correction_may_fail():
    """The worst case of Benjamini & Yekutieli 2001 for two questions, both without effect."""
    rng, level, plain, any_ = np.random.default_rng(0), 0.2, 0, 0
    for _ in range(4000):
        u = rng.random()
        # P(p₁ ≤ a/2 or p₂ ≤ a/2 or both ≤ a) reaches a·(1 + 1/2)
        if u < level:
            first = rng.uniform(0, level / 2)
            p = [first, rng.uniform(level, 1)] if rng.random() < 0.5 else [rng.uniform(level, 1), first]
        elif u < 1.5 * level:
            p = list(rng.uniform(level / 2, level, 2))
        else:
            p = list(rng.uniform(level, 1, 2))
        plain += (benjamini_hochberg(p) < level).any()
        any_ += (benjamini_yekutieli(p) < level).any()
    assert plain / 4000 > level + 0.05
    assert any_ / 4000 <= level


# --- pairs, influence, shares, power ----------------------------------------------------------------


def test_pairs_are_taken_where_both_were_measured():
    a, b = {"x": 3.0, "y": 5.0, "z": 9.0, "only a": 100.0}, {"z": 2.0, "y": 4.0, "x": 1.0, "only b": -100.0}
    student = stats.ttest_rel([3, 5, 9], [1, 4, 2])
    estimate = paired_difference(a, b)
    assert estimate.mean == pytest.approx(10 / 3)
    assert estimate.p == pytest.approx(student.pvalue)
    assert (estimate.low, estimate.high) == pytest.approx(student.confidence_interval())
    assert paired_difference(a, {}).p == 1


def test_influence_sees_what_cancels_in_the_mean():
    values, images = [2, -2, 2.5, -2.5, 1.5, -1.5, 2, -2], [1, 1, 2, 2, 3, 3, 4, 4]
    assert mean_effect(values, images).mean == 0
    value, low, high = influence(values, images)
    assert value == pytest.approx(math.sqrt((4 + 6.25 + 2.25 + 4) / 4))
    assert 0 < low < value < high < 2 * value


def test_influence_by_the_formula():
    squares = np.array([1.0, 4.0, 9.0])
    error = squares.std(ddof=1) / math.sqrt(3) / squares.mean()  # of ln mean(Δ²)
    reach = math.exp(stats.t.ppf(0.95, 2) * error / 2)
    rms = math.sqrt(14 / 3)
    assert influence([-1, 2, -3], list("abc"), confidence=0.9) == pytest.approx(
        (rms, rms / reach, rms * reach)
    )


@pytest.mark.parametrize(("n", "widest"), [(2, math.inf), (3, 3), (4, 2)])
def test_influence_of_few_images_is_never_certain(n, widest):
    value, low, high = influence([1, -1, 1, -1][:n], range(n))
    assert value == 1
    assert low < 0.85
    assert 1.2 < high < widest


def test_influence_at_the_edges():
    assert all(math.isnan(v) for v in influence([], []))
    assert influence([-2.0], [0]) == (2, 0, math.inf)
    assert influence([0.0, 0.0], [0, 1]) == (0, 0, 0)


@light
@given(samples(), st.sampled_from([-4.0, 0.5, 2.0]))
def test_influence_scales_and_forgets_signs(sample, scale):
    values, images = sample
    assume(np.abs(values).max() > 0)
    assert influence(values * scale, images) == pytest.approx(
        [abs(scale) * v for v in influence(values, images)]
    )


@pytest.mark.parametrize(("n", "least"), [(2, 0.93), (4, 0.88), (8, 0.88), (16, 0.9)])
def test_coverage_of_influence(n, least):
    found = [influence(x, range(n)) for x in np.random.default_rng(5).normal(0, 2, (1000, n))]
    assert least <= np.mean([low <= 2 <= high for _, low, high in found]) <= (1 if n == 2 else 0.99)


def test_a_ratio_is_that_of_the_means():
    values, per = [1.0, 2.0, 3.0, 2.0] * 4, [0.5, 1.0, 1.5, 1.0] * 4
    value, low, high = ratio(values, per, range(16))
    assert (value, low, high) == pytest.approx((2, 2, 2))
    assert all(math.isnan(v) for v in ratio(values[:7], per[:7], range(7)))
    assert all(math.isnan(v) for v in ratio(values, [-x for x in per], range(16)))
    assert ratio(values, [*[3.0] * 8, *[-2.9] * 8], range(16))[1:] == (-math.inf, math.inf)


def test_coverage_of_a_ratio():
    rng = np.random.default_rng(6)
    held = []
    for _ in range(400):
        gain = np.where(rng.random(24) < 0.8, rng.uniform(0.6, 1, 24), 0.0)
        _, low, high = ratio(3 * gain + rng.normal(0, 0.5, 24), gain, range(24))
        held.append(low <= 3 <= high)
    assert 0.89 <= np.mean(held) <= 0.98


@light
@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.9, 0.95, 0.99]))
def test_shares_are_scipys_exact_ones(successes, failures, confidence):
    n = successes + failures
    if n == 0:
        assert exact_interval(0, 0) == (0, 1)
        return
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="exact")
    assert exact_interval(successes, n, confidence) == pytest.approx(tuple(expected), abs=1e-7)


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2)])
def test_shares_that_cannot_be_are_refused(successes, n):
    with pytest.raises(InputError, match=f"successes={successes}"):
        exact_interval(successes, n)


@light
@given(st.integers(2, 200), st.sampled_from([0.05, 0.001]), st.sampled_from([0.5, 0.8, 0.95]))
def test_the_detectable_effect_is_detected_as_often_as_said(n, alpha, power):
    size = minimal_detectable(n, 3.0, alpha, power) / 3
    found = stats.nct.sf(stats.t.ppf(1 - alpha / 2, n - 1), n - 1, size * math.sqrt(n))
    assert found == pytest.approx(power, abs=1e-3)


@pytest.mark.parametrize("n", [10, 40])
def test_the_detectable_effect_is_statsmodels_where_that_converges(n):
    expected = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert minimal_detectable(n, 2.0) == pytest.approx(2 * expected, rel=1e-3)


@pytest.mark.parametrize("wrong", [{"alpha": 0}, {"power": 0.3}, {"power": 1}])
def test_a_power_that_cannot_be_asked_is_refused(wrong):
    with pytest.raises(InputError, match="alpha="):
        minimal_detectable(9, 1.0, **wrong)


def test_one_image_detects_nothing():
    assert minimal_detectable(1, 1.0) == math.inf


def test_importing_loads_no_torch():
    heavy = "{'torch', 'statsmodels', 'pandas'} & set(sys.modules)"
    code = f"import sys, diffexplain.statistics; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
