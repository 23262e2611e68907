"""What leaves may be worth, against sums done by hand, other libraries and draws."""

from __future__ import annotations

import random
from math import inf, isinf, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffexplain.corpus import Corpus, parse_corpus
from diffexplain.racing import PRIOR, Belief, Family, Seen, beliefs, doubts, families, in_turns, noise

TREE = parse_corpus(
    "name: toys\ndomain: toys\nprompt: a toy with {phrase}\nneutral: a toy\nconcepts:\n"
    "  - {name: g, children: [{name: a}, {name: b}, {name: c}]}\n"
    "  - name: h\n    children: [{name: d}, {name: i, children: [{name: e}, {name: f}]}]\n"
    "  - {name: z}\n"
)
LEAVES = [c.path for c in TREE.leaves()]


def found(
    seen: dict[str, Seen], tree: Corpus = TREE, sigma: float = 0.5, scale: float = 0.1
) -> dict[str, Belief]:
    return dict(zip(LEAVES, beliefs(tree, LEAVES, seen, sigma=sigma, scale=scale), strict=True))


def seen(mean: float, edits: int = 2) -> Seen:
    return Seen(mean, 0.0, edits)


def test_noise_is_pooled_within_leaves():
    groups = [[1.0, 3.0], [10.0, 10.0, 13.0], [7.0]]
    squares = 2 * 1.0 + (1 + 1 + 4)
    assert noise(map(Seen.of, groups)) == pytest.approx(sqrt(squares / 3))
    assert isinf(noise([Seen.of([1.0]), Seen.of([2.0])]))
    assert isinf(noise([]))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_what_was_seen_does_not_depend_on_the_order(changes: list[float], shuffle: random.Random):
    assert Seen.of(changes) == Seen.of(shuffle.sample(changes, len(changes)))


def test_a_family_starts_from_its_parents_and_moves_to_what_its_leaves_show():
    kin = families(TREE, {"g/a": seen(3.0), "g/b": seen(1.0)}, sigma=0.0, scale=0.1)
    top = (PRIOR * 0.01 + 10.0) / (PRIOR + 2)
    assert kin[None].mean == 0.0
    assert kin[None].variance == pytest.approx(top)
    mean = 4.0 / (PRIOR + 2)  # of two zeros, 3 and 1
    assert kin["g"].mean == pytest.approx(mean)
    about = PRIOR * (top + mean**2) + (3 - mean) ** 2 + (1 - mean) ** 2
    assert kin["g"].variance == pytest.approx(about / (PRIOR + 2))
    assert kin["h"] == kin["h/i"] == kin[None]  # nothing seen


def test_what_noise_explains_is_no_variance():
    loud = families(TREE, {"g/a": seen(0.5), "g/b": seen(-0.5)}, sigma=0.0, scale=0.0)
    hushed = families(TREE, {"g/a": seen(0.5), "g/b": seen(-0.5)}, sigma=1.0, scale=0.0)
    assert loud["g"].variance > 0.1
    assert hushed["g"].variance == 0.0


def test_a_quiet_family_closes_and_one_with_an_outlier_stays_open():
    rows = {"g/a": seen(0.01), "g/b": seen(0.0), "h/d": seen(3.0), "h/i/e": seen(0.02), "z": seen(0.0)}
    belief = found(rows, sigma=0.1)
    assert belief["h/i/f"].beyond(1.5) > 1.5 * belief["g/c"].beyond(1.5)
    assert not belief["g/c"].edited


def test_a_family_of_part_of_a_tree_is_under_the_top():
    part = TREE.restrict("h/i")
    kin = families(part, {"h/i/e": seen(2.0)}, sigma=0.0, scale=0.1)
    assert set(kin) == {None, "h/i"}


def test_an_edited_leaf_is_shrunk_the_less_the_further_out_and_the_more_often_it_was_edited():
    near, far = (found({"z": seen(x), "g/a": seen(0.0), "g/b": seen(0.1)})["z"] for x in (0.5, 5.0))
    assert 0 < near.mean / 0.5 < far.mean / 5.0 < 1
    often = found({"z": seen(0.5, 20), "g/a": seen(0.0), "g/b": seen(0.1)})["z"]
    assert near.mean < often.mean < 0.5
    assert often.spread < near.spread


def test_without_noise_a_leaf_is_what_was_seen():
    belief = found({leaf: seen(i / 3) for i, leaf in enumerate(LEAVES)}, sigma=0.0)
    assert [b.mean for b in belief.values()] == pytest.approx([i / 3 for i in range(len(LEAVES))])
    assert {b.spread for b in belief.values()} == {0.0}


def test_while_the_noise_is_unknown_anything_is_possible():
    belief = found({"z": seen(2.0, 1)}, sigma=inf)
    assert belief["z"] == Belief(2.0, inf, True)
    assert {b.beyond(100.0) for b in belief.values()} == {1.0}


@given(st.floats(-5, 5), st.floats(0.1, 3), st.floats(0.01, 10))
def test_beyond_is_the_mass_of_both_tails(mean: float, spread: float, bar: float):
    for edited, shape in ((True, stats.norm()), (False, stats.t(2))):
        expected = shape.sf((bar - mean) / spread) + shape.cdf((-bar - mean) / spread)
        assert Belief(mean, spread, edited).beyond(bar) == pytest.approx(expected, abs=1e-12)
    assert Belief(mean, spread, True).beyond(0.0) == 1.0
    assert Belief(mean, 0.0, True).beyond(bar) == float(abs(mean) >= bar)


def test_doubt_is_the_probability_of_the_wrong_side_of_the_edge():
    sure, weak, best_out, unknown = (
        Belief(3.0, 0.1, True), Belief(-1.0, 0.2, True), Belief(0.9, 0.2, True), Belief(0.0, 0.3, False)
    )  # fmt: skip
    doubt = doubts([best_out, sure, unknown, weak], 2, 0.1)
    assert doubt == pytest.approx(
        [best_out.beyond(1.05), 1 - sure.beyond(0.85), unknown.beyond(1.05), 1 - weak.beyond(0.85)]
    )
    assert doubt[1] == pytest.approx(0.0, abs=1e-12)
    assert doubts([sure, weak], 2, 0.1) == [0.0, 0.0]  # all are in
    assert doubts([unknown, unknown], 1, 0.5) == [unknown.beyond(0.75)] * 2  # none edited: δ is the edge


@given(st.integers(0, 10_000))
def test_beliefs_are_calibrated_where_effects_are_as_supposed(seed: int):
    """Draws from one family, two edits each: nine tenths lie within 1.645 spreads, or nearly."""
    rng = np.random.default_rng(seed)
    names = [f"x{i}" for i in range(400)]
    tree = parse_corpus(
        "name: n\ndomain: n\nprompt: '{phrase}'\nneutral: n\nconcepts:\n"
        + "".join(f"  - {{name: {n}}}\n" for n in names)
    )
    true = rng.normal(0, 1.0, 400)
    rows = {n: Seen.of(list(t + rng.normal(0, 0.7, 2))) for n, t in zip(names, true, strict=True)}
    belief = beliefs(tree, names, rows, sigma=0.7, scale=0.1)
    inside = [abs(b.mean - t) < 1.645 * b.spread for b, t in zip(belief, true, strict=True)]
    assert 0.8 < np.mean(inside) < 0.96


def test_leaves_come_in_turns_from_all_over_the_tree():
    assert in_turns(TREE, TREE.roots) == ["g/a", "h/d", "z", "g/b", "h/i/e", "g/c", "h/i/f"]
    assert sorted(in_turns(TREE, TREE.roots)) == sorted(LEAVES)


def test_a_family_is_moved_least_by_leaves_like_it():
    kin = families(TREE, {"g/a": seen(1.0), "h/d": seen(-1.0)}, sigma=0.0, scale=1.0)
    assert kin[None] == Family(0.0, 1.0)
