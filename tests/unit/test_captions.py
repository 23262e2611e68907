"""Captions: what is said of a picture, and how an edit says it otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from diffexplain.captions import MOST, Caption, filled, read_captions
from diffexplain.corpus import Corpus, load_corpus, parse_corpus
from diffexplain.worlds import avatars as world

TREE = parse_corpus(
    """
name: toys
domain: toys
prompt: "a toy with {phrase}"
neutral: a toy
concepts:
  - name: hat
    exclusive: true
    absent: a bare head
    children:
      - {name: cap, phrase: a cap}
      - {name: helmet, phrase: a helmet, children: [{name: iron}, {name: straw}]}
  - name: hair
    exclusive: true
    hidden_by: [hat/helmet]
    children: [{name: red, phrase: red hair}, {name: blue, phrase: blue hair}]
  - {name: ball, phrase: a ball}
  - {name: muzzle, phrase: a muzzle, replaces: [ball]}
  - name: scene
    children: [{name: snow, prompt: a toy in the snow}]
"""
)


def seen(**shares: float) -> Caption:
    """The caption of one picture; names stand for the path's last part."""
    presence = {}
    for concept in TREE.walk():
        own = [shares.get(TREE[leaf].name, 0.0) for leaf in concept.leaves]
        presence[concept.path] = np.array([sum(own)])
    (caption,) = read_captions(TREE, presence)
    return caption


def said(prompt: str) -> str:
    assert prompt.startswith("a toy with ")
    return prompt.removeprefix("a toy with ")


# --- reading ----------------------------------------------------------------------------------------


def test_what_is_there_is_said_in_the_order_of_the_corpus():
    caption = seen(ball=0.9, red=0.8, blue=0.2, cap=0.6)
    assert caption.text == "a toy with a cap, red hair, a ball"


def test_an_empty_slot_is_said_where_it_has_words_for_that():
    assert seen(red=0.9).text == "a toy with a bare head, red hair"
    assert seen(cap=0.3, iron=0.15, red=0.9).text == "a toy with a bare head, red hair"


def test_what_is_unsure_is_not_said():
    assert seen(cap=0.4, iron=0.3, red=0.4, blue=0.4, ball=0.49).text == "a toy"
    assert seen(cap=0.4, iron=0.3, ball=0.5).text == "a toy with a ball"


def test_what_is_hidden_is_not_said():
    presence = {c: np.zeros(2) for c in TREE}
    presence |= {"hat/helmet": np.array([0.9, 0.1]), "hat/helmet/iron": np.array([0.9, 0.1])}
    presence |= {"hat/cap": np.array([0.0, 0.9])}
    assert [c.text for c in read_captions(TREE, presence)] == ["a toy with iron", "a toy with a cap"]
    presence["hair/red"] = np.array([0.9, 0.9])  # though a judge would not say so
    assert [c.text for c in read_captions(TREE, presence)] == [
        "a toy with iron",
        "a toy with a cap, red hair",
    ]


def test_a_concept_with_a_whole_prompt_has_no_clause():
    assert seen(snow=0.9, cap=0.9).text == "a toy with a cap"


def test_what_a_restricted_corpus_leaves_out_is_still_said():
    presence = {c: np.zeros(1) for c in TREE} | {"ball": np.ones(1), "hat/cap": np.ones(1)}
    (caption,) = read_captions(TREE.restrict("hair"), presence)
    assert set(said(caption.text).split(", ")) == {"a cap", "a ball"}
    assert set(said(caption.edited("hair/red", "add")[0]).split(", ")) == {"a cap", "a ball", "red hair"}


def test_a_long_caption_keeps_its_surest_clauses():
    names = [f"thing {i:02d}" for i in range(40)]
    tree = parse_corpus(
        "name: n\ndomain: d\nprompt: 'with {phrase}'\nneutral: plain\nconcepts:\n"
        + "".join(f"  - {{name: {name}}}\n" for name in names)
    )
    shares = np.random.default_rng(0).permutation(np.linspace(0.3, 0.99, 40))
    (caption,) = read_captions(tree, {n: np.array([s]) for n, s in zip(names, shares, strict=True)})
    surest = sorted(np.argsort(-shares)[:MOST])
    assert caption.text == "with " + ", ".join(names[i] for i in surest)


@pytest.mark.parametrize("seed", range(3))
def test_the_caption_of_a_well_read_avatar_is_the_worlds(seed: int):
    corpus: Corpus = load_corpus("avatars")
    people = world.sample(20, seed)
    presence = {c.path: np.zeros(20) for c in corpus.walk()}
    for i, avatar in enumerate(people):
        for path in world.LEAVES:
            for above in [path, *(c.path for c in corpus.walk() if path in c.leaves and c.path != path)]:
                presence[above][i] += world.present(avatar, path)
    for avatar, caption in zip(people, read_captions(corpus, presence), strict=True):
        assert caption.text == world.caption(avatar)
        for leaf in world.LEAVES:
            if world.eligible(avatar, leaf):
                prompt, sign = caption.edited(leaf, "add")
                after = world.do(avatar, leaf)
                assert sign == 1.0
                revealed = {
                    world.ATTRIBUTES[s][getattr(after, s)].phrase
                    for s in world.Avatar._fields
                    if getattr(after, s) != world.NONE
                    and world.applicable(after, s)
                    and not world.applicable(avatar, s)
                }
                assert clauses(prompt) == clauses(world.caption(after)) - revealed
                assert clauses(prompt) - clauses(caption.text) == {clause_of(leaf)}


@pytest.mark.parametrize("seed", range(3))
def test_every_edit_of_a_filled_caption_says_all_that_can_be_seen_then(seed: int):
    corpus: Corpus = load_corpus("avatars")
    people = world.sample(60, seed)
    presence = {c.path: np.array([world.present(a, c.path) for a in people], float) for c in corpus.walk()}
    for avatar, caption in zip(people, filled(read_captions(corpus, presence)), strict=True):
        assert caption.text == world.caption(avatar)
        for leaf, (slot, _) in world.LEAVES.items():
            for direction in ("add", "remove"):
                if world.eligible(avatar, leaf, direction):
                    after = world.do(avatar, leaf, direction)
                    said = clauses(caption.edited(leaf, direction)[0])
                    known = clauses(world.caption(avatar)) | {
                        clause_of(leaf),
                        world.OPTIONAL.get(slot, ("", ""))[1],
                    }
                    seen = [s for s in world.Avatar._fields if world.applicable(after, s)]
                    assert len(said) == len(seen)  # one value of every attribute
                    assert said & known == clauses(world.caption(after)) & known


def clauses(prompt: str) -> set[str]:
    return set(prompt.removeprefix("a person with ").split(", "))


def clause_of(leaf: str) -> str:
    slot, name = world.LEAVES[leaf]
    return world.ATTRIBUTES[slot][name].phrase


# --- editing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("hat/cap", "a cap, red hair, a ball"),  # in the slot's place
        ("hat/helmet", "a helmet, a ball"),  # hides hair
        ("hat/helmet/straw", "straw, a ball"),
        ("hair/blue", "a bare head, blue hair, a ball"),
        ("muzzle", "a bare head, red hair, a muzzle"),  # takes the ball's place in the world, not in the text
    ],
)
def test_adding_changes_one_clause_and_what_it_displaces(path: str, expected: str):
    assert seen(red=1.0, ball=1.0).edited(path, "add") == (f"a toy with {expected}", 1.0)


def test_a_whole_prompt_takes_the_templates_place():
    assert seen(cap=1.0).edited("scene/snow", "add") == ("a toy in the snow, a cap", 1.0)
    assert seen(cap=0.5, iron=0.4).edited("scene/snow", "remove") == ("a toy in the snow, a cap", -1.0)


@pytest.mark.parametrize(
    ("shares", "path", "expected"),
    [
        ({"cap": 1.0, "ball": 1.0}, "hat/cap", ("a toy with a bare head, a ball", 1.0)),
        ({"cap": 1.0, "ball": 1.0}, "ball", ("a toy with a cap", 1.0)),
        ({"ball": 1.0, "cap": 0.5, "iron": 0.4}, "ball", ("a toy with a cap", 1.0)),
        ({"cap": 1.0}, "ball", ("a toy with a cap, a ball", -1.0)),  # not named: away from it
    ],
)
def test_removing_says_the_absence_or_leaves_the_clause_out(
    shares: dict[str, float], path: str, expected: tuple[str, float]
):
    assert seen(**shares).edited(path, "remove") == expected


def test_with_nothing_known_an_edit_is_the_concept_alone():
    assert seen(red=0.3, blue=0.3, cap=0.4, iron=0.2).edited("ball", "add") == ("a toy with a ball", 1.0)
    assert seen(red=0.3, cap=0.4, iron=0.2, ball=1.0).edited("ball", "remove") == ("a toy", 1.0)


def test_an_edit_leaves_the_caption_as_it_was():
    caption = seen(cap=1.0, red=1.0, ball=1.0)
    before = caption.text, dict(caption.clauses)
    for path in TREE:
        if TREE[path].prompt:
            for direction in ("add", "remove"):
                caption.edited(path, direction)  # type: ignore[arg-type]
    assert (caption.text, dict(caption.clauses)) == before


def test_clauses_are_not_said_twice():
    nested = parse_corpus(
        """
name: n
domain: d
prompt: "{phrase}"
neutral: plain
concepts:
  - name: o
    exclusive: true
    children:
      - {name: x}
      - {name: i, exclusive: true, children: [{name: a}, {name: b}]}
"""
    )

    def read(shares: Sequence[float]) -> Caption:
        values = dict(zip(("o/x", "o/i/a", "o/i/b"), shares, strict=True))
        presence = {c.path: np.array([sum(values[leaf] for leaf in c.leaves)]) for c in nested.walk()}
        return read_captions(nested, presence)[0]

    assert read([0.0, 1.0, 0.0]).text == "a"
    assert read([0.0, 1.0, 0.0]).edited("o/i/b", "add")[0] == "b"
    assert read([0.0, 1.0, 0.0]).edited("o/x", "add")[0] == "x"


# --- what an edit uncovers --------------------------------------------------------------------------


def worn(corpus: Corpus, *pictures: str) -> list[Caption]:
    """Filled captions of pictures that show these concepts, comma-separated."""
    there = [p.split(",") for p in pictures]
    presence = {
        c.path: np.array([float(any(x in c.leaves for x in p)) for p in there]) for c in corpus.walk()
    }
    return list(filled(read_captions(corpus, presence)))


SHOWN = ["hair/red", "hair/red", "hair/red", "hair/blue"]


@pytest.mark.parametrize(
    ("path", "direction", "expected"),
    [
        ("hat/cap", "add", "a cap, {hair}"),
        ("hat/helmet", "remove", "a bare head, {hair}"),
        ("hat/helmet/iron", "remove", "a bare head, {hair}"),
        ("hat/helmet/straw", "add", "straw"),  # hides it too
        ("ball", "add", "iron, a ball"),
    ],
)
def test_what_an_edit_uncovers_is_said(path: str, direction: str, expected: str):
    captions = worn(TREE, *SHOWN, "hat/helmet/iron", "hat/helmet/iron", "hat/helmet/iron", "hat/helmet/iron")
    said = {c.edited(path, direction)[0] for c in captions[4:]}  # type: ignore[arg-type]
    assert said == {f"a toy with {expected.format(hair=f'{colour} hair')}" for colour in ("red", "blue")}
    assert {c.text for c in captions[4:]} == {"a toy with iron"}


@pytest.mark.parametrize("hiding", [4, 40, 400])
def test_what_is_borrowed_is_spread_as_what_is_shown(hiding: int):
    captions = worn(TREE, *SHOWN, *["hat/helmet/iron"] * hiding)[4:]
    said = [c.edited("hat/cap", "add")[0] for c in captions]
    assert said.count("a toy with a cap, blue hair") == hiding / 4
    assert hiding == 4 or said not in (sorted(said), sorted(said, reverse=True))  # whoever borrows is drawn


def test_what_no_picture_shows_is_left_open():
    (caption,) = worn(TREE, "hat/helmet/iron")
    assert caption.edited("hat/cap", "add") == ("a toy with a cap", 1.0)


NESTED = parse_corpus(
    """
name: faces
domain: faces
prompt: "{phrase}"
neutral: a face
concepts:
  - name: mask
    exclusive: true
    absent: no mask
    children: [{name: full}, {name: half}]
  - name: goggles
    exclusive: true
    absent: no goggles
    children: [{name: dark}]
  - name: eyes
    hidden_by: [mask/full, goggles/dark]
    children:
      - {name: opening, exclusive: true, children: [{name: shut}]}
      - {name: colour, exclusive: true, hidden_by: [eyes/opening/shut], children: [{name: blue}]}
      - {name: scar, exclusive: true, absent: no scar, children: [{name: long}]}
"""
)


def test_what_something_else_hides_still_is_not_said():
    shown = ["eyes/opening/shut,eyes/scar/long"] * 2
    still, bare = worn(NESTED, *shown, "mask/full,goggles/dark", "mask/full")[2:]
    assert still.edited("mask/half", "add")[0] == "half, dark"
    assert bare.edited("mask/half", "add")[0] == "half, no goggles, shut, long"


def test_slots_that_go_together_are_borrowed_together():
    """Shut eyes have no colour, and lend none; those with a scar are blue, others shut."""
    shown = ["eyes/opening/shut"] * 3 + ["eyes/colour/blue,eyes/scar/long"] * 3
    captions = worn(NESTED, *shown, *["goggles/dark"] * 6)[6:]
    said = [c.edited("goggles", "remove")[0] for c in captions]
    assert (
        sorted(said) == ["no mask, no goggles, blue, long"] * 3 + ["no mask, no goggles, shut, no scar"] * 3
    )
