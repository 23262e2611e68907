"""Where pictures differ: boxes, magnified squares, run lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffexplain.report.regions import SEEN, SMALL, Box, box, changed, magnify, run_lengths


def masked(x: int, y: int, width: int, height: int, side: int = 64) -> np.ndarray:
    mask = np.zeros((side, side), dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def test_only_visible_changes_count() -> None:
    before = np.full((4, 5, 3), 100, dtype=np.uint8)
    after = before.copy()
    after[1, 2, 0] += SEEN + 1
    after[3, 4, 2] += SEEN
    assert np.argwhere(changed(before, after)).tolist() == [[1, 2]]
    assert np.argwhere(changed(after, before)).tolist() == [[1, 2]]
    assert not changed(before, np.zeros((8, 8, 3), dtype=np.uint8)).any()


def test_box_is_the_smallest_one() -> None:
    assert box(masked(3, 7, 10, 2)) == Box(3, 7, 10, 2)
    assert box(np.zeros((4, 4), dtype=bool)) is None


def test_small_changes_are_magnified_within_the_picture() -> None:
    assert magnify(masked(60, 0, 4, 4)) == Box(54, 0, 10, 10)
    assert magnify(masked(0, 0, 64, 64)) is None
    assert magnify(masked(0, 0, 0, 0)) is None


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40))
def test_a_magnified_square_holds_the_change(x: int, y: int, width: int, height: int) -> None:
    mask = masked(x, y, width, height)
    found = magnify(mask)
    if found:
        assert found.width == found.height
        assert found.width**2 <= SMALL * mask.size
        assert mask[found.y : found.y + found.height, found.x : found.x + found.width].sum() == mask.sum()


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_lengths_give_the_mask_again(mask: np.ndarray) -> None:
    lengths = run_lengths(mask)
    again = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(mask.shape, order="F")
    assert (again == mask).all()
    assert all(length > 0 for length in lengths[1:])


def test_run_lengths_start_with_zeros() -> None:
    assert run_lengths(np.array([[True, False], [True, True]])) == [0, 2, 1, 1]
    assert pytest.approx(sum(run_lengths(masked(0, 0, 3, 3)))) == 64 * 64
