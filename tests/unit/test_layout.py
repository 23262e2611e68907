"""Effects told by what pictures were given and by what they had."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffexplain.layout import ENOUGH, Slot, told

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
    found = told(drawn(e, b, n, empty=empty), [Slot(SLOT)])
    true = true_effects(e, n, empty=empty)
    assert [found[w].had for w in SLOT] == pytest.approx(true, abs=1e-9)
    assert [found[w].given for w in SLOT] == pytest.approx(true + b, abs=1e-9)


def test_an_editor_that_draws_truly_is_believed() -> None:
    """Both estimates then agree up to chance, and the more precise one weighs more."""
    e = np.array([1.0, 0.0, -0.5, 0.3])
    found = told(drawn(e, np.zeros(4), 400, noise=0.5), [Slot(SLOT)])
    for w, true in zip(SLOT, true_effects(e, 400), strict=True):
        each = found[w]
        assert abs(each.in_all.value - true) < 0.2
        assert min(each.given, each.had) - 0.1 <= each.in_all.value <= max(each.given, each.had) + 0.1


def test_an_editor_that_draws_falsely_is_not() -> None:
    e, b = np.array([1.0, 0.0, -0.5, 0.3]), np.array([2.0, -2.0, 1.0, 0.0])
    found = told(drawn(e, b, 400, noise=0.5), [Slot(SLOT)])
    for w, true in zip(SLOT, true_effects(e, 400), strict=True):
        assert abs(found[w].in_all.value - true) < 0.3
        assert found[w].in_all.low < true < found[w].in_all.high


def test_intervals_hold_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(3)
    inside = []
    for seed in range(60):
        e, b = rng.normal(0, 0.7, 4), rng.normal(0, 0.2, 4)
        found = told(drawn(e, b, 200, noise=0.6, seed=seed, empty=True), [Slot(SLOT)])
        true = true_effects(e, 200, empty=True)
        inside += [found[w].in_all.low <= t <= found[w].in_all.high for w, t in zip(SLOT, true, strict=True)]
    assert 0.85 <= np.mean(inside) <= 0.99


def test_what_cannot_be_told_is_not() -> None:
    e, b = np.array([1.0, -1.0, 0.5, 0.0]), np.full(4, 0.5)
    few = told(drawn(e, b, 4 * (ENOUGH - 1)), [Slot(SLOT)])
    assert all(np.isnan(x.had) and x.in_all.value == x.given for x in few.values())
    two = {w: x for w, x in drawn(e[:2], b[:2], 40).items() if w in SLOT[:2]}  # always one of two: no third
    assert all(np.isnan(x.had) for x in told(two, [Slot(SLOT)]).values())
    one = told({SLOT[0]: {"a": 1.0, "b": 2.0}}, [Slot(SLOT)])
    assert one[SLOT[0]].given == one[SLOT[0]].in_all.value == 1.5
    assert told({}, [Slot(SLOT)]) == {}


def test_pictures_in_which_a_slot_is_hidden_do_not_count_as_showing_a_value() -> None:
    e, b = np.array([1.0, 0.0, -0.5, 0.3]), np.array([0.4, 0.0, 0.0, 0.0])
    changes = drawn(e, b, 80)
    found = told(changes, [Slot(SLOT)])
    changes[SLOT[0]]["hidden"] = 50.0  # three of the slot's values could not be put into it
    again = told(changes, [Slot(SLOT)])
    assert [again[w].had for w in SLOT[1:]] == pytest.approx([found[w].had for w in SLOT[1:]])


# --- what rebuilding takes --------------------------------------------------------------------------

HATS = ("hat/cap", "hat/hood")


def people(n: int, seed: int = 0) -> tuple[dict[str, dict[str, float]], np.ndarray, np.ndarray]:
    """Additions that do nothing to n people of any skin, of whom some wear a hat; which of each they show."""
    rng = np.random.default_rng(seed)
    skins, hats = rng.integers(4, size=n), rng.integers(3, size=n)
    changes = {w: {f"{i:04}": 0.0 for i in range(n) if skins[i] != k} for k, w in enumerate(SLOT)}
    changes |= {w: {f"{i:04}": 0.0 for i in range(n) if hats[i] != k} for k, w in enumerate(HATS)}
    return changes, skins, hats


SLOTS = [Slot(SLOT), Slot(HATS, empties=True)]


@settings(max_examples=20, deadline=None)
@given(numbers, st.lists(st.floats(-3, 3), min_size=2, max_size=2).map(np.array))
def test_what_rebuilding_takes_of_each_value_is_given_back(skin: np.ndarray, hat: np.ndarray) -> None:
    changes, skins, hats = people(300)
    taken = skin[skins] + np.append(hat, 0.0)[hats]
    found = told(changes, SLOTS, {f"{i:04}": float(x) for i, x in enumerate(taken)})
    for k, w in enumerate(SLOT):
        assert found[w].lost == pytest.approx(skin[k] - skin[skins[skins != k]].mean(), abs=1e-6)
        assert found[w].in_all.value == pytest.approx(found[w].lost, abs=1e-6)
    for k, w in enumerate(HATS):
        assert found[w].lost == pytest.approx(hat[k] - np.append(hat, 0.0)[hats[hats != k]].mean(), abs=1e-6)
        assert np.isnan(found[w].had)


def test_noise_is_not_taken_for_it() -> None:
    rng, sizes = np.random.default_rng(5), []
    for seed in range(30):
        changes, skins, _ = people(200, seed)
        noise = rng.normal(0, 1, 200)
        found = told(changes, SLOTS, {f"{i:04}": float(x) for i, x in enumerate(noise)})
        raw = [noise[skins == k].mean() - noise[skins != k].mean() for k in range(4)]
        sizes.append((np.square(raw).mean(), np.mean([found[w].lost ** 2 for w in SLOT])))
    plain, shrunk = np.mean(sizes, 0)
    assert shrunk < 0.3 * plain


def test_intervals_hold_the_truth_that_rebuilding_hides() -> None:
    rng, inside = np.random.default_rng(7), []
    for seed in range(80):
        changes, skins, hats = people(400, seed)
        skin, hat = rng.normal(0, 0.2, 4), rng.normal(0, 0.2, 2)
        noise = rng.normal(0, 0.6, 400)
        taken = skin[skins] + np.append(hat, 0.0)[hats] + noise
        found = told(changes, SLOTS, {f"{i:04}": float(x) for i, x in enumerate(taken)})
        for k, w in enumerate(SLOT):
            in_all = found[w].in_all
            inside.append(in_all.low <= skin[k] - skin[skins[skins != k]].mean() <= in_all.high)
    assert 0.88 <= np.mean(inside) <= 0.99


def test_few_pictures_tell_nothing_of_rebuilding() -> None:
    changes, skins, _ = people(14)
    found = told(changes, SLOTS, {f"{i:04}": float(s == 3) for i, s in enumerate(skins)})
    assert all(x.lost == 0 for x in found.values())
    assert all(x.lost == 0 for x in told(people(100)[0], SLOTS).values())  # nor no scores
