"""Corrected shares, permutation tests and margins, against analytic answers and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diffexplain.errors import InputError
from diffexplain.shares import confusion, corrected_shares, counted, difference

light = settings(max_examples=25, deadline=None)


def test_hidden_ones_do_not_count() -> None:
    assert counted([0, 2, -1, 2], 4).tolist() == [1, 0, 2, 0]


def test_confusion_is_true_by_read() -> None:
    read, true = [0] * 9 + [1] * 12 + [-1], [0] * 9 + [0] + [1] * 11 + [1]
    assert confusion(read, true, ("a", "b")).tolist() == [[9, 1], [0, 11]]


def test_a_value_with_few_labelled_pictures_is_named() -> None:
    with pytest.raises(InputError, match=r"calibrate the reader: b \(3\); give at least 10"):
        confusion([0] * 20 + [1] * 3, [0] * 20 + [1] * 3, ("a", "b"))
    with pytest.raises(InputError, match="2 readings and 1 labels"):
        confusion([0, 1], [0], ("a", "b"))


def test_a_perfect_reader_gives_the_jeffreys_interval() -> None:
    shares = corrected_shares([30, 70], np.eye(2) * 10**9)
    low, high = stats.beta(30.5, 70.5).interval(0.95)
    assert shares[0].value == pytest.approx(0.3)
    assert (shares[0].low, shares[0].high) == pytest.approx((low, high), abs=0.01)


def test_the_readers_errors_are_undone() -> None:
    """Sensitivity 0.9, specificity 0.8: (0.34 − 0.2) / 0.7 = 0.2 (Rogan & Gladen 1978)."""
    shares = corrected_shares([340, 660], [[900, 100], [200, 800]])
    assert shares[0].value == pytest.approx(0.2)
    assert shares[0].low < 0.2 < shares[0].high < 0.34


def test_an_uncertain_matrix_widens_the_interval() -> None:
    few, many = (corrected_shares([40, 60], np.array([[9, 1], [2, 8]]) * k)[0] for k in (2, 200))
    assert few.high - few.low > 1.3 * (many.high - many.low)


@light
@given(st.lists(st.integers(0, 60), min_size=3, max_size=3).filter(any), st.integers(0, 9))
def test_shares_are_shares(counts: list[int], seed: int) -> None:
    found = corrected_shares(counts, [[30, 4, 6], [5, 40, 5], [0, 10, 30]], seed=seed)
    assert sum(s.value for s in found) == pytest.approx(1)
    assert all(0 <= s.low <= s.value <= s.high <= 1 for s in found)


def test_intervals_cover_the_truth() -> None:
    rng, inside = np.random.default_rng(3), []
    rates = np.array([[0.8, 0.15, 0.05], [0.1, 0.85, 0.05], [0.1, 0.1, 0.8]])
    for _ in range(400):
        truth = rng.dirichlet(np.ones(3))
        table = np.stack([rng.multinomial(40, row) for row in rates])
        found = corrected_shares(rng.multinomial(100, truth @ rates), table)
        inside += [s.low <= t <= s.high for s, t in zip(found, truth, strict=True)]
    assert 0.92 <= np.mean(inside) <= 0.98


@pytest.mark.parametrize(
    ("counts", "table", "message"),
    [
        ([0, 0], np.eye(2), "no picture shows"),
        ([5, 5], [[10, 10], [10, 10]], "cannot tell the values"),
        ([5, 5, 5], np.eye(2), "do not fit"),
    ],
)
def test_what_cannot_be_corrected_says_why(counts: list[int], table: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        corrected_shares(counts, table)  # type: ignore[arg-type]


def test_permutation_p_agrees_with_fisher() -> None:
    found = difference([12, 5], [4, 13])
    table = [[12, 5], [4, 13]]
    assert found.p == pytest.approx(stats.fisher_exact(table).pvalue, abs=0.005)
    chi = stats.chi2_contingency(table, correction=False).statistic
    assert found.effect_size == pytest.approx((chi / 34) ** 0.5)


def test_equal_groups_are_seldom_found() -> None:
    rng = np.random.default_rng(0)
    p = [difference(*rng.multinomial(50, [0.5, 0.3, 0.2], size=2), seed=i).p for i in range(200)]
    assert np.mean(np.array(p) < 0.05) <= 0.09


def test_one_value_only_is_no_difference() -> None:
    assert difference([9, 0], [4, 0]).p == 1
    assert difference([0, 0], [4, 3]).p == 1
