"""Verdicts follow from intervals: analytic answers, and what is said of too little."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffexplain.errors import InputError
from diffexplain.records import Interval
from diffexplain.records.spurious import Calibration
from diffexplain.spurious import (
    SpuriousOptions,
    by_intervention,
    by_presence,
    calibrate,
    joined,
    leaning,
    needed,
    surpassed,
)
from diffexplain.statistics import exact_interval

OPTIONS = SpuriousOptions()


def calibration(plain: float = 1.0, neutral: float = 0.0) -> Calibration:
    return Calibration(0.01, plain, neutral, (plain + neutral) / 2, 48, "a hat", "a thing")


def areas(there: int, n: int) -> np.ndarray:
    return np.array([0.1] * there + [0.0] * (n - there))


@pytest.mark.parametrize(("there", "verdict"), [(40, "core"), (8, "spurious"), (24, "undecided")])
def test_presence_decides_by_its_interval(there: int, verdict: str) -> None:
    rate, said = by_presence(areas(there, 48), calibration(), OPTIONS)
    assert said == verdict
    assert (rate.low, rate.high) == exact_interval(there, 48)
    assert by_presence(areas(there, 48), calibration(), OPTIONS, reached=False)[1] == "undecided"


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.05, 0.95))
def test_a_verdict_never_follows_where_the_interval_holds_the_threshold(n: int, k: int, rate: float) -> None:
    k = min(k, n)
    found, said = by_presence(areas(k, n), calibration(rate, rate), OPTIONS)
    if found.low <= rate <= found.high:
        assert said == "undecided"
    else:
        assert said == ("core" if found.value > rate else "spurious")


@given(st.floats(0.05, 0.95), st.sampled_from([0.8, 0.95, 0.99]))
def test_as_many_pictures_are_needed_as_make_both_verdicts_possible(rate: float, confidence: float) -> None:
    n = needed(rate, confidence)
    assert exact_interval(n, n, confidence)[0] > rate > exact_interval(0, n, confidence)[1]
    if n > 1:
        low, high = exact_interval(n - 1, n - 1, confidence)[0], exact_interval(0, n - 1, confidence)[1]
        assert low <= rate + 1e-9 or high >= rate - 1e-9


def test_too_few_pictures_for_the_confidence_says_how_many() -> None:
    with pytest.raises(InputError, match="give at least 6 pictures"):
        SpuriousOptions(pictures=5)
    assert SpuriousOptions(pictures=6).pictures == needed(0.5, 0.95) == 6
    with pytest.raises(InputError, match=r"against a rate of 0\.8"):
        calibrate(areas(10, 10), areas(6, 10), SpuriousOptions(pictures=10), segmenter="s", words="w",
                  prompt="p", neutral_prompt="n")  # fmt: skip


def test_a_segmenter_that_finds_nothing_in_plain_pictures_cannot_judge() -> None:
    with pytest.raises(InputError, match="finds 'zebra' in only 3 of 20 plain-prompt pictures"):
        calibrate(areas(3, 20), areas(0, 20), OPTIONS, segmenter="s", words="zebra", prompt="p",
                  neutral_prompt="n")  # fmt: skip


def test_the_threshold_lies_between_plain_and_neutral_pictures() -> None:
    found = calibrate(areas(20, 20), areas(5, 20), OPTIONS, segmenter="s", words="w", prompt="p",
                      neutral_prompt="n")  # fmt: skip
    assert (found.plain, found.neutral, found.threshold) == (1.0, 0.25, 0.625)
    assert found.area == pytest.approx(0.025)  # a quarter of the usual
    same = calibrate(areas(20, 20), areas(20, 20), OPTIONS, segmenter="s", words="w", prompt="p",
                     neutral_prompt="n")  # fmt: skip
    assert math.isnan(same.threshold)
    assert by_presence(areas(20, 20), same, OPTIONS)[1] == "undecided"


def drawn(object_: float, rest: float, n: int = 30) -> tuple[np.ndarray, ...]:
    """A number that is `object_` where the object is, plus a rest of that deviation, drawn anew."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, rest, n), rng.normal(0, rest, n)
    noise = rng.normal(0, 0.01, n)
    return object_ + one, one + noise, object_ + one + noise, object_ + other


def test_the_share_is_that_of_the_variance_were_the_object_there_in_half() -> None:
    found = by_intervention(*drawn(2.0, 1.0, 4_000), OPTIONS)
    assert found is not None
    # a quarter of 2² against 1
    assert found.share.value == pytest.approx(0.5, abs=0.02)
    assert found.no_object.value == pytest.approx(2.0, abs=0.05)
    assert found.no_placebo.value == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(("object_", "rest", "verdict"), [(4, 0.3, "core"), (0.1, 1, "spurious")])
def test_interventions_decide(object_: float, rest: float, verdict: str) -> None:
    found = by_intervention(*drawn(object_, rest), OPTIONS)
    assert found is not None
    assert found.verdict == verdict


def test_an_object_that_changes_no_more_than_a_placebo_is_not_core() -> None:
    base, without, _, alone = drawn(4, 0.3)
    found = by_intervention(base, without, without, alone, OPTIONS)  # the placebo does the same
    assert found is not None
    assert found.verdict == "undecided"
    assert by_intervention(*(x[:7] for x in drawn(4, 0.3)), OPTIONS) is None


@pytest.mark.parametrize(
    ("presence", "causal", "verdict", "agree"),
    [
        ("core", "core", "core", True),
        ("core", "spurious", "spurious", False),  # the object may stand beside what excites the unit
        ("spurious", "core", "undecided", False),
        ("undecided", "spurious", "spurious", None),
        ("core", "undecided", "core", None),
        ("undecided", "undecided", "undecided", None),
    ],
)
def test_two_lines_make_one_verdict(presence: str, causal: str, verdict: str, agree: bool | None) -> None:
    assert joined(presence, causal) == (verdict, agree)  # type: ignore[arg-type]
    assert joined(presence, causal, reached=False) == ("undecided", None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("presence", "causal", "leans", "verdict"),
    [
        ("undecided", "core", False, "undecided"),
        ("undecided", "core", True, "core"),
        ("spurious", "undecided", True, "undecided"),
        ("spurious", "undecided", False, "spurious"),
        ("undecided", "spurious", True, "spurious"),
        ("spurious", "spurious", True, "spurious"),  # both decide: an estimate has no say
        ("undecided", "undecided", True, "undecided"),
    ],
)
def test_one_line_does_not_decide_against_what_the_other_leans_to(
    presence: str, causal: str, leans: bool, verdict: str
) -> None:
    assert joined(presence, causal, leaning=leans)[0] == verdict  # type: ignore[arg-type]


def test_what_leans_is_the_estimate_of_the_line_that_is_undecided() -> None:
    causal = by_intervention(*drawn(1.0, 1.0), OPTIONS)
    assert causal is not None
    often, seldom = Interval(0.8, 0.7, 0.9), Interval(0.1, 0.0, 0.2)
    known = calibration()
    unknown = replace(known, threshold=math.nan)
    undecided = replace(causal, verdict="undecided", share=Interval(0.6, 0.4, 0.8))
    assert leaning(seldom, known, undecided) is True
    decided = replace(causal, verdict="core")
    assert leaning(often, known, decided) is True
    assert leaning(seldom, known, decided) is False
    assert leaning(often, unknown, decided) is None


def test_unknown_options_are_named() -> None:
    with pytest.raises(InputError, match="option speed is unknown; known are pictures"):
        SpuriousOptions.of({"speed": 1})
    with pytest.raises(InputError, match=r"confidence 1\.5"):
        SpuriousOptions(confidence=1.5)


def test_pictures_that_excite_a_unit_less_than_the_plain_prompt_do_not_reach_it() -> None:
    rng = np.random.default_rng(0)
    usual = rng.normal(3.0, 1.0, 48)
    assert not surpassed(rng.normal(0.2, 1.0, 48), usual, OPTIONS)
    assert surpassed(rng.normal(3.0, 1.0, 48), usual, OPTIONS)
    assert surpassed(np.zeros(48), np.zeros(48), OPTIONS)
