"""The plan against the search it predicts, the test it quotes, and what it must not load."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from math import isnan, sqrt
from typing import Any

import numpy as np
import pytest
from scipy import stats

from diffexplain import planning
from diffexplain.controls import ControlOptions, controlled
from diffexplain.corpus import Corpus, load_corpus, parse_corpus
from diffexplain.editors import EditorShape
from diffexplain.planning import Plan, detectable_effect, plan
from diffexplain.records import Ask, Effect
from diffexplain.search import MINIMUM, Outcome, SearchOptions, search, split
from diffexplain.statistics import benjamini_yekutieli, harmonic, mean_effect

SHAPE = EditorShape("toy", size=16, steps=40, operations=0.0, default_judge="pocket", default_segmenter=None)
TREE = parse_corpus(
    "name: toys\ndomain: toys\nprompt: a toy with {phrase}\nneutral: a toy\nconcepts:\n"
    + "".join(f"  - {{name: g{i}, children: [{{name: a}}, {{name: b}}, {{name: c}}]}}\n" for i in range(6))
    + "  - {name: worded, phrase: a word, directions: [add], children: [{name: a}, {name: b}]}\n"
)


def images(n: int) -> list[str]:
    return [f"image-{i}" for i in range(n)]


def eligible(image: int, seed: int, concept: str, direction: str) -> bool:
    """What a plan assumes, before anything was looked at."""
    return direction == "add" or (image + len(concept)) % 5 == 0


def searched(
    tree: Corpus, n: int, seeds: int, options: SearchOptions, salt: int
) -> tuple[list[Ask], Outcome]:
    """A real search, and its controls, over scores of nothing but noise."""
    rng = np.random.default_rng(salt)
    played = search(tree, images(n), seeds, eligible, options)
    rounds, asks = controlled(played, split(images(n), options.method)[1], ControlOptions()), []
    try:
        asked = next(rounds)
        while True:
            asks += asked
            asked = rounds.send([_noise(a, images(n), float(rng.normal())) for a in asked])
    except StopIteration as stop:
        return asks, stop.value


def _noise(ask: Ask, pictures: list[str], change: float) -> Effect:
    where = (pictures[ask.image], ask.seed, ask.question.concept, ask.question.direction, "", 1.0, ask.stage)
    return Effect(*where, True, 0.0, change, 0.5, 0.5, 0.0, 1.0, 0.0, "", "", 0, 0, size=0.01)


def evaluations(asks: list[Ask], steps: int, inverted: int) -> int:
    """One of the source prompt and one for each other at each step; inverting is such a step."""
    return sum(steps + steps * len(a.question.concepts) for a in asks) + steps * inverted


@pytest.mark.parametrize(("n", "seeds"), [(5, 1), (12, 2)])
@pytest.mark.parametrize("directions", [("add",), ("remove",), ("add", "remove")])
def test_an_exhaustive_plan_is_exactly_what_is_asked(n: int, seeds: int, directions: Any):
    options = SearchOptions(method="exhaustive", directions=directions)
    found = plan(TREE, images(n), seeds, options, SHAPE)
    asks, outcome = searched(TREE, n, seeds, options, salt=1)
    assert found.edits == len(asks)
    assert found.questions == len(outcome.reported)
    assert found.evaluations == evaluations(asks, 40, n * seeds)
    assert (found.images, found.report_images, found.concepts) == (n, n, len(TREE))


@pytest.mark.parametrize("tree", [TREE, load_corpus("avatars")])
@pytest.mark.parametrize(("n", "seeds"), [(8, 1), (24, 2)])
def test_a_plan_of_a_race_comes_close_to_what_is_asked(tree: Corpus, n: int, seeds: int):
    options = SearchOptions()
    found = plan(tree, images(n), seeds, options, SHAPE)
    played = [searched(tree, n, seeds, options, salt) for salt in range(3)]
    edits = np.mean([len(asks) for asks, _ in played])
    spent = np.mean([evaluations(asks, 40, n * seeds) for asks, _ in played])
    reported = np.mean([len(outcome.reported) for _, outcome in played])
    assert found.edits == pytest.approx(edits, rel=0.2)
    assert found.evaluations == pytest.approx(spent, rel=0.2)
    assert found.questions == pytest.approx(reported, rel=0.3)
    assert found.report_images == n - n // 2
    assert found.bytes == pytest.approx((found.edits + 2 * n * seeds) * 256 * 2.2, rel=0.01)


def test_a_plan_keeps_the_budget_and_says_what_it_costs():
    options = SearchOptions(budget=60)
    found = plan(TREE, images(16), 1, options, SHAPE)
    assert found.edits <= 60
    assert any("budget of 60 edits" in warning for warning in found.warnings)


def test_a_second_opinion_makes_the_reports_edits_again():
    options = SearchOptions(method="exhaustive")
    one, two = (plan(TREE, images(16), 1, options, SHAPE, second=s) for s in (False, True))
    asks, _ = searched(TREE, 16, 1, options, salt=1)
    assert two.edits - one.edits == sum(a.stage == "report" for a in asks)


def test_the_same_plan_is_made_twice():
    assert same(plan(TREE, images(16), 1, SearchOptions(), SHAPE)) == same(
        plan(TREE, images(16), 1, SearchOptions(), SHAPE)
    )


def same(found: Plan) -> Plan:
    return replace(found, seconds=0.0)


def test_a_plan_without_a_possible_question_is_empty():
    tree = parse_corpus(
        "name: toys\ndomain: toys\nprompt: a toy with {phrase}\nneutral: a toy\n"
        "concepts: [{name: sun, directions: [add]}]\n"
    )
    found = plan(tree, images(16), 1, SearchOptions(directions=("remove",)), SHAPE)
    assert (found.edits, found.questions) == (0, 0)
    assert found.evaluations == 40 * 16


def test_seconds_are_work_over_speed_and_unknown_where_the_work_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "speed", lambda: 2e9)
    found = plan(TREE, images(8), 1, SearchOptions(), replace(SHAPE, operations=5e6))
    assert found.seconds == pytest.approx(found.evaluations * 5e6 / 2e9)
    assert isnan(plan(TREE, images(8), 1, SearchOptions(), SHAPE).seconds)


def test_the_speed_of_this_machine_is_plausible():
    assert 1e7 < planning.speed() < 1e15


# --- what could be found ----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 4, 8, 40])
@pytest.mark.parametrize("questions", [1, 20])
def test_the_detectable_effect_is_where_q_reaches_one_in_twenty(n: int, questions: int):
    """In units of the spread over images; the other questions show nothing."""
    rng = np.random.default_rng(n)
    values = rng.normal(size=n)
    values = (values - values.mean()) / values.std(ddof=1)
    bar = detectable_effect(n, questions)
    assert stats.ttest_1samp(values + bar, 0).pvalue * questions * harmonic(questions) == pytest.approx(0.05)
    for factor, passes in ((1.001, True), (0.999, False)):
        p = mean_effect(values + bar * factor, np.arange(n)).p
        assert (benjamini_yekutieli([p] + [1.0] * (questions - 1))[0] < 0.05) == passes


def test_an_effect_at_the_bar_is_found_half_of_the_time():
    rng = np.random.default_rng(0)
    n, questions = 12, 10
    draws = rng.normal(detectable_effect(n, questions), 1, (4000, n))
    t = draws.mean(1) / (draws.std(1, ddof=1) / sqrt(n))
    found = np.mean(2 * stats.t.sf(np.abs(t), n - 1) < 0.05 / (questions * harmonic(questions)))
    assert 0.45 < found < 0.6


def test_one_image_detects_nothing():
    assert detectable_effect(1, 1) == detectable_effect(0, 5) == float("inf")


def test_few_images_for_many_questions_are_warned_of():
    few = plan(TREE, images(MINIMUM), 1, SearchOptions(), SHAPE)  # 4 in the report
    (warning,) = few.warnings
    assert f"4 images in the report are few for {few.questions} questions" in warning
    assert f"{few.detectable:.1f} standard deviations" in warning
    assert few.detectable == detectable_effect(4, few.questions) > 3
    assert plan(TREE, images(40), 1, SearchOptions(), SHAPE).warnings == ()


def test_too_few_images_to_race_are_warned_of():
    found = plan(TREE, images(MINIMUM - 1), 1, SearchOptions(), SHAPE)
    assert "too few to race and report apart" in found.warnings[0]
    assert found.report_images == MINIMUM - 1


# --- what is not loaded -----------------------------------------------------------------------------

PROGRAM = """
import sys
from diffexplain.corpus import load_corpus
from diffexplain.editors import EditorShape
from diffexplain.planning import plan
from diffexplain.search import SearchOptions
shape = EditorShape("toy", 16, 40, 1e6, "pocket", None)
print(plan(load_corpus("avatars"), [str(i) for i in range(8)], 1, SearchOptions(), shape).edits)
print(sorted({"diffusers", "transformers", "timm"} & set(sys.modules)))
"""


def test_planning_loads_no_model_library():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    edits, loaded = done.stdout.split("\n", 1)
    assert int(edits) > 100
    assert loaded.strip() == "[]"
