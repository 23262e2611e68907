"""What is asked after the search: placebo edits, a second editor's, other strengths; what they say.

A placebo is guidance towards nothing in particular, the picture's own caption with its words shuffled, made
as large as the run's median edit: its weight is found on a few pictures, then it is made once a picture of
the report. (The empty prompt has no guidance and is no placebo.)
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from math import log2
from statistics import median

from diffexplain.records import PLACEBO, Ask, ConceptResult, Effect, Placebo, Question
from diffexplain.search import Outcome, Rounds

TRIED = 4  # pictures on which the placebo's weight is found
TRIES = 3
SLID = 8  # questions whose strongest pair is made at other strengths too
LEAST, MOST = 1 / 16, 16.0  # weight of a placebo's guidance


@dataclass(frozen=True, slots=True)
class ControlOptions:
    """Which controls follow a search."""

    second: bool = False
    reserve: int | None = None  # placebo edits that a budget pays for; None: as many as it takes
    slides: tuple[float, ...] = ()  # other strengths, times the run's


def reserved(budget: int | None, report: int) -> int:
    """Edits of a budget that are kept for the placebo: a tenth at most. 0 without a budget."""
    return 0 if budget is None else min(report + TRIED * TRIES, budget // 10)


def controlled(rounds: Rounds, report: Sequence[int], options: ControlOptions) -> Rounds:
    """The search's rounds, then those of its controls; returns what the search decided.

    `report`: indices of the report's images.
    """
    asked: list[Ask] = []
    rows: list[Effect] = []
    try:
        asks = next(rounds)
        while True:
            new = yield asks
            asked += asks
            rows += new
            asks = rounds.send(new)
    except StopIteration as stop:
        outcome: Outcome = stop.value
    reported = [r.size for r in rows if r.stage == "report" and r.eligible]
    if reported and median(reported) > 0:
        yield from _placebo(report, median(reported), options.reserve)
    again = [replace(a, stage="second") for a in asked if a.stage == "report"]
    if options.second and again:
        yield again
    slid = _slid(asked, rows, options.slides)
    if slid:
        yield slid
    return outcome


def _slid(asked: Sequence[Ask], rows: Sequence[Effect], slides: Sequence[float]) -> list[Ask]:
    """For the questions of largest effect, the picture that went furthest along, at other strengths."""
    found: dict[Question, list[tuple[float, Ask]]] = {}
    for ask, row in zip(asked, rows, strict=True):
        if row.stage == "report" and row.eligible:
            found.setdefault(ask.question, []).append((row.change, ask))
    means = {question: sum(change for change, _ in own) / len(own) for question, own in found.items()}
    strongest = sorted(means, key=lambda q: -abs(means[q]))[:SLID]
    shown = [max(found[q], key=lambda one: one[0] * (1 if means[q] > 0 else -1))[1] for q in strongest]
    return [replace(ask, stage="slide", weight=weight) for ask in shown for weight in slides]


def _placebo(
    report: Sequence[int], wanted: float, left: int | None
) -> Generator[list[Ask], Sequence[Effect], None]:
    """Find the weight at which a placebo is as large as the median edit, then make one a picture."""
    whole = left is None or left >= len(report) + TRIES * TRIED
    rounds = TRIES if whole else min(TRIES, (left or 0) // (2 * TRIED))
    few = len(report) if whole else min(len(report), (left or 0) - rounds * TRIED)
    if few < 1:
        return
    weight, tried = 1.0, list(report[: min(TRIED, few)])
    for _ in range(rounds):
        rows = yield _asks(tried, weight)
        size = sum(r.size for r in rows) / len(rows)
        if not size:
            weight = MOST
            break
        weight = _stepped(min(MOST, max(LEAST, weight * wanted / size)))
    yield _asks(report[:few], weight)


def _stepped(weight: float) -> float:
    """To the next of eight steps an octave: finer than a placebo's size can be told."""
    return float(2 ** (round(8 * log2(weight)) / 8))


def _asks(images: Sequence[int], weight: float) -> list[Ask]:
    question = Question.single(PLACEBO)
    return [Ask(i, 0, question, (), "placebo", weight) for i in images]


def notes(found: Placebo | None, concepts: Sequence[ConceptResult], second: str | None) -> list[str]:
    """What a reader must know of the controls, most important first."""
    said = []
    if found is None:
        said.append("no placebo was made: the budget left nothing for it, or no edit moved a picture")
    elif found.moves:
        said.append(
            f"a placebo moves the score by {found.effect:+.2f} log-odds ({found.low:+.2f} to "
            f"{found.high:+.2f}): edits that ask for nothing do that, so read effects against it"
        )
    if found and not 0.5 <= found.size / found.wanted <= 2:
        said.append(
            f"the placebo changes pictures by {found.size:.4f} on average, the median edit by "
            f"{found.wanted:.4f}: its guidance could not be scaled to that"
        )
    alone = [c for c in concepts if c.supported is False]
    if second and alone:
        names = ", ".join(f"{c.direction} {c.concept}" for c in alone[:5]) + (" …" if len(alone) > 5 else "")
        said.append(
            f"{len(alone)} effects are found by one of the two editors only ({second} is the other): {names}"
        )
    return said


def shared_weights(classifier: str, judge: str) -> list[str]:
    """A warning where the judge that checks the edits is the model that is explained."""
    if classifier.startswith("clip:") and classifier.partition("@")[0] == judge.partition("@")[0]:
        return [
            f"the judge {judge} shares its weights with the classifier {classifier}: what fools one fools "
            "the other; give another --judge"
        ]
    return []
