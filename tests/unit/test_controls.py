"""What follows a search: a placebo as large as the median edit, and the same questions of a second editor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from diffexplain.controls import (
    MOST,
    TRIED,
    TRIES,
    ControlOptions,
    controlled,
    notes,
    reserved,
    shared_weights,
)
from diffexplain.records import Ask, Effect, Placebo, Question
from diffexplain.search import Outcome, Rounds
from tests.unit.test_ranking import ranked, row, rows

BALL = Question.single("ball")
OUTCOME = Outcome((BALL,), (BALL,))


def searching(images: Sequence[int]) -> Rounds:
    """A search that asks one round and is done."""
    answer = yield [Ask(i, 0, BALL, ("ball",), "report") for i in images]
    assert len(answer) == len(images)
    return OUTCOME


def followed(
    options: ControlOptions, size: Callable[[Ask], float], images: Sequence[int] = range(10)
) -> list[list[Ask]]:
    """All rounds, for edits of these sizes."""
    rounds, made = controlled(searching(images), images, options), []
    try:
        asks = next(rounds)
        while True:
            made.append(asks)
            asks = rounds.send([_answer(a, size(a)) for a in asks])
    except StopIteration as stop:
        decided = stop.value
    assert decided is OUTCOME
    return made


def _answer(ask: Ask, size: float) -> Effect:
    return row(ask.question.concept, 1.0, f"i{ask.image}", stage=ask.stage, size=size, strength=ask.weight)


@pytest.mark.parametrize("gain", [0.3, 1.0, 7.0])
def test_the_placebo_is_scaled_to_the_median_edit(gain: float):
    """Its size grows more slowly than its weight, as a picture's does."""

    def size(ask: Ask) -> float:
        return 0.02 if ask.stage == "report" else 0.01 * gain * ask.weight**0.8

    _, *tries, last = followed(ControlOptions(), size)
    assert len(tries) == TRIES
    assert all(len(asks) == TRIED for asks in tries)
    assert [a.image for a in last] == list(range(10))
    assert all((a.stage, a.edited_as) == ("placebo", ()) for a in last)
    assert size(last[0]) == pytest.approx(0.02, rel=0.1)


def test_what_cannot_be_scaled_stops_at_the_most():
    *_, last = followed(ControlOptions(), lambda a: 0.02 if a.stage == "report" else 0.0)
    assert last[0].weight == MOST


def test_edits_that_move_nothing_have_no_placebo():
    assert len(followed(ControlOptions(), lambda a: 0.0)) == 1


def test_a_second_editor_is_asked_the_same():
    first, *_, last = followed(ControlOptions(second=True), lambda a: 0.02)
    assert last == [replace(a, stage="second") for a in first]


@pytest.mark.parametrize("budget", [None, 5, 20, 90, 1000])
def test_controls_keep_to_what_was_reserved(budget: int | None):
    kept = reserved(budget, 10)
    options = ControlOptions(reserve=None if budget is None else kept)
    made = followed(options, lambda a: 0.02)[1:]
    spent = sum(map(len, made))
    assert spent == 10 + TRIED * TRIES if budget in (None, 1000) else spent <= kept <= budget / 10


PLACEBO = Placebo(0.5, 0.2, 0.8, 0.01, 8, 0.02, 0.02, 0.1, 0.1, 1.0)


def test_notes_say_what_a_reader_must_know():
    assert notes(replace(PLACEBO, p=0.4), (), None) == []
    (moves,) = notes(PLACEBO, (), None)
    assert "a placebo moves the score by +0.50" in moves
    (small,) = notes(replace(PLACEBO, p=0.4, size=0.002), (), None)
    assert "could not be scaled" in small
    assert "no placebo" in notes(None, (), None)[0]
    strong = [2.0, 2.1, 1.9, 2.2, 2.0, 1.8]
    given = rows("ball", strong) + rows("ball", [0.1, -0.1] * 3, stage="second")
    (alone,) = notes(replace(PLACEBO, p=0.4), [ranked(given, "ball")["ball"]], "turbo")
    assert "add ball" in alone
    assert "turbo" in alone


def test_a_judge_that_is_the_classifier_is_warned_of():
    assert shared_weights("clip:openai/clip-vit-base-patch32", "clip:openai/clip-vit-base-patch32")
    assert not shared_weights("clip:openai/clip-vit-base-patch32", "clip:openai/clip-vit-large-patch14")
    assert not shared_weights("pocket:hired", "pocket")


def test_the_strongest_pair_of_a_question_is_made_at_other_strengths():
    def size(ask: Ask) -> float:
        return 0.02

    *_, slid = followed(ControlOptions(slides=(0.5, 2.0)), size)
    assert [(a.stage, a.weight) for a in slid] == [("slide", 0.5), ("slide", 2.0)]
    assert {(a.question, a.edited_as, a.image) for a in slid} == {(BALL, ("ball",), 0)}
    assert "slide" not in {a.stage for asks in followed(ControlOptions(), size) for a in asks}
