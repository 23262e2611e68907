"""From rows to the ranked answer: what counts, in which order, and how often chance is called a finding."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan
from typing import Any

import numpy as np
import pytest
from scipy import stats

from diffexplain.corpus import parse_corpus
from diffexplain.ranking import EXAMPLES, joint_path, limits_of, placebo, rank, second_opinion
from diffexplain.records import ConceptResult, Effect, Question
from diffexplain.search import Outcome
from diffexplain.statistics import benjamini_yekutieli, harmonic, mean_effect, minimal_detectable

TREE = parse_corpus(
    "name: toys\ndomain: toys\nprompt: a toy with {phrase}\nneutral: a toy\nconcepts:\n"
    "  - {name: ball}\n  - {name: car}\n  - {name: doll}\n  - {name: egg}\n"
    "  - {name: wordless, children: [{name: a}, {name: b}]}\n"
    "  - {name: worded, phrase: a word, children: [{name: a}, {name: b}]}\n"
)


def row(concept: str, change: float, image: str = "i0", **other: Any) -> Effect:
    """One report row with this Δ in log-odds; its probability moves by a tenth of it."""
    return Effect(
        **dict(
            image=image,
            seed=0,
            concept=concept,
            direction="add",
            edited_as=concept,
            strength=1.0,
            stage="report",
            eligible=True,
            score_before=-0.25,
            score_after=change - 0.25,
            probability_before=0.4,
            probability_after=0.4 + change / 10,
            presence_before=0.1,
            presence_after=0.9,
            outside=0.01,
            reconstruction="",
            edited="",
            evaluations=1,
            batch=0,
        )
        | other
    )


def rows(concept: str, changes: Sequence[float], **other: Any) -> list[Effect]:
    """One report row an image."""
    return [row(concept, change, f"i{k}", **other) for k, change in enumerate(changes)]


def asked(*concepts: str, direction: Any = "add") -> tuple[Question, ...]:
    return tuple(Question.single(concept, direction) for concept in concepts)


def ranked(given: Sequence[Effect], *concepts: str, **outcome: Any) -> dict[str, ConceptResult]:
    questions = asked(*concepts)
    results = rank(given, Outcome(**dict(asked=questions, reported=questions) | outcome), TREE)
    return {r.concept: r for r in results}


# --- what counts ------------------------------------------------------------------------------------


def test_the_estimate_is_that_of_the_report_rows_clustered_by_image():
    changes, images = [1.0, 3.0, 2.0, 2.5, -0.5, 0.5], ["a", "a", "b", "b", "c", "c"]
    given = [row("ball", d, i, seed=k % 2) for k, (d, i) in enumerate(zip(changes, images, strict=True))]
    result = ranked(given, "ball")["ball"]
    expected = mean_effect(changes, images)
    assert (result.effect, result.low, result.high) == (expected.mean, expected.low, expected.high)
    assert result.p == expected.p
    assert result.p == pytest.approx(stats.ttest_1samp([2.0, 2.25, 0.0], 0).pvalue)
    assert result.effect_probability == pytest.approx(expected.mean / 10)
    assert (result.images, result.edits) == (3, 6)


@pytest.mark.parametrize(
    "other", [{"stage": s} for s in ("race", "joint race", "joint report")] + [{"eligible": False}]
)
def test_rows_of_the_race_and_of_ineligible_images_do_not_count(other: dict[str, Any]):
    own = rows("ball", [1.0, 2.0, 3.0])
    alone = ranked(own, "ball")["ball"]
    result = ranked([*own, *(row("ball", 99.0, f"r{k}", **other) for k in range(4))], "ball")["ball"]
    assert (result.effect, result.low, result.high, result.p) == (
        alone.effect,
        alone.low,
        alone.high,
        alone.p,
    )
    assert (result.flip_rate, result.examples) == (alone.flip_rate, alone.examples)
    assert (result.images, result.edits) == (3, 7)  # they were spent all the same
    assert result.race_effect == 99.0 if other.get("stage") == "race" else isnan(result.race_effect)


def test_the_race_mean_stands_beside_as_what_it_is():
    given = [*rows("ball", [1.0, 2.0]), *rows("ball", [5.0, 6.0, 10.0], stage="race")]
    assert ranked(given, "ball")["ball"].race_effect == 7.0
    raced = rows("wordless/a", [1.0], stage="race") + rows("wordless/b", [-3.0], stage="race")
    assert ranked(raced, "wordless", reported=())["wordless"].race_effect == -1.0  # of the leaves under it


def test_each_direction_is_a_question_of_its_own():
    given = [*rows("ball", [1.0, 1.2, 0.9]), *rows("ball", [-2.0, -2.2, -1.9], direction="remove")]
    both = asked("ball") + asked("ball", direction="remove")
    first, second = rank(given, Outcome(both, both), TREE)
    assert (first.direction, second.direction) == ("remove", "add")
    assert first.effect == pytest.approx(-6.1 / 3)
    assert second.effect == pytest.approx(3.1 / 3)


def test_rates_are_shares_of_the_rows():
    given = [
        row("ball", 2.0, "a", presence_before=0.2, presence_after=0.9),  # flips: 0.4 to 0.6
        row("ball", 0.5, "b", presence_before=0.2, presence_after=0.4, outside=0.05),
        row("ball", 3.0, "c", presence_before=0.0, presence_after=0.5),
        row("ball", 0.5, "d", presence_before=0.4, presence_after=0.1),
    ]
    result = ranked(given, "ball")["ball"]
    assert result.flip_rate == 0.5
    assert result.success_rate == 0.5
    assert result.presence_gain == pytest.approx((0.7 + 0.2 + 0.5 - 0.3) / 4)
    assert result.outside == pytest.approx(0.02)
    away = [
        row("ball", 2.0, "a", direction="remove", presence_before=0.9, presence_after=0.2),
        row("ball", 2.0, "b", direction="remove", presence_before=0.9, presence_after=0.6),
    ]
    removed = rank(away, Outcome(asked("ball", direction="remove"), asked("ball", direction="remove")), TREE)[
        0
    ]
    assert removed.success_rate == 0.5
    assert removed.presence_gain == pytest.approx(0.5)


def test_what_was_not_judged_is_left_out_of_means_and_all_unjudged_is_nan():
    given = rows("ball", [1.0, 2.0], outside=nan) + rows("car", [1.0, 2.0])
    given[2:] = [row("car", 1.0, "i0", outside=nan, presence_after=nan), row("car", 2.0, "i1", outside=0.04)]
    results = ranked(given, "ball", "car")
    assert isnan(results["ball"].outside)
    assert results["car"].outside == 0.04
    assert results["car"].success_rate == 1.0
    assert results["car"].presence_gain == pytest.approx(0.8)
    unjudged = ranked(rows("ball", [1.0, 2.0], presence_before=nan, presence_after=nan), "ball")["ball"]
    assert isnan(unjudged.success_rate)
    assert isnan(unjudged.presence_gain)
    assert unjudged.effect == 1.5


# --- order, statuses, q -----------------------------------------------------------------------------


def test_measured_come_first_by_size_then_what_was_ruled_out_then_what_no_image_could_show():
    given = [
        *rows("car", [-2.0, -2.2]),
        *rows("ball", [1.0, 1.2]),
        *rows("wordless/a", [0.1, -0.4], stage="race"),
        *rows("wordless/b", [9.0, 7.0], stage="race"),  # more than what was measured
    ]
    questions = asked("egg", "wordless/a", "ball", "doll", "wordless/b", "car", "worded/a")
    outcome = Outcome(questions, asked("ball", "car"), ineligible=asked("doll", "egg"))
    results = rank(given, outcome, TREE)
    assert [(r.concept, r.status) for r in results] == [
        ("car", "measured"),
        ("ball", "measured"),
        ("wordless/b", "ruled out"),
        ("wordless/a", "ruled out"),
        ("worded/a", "ruled out"),  # the budget ended before it was raced
        ("doll", "not eligible"),
        ("egg", "not eligible"),
    ]
    for r in results[2:]:
        assert all(isnan(x) for x in (r.effect, r.low, r.high, r.p, r.q, r.flip_rate, r.success_rate))
        assert (r.images, r.examples) == (0, ())


def test_reported_without_an_eligible_row_is_not_eligible():
    given = rows("ball", [9.0], eligible=False) + rows("car", [2.0, 2.1], stage="race")
    results = ranked(given, "ball", "car")
    assert results["ball"].status == "not eligible"
    assert results["car"].status == "not eligible"  # it was raced, but no image of the report fits
    assert results["car"].race_effect == 2.05


def test_rows_of_what_was_not_reported_are_not_measured():
    """A question that the budget left out may have leaf rows of its siblings, or race rows: no estimate."""
    result = ranked(rows("ball", [1.0, 1.1, 1.2]), "ball", reported=())["ball"]
    assert result.status == "ruled out"
    assert isnan(result.effect)


def test_q_corrects_over_measured_questions_only():
    rng = np.random.default_rng(0)
    leaves = ["ball", "car", "doll", "egg"]
    given = [r for k, leaf in enumerate(leaves) for r in rows(leaf, list(rng.normal(k / 2, 1, 9)))]
    given += rows("wordless/a", [1.0, 1.1, 1.2], stage="race")
    questions = asked("wordless/a", "wordless/b", *leaves)
    outcome = Outcome(questions, asked(*leaves), ineligible=asked("wordless/b"))
    results = rank(given, outcome, TREE)
    measured = [r for r in results if r.status == "measured"]
    assert len(measured) == 4
    expected = stats.false_discovery_control([r.p for r in measured], method="by")
    assert [r.q for r in measured] == pytest.approx(list(expected))
    assert all(isnan(r.q) for r in results if r.status != "measured")


def test_one_image_is_measured_but_finds_nothing():
    result = ranked([row("ball", 5.0)], "ball")["ball"]
    assert (result.status, result.effect, result.p, result.q) == ("measured", 5.0, 1.0, 1.0)


def test_with_nothing_asked_there_is_no_result():
    assert rank([], Outcome((), ()), TREE) == ()
    assert [r.status for r in rank([], Outcome(asked("ball"), (), ineligible=asked("ball")), TREE)] == [
        "not eligible"
    ]


# --- inner nodes ------------------------------------------------------------------------------------


def test_an_inner_node_without_words_is_the_mean_over_its_leaves_rows():
    given = rows("wordless/a", [1.0, 2.0, 3.0]) + rows("wordless/b", [3.0, 4.0]) + rows("worded/a", [50.0])
    result = ranked(given, "wordless", "wordless/a", "wordless/b")["wordless"]
    expected = mean_effect([1, 2, 3, 3, 4], ["i0", "i1", "i2", "i0", "i1"])
    assert (result.effect, result.low, result.p) == (expected.mean, expected.low, expected.p)
    assert (result.status, result.images, result.edits) == ("measured", 3, 0)


def test_an_inner_node_edited_itself_is_its_own_rows():
    given = rows("wordless/a", [9.0, 9.0]) + rows("wordless", [1.0, 2.0, 3.0], edited_as="wordless/a")
    assert ranked(given, "wordless")["wordless"].effect == 2.0
    given = rows("worded/a", [9.0, 9.0]) + rows("worded", [1.0, 2.0, 3.0])
    assert ranked(given, "worded")["worded"].effect == 2.0


def test_an_inner_node_with_words_is_not_made_of_its_leaves():
    assert ranked(rows("worded/a", [9.0, 9.0]), "worded")["worded"].status == "not eligible"


# --- examples ---------------------------------------------------------------------------------------


def test_examples_are_edits_that_happened_strongest_first_one_an_image():
    given = [
        row("ball", 9.0, "failed", presence_after=0.2),
        row("ball", 1.0, "a"),
        row("ball", 3.0, "b", seed=0),
        row("ball", 2.5, "b", seed=1),
        row("ball", -2.0, "c"),
        row("ball", 2.0, "d"),
        row("ball", 99.0, "elsewhere", eligible=False),
        row("ball", 99.0, "raced", stage="race"),
    ]
    examples = ranked(given, "ball")["ball"].examples
    assert [(e.image, e.change) for e in examples] == [("b", 3.0), ("d", 2.0), ("a", 1.0), ("c", -2.0)]
    assert len(examples) == EXAMPLES
    down = ranked([row("ball", -1.0, "a"), row("ball", -4.0, "b"), row("ball", 2.0, "c")], "ball")["ball"]
    assert [e.image for e in down.examples] == ["b", "a", "c"]
    failed = ranked([row("ball", 9.0, "x", presence_after=0.2), row("ball", 1.0, "y")], "ball")["ball"]
    assert [e.image for e in failed.examples] == ["y", "x"]


# --- the joint path ---------------------------------------------------------------------------------

STEPS = asked("ball", "car")
JOINED: dict[str, Any] = {"direction": "add + add", "stage": "joint report", "edited_as": "ball + car"}


def test_the_joint_path_is_estimated_on_its_fresh_rows():
    changes = [3.0, 4.0, 2.0, 5.0]
    given = [
        *rows("ball + car", changes, **JOINED),
        *rows("ball + car", [90.0] * 3, **JOINED | {"stage": "joint race"}),
        *rows("ball + car", [90.0], **JOINED | {"eligible": False}),
        *rows("ball + doll", [90.0], **JOINED),
        *rows("ball", [90.0, 90.0]),
    ]
    path = joint_path(given, Outcome(STEPS, STEPS, STEPS))
    expected = mean_effect(changes, range(4))
    assert path is not None
    assert (path.effect, path.low, path.high, path.p) == (3.5, expected.low, expected.high, expected.p)
    assert path.steps == ("+ball", "+car")
    assert (path.concepts, path.directions) == (("ball", "car"), ("add", "add"))
    assert (path.images, path.flip_rate) == (4, 1.0)
    assert [e.change for e in path.examples] == [5.0, 4.0, 3.0, 2.0]


def test_one_step_is_no_joint_path():
    assert joint_path(rows("ball", [1.0, 2.0]), Outcome(STEPS, STEPS, STEPS[:1])) is None
    assert joint_path([], Outcome(STEPS, STEPS)) is None


def test_the_joint_path_is_no_question_of_the_ranking():
    given = rows("ball", [1.0, 1.5]) + rows("ball + car", [9.0, 9.5], **JOINED)
    results = rank(given, Outcome(asked("ball"), asked("ball"), STEPS), TREE)
    assert [(r.concept, r.effect) for r in results] == [("ball", 1.25)]


# --- chance -----------------------------------------------------------------------------------------


def test_chance_alone_yields_a_finding_in_five_runs_of_a_hundred_at_most():
    """No concept has an effect; two seeds an image agree, so counting rows as images would find too much."""
    runs, images = 500, 6
    concepts = [c.path for c in TREE.leaves()]
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(runs):
        by_image = rng.normal(size=(len(concepts), images))
        by_row = by_image[..., None] + 0.3 * rng.normal(size=(len(concepts), images, 2))
        given = [
            row(c, float(by_row[k, i, s]), f"i{i}", seed=s)
            for k, c in enumerate(concepts)
            for i in range(images)
            for s in range(2)
        ]
        found += any(r.q < 0.05 for r in ranked(given, *concepts).values())
    assert stats.binomtest(found, runs, 0.05, alternative="greater").pvalue > 0.01
    assert found > 0  # it can fail


# --- the joint path among the questions ---------------------------------------------------------------


def test_the_joint_path_is_corrected_with_the_single_questions():
    single = rows("ball", [1.0, 1.6, 0.7, 1.4]) + rows("car", [0.2, -0.1, 0.4, 0.1])
    given = single + rows("ball + car", [3.0, 4.0, 2.0, 5.0], **JOINED)
    outcome = Outcome(STEPS, STEPS, STEPS)
    results = rank(given, outcome, TREE)
    path = joint_path(given, outcome, results)
    assert path is not None
    expected = benjamini_yekutieli([*(r.p for r in results), path.p])
    assert [*(r.q for r in results), path.q] == pytest.approx(list(expected))
    alone = rank(single, Outcome(STEPS, STEPS), TREE)
    assert [r.q for r in alone] != [r.q for r in results]


def test_the_gain_of_a_path_is_over_its_first_step_on_the_same_pictures():
    given = rows("ball", [1.0, 1.5, 0.5, 1.0, 99.0][:4]) + rows("ball + car", [3.0, 3.0, 3.0], **JOINED)
    path = joint_path(given, Outcome(STEPS, STEPS, STEPS))
    assert path is not None
    assert path.gain is not None
    assert path.gain.value == pytest.approx(2.0)  # of i0, i1, i2
    assert path.gain.low < 2.0 < path.gain.high


# --- what could have been found -----------------------------------------------------------------------


def test_the_detectable_effect_is_that_of_the_first_rank():
    given = rows("ball", [1.0, 1.6, 0.7, 1.4]) + rows("car", [0.2, -0.1, 0.4, 0.1])
    result = ranked(given, "ball", "car")["ball"]
    level = 0.05 / (2 * harmonic(2))
    assert result.detectable == pytest.approx(
        minimal_detectable(4, float(np.std([1.0, 1.6, 0.7, 1.4], ddof=1)), level)
    )
    assert isnan(ranked(given, "ball", "egg")["egg"].detectable)


# --- controls -----------------------------------------------------------------------------------------


def controls(changes: Sequence[float], weight: float = 2.0, size: float = 0.02) -> list[Effect]:
    return rows(
        "placebo", changes, stage="placebo", edited_as="", strength=weight, size=size, area=0.1,
        presence_before=nan, presence_after=nan,
    )  # fmt: skip


def test_effects_are_also_told_against_the_placebo_of_the_same_pictures():
    given = rows("ball", [1.0, 2.0, 3.0, 2.0], size=0.02, area=0.2)
    tried = controls([50.0, 50.0], weight=1.0)
    given += [*tried, *controls([0.5, 0.5, 1.5])]
    result = ranked(given, "ball")["ball"]
    assert result.effect == 2.0  # the headline is not changed by it
    assert result.beyond_placebo is not None
    assert result.beyond_placebo.value == pytest.approx(np.mean([0.5, 1.5, 1.5]))
    found = placebo(given)
    assert found is not None
    assert (found.effect, found.images, found.weight) == (pytest.approx(2.5 / 3), 3, 2.0)
    assert (found.size, found.wanted, found.wanted_area) == (0.02, 0.02, 0.2)
    assert placebo(rows("ball", [1.0])) is None
    assert ranked(rows("ball", [1.0, 2.0]), "ball")["ball"].beyond_placebo is None


def test_a_placebo_that_moves_is_told():
    still = controls([0.1, -0.1, 0.2, -0.2]) + rows("ball", [1.0, 2.0])
    moving = controls([1.1, 1.0, 1.2, 0.9]) + rows("ball", [1.0, 2.0])
    assert not placebo(still).moves  # type: ignore[union-attr]
    assert placebo(moving).moves  # type: ignore[union-attr]


def test_what_one_editor_alone_finds_is_flagged():
    strong, none = [2.0, 2.1, 1.9, 2.2, 2.0, 1.8], [0.1, -0.1, 0.2, -0.2, 0.1, -0.1]
    given = rows("ball", strong) + rows("car", strong) + rows("doll", none) + rows("egg", strong)
    for concept, changes in (("ball", strong), ("car", none), ("doll", none)):
        given += rows(concept, changes, stage="second")
    given += rows("egg", [-x for x in strong], stage="second")
    results = ranked(given, "ball", "car", "doll", "egg")
    assert {c: r.supported for c, r in results.items()} == {
        "ball": True, "car": False, "doll": None, "egg": False,
    }  # fmt: skip
    assert results["car"].second is not None
    assert results["car"].effect == 2.0  # the first editor's, as before
    agreed = second_opinion(list(results.values()))
    assert (agreed.questions, agreed.same_sign) == (4, 0.75)
    assert ranked(rows("ball", strong), "ball")["ball"].supported is None


def test_passing_edits_are_told_apart_and_the_headline_keeps_all():
    took = rows("ball", [2.0] * 15 + [2.5] * 15)
    failed = [row("ball", 0.0, f"f{k}", presence_after=0.15) for k in range(30)]
    result = ranked(took + failed, "ball")["ball"]
    assert result.effect == pytest.approx(1.125)
    assert (result.passed, result.effect_passed) == (0.5, 2.25)
    assert result.per_presence is not None
    assert result.per_presence.value == pytest.approx(1.125 / 0.425)
    assert result.per_presence.low < 1.125 / 0.425 < result.per_presence.high
    assert limits_of(took + failed).presence == pytest.approx(0.5)
