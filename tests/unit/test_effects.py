"""Presence by hand, edits on a tiny real pipeline, and what a row says about its pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, isnan, log, nan
from typing import Any

import numpy as np
import pytest
import torch

from diffexplain import effects
from diffexplain.captions import Caption, filled, read_captions
from diffexplain.corpus import Corpus, parse_corpus
from diffexplain.editors import Edit, Inversion, Term, load_editor
from diffexplain.effects import (
    MOVED,
    PRESENT,
    VISIBLE,
    Inverted,
    Subject,
    Tools,
    garbled,
    generator_seed,
    invert,
    prepare,
    presence,
    probability,
    terms,
)
from diffexplain.images import Pictures, decode_png, encode_png, hashes, picture_hash, pictures, rounded
from diffexplain.judges import load_judge
from diffexplain.records import Ask, Drift, Effect, Question
from diffexplain.targets import Target
from tests.tiny import tiny_clip_folder, tiny_pipeline_folder

SIZE = 16
TREE = parse_corpus(
    """
name: toys
domain: toys
prompt: "{phrase}"
neutral: plain
concepts:
  - name: hat
    exclusive: true
    absent: bare
    children: [{name: cap}, {name: helmet, children: [{name: iron}, {name: straw}]}]
  - name: hair
    exclusive: true
    hidden_by: [hat/helmet]
    children: [{name: red}, {name: blue}]
  - name: ball
  - name: look
    whole_image: true
    children: [{name: shiny}, {name: dull, phrase: dim}]
  - name: odd
    phrase: strange
    children: [{name: round}, {name: square}]
"""
)


class Table:
    """A judge that knows each prompt's logit by heart."""

    name = "table"

    def __init__(self, logits: Mapping[str, Sequence[float]]) -> None:
        self.known, self.asked = logits, []

    def logits(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        self.asked.append(list(prompts))
        zeros = [0.0] * len(images)
        return torch.tensor([self.known.get(p, zeros) for p in prompts], dtype=torch.float64).T


def read(logits: Mapping[str, Sequence[float]], n: int = 1, tree: Corpus = TREE) -> dict[str, np.ndarray]:
    return presence(Table(logits), tree, torch.zeros(n, 3, 4, 4))


# --- presence ---------------------------------------------------------------------------------------


def test_a_slots_leaves_and_its_absence_share_one_choice():
    seen = read({"bare": [log(5), 0], "cap": [log(2), 0], "iron": [log(2), log(96)], "straw": [0, log(2)]}, 2)
    assert seen["hat/cap"] == pytest.approx([0.2, 0.01])
    assert seen["hat/helmet/iron"] == pytest.approx([0.2, 0.96])
    assert seen["hat/helmet/straw"] == pytest.approx([0.1, 0.02])
    assert seen["hat/helmet"] == pytest.approx([0.3, 0.98])  # an inner node: the sum of its leaves
    assert seen["hat"] == pytest.approx([0.5, 0.99])


def test_a_slot_without_an_absence_is_a_choice_among_its_leaves():
    seen = read({"red": [log(3)], "plain": [50.0], "bare": [50.0]})
    assert seen["hair/red"] == pytest.approx([0.75])
    assert seen["hair/blue"] == pytest.approx([0.25])
    assert seen["hair"] == pytest.approx([1.0])


def test_a_concept_without_a_slot_is_chosen_against_the_neutral_prompt():
    seen = read(
        {"ball": [log(3), 0.0], "plain": [0.0, log(4)], "dim": [log(9), 0.0], "strange": [0.0, 0.0]}, 2
    )
    assert seen["ball"] == pytest.approx([0.75, 0.2])
    assert seen["look/dull"] == pytest.approx([0.9, 0.2])
    assert seen["odd"] == pytest.approx([0.5, 0.2])  # an inner node with words of its own


def test_a_node_over_several_choices_without_words_cannot_be_read():
    seen = read({}, 3)
    assert np.isnan(seen["look"]).all()
    assert seen["look"].shape == (3,)
    assert set(seen) == set(TREE)


def test_what_a_present_concept_hides_is_absent():
    seen = read({"bare": [9.0, 0.0], "iron": [0.0, 9.0], "red": [2.0, 2.0]}, 2)
    assert seen["hat/helmet"][1] > PRESENT > seen["hat/helmet"][0]
    assert seen["hair/red"] == pytest.approx([1 / (1 + exp(-2)), 0.0])
    assert seen["hair/blue"][1] == 0.0
    assert seen["hair"] == pytest.approx([1.0, 0.0])


def test_the_judge_is_asked_once_with_each_prompt_once():
    judge = Table({})
    presence(judge, TREE, torch.zeros(2, 3, 4, 4))
    (asked,) = judge.asked
    assert len(asked) == len(set(asked))
    assert set(asked) == {
        *("plain", "bare", "cap", "iron", "straw", "red", "blue"),
        *("ball", "shiny", "dim", "strange", "round", "square"),
    }


def test_huge_logits_do_not_overflow():
    seen = read({"cap": [4000.0], "bare": [-4000.0], "ball": [-4000.0]})
    assert seen["hat/cap"] == pytest.approx([1.0])
    assert seen["ball"] == pytest.approx([0.0])


@pytest.mark.parametrize("part", ["hair", "hat/helmet"])
def test_a_restricted_corpus_is_read_as_the_whole(part: str):
    """Its rivals and what hides it lie outside, and count all the same."""
    judge = {"bare": [9.0, 0.0], "cap": [1.0, 1.0], "iron": [0.0, 9.0], "red": [2.0, 2.0]}
    whole, seen = read(judge, 2), read(judge, 2, TREE.restrict(part))
    assert set(seen) >= set(TREE.restrict(part))
    for concept in TREE.restrict(part):
        assert seen[concept] == pytest.approx(whole[concept])


# --- eligibility ------------------------------------------------------------------------------------


def subject(seen: Mapping[str, Sequence[float]], seeds: int = 1) -> Subject:
    """Pictures of which only presence is known."""
    full = {c: np.asarray(seen.get(c, [0.0] * 4), dtype=float) for c in TREE}
    empty = torch.zeros(0)
    return Subject(
        images=("a", "b"),
        seeds=seeds,
        captions=(),
        inversion=Inversion({}, (), (), (0, 0)),
        reconstructions=empty,
        hashes=(),
        scores=np.zeros(0),
        presence=full,
        drift=Drift(0, 0, 0),
    )


def test_adding_wants_absence_and_removing_presence():
    about = subject({"ball": [0.49, 0.5]})
    assert about.eligible(TREE, 0, 0, "ball", "add")
    assert not about.eligible(TREE, 0, 0, "ball", "remove")
    assert not about.eligible(TREE, 1, 0, "ball", "add")
    assert about.eligible(TREE, 1, 0, "ball", "remove")


def test_every_seed_has_a_reading_of_its_own():
    about = subject({"ball": [0.1, 0.9, 0.9, 0.1]}, seeds=2)
    assert [about.row(i, s) for i in range(2) for s in range(2)] == [0, 1, 2, 3]
    allowed = [about.eligible(TREE, i, s, "ball", "add") for i in range(2) for s in range(2)]
    assert allowed == [True, False, False, True]


def test_only_stated_directions_are_eligible():
    about = subject({"hair/red": [0.9, 0.1]})
    assert TREE["hair/red"].directions == ("add",)  # hair cannot be absent
    assert not about.eligible(TREE, 0, 0, "hair/red", "remove")
    assert about.eligible(TREE, 1, 0, "hair/red", "add")


def test_what_is_hidden_is_not_eligible():
    about = subject({"hat/helmet": [0.5, 0.4]})
    assert not about.eligible(TREE, 0, 0, "hair/red", "add")
    assert about.eligible(TREE, 1, 0, "hair/red", "add")
    assert about.eligible(TREE, 0, 0, "hat/cap", "add")  # it hides hair only


# --- the prompts of an edit -------------------------------------------------------------------------


def ask(*parts: tuple[str, Any], image: int = 0, seed: int = 0, stage: Any = "report") -> Ask:
    concepts, directions = zip(*parts, strict=True)
    return Ask(image, seed, Question(concepts, directions), concepts, stage)


def measure(
    tools: Tools, subject: Subject, asks: Sequence[Ask], batch: int
) -> tuple[list[Effect], dict[str, torch.Tensor]]:
    """Make the edits of one batch and read them."""
    return effects.read(tools, subject, asks, effects.draw(tools, subject, asks)(), batch)


CAPTION = Caption(TREE, {"hat": "cap", "hair": "red"})


def test_adding_guides_towards_the_caption_with_the_clause():
    assert terms(CAPTION, ask(("look/dull", "add")), 1.5) == (Term("cap, red, dim", 1.5),)


def test_removing_asks_for_the_slots_absence_or_guides_away():
    assert terms(CAPTION, ask(("hat/cap", "remove")), 0.5) == (Term("bare, red", 0.5),)
    assert terms(CAPTION, ask(("ball", "remove")), 0.5) == (Term("cap, red, ball", -0.5),)


def test_a_joint_edit_has_a_term_each():
    both = ask(("hat/cap", "add"), ("ball", "remove"))
    assert terms(CAPTION, both, 1.0) == (Term("cap, red", 1.0), Term("cap, red, ball", -1.0))


def test_a_leaf_that_stands_in_lends_its_prompt():
    asked = Ask(0, 0, Question.single("look", "add"), ("look/shiny",), "report")
    assert terms(CAPTION, asked, 1.0) == (Term("cap, red, shiny", 1.0),)


def test_an_editor_by_instruction_is_told_the_change_alone():
    asked = ask(("hat/cap", "add"), ("hair/red", "remove"))
    assert terms(CAPTION, asked, 0.5, captioned=False) == (Term("cap", 0.5), Term("red", -0.5))


# --- noise and probability --------------------------------------------------------------------------


def test_the_noise_of_an_image_and_seed_never_changes():
    """Stored runs resume on it, so the numbers are pinned."""
    assert generator_seed("0123abcd", 0) == 24580316338219542
    assert generator_seed("0123abcd", 1) == 30548796255424197
    made = {generator_seed(h, s) for h in ("a", "b", "1:a") for s in range(20)}
    assert len(made) == 60
    assert max(made) < 2**56
    torch.Generator().manual_seed(max(made))


def test_probability_is_the_logistic_without_overflow():
    scores = np.array([-800.0, -2.0, 0.0, 2.0, 800.0])
    assert probability(scores) == pytest.approx([0, 1 / (1 + exp(2)), 0.5, 1 / (1 + exp(-2)), 1])


# --- measuring on a tiny pipeline -------------------------------------------------------------------


class Brightness:
    """Two labels; the second one's logit grows with a picture's redness."""

    name, labels = "brightness", ("dim", "bright")

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        red = images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))
        return torch.stack([-red, 20 * red + images.mean((1, 2, 3))], dim=1)


class LeftHalf:
    """A segmenter that remembers what it was asked."""

    name = "left half"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def regions(self, images: torch.Tensor, concepts: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
        asked = list(zip(concepts, prompts, strict=True))
        half = len(asked) // 2  # the pictures before, then those after
        assert asked[:half] == asked[half:]
        self.asked += asked[:half]
        region = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
        for one, concept in zip(region, concepts, strict=True):
            if concept == "ball":
                one[: SIZE // 2] = True  # the upper half, for the union
            elif concept == "odd/round":
                one[:] = True
            else:
                one[..., : SIZE // 2] = True
        return region


@pytest.fixture(scope="module")
def given() -> Pictures:
    generator = torch.Generator().manual_seed(3)
    return pictures(rounded(torch.rand(3, 3, SIZE, SIZE, generator=generator)), size=SIZE)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    folder = tmp_path_factory.mktemp("tiny")
    editor = load_editor(tiny_pipeline_folder(folder / "editor", size=SIZE), steps=3, rows=8, guidance=2.0)
    judge = load_judge(f"clip:{tiny_clip_folder(folder / 'clip', size=SIZE)}")
    return Tools(Target(Brightness(), "bright"), editor, judge, None, TREE, strength=1.5)


@pytest.fixture(scope="module")
def prepared(tools: Tools, given: Pictures) -> Subject:
    return prepare(tools, given, 2)


ASKS = [
    ask(("ball", "add"), image=0),
    ask(("ball", "remove"), image=2, seed=1, stage="race"),
    ask(("hat/cap", "add"), image=1),
    ask(("hat/cap", "remove"), image=1, seed=1),
    ask(("hat/helmet/iron", "add"), ("ball", "add"), image=2, stage="joint report"),
    Ask(1, 0, Question.single("odd"), ("odd",), "report"),
    Ask(0, 1, Question.single("look"), ("look/dull",), "report"),
]


def kept(picture: torch.Tensor) -> torch.Tensor:
    """A picture as it comes back from the run's folder."""
    return decode_png(encode_png(picture))


def test_preparing_inverts_scores_and_reads_every_picture_and_seed(
    tools: Tools, given: Pictures, prepared: Subject
):
    assert prepared.images == given.hashes
    assert prepared.reconstructions.shape == (6, 3, SIZE, SIZE)
    assert len(prepared.inversion) == len(prepared.scores) == len(prepared.hashes) == 6
    assert torch.equal(prepared.reconstructions, rounded(prepared.reconstructions))
    assert prepared.hashes == hashes(prepared.reconstructions)
    assert np.array_equal(prepared.scores, tools.target.score(prepared.reconstructions).numpy())
    expected = presence(tools.judge, TREE, prepared.reconstructions)
    for concept, values in expected.items():
        assert np.array_equal(prepared.presence[concept], values, equal_nan=True)


def test_drift_is_how_far_inversion_alone_moved_pictures_and_scores(
    tools: Tools, given: Pictures, prepared: Subject
):
    originals = given.pixels[[0, 0, 1, 1, 2, 2]]
    moved = prepared.scores - tools.target.score(originals).numpy()
    assert prepared.drift.pixels == pytest.approx(float((prepared.reconstructions - originals).abs().mean()))
    assert prepared.drift.score == pytest.approx(np.abs(moved).mean())
    assert prepared.drift.score_signed == pytest.approx(moved.mean())
    assert prepared.drift.pixels > 0.01


def test_a_picture_has_the_same_noise_in_whatever_company(tools: Tools, given: Pictures, prepared: Subject):
    one = Pictures(given.pixels[1:2], given.names[1:2], given.hashes[1:2], (), ())
    made = invert(tools, one, 2)
    assert torch.equal(made.inversion["start"], prepared.inversion["start"][2:4])
    assert torch.equal(made.reconstructions, prepared.reconstructions[2:4])
    assert not torch.equal(made.inversion["start"][0], made.inversion["start"][1])


def test_a_picture_is_inverted_from_its_caption(tools: Tools, given: Pictures, prepared: Subject):
    seen = read_captions(TREE, presence(tools.judge, TREE, given.pixels))
    assert prepared.captions == filled([c for c in seen for _ in range(2)])
    assert prepared.inversion.prompts == tuple(c.text for c in prepared.captions)
    noise = [generator_seed(h, s) for h in given.hashes for s in range(2)]
    blank = tools.editor.invert(given.pixels.repeat_interleave(2, dim=0), noise)
    assert torch.equal(blank["start"], prepared.inversion["start"])
    assert not torch.allclose(blank["residuals"], prepared.inversion["residuals"], atol=1e-4)


def test_an_inversion_in_hand_is_not_made_again(tools: Tools, given: Pictures, prepared: Subject):
    again = prepare(
        replace(tools, editor=None),  # type: ignore[arg-type]
        given,
        2,
        Inverted(prepared.captions, prepared.inversion, prepared.reconstructions),
    )
    assert again.hashes == prepared.hashes
    assert again.drift == prepared.drift


def test_a_row_says_what_its_stored_picture_says(tools: Tools, prepared: Subject):
    rows, stored = measure(tools, prepared, ASKS, batch=7)
    assert len(rows) == len(ASKS)
    for asked, row in zip(ASKS, rows, strict=True):
        picture = kept(stored[row.edited])
        assert picture_hash(picture) == row.edited
        assert row.score_after == float(tools.target.score(picture[None])[0])
        at = prepared.row(asked.image, asked.seed)
        assert row.reconstruction == prepared.hashes[at]
        assert row.score_before == prepared.scores[at]
        assert row.probability_before == pytest.approx(1 / (1 + exp(-row.score_before)))
        assert row.probability_after == pytest.approx(1 / (1 + exp(-row.score_after)))
        assert row.change == row.score_after - row.score_before != 0
        assert (row.image, row.seed) == (prepared.images[asked.image], asked.seed)
        assert (row.concept, row.direction) == (asked.question.concept, asked.question.direction)
        assert row.edited_as == " + ".join(asked.edited_as)
        assert (row.stage, row.strength, row.batch) == (asked.stage, 1.5, 7)
        edit = Edit(at, terms(prepared.captions[at], asked, 1.5))
        assert row.evaluations == tools.editor.evaluations(edit)
        assert torch.equal(picture, rounded(tools.editor.edit(prepared.inversion, [edit]))[0])
        parts = zip(asked.edited_as, asked.question.directions, strict=True)
        assert row.eligible == all(prepared.eligible(TREE, asked.image, asked.seed, c, d) for c, d in parts)


def test_a_row_tells_how_much_and_what_else_moved(tools: Tools, prepared: Subject):
    rows, stored = measure(tools, prepared, ASKS, batch=0)
    for asked, row in zip(ASKS, rows, strict=True):
        at, picture = prepared.row(asked.image, asked.seed), kept(stored[row.edited])
        moved = (picture - prepared.reconstructions[at]).abs()
        assert row.size == pytest.approx(float(moved.mean()))
        assert row.area == pytest.approx(float((moved.amax(0) >= VISIBLE).float().mean()))
        after = presence(tools.judge, TREE, picture[None])
        for concept, change in json.loads(row.others).items():
            assert TREE[concept].is_leaf
            assert concept not in asked.edited_as
            assert change == pytest.approx(
                float(after[concept][0] - prepared.presence[concept][at]), abs=1e-3
            )
            assert abs(change) >= MOVED - 1e-3


@pytest.mark.parametrize(
    ("edited", "left"),
    [
        ("hat/cap", {"hair/red", "hair/blue"}),  # its rivals are to move
        ("hat/helmet/iron", set()),  # a helmet hides hair
        ("hair/red", {"hat/cap"}),  # what hides it may go
    ],
)
def test_what_an_edit_implies_is_no_other_concept(edited: str, left: set[str]):
    found = set(effects._others(TREE, ask((edited, "add"))))
    assert {c for c in found if c.startswith(("hat", "hair"))} == left
    assert "ball" in found


def test_a_placebo_asks_for_the_picture_itself_in_garbled_words(tools: Tools, prepared: Subject):
    asked = Ask(0, 0, Question.single("placebo"), (), "placebo", 0.5)
    (term,) = terms(CAPTION, asked, 2.0)
    assert term.weight == 1.0
    assert sorted(garbled("a toy with a cap, red hair").split()) == sorted(
        ["a", "toy", "with", "a", "cap", "red", "hair"]
    )
    assert garbled("a toy with a cap, red hair") == garbled("a toy with a cap, red hair")
    assert garbled("plain") != "plain"
    (row,), _ = measure(tools, prepared, [asked], batch=3)
    assert (row.stage, row.concept, row.edited_as, row.strength) == ("placebo", "placebo", "", 0.75)
    assert row.eligible
    assert isnan(row.presence_after)
    assert isnan(row.outside)
    assert row.size > 0


def test_presence_is_read_from_both_pictures(tools: Tools, prepared: Subject):
    rows, stored = measure(tools, prepared, ASKS, batch=0)
    for asked, row in zip(ASKS, rows, strict=True):
        if len(asked.edited_as) > 1:
            continue
        (concept,) = asked.edited_as
        after = presence(tools.judge, TREE, kept(stored[row.edited])[None])
        assert row.presence_after == pytest.approx(float(after[concept][0]), rel=1e-12)
        assert row.presence_before == prepared.presence[concept][prepared.row(asked.image, asked.seed)]


def test_a_joint_edit_happened_as_far_as_its_weakest_part(tools: Tools, prepared: Subject):
    joint = ASKS[4]
    (row,), stored = measure(tools, prepared, [joint], batch=0)
    after = presence(tools.judge, TREE, kept(stored[row.edited])[None])
    at = prepared.row(joint.image, joint.seed)
    gains = {c: float(after[c][0] - prepared.presence[c][at]) for c in joint.edited_as}
    weakest = min(gains, key=gains.__getitem__)
    assert row.presence_before == prepared.presence[weakest][at]
    assert row.gain == pytest.approx(gains[weakest])
    assert len(set(gains.values())) == 2


def test_a_mixed_joint_edit_is_judged_by_its_weakest_parts_own_direction(tools: Tools, prepared: Subject):
    mixed = ask(("hat/cap", "add"), ("ball", "remove"), stage="joint report")
    (row,), stored = measure(tools, prepared, [mixed], batch=0)
    after = presence(tools.judge, TREE, kept(stored[row.edited])[None])
    at = prepared.row(mixed.image, mixed.seed)
    gains = [
        float(after["hat/cap"][0] - prepared.presence["hat/cap"][at]),
        float(prepared.presence["ball"][at] - after["ball"][0]),
    ]
    swapped = ask(("ball", "remove"), ("hat/cap", "add"), stage="joint report")
    (other,), _ = measure(tools, prepared, [swapped], batch=0)
    assert row.gain == pytest.approx(min(gains))
    assert other.gain == pytest.approx(min(gains))


def test_a_row_does_not_depend_on_its_batch(tools: Tools, prepared: Subject):
    together, _ = measure(tools, prepared, ASKS, batch=0)
    for chosen in ([5], [6, 0], [4, 2, 1, 3]):
        alone, _ = measure(tools, prepared, [ASKS[i] for i in chosen], batch=0)
        for i, row in zip(chosen, alone, strict=True):
            close = replace(row, presence_after=together[i].presence_after, outside=nan)
            assert close == replace(together[i], outside=close.outside)
            assert row.presence_after == pytest.approx(together[i].presence_after, rel=1e-12)


# --- locality ---------------------------------------------------------------------------------------


def outside(tools: Tools, prepared: Subject, asked: Ask) -> tuple[float, torch.Tensor, list[tuple[str, str]]]:
    """What a row says of the change outside, the absolute change (H, W), and what the segmenter heard."""
    segmenter = LeftHalf()
    (row,), stored = measure(replace(tools, segmenter=segmenter), prepared, [asked], batch=0)
    before = prepared.reconstructions[prepared.row(asked.image, asked.seed)]
    return row.outside, (kept(stored[row.edited]) - before).abs().mean(0), segmenter.asked


def test_the_change_outside_is_judged_by_the_segmenter(tools: Tools, prepared: Subject):
    value, change, asked = outside(tools, prepared, ASKS[2])
    assert value == pytest.approx(float(change[:, SIZE // 2 :].mean()))
    assert value != pytest.approx(float(change.mean()), rel=1e-3)
    assert asked == [("hat/cap", "cap")]


def test_a_joint_edit_may_act_in_all_its_regions(tools: Tools, prepared: Subject):
    value, change, asked = outside(tools, prepared, ASKS[4])
    assert value == pytest.approx(float(change[SIZE // 2 :, SIZE // 2 :].mean()))
    assert asked == [("hat/helmet/iron", "iron"), ("ball", "ball")]


def test_a_concept_may_act_where_it_was_as_well_as_where_it_is(tools: Tools, prepared: Subject):
    class Moving:
        name = "moving"

        def regions(
            self, images: torch.Tensor, concepts: Sequence[str], prompts: Sequence[str]
        ) -> torch.Tensor:
            region = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
            region[0, :, : SIZE // 4] = True  # before
            region[1, :, -(SIZE // 4) :] = True  # after
            return region

    (row,), stored = measure(replace(tools, segmenter=Moving()), prepared, [ASKS[2]], batch=0)
    before = prepared.reconstructions[prepared.row(1, 0)]
    change = (kept(stored[row.edited]) - before).abs().mean(0)
    assert row.outside == pytest.approx(float(change[:, SIZE // 4 : -(SIZE // 4)].mean()))


def test_a_batch_is_judged_row_by_row(tools: Tools, prepared: Subject):
    together, _ = measure(replace(tools, segmenter=LeftHalf()), prepared, [ASKS[2], ASKS[4]], batch=0)
    alone = [outside(tools, prepared, asked)[0] for asked in (ASKS[2], ASKS[4])]
    assert [row.outside for row in together] == pytest.approx(alone)


def test_where_locality_cannot_be_judged_it_is_nan(tools: Tools, prepared: Subject):
    (plain,), _ = measure(tools, prepared, [ASKS[0]], batch=0)
    assert isnan(plain.outside)  # no segmenter
    value, _, asked = outside(tools, prepared, ASKS[6])
    assert isnan(value)  # an edit of the whole image
    assert asked == []
    everywhere = ask(("odd/round", "add"))
    assert isnan(outside(tools, prepared, everywhere)[0])  # nothing is outside
