"""Effects told by what pictures were given and by what they had."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffexplain.layout import ENOUGH, told

SLOT = ("skin/pale", "skin/tan", "skin/brown", "skin/dark")


def drawn(
    e: np.ndarray, b: np.ndarray, n: int, *, empty: bool = False, noise: float = 0.0, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Additions of every value that pictures do not show; those without any show an effect of 0."""
    rng = np.random.default_rng(seed)
    k = len(e)
    had = np.arange(n) % (k + empty)
    own = rng.normal(0, noise, n) if noise else np.zeros(n)
    shown = np.append(e, 0.0)[had]
    return {
        SLOT[w]: {
            f"{i:04}": float(e[w] + b[w] - shown[i] + own[i] + (rng.normal(0, noise) if noise else 0))
            for i in range(n)
            if had[i] != w
        }
        for w in range(k)
    }


def true_effects(e: np.ndarray, n: int, *, empty: bool = False) -> np.ndarray:
    had = np.arange(n) % (len(e) + empty)
    shown = np.append(e, 0.0)[had]
    return np.array([e[w] - shown[had != w].mean() for w in range(len(e))])


numbers = st.lists(st.floats(-3, 3), min_size=4, max_size=4).map(np.array)


@settings(max_examples=30, deadline=None)
@given(numbers, numbers, st.booleans())
def test_what_pictures_had_tells_the_effect_whatever_the_editor_draws_besides(
    e: np.ndarray, b: np.ndarray, empty: bool
) -> None:
    n = 60
    found = told(drawn(e, b, n, empty=empty), [SLOT])
    true = true_effects(e, n, empty=empty)
    assert [found[w].had for w in SLOT] == pytest.approx(true, abs=1e-9)
    assert [found[w].given for w in SLOT] == pytest.approx(true + b, abs=1e-9)


def test_an_editor_that_draws_truly_is_believed() -> None:
    """Both estimates then agree up to chance, and the more precise one weighs more."""
    e = np.array([1.0, 0.0, -0.5, 0.3])
    found = told(drawn(e, np.zeros(4), 400, noise=0.5), [SLOT])
    for w, true in zip(SLOT, true_effects(e, 400), strict=True):
        each = found[w]
        assert abs(each.both.value - true) < 0.2
        assert min(each.given, each.had) - 0.1 <= each.both.value <= max(each.given, each.had) + 0.1


def test_an_editor_that_draws_falsely_is_not() -> None:
    e, b = np.array([1.0, 0.0, -0.5, 0.3]), np.array([2.0, -2.0, 1.0, 0.0])
    found = told(drawn(e, b, 400, noise=0.5), [SLOT])
    for w, true in zip(SLOT, true_effects(e, 400), strict=True):
        assert abs(found[w].both.value - true) < 0.3
        assert found[w].both.low < true < found[w].both.high


def test_intervals_hold_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(3)
    inside = []
    for seed in range(60):
        e, b = rng.normal(0, 0.7, 4), rng.normal(0, 0.2, 4)
        found = told(drawn(e, b, 200, noise=0.6, seed=seed, empty=True), [SLOT])
        true = true_effects(e, 200, empty=True)
        inside += [found[w].both.low <= t <= found[w].both.high for w, t in zip(SLOT, true, strict=True)]
    assert 0.85 <= np.mean(inside) <= 0.99


def test_what_cannot_be_told_is_not() -> None:
    e, b = np.array([1.0, -1.0, 0.5, 0.0]), np.full(4, 0.5)
    few = told(drawn(e, b, 4 * (ENOUGH - 1)), [SLOT])
    assert all(np.isnan(x.had) and x.both.value == x.given for x in few.values())
    two = {w: x for w, x in drawn(e[:2], b[:2], 40).items() if w in SLOT[:2]}  # always one of two: no third
    assert all(np.isnan(x.had) for x in told(two, [SLOT]).values())
    one = told({SLOT[0]: {"a": 1.0, "b": 2.0}}, [SLOT])
    assert one[SLOT[0]].given == one[SLOT[0]].both.value == 1.5
    assert told({}, [SLOT]) == {}


def test_pictures_in_which_a_slot_is_hidden_do_not_count_as_showing_a_value() -> None:
    e, b = np.array([1.0, 0.0, -0.5, 0.3]), np.array([0.4, 0.0, 0.0, 0.0])
    changes = drawn(e, b, 80)
    found = told(changes, [SLOT])
    changes[SLOT[0]]["hidden"] = 50.0  # three of the slot's values could not be put into it
    again = told(changes, [SLOT])
    assert [again[w].had for w in SLOT[1:]] == pytest.approx([found[w].had for w in SLOT[1:]])
