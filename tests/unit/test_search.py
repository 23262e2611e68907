"""The search against worlds of numbers: true Δ a leaf, an effect of each image, and noise. No model."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import pairwise, product
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffexplain.corpus import Corpus, parse_corpus
from diffexplain.racing import Seen, beliefs, doubts, noise
from diffexplain.records import Ask, Effect, Question
from diffexplain.search import MINIMUM, Outcome, SearchOptions, search, split

light = settings(max_examples=40, deadline=None)
ADD = SearchOptions(directions=("add",))

Names = Iterable[str]


def always(image: int, seed: int, concept: str, direction: str) -> bool:
    return True


def images(n: int) -> list[str]:
    return [f"image-{i}" for i in range(n)]


def corpus(groups: Mapping[str, Names] | Names, extra: str = "") -> Corpus:
    """Two levels, {group: its leaves}, the groups without words; or one level of leaves."""
    text = "name: toys\ndomain: toys\nprompt: a toy with {phrase}\nneutral: a toy\nconcepts:\n"
    for group in groups:
        text += f"  - name: {group}\n"
        if isinstance(groups, Mapping):
            text += f"    children: [{', '.join(f'{{name: {leaf}}}' for leaf in groups[group])}]\n"
    return parse_corpus(text + extra)


def leaf_names(n: int, letter: str = "leaf") -> list[str]:
    return [f"{letter}{i}" for i in range(n)]


@dataclass
class World:
    """Δ of an edit = the true effects of its parts + an effect of the image + noise of its own.

    A removal does the opposite of an addition. What lies in `same` counts once in a joint edit. Noise
    hangs on what is asked, not on when.
    """

    true: Mapping[str, float] = field(default_factory=dict)
    noise: float = 0.3
    image: float = 0.3
    seed: int = 0
    same: frozenset[str] = frozenset()

    def __call__(self, ask: Ask, pictures: Sequence[str]) -> Effect:
        picture = pictures[ask.image]
        parts = list(zip(ask.edited_as, ask.question.directions, strict=True))
        moved = [self.true.get(c, 0.0) * (1 if d == "add" else -1) for c, d in parts]
        once = [m for m, (c, _) in zip(moved, parts, strict=True) if c in self.same]
        change = sum(moved) - sum(once) + max(once, default=0.0)
        change += self.image * self._normal(picture)
        change += self.noise * self._normal(picture, ask.seed, *parts)
        return Effect(
            image=picture,
            seed=ask.seed,
            concept=ask.question.concept,
            direction=ask.question.direction,
            edited_as=" + ".join(ask.edited_as),
            strength=1.0,
            stage=ask.stage,
            eligible=True,
            score_before=0.5,
            score_after=0.5 + change,
            probability_before=0.5,
            probability_after=0.5,
            presence_before=0.0,
            presence_after=1.0,
            outside=0.0,
            reconstruction="",
            edited="",
            evaluations=0,
            batch=0,
        )

    def _normal(self, *what: object) -> float:
        digest = blake2b(repr((self.seed, what)).encode(), digest_size=16).digest()
        a, b = (1 + int.from_bytes(part, "little") for part in (digest[:8], digest[8:]))
        return float(np.sqrt(-2 * np.log(a / 2**64)) * np.cos(2 * np.pi * b / 2**64))


@dataclass
class Played:
    """A search that was played to its end."""

    rounds: list[list[Ask]]
    answers: list[list[Effect]]
    outcome: Outcome

    @property
    def asks(self) -> list[Ask]:
        return [ask for asks in self.rounds for ask in asks]

    @property
    def rows(self) -> list[Effect]:
        return [row for rows in self.answers for row in rows]

    def of(self, *stages: str) -> list[Ask]:
        return [ask for ask in self.asks if ask.stage in stages]

    def edits(self, concept: str, *stages: str) -> int:
        return sum(ask.question.concept == concept for ask in self.of(*stages))

    def reported(self) -> set[str]:
        return {q.concept for q in self.outcome.reported}


def play(
    tree: Corpus,
    world: Callable[[Ask, Sequence[str]], Effect],
    options: SearchOptions = ADD,
    *,
    pictures: Sequence[str] | int = 16,
    seeds: int = 1,
    eligible: Callable[[int, int, str, Any], bool] = always,
    shuffle: random.Random | None = None,
) -> Played:
    pictures = images(pictures) if isinstance(pictures, int) else pictures
    rounds = search(tree, pictures, seeds, eligible, options)
    asked: list[list[Ask]] = []
    answers: list[list[Effect]] = []
    try:
        asks = next(rounds)
        while True:
            rows = [world(ask, pictures) for ask in asks]
            asked.append(asks)
            answers.append(rows)
            asks = rounds.send(shuffle.sample(rows, len(rows)) if shuffle else rows)
    except StopIteration as stop:
        return Played(asked, answers, stop.value)


TOYS = corpus({f"g{i}": [f"a{i}", f"b{i}", f"c{i}"] for i in range(5)})


FREE: st.SearchStrategy[int | None] = st.none()


@st.composite
def games(draw: st.DrawFn, budget: st.SearchStrategy[int | None] = FREE) -> dict[str, Any]:
    """Arguments of `play`: any world, options and eligibility."""
    salt, share = draw(st.integers(0, 99)), draw(st.sampled_from([0.2, 0.7, 1.0]))

    def eligible(image: int, seed: int, concept: str, direction: str) -> bool:
        digest = blake2b(repr((salt, image, seed, concept, direction)).encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little") < share * 2**32

    strength = draw(st.sampled_from([0.0, 0.5, 3.0]))
    rng = np.random.default_rng(salt)
    options = SearchOptions(
        beam=draw(st.integers(1, 6)),
        joint_steps=draw(st.integers(1, 4)),
        wave=draw(st.integers(1, 9)),
        leaf_wave=draw(st.integers(1, 4)),
        budget=draw(budget),
    )
    return dict(
        tree=TOYS,
        world=World({c.path: strength * rng.normal() for c in TOYS.leaves()}, seed=salt),
        options=options,
        pictures=draw(st.integers(MINIMUM, 13)),
        seeds=draw(st.integers(1, 2)),
        eligible=eligible,
    )


# --- what is found ----------------------------------------------------------------------------------


def test_the_strongest_leaves_are_found_wherever_they_lie():
    tree = corpus({f"g{i}": [f"x{k}" for k in range(5)] for i in range(10)})
    true = {"g1/x0": 2.6, "g2/x3": -2.5, "g4/x4": 2.3, "g6/x2": -2.2, "g9/x1": 2.0}
    spent = []
    for seed in range(12):
        played = play(tree, World(true, noise=0.6, image=0.4, seed=seed), replace(ADD, beam=5))
        assert set(true) <= played.reported()
        spent.append(len(played.of("race")))
    assert np.mean(spent) < 0.8 * 50 * 8  # of all leaves on all race images


def test_a_leaf_is_found_whose_siblings_cancel_it():
    groups = {"calm": ["up", "down"], **{f"g{i}": ["a", "b"] for i in range(6)}}
    true = {"calm/up": 3.0, "calm/down": -3.0, **{f"g{i}/{x}": 0.8 for i in range(6) for x in "ab"}}
    reported = play(corpus(groups), World(true), replace(ADD, beam=1)).reported()
    assert reported in ({"calm", "calm/up"}, {"calm", "calm/down"})


def test_a_leaf_is_found_that_the_first_wave_did_not_reach():
    """One group has more leaves than a wave has edits: what was not looked at cannot be ruled out."""
    groups = {"big": leaf_names(30), **{f"g{i}": ["a", "b"] for i in range(4)}}
    tree = corpus(groups)
    true = {**{f"g{i}/a": 1.0 for i in range(4)}, "big/leaf29": 3.0}
    played = play(tree, World(true, noise=0.1, image=0.1), replace(ADD, beam=1))
    assert {q.concept for q in played.outcome.reported} == {"big", "big/leaf29"}


def test_leaves_at_different_depths_compete():
    tree = corpus({"group": ["weak", "weaker"]}, "  - {name: loner}\n  - {name: idler}\n")
    played = play(tree, World({"loner": 2.0, "group/weak": 1.0}, noise=0.1), replace(ADD, beam=2))
    assert played.reported() == {"loner", "group", "group/weak"}
    assert {q.concept for q in played.outcome.asked} == set(tree)


def test_weak_children_of_a_beam_node_are_shown_as_asked_not_reported():
    tree = corpus({"good": ["strong", "dull"], "bad": ["dim", "dark"]})
    played = play(tree, World({"good/strong": 3.0}, noise=0.1, image=0.1), replace(ADD, beam=1))
    assert [q.concept for q in played.outcome.asked] == ["good", "bad", "good/strong", "good/dull"]
    assert played.reported() == {"good", "good/strong"}


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_means_of_the_race_are_taken(seed: int):
    close = World({f"leaf{i}": 2 + i / 20 for i in range(12)}, noise=2.0, seed=seed)
    played = play(corpus(leaf_names(12)), close, replace(ADD, beam=3, joint_steps=1))
    changes = defaultdict(list)
    for row in played.rows:
        if row.stage == "race":
            changes[row.concept].append(row.change)
    means = {leaf: abs(np.mean(x)) for leaf, x in changes.items()}
    rest = max(x for leaf, x in means.items() if leaf not in played.reported())
    assert len(played.reported()) == 3
    assert min(means[leaf] for leaf in played.reported()) > rest - 0.1  # but for the shrinking


def test_rows_that_turn_out_ineligible_do_not_count():
    def world(ask: Ask, pictures: Sequence[str]) -> Effect:
        row = World({"loud": 9.0, "real": 2.0})(ask, pictures)
        return replace(row, eligible=row.concept != "loud")

    played = play(corpus(["loud", "real", *leaf_names(6)]), world, replace(ADD, beam=1, joint_steps=1))
    assert played.reported() == {"real"}


def test_what_cannot_reach_delta_is_not_reported():
    tree = corpus(["strong", "faint"])
    world = World({"strong": 1.0, "faint": 0.05}, noise=0.01, image=0.01)
    assert play(tree, world, replace(ADD, delta=0.2)).reported() == {"strong"}
    assert play(tree, world, replace(ADD, delta=0.01)).reported() == {"strong", "faint"}


# --- large trees ------------------------------------------------------------------------------------


def large(width: int) -> Corpus:
    """Three levels, each `width` wide, of leaves `a/b/c` by their numbers."""
    nodes = "".join(
        f"  - name: a{a}\n    children:\n"
        + "".join(
            f"      - name: b{b}\n        children: [{', '.join(f'{{name: c{c}}}' for c in range(width))}]\n"
            for b in range(width)
        )
        for a in range(width)
    )
    return corpus([], nodes)


LARGE = large(13)  # 2,197 leaves
FAMILY = {f"a3/b7/c{c}": 0.3 + c / 50 for c in range(13)}
STRONG = {"a3/b7/c2": 3.0, "a3/b7/c9": -2.6, "a3/b8/c4": 2.2}
WIDE = replace(ADD, beam=3, joint_steps=1)


@pytest.mark.parametrize("seed", range(4))
def test_in_a_large_tree_the_strongest_are_found_with_fewer_edits_than_leaves(seed: int):
    siblings = {f"a3/b8/c{c}": -0.4 for c in range(13)}
    world = World({**FAMILY, **siblings, **STRONG}, noise=0.3, image=0.2, seed=seed)
    played = play(LARGE, world, WIDE, pictures=32)
    assert set(STRONG) <= played.reported()
    edits = Counter(ask.edited_as[0] for ask in played.of("race"))
    assert len(edits) < 0.75 * 2197
    assert edits.total() < 2500 < 16 * 2197 / 10  # a tenth of all leaves on all race images
    assert all(edits[leaf] for leaf in (*FAMILY, *siblings))  # relatives of what moves the classifier


def test_edits_grow_slower_than_the_tree():
    each = {}
    for width in (4, 8, 16):
        world = World({"a1/b1/c1": 3.0, "a1/b1/c2": 2.5, "a1/b1/c3": -2.0}, noise=0.3, image=0.2)
        each[width] = len(play(large(width), world, WIDE, pictures=32).asks) / width**3
    assert each[8] < 0.7 * each[4]
    assert each[16] < 0.7 * each[8]


def test_a_strong_leaf_is_found_whose_parent_and_siblings_have_no_effect():
    """Below `first` leaves always; beyond, by the luck of the spread and of what doubt has left."""
    rng, tree, found = np.random.default_rng(0), large(6), 0
    leaves = [c.path for c in tree.leaves()]  # 216: all are edited
    for seed in range(20):
        hidden = str(rng.choice(leaves))
        played = play(tree, World({hidden: 3.0}, seed=seed), WIDE, pictures=32)
        found += hidden in played.reported()
    assert found == 20


@light
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_without_noise_the_beam_is_the_truly_strongest(seed: int, beam: int):
    effects = np.random.default_rng(seed).normal(size=216)
    tree = large(6)
    true = dict(zip((c.path for c in tree.leaves()), map(float, effects), strict=True))
    options = replace(ADD, beam=beam, joint_steps=1, delta=0.0)
    played = play(tree, World(true, noise=0.0, image=0.0), options, pictures=8)
    strongest = sorted(true, key=lambda leaf: -abs(true[leaf]))[:beam]
    assert {leaf for leaf in played.reported() if tree[leaf].is_leaf} == set(strongest)
    assert len(played.of("race")) == 2 * 216


def test_the_first_wave_is_all_of_a_small_tree_and_lies_all_over_a_large_one():
    small = play(large(6), World(), WIDE, pictures=32).rounds[0]
    assert {ask.edited_as[0] for ask in small} == {c.path for c in large(6).leaves()}
    first = Counter(ask.edited_as[0] for ask in play(LARGE, World(), WIDE, pictures=32).rounds[0])
    assert len(first) == int(sqrt(256 * 2197))
    assert set(first.values()) == {2}
    inner = {f"a{a}/b{b}" for a, b in product(range(13), range(13))}
    each = Counter(leaf.rsplit("/", 1)[0] for leaf in first)
    assert set(each) == inner
    assert max(each.values()) - min(each.values()) <= 1


def test_the_report_of_a_large_tree_is_the_beam_and_what_is_above_it():
    played = play(LARGE, World(STRONG, noise=0.1, image=0.1), WIDE, pictures=32)
    above = {"a3", "a3/b7", "a3/b8"}
    assert played.reported() == set(STRONG) | above
    assert len(played.of("report")) == 16 * 6
    asked = {q.concept for q in played.outcome.asked}
    assert asked == set(LARGE.roots).union(*(LARGE[node].children for node in above))


# --- what is asked ----------------------------------------------------------------------------------


@light
@given(games())
def test_no_image_is_both_raced_on_and_reported(game: dict[str, Any]):
    played = play(**game)
    race = {ask.image for ask in played.of("race", "joint race")}
    report = {ask.image for ask in played.of("report", "joint report")}
    assert race.isdisjoint(report)
    both = split(images(game["pictures"]), "race")
    assert race <= set(both[0])
    assert report <= set(both[1])
    assert sorted(both[0] + both[1]) == list(range(game["pictures"]))
    assert abs(len(both[0]) - len(both[1])) <= 1


@light
@given(games(st.none() | st.integers(1, 300)))
def test_every_ask_is_eligible_and_none_is_made_twice(game: dict[str, Any]):
    played = play(**game)
    for ask in played.asks:
        for part, direction in zip(ask.edited_as, ask.question.directions, strict=True):
            assert game["eligible"](ask.image, ask.seed, part, direction)
            assert direction in game["tree"][part].directions
            assert game["tree"][part].prompt
    assert max(Counter(played.asks).values(), default=1) == 1
    assert all(played.rounds)  # no empty round


@light
@given(games())
def test_the_beam_is_never_exceeded_and_only_it_is_expanded(game: dict[str, Any]):
    tree, played = game["tree"], play(**game)
    depths = Counter(tree[q.concept].depth for q in played.outcome.reported)
    assert max(depths.values(), default=0) <= game["options"].beam
    for q in played.outcome.asked:
        if parent := tree[q.concept].parent:
            assert replace(q, concepts=(parent,)) in played.outcome.reported
    assert set(played.outcome.reported) <= set(played.outcome.asked)


def test_a_candidate_out_of_reach_gets_no_more_edits():
    tree = corpus(["one", "two", *leaf_names(10)])
    world = World({"one": 3.0, "two": 3.0}, noise=0.05, image=0.05)
    played = play(tree, world, replace(ADD, beam=1, joint_steps=1))
    assert {played.edits(leaf, "race") for leaf in leaf_names(10)} == {2}  # the first wave
    assert played.edits("one", "race") + played.edits("two", "race") > 4  # the race went on
    assert played.reported() <= {"one", "two"}
    assert {ask.question.concept for ask in played.of("report")} == played.reported()


def test_what_the_first_edits_have_decided_gets_no_more():
    tree = corpus({"g": ["strong", "weak"], "h": ["strong", "weak"]})
    world = World({"g/strong": 3.0, "h/strong": 2.0}, noise=0.05, image=0.05)
    played = play(tree, world, replace(ADD, beam=1, joint_steps=1))
    assert played.reported() == {"g", "g/strong"}
    assert {played.edits(leaf.path, "race") for leaf in tree.leaves()} == {2}


@light
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_the_race_ends_when_little_doubt_is_left_or_nothing_can_be_asked(seed: int, beam: int):
    tree, options = corpus(leaf_names(12)), replace(ADD, beam=beam, joint_steps=1)
    played = play(tree, World({f"leaf{i}": i / 4 for i in range(12)}, seed=seed), options, pictures=24)
    rows = [row for row in played.rows if row.stage == "race"]

    def doubt(rows: list[Effect]) -> float:
        """Of the leaves that are not through yet: expected number on the wrong side of the beam's edge."""
        changes = defaultdict(list)
        for row in rows:
            changes[row.concept].append(row.change)
        seen = {leaf: Seen.of(c) for leaf, c in changes.items()}
        sigma = noise(seen.values())
        found = doubts(beliefs(tree, tree.roots, seen, sigma=sigma, scale=options.delta), beam, options.delta)
        return sum(x for leaf, x in zip(tree.roots, found, strict=True) if seen[leaf].edits < 12)

    spare = (1 - options.confidence) * beam
    assert doubt(rows) <= 2 * spare  # what no leaf holds a share of is not asked about
    before = [row for rows in played.answers[:-2] for row in rows]  # without the last wave and the report
    assert not before or doubt(before) > spare


def test_a_wave_spreads_over_leaves_and_each_leaf_over_images():
    tree = corpus({"g": leaf_names(4), "h": leaf_names(4)})
    first = play(tree, World(), ADD).rounds[0]
    assert Counter(ask.edited_as[0] for ask in first) == dict.fromkeys((c.path for c in tree.leaves()), 2)
    pairs = defaultdict(set)
    for ask in first:
        pairs[ask.edited_as[0]].add(ask.image)
    assert all(len(seen) == 2 for seen in pairs.values())
    assert len({frozenset(seen) for seen in pairs.values()}) > 2  # not everybody on the same images


def test_an_inner_node_without_words_is_reported_by_its_eligible_leaves_in_turn():
    tree = corpus({"g": ["a", "b", "c"]})

    def eligible(image: int, seed: int, concept: str, direction: str) -> bool:
        return concept != "g/b"

    played = play(tree, World({"g/a": 1.0}), ADD, pictures=17, seeds=2, eligible=eligible)
    stood_in = Counter(ask.edited_as for ask in played.of("report") if ask.question.concept == "g")
    assert stood_in == {("g/a",): 9, ("g/c",): 9}  # 9 images, 2 seeds
    turns = [ask.edited_as[0] for ask in played.of("report") if ask.question.concept == "g"]
    assert all(a != b for a, b in pairwise(turns))


def test_an_inner_node_with_words_is_reported_as_itself():
    tree = corpus([], "  - {name: g, phrase: a gadget, children: [{name: a}, {name: b}]}\n")

    def eligible(image: int, seed: int, concept: str, direction: str) -> bool:
        return concept != "g" or image % 2 == 0

    played = play(tree, World({"g/a": 2.0}), ADD, eligible=eligible)
    own = [ask for ask in played.of("report") if ask.question.concept == "g"]
    assert {ask.edited_as for ask in own} == {("g",)}
    assert {ask.image for ask in own} == {i for i in split(images(16), "race")[1] if i % 2 == 0}
    assert {ask.edited_as[0] for ask in played.of("race")} == {"g/a", "g/b"}  # the race edits leaves


# --- directions and eligibility ---------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["add", "remove"])
@pytest.mark.parametrize("method", ["race", "exhaustive"])
def test_only_the_directions_asked_for_are_asked(direction: Any, method: Any):
    options = SearchOptions(method=method, directions=(direction,))
    played = play(TOYS, World({"g0/a0": 2.0}), options)
    assert {d for ask in played.asks for d in ask.question.directions} == {direction}
    assert {q.direction for q in played.outcome.asked} == {direction}


def test_removal_is_asked_only_where_the_concept_is_present():
    tree = corpus(["ring", "star"])

    def eligible(image: int, seed: int, concept: str, direction: str) -> bool:
        there = concept == "ring" and image % 3 == 0
        return there == (direction == "remove")

    played = play(tree, World({"ring": 2.0, "star": 2.0}), SearchOptions(), pictures=24, eligible=eligible)
    removed = [ask for ask in played.asks if "remove" in ask.question.directions]
    assert {ask.question.concept for ask in removed if ask.stage != "joint race"} == {"ring"}
    assert {ask.image % 3 for ask in removed} == {0}
    assert {ask.image for ask in removed} >= {i for i in split(images(24), "race")[1] if i % 3 == 0}
    assert Question.single("star", "remove") in played.outcome.ineligible
    assert Question.single("star", "remove") not in played.outcome.reported
    assert Question.single("ring", "remove") in played.outcome.reported


def test_a_leaf_without_a_direction_is_not_asked_in_it():
    tree = corpus(
        [],
        "  - name: g\n    children:\n      - {name: only added, directions: [add]}\n"
        "      - {name: only removed, directions: [remove]}\n  - {name: added, directions: [add]}\n",
    )
    played = play(tree, World({"g/only added": 1.0}), SearchOptions())
    done = {(ask.edited_as[0], ask.question.directions[0]) for ask in played.of("race", "report")}
    assert done == {("g/only added", "add"), ("g/only removed", "remove"), ("added", "add")}
    assert Question.single("added", "remove") not in played.outcome.asked


@pytest.mark.parametrize("method", ["race", "exhaustive"])
def test_with_nothing_eligible_nothing_is_asked_and_all_is_said(method: Any):
    played = play(TOYS, World(), SearchOptions(method=method), eligible=lambda *_: False)
    assert played.rounds == []
    assert played.outcome.joint == ()
    assert played.outcome.ineligible == played.outcome.asked
    assert len(played.outcome.asked) == (2 * 20 if method == "exhaustive" else 2 * 5)


def test_with_no_question_possible_the_outcome_is_empty():
    tree = corpus([], "  - {name: sun, directions: [add]}\n")
    played = play(tree, World(), SearchOptions(directions=("remove",)))
    assert played.rounds == []
    assert played.outcome == Outcome((), ())


# --- few images, everything -------------------------------------------------------------------------


def test_too_few_images_to_share_are_all_asked_everything_and_that_is_said():
    few = play(TOYS, World({"g0/a0": 3.0}), ADD, pictures=MINIMUM - 1)
    everything = play(TOYS, World({"g0/a0": 3.0}), replace(ADD, method="exhaustive"), pictures=MINIMUM - 1)
    assert few.rounds == everything.rounds
    assert len(few.asks) == 15 * (MINIMUM - 1)
    assert {ask.stage for ask in few.asks} == {"report"}
    (note,) = few.outcome.notes
    assert "too few" in note
    assert str(MINIMUM - 1) in note
    assert str(MINIMUM) in note
    assert everything.outcome.notes == ()
    assert play(TOYS, World(), ADD, pictures=MINIMUM).of("race")


@light
@given(games())
def test_exhaustive_asks_each_worded_node_in_each_direction_of_each_eligible_image(game: dict[str, Any]):
    tree = corpus(
        [], "  - name: g\n    phrase: a gadget\n    children: [{name: a}, {name: b}]\n  - {name: c}\n"
    )
    options = replace(game["options"], method="exhaustive")
    played = play(**game | {"tree": tree, "options": options})
    expected = {
        Ask(i, s, Question.single(c, d), (c,), "report")
        for c in ("g", "g/a", "g/b", "c")
        for d in ("add", "remove")
        for i in range(game["pictures"])
        for s in range(game["seeds"])
        if game["eligible"](i, s, c, d)
    }
    assert set(played.asks) == expected
    assert len(played.asks) == len(expected)
    assert set(played.outcome.reported) == set(played.outcome.asked)
    possible = {(ask.question.concept, ask.question.direction) for ask in expected}
    possible |= {("g", d) for c, d in possible if c.startswith("g/")}
    assert {(q.concept, q.direction) for q in played.outcome.asked} - possible == {
        (q.concept, q.direction) for q in played.outcome.ineligible
    }


def test_a_worded_node_that_was_edited_itself_is_not_called_ineligible():
    tree = corpus([], "  - {name: g, phrase: a gadget, children: [{name: a}]}\n")
    played = play(tree, World(), replace(ADD, method="exhaustive"), eligible=lambda i, s, c, d: c == "g")
    assert {ask.question.concept for ask in played.asks} == {"g"}
    assert {q.concept for q in played.outcome.ineligible} == {"g/a"}


# --- the budget -------------------------------------------------------------------------------------


@light
@given(games(), st.integers(1, 300), st.sampled_from(["race", "exhaustive"]))
def test_the_budget_is_never_exceeded_and_what_it_cost_is_said(
    game: dict[str, Any], budget: int, method: Any
):
    options = replace(game["options"], method=method)
    free = play(**game | {"options": options})
    bound = play(**game | {"options": replace(options, budget=budget)})
    assert len(bound.asks) <= budget
    assert not any("budget" in note for note in free.outcome.notes)
    if bound.rounds != free.rounds:
        assert any(f"budget of {budget} edits" in note for note in bound.outcome.notes)
    else:
        assert bound.outcome == free.outcome
    done = {ask.question for ask in bound.of("report")}
    assert done <= set(bound.outcome.reported)
    wanted = {ask.question: 0 for ask in bound.of("report")}
    for ask in bound.of("report"):
        wanted[ask.question] += 1
    if bound.rounds[:-1] == free.rounds[:-1]:  # same race: what is reported is reported whole
        whole = Counter(ask.question for ask in free.of("report"))
        assert all(whole[q] == n for q, n in wanted.items())


def test_a_budget_pays_for_the_race_by_half_and_reports_leaves_first():
    world = World({"g0/a0": 3.0, "g1/a1": 2.5}, noise=0.1, image=0.1)
    options = replace(ADD, beam=2, joint_steps=1)
    race = len(play(TOYS, world, options, pictures=24).of("race"))
    assert race == 2 * 15
    played = play(TOYS, world, replace(options, budget=2 * race), pictures=24)
    assert len(played.of("race")) == race
    assert {"g0/a0", "g1/a1"} <= played.reported() < {"g0", "g1", "g0/a0", "g1/a1"}  # at 12 edits each
    (note,) = played.outcome.notes
    assert f"the budget of {2 * race} edits was too small to report" in note
    assert "+g1" in note
    halved = play(TOYS, world, replace(options, budget=race), pictures=24)
    assert len(halved.of("race")) == race // 2
    assert f"the budget of {race} edits ended the race early" in halved.outcome.notes[0]


def test_an_unaffordable_joint_path_is_not_claimed():
    world = World({"g0/a0": 3.0, "g1/a1": 2.5}, noise=0.01, image=0.1)
    options = replace(ADD, beam=2, delta=1.0)
    free = play(TOYS, world, options)
    assert len(free.outcome.joint) == 2
    race = len(free.of("race", "joint race"))
    claimed = []
    for budget in range(1, 2 * race + 50, 5):
        played = play(TOYS, world, replace(options, budget=budget))
        assert len(played.asks) <= budget
        assert bool(played.outcome.joint) == bool(played.of("joint report"))
        claimed.append(bool(played.outcome.joint))
    assert claimed[0] < claimed[-1]


def test_exhaustive_within_a_budget_claims_no_mean_over_half_of_the_leaves():
    tree = corpus({"g": ["a", "b"], "h": ["a", "b"]})
    played = play(tree, World(), replace(ADD, method="exhaustive", budget=50))
    assert played.reported() == {"g", "g/a", "g/b", "h/a"}
    assert "1 of 4 questions: +h/b" in played.outcome.notes[0]


# --- what it does not depend on ---------------------------------------------------------------------


@light
@given(games(st.none() | st.integers(1, 300)), st.randoms(use_true_random=False))
def test_neither_time_nor_the_order_of_rows_matters(game: dict[str, Any], shuffle: random.Random):
    played = play(**game)
    again = play(**game, shuffle=shuffle)
    assert again.rounds == played.rounds
    assert again.outcome == played.outcome


@light
@given(games(), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(game: dict[str, Any], shuffle: random.Random):
    pictures = images(game["pictures"])
    mixed = shuffle.sample(pictures, len(pictures))
    eligible = game["eligible"]

    def moved(image: int, seed: int, concept: str, direction: str) -> bool:
        return bool(eligible(pictures.index(mixed[image]), seed, concept, direction))

    here = play(**game | {"pictures": pictures})
    there = play(**game | {"pictures": mixed, "eligible": moved})
    named = [[(pictures[a.image], a.seed, a.question, a.edited_as) for a in asks] for asks in here.rounds]
    also = [[(mixed[a.image], a.seed, a.question, a.edited_as) for a in asks] for asks in there.rounds]
    assert named == also
    assert here.outcome == there.outcome


@light
@given(games(st.none() | st.integers(1, 300)), st.integers(0, 6))
def test_stored_rows_replay_the_same_search(game: dict[str, Any], known: int):
    """What a resumed run relies on: stored rows first, then new ones, and nothing else is remembered."""
    played = play(**game)
    stored = dict(zip(played.asks, played.rows, strict=True))
    first = [ask for asks in played.rounds[:known] for ask in asks]

    def resumed(ask: Ask, pictures: Sequence[str]) -> Effect:
        return stored[ask] if ask in first else game["world"](ask, pictures)

    again = play(**game | {"world": resumed})
    assert again.rounds == played.rounds
    assert again.outcome == played.outcome


# --- the joint path ---------------------------------------------------------------------------------

JOINT = replace(ADD, beam=4)


def test_a_partner_that_adds_is_kept_and_the_path_reported_on_fresh_images():
    tree = corpus(["first", "second", "dull"])
    played = play(tree, World({"first": 3.0, "second": 1.5}), JOINT, seeds=2)
    assert [q.concept for q in played.outcome.joint] == ["first", "second"]
    path = Question(("first", "second"), ("add", "add"))
    assert played.outcome.path == path
    fresh = [ask for ask in played.of("joint report") if ask.question == path]
    assert sorted((ask.image, ask.seed) for ask in fresh) == sorted(
        (i, s) for i in split(images(16), "race")[1] for s in range(2)
    )
    assert {ask.edited_as for ask in fresh} == {path.concepts}
    assert played.outcome.path not in played.outcome.reported  # no single question


def test_a_partner_that_adds_nothing_is_rejected():
    tree = corpus(["first", "echo"])
    world = World({"first": 3.0, "echo": 2.5}, same=frozenset({"first", "echo"}))
    played = play(tree, world, JOINT)
    assert played.edits("first + echo", "joint race") == 8  # it was tried
    assert played.of("joint report") == []
    assert len(played.outcome.joint) < 2
    assert played.outcome.path is None


def test_two_images_are_too_few_to_accept_a_partner():
    race, _ = split(images(16), "race")
    world = World({"first": 3.0, "second": 1.5}, noise=0.0, image=0.0)
    for n, accepted in ((2, False), (3, True)):

        def eligible(image: int, seed: int, concept: str, direction: str, n: int = n) -> bool:
            return concept == "first" or image not in race[n:]

        played = play(corpus(["first", "second"]), world, JOINT, eligible=eligible)
        assert played.edits("first + second", "joint race") == n
        assert (played.outcome.path is not None) == accepted


def test_the_path_grows_while_it_gains_up_to_its_length():
    tree = corpus(["a", "b", "c", "d"])
    world = World({"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0})
    for steps in (1, 2, 3, 4):
        path = [q.concept for q in play(tree, world, replace(JOINT, joint_steps=steps)).outcome.joint]
        assert path == (["a", "b", "c", "d"][:steps] if steps > 1 else [])


def test_a_useless_rival_is_passed_over_within_the_tries():
    tree = corpus(["first", "echo", "other"])
    world = World({"first": 4.0, "echo": 3.0, "other": 1.5}, same=frozenset({"first", "echo"}))
    two = replace(JOINT, joint_steps=2)
    assert [q.concept for q in play(tree, world, two).outcome.joint] == ["first", "other"]
    assert play(tree, world, replace(two, joint_tries=1)).outcome.path is None


def test_a_path_downwards_combines_what_lowers_the_score():
    tree = corpus(["low", "lower", "high"])
    played = play(tree, World({"low": -2.0, "lower": -3.0, "high": 2.5}), JOINT)
    assert [q.concept for q in played.outcome.joint] == ["lower", "low"]
    assert not any("high" in ask.edited_as for ask in played.of("joint race"))


def test_directions_can_be_mixed_in_a_path():
    tree = corpus(["good", "bad"])

    def eligible(image: int, seed: int, concept: str, direction: str) -> bool:
        return direction == ("add" if concept == "good" else "remove")

    played = play(tree, World({"good": 3.0, "bad": -2.0}), SearchOptions(), eligible=eligible)
    assert played.outcome.path == Question(("good", "bad"), ("add", "remove"))


@pytest.mark.parametrize(
    "concepts",
    [
        "  - {name: face, exclusive: true, children: [{name: a}, {name: b}]}\n",  # of one slot
        "  - {name: hat, children: [{name: a}]}\n  - {name: b, hidden_by: [hat]}\n",
        "  - {name: b, hidden_by: [hat/a]}\n  - {name: hat, children: [{name: a}]}\n",
        "  - {name: a, hidden_by: [b]}\n  - {name: b}\n",
        "  - {name: a, replaces: [b]}\n  - {name: b}\n",
        "  - {name: a}\n  - {name: c, children: [{name: b, replaces: [a]}]}\n",
        "  - {name: a, replaces: [c]}\n  - {name: c, children: [{name: b}]}\n",
        "  - name: face\n    exclusive: true\n    children:\n"  # a slot in a slot
        "      - {name: x, exclusive: true, children: [{name: a}]}\n"
        "      - {name: y, exclusive: true, children: [{name: b}]}\n",
    ],
)
def test_what_cannot_be_seen_together_is_not_combined(concepts: str):
    tree = corpus([], concepts)
    a, b = (next(c.path for c in tree.leaves() if c.name == name) for name in "ab")
    played = play(tree, World({a: 3.0, b: 2.0}), JOINT)
    assert {a, b} <= played.reported()
    assert played.of("joint race", "joint report") == []
    assert play(corpus(["a", "b"]), World({"a": 3.0, "b": 2.0}), JOINT).of("joint report")


def test_one_concept_is_not_combined_with_its_own_removal():
    def eligible(image: int, seed: int, concept: str, direction: str) -> bool:
        return (image % 2 == 0) == (direction == "add")

    def world(ask: Ask, pictures: Sequence[str]) -> Effect:  # adding and removing both raise the score
        return replace(World()(ask, pictures), score_after=2.5)

    played = play(corpus(["ring"]), world, SearchOptions(), eligible=eligible)
    assert len(played.outcome.reported) == 2
    assert played.of("joint race") == []


# --- what racing does to numbers --------------------------------------------------------------------


def test_reported_effects_of_selected_leaves_are_unbiased_where_race_means_are_inflated():
    """Without any true effect, over many worlds: the race's favourite, in the direction that it saw."""
    tree = corpus({f"g{i}": ["a", "b", "c"] for i in range(4)})
    options = replace(ADD, beam=3, joint_steps=1, delta=0.0)
    rng = np.random.default_rng(7)
    still = World(noise=0.0, image=0.0)
    raced, reported = [], []
    for _ in range(250):
        shift = dict(zip(images(10), rng.normal(0, 0.5, 10), strict=True))

        def world(ask: Ask, pictures: Sequence[str], shift: Any = shift) -> Effect:
            change = shift[pictures[ask.image]] + rng.normal()
            return replace(still(ask, pictures), score_before=0.0, score_after=change)

        played = play(tree, world, options, pictures=10)
        race, report = defaultdict(list), defaultdict(list)
        for ask, row in zip(played.asks, played.rows, strict=True):
            (race if ask.stage == "race" else report)[row.concept].append(row.score_after)
        best = max((c for c in race if report[c]), key=lambda c: abs(np.mean(race[c])))
        sign = np.sign(np.mean(race[best]))
        raced.append(sign * np.mean(race[best]))
        reported.append(sign * np.mean(report[best]))
    assert abs(z_score(reported)) < 4
    assert z_score(raced) > 15


def z_score(values: list[float]) -> float:
    return float(np.mean(values) / (np.std(values, ddof=1) / sqrt(len(values))))
