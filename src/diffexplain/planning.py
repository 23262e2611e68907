"""What a run will cost and what it can find, before any model is loaded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t as student

from diffexplain.controls import ControlOptions, controlled
from diffexplain.corpus import Corpus
from diffexplain.editors import EditorShape
from diffexplain.records import RACING, Ask, Direction, Effect
from diffexplain.search import Outcome, Rounds, SearchOptions, search, split
from diffexplain.statistics import harmonic

PLAYS = 5
PICTURE_BYTES = 2.2  # of a lossless picture, per pixel


@dataclass(frozen=True, slots=True)
class Plan:
    """The predicted cost of a run; the search decides as it goes, so counts are estimates."""

    images: int
    report_images: int
    concepts: int
    questions: int  # likely to be measured outside the race
    edits: int
    evaluations: int
    seconds: float  # nan when the editor is not on this machine yet
    bytes: int
    detectable: float  # smallest |effect| that could pass q < 0.05, in standard deviations of Δ over images
    warnings: tuple[str, ...]


def plan(
    corpus: Corpus,
    images: Sequence[str],
    seeds: int,
    options: SearchOptions,
    shape: EditorShape,
    screen: EditorShape | None = None,
    *,
    second: bool = False,
    slides: Sequence[float] = (),
) -> Plan:
    """Play the search against random scores a few times, every fifth removal being possible, and count.

    `screen`: the editor of the race, where it is another; `second`: a second opinion is asked; `slides`:
    other strengths of the strongest pairs. The play of middle length is what is planned, with all of these.
    """

    def eligible(image: int, seed: int, concept: str, direction: Direction) -> bool:
        return direction == "add" or (image + len(concept)) % 5 == 0

    _, report = split(images, options.method)
    reserve = None if options.budget is None else options.reserve
    asked = ControlOptions(second=second, reserve=reserve, slides=tuple(slides))

    def rounds() -> Rounds:
        return controlled(search(corpus, images, seeds, eligible, options), report, asked)

    plays = [_played(rounds(), images, np.random.default_rng(play)) for play in range(PLAYS)]
    made, outcome = sorted(plays, key=lambda play: len(play[0]))[PLAYS // 2]
    edits = len(made)
    used = {stage: screen if screen and stage in RACING else shape for stage in {a.stage for a in made}}
    evaluations = sum(used[a.stage].steps * (1 + max(1, len(a.edited_as))) for a in made)
    evaluations += (shape.steps * (1 + second) + (screen.steps if screen else 0)) * len(images) * seeds
    detectable = detectable_effect(len(report), max(1, len(outcome.reported)))
    warnings = list(outcome.notes)
    if detectable > 3:
        warnings.append(
            f"{len(report)} images in the report are few for {len(outcome.reported)} questions: only "
            f"effects above {detectable:.1f} standard deviations can reach q < 0.05; "
            "give more images or fewer concepts"
        )
    return Plan(
        images=len(images),
        report_images=len(report),
        concepts=len(corpus),
        questions=len(outcome.reported),
        edits=edits,
        evaluations=evaluations,
        seconds=evaluations * shape.operations / speed() if shape.operations else float("nan"),
        bytes=int((edits + 2 * len(images) * seeds) * (shape.size or 512) ** 2 * PICTURE_BYTES),
        detectable=detectable,
        warnings=tuple(warnings),
    )


def _played(rounds: Rounds, images: Sequence[str], rng: np.random.Generator) -> tuple[list[Ask], Outcome]:
    """Answer every round with imagined rows: all that was asked, and what the search decided."""
    made: list[Ask] = []
    try:
        asks = next(rounds)
        while True:
            made.extend(asks)
            asks = rounds.send([_imagined(a, images, rng) for a in asks])
    except StopIteration as stop:
        return made, stop.value


def _imagined(ask: Ask, images: Sequence[str], rng: np.random.Generator) -> Effect:
    return Effect(
        image=images[ask.image],
        seed=ask.seed,
        concept=ask.question.concept,
        direction=ask.question.direction,
        edited_as="",
        strength=1.0,
        stage=ask.stage,
        eligible=True,
        score_before=0.0,
        score_after=float(rng.normal()),
        probability_before=0.5,
        probability_after=0.5,
        presence_before=0.0,
        presence_after=1.0,
        outside=0.0,
        reconstruction="",
        edited="",
        evaluations=0,
        batch=0,
        size=0.01,
    )


def detectable_effect(images: int, questions: int) -> float:
    """The smallest mean, in standard deviations over images, whose p passes the first rank's bar.

    Of Benjamini–Yekutieli: t(1 - 0.025/(m·(1 + 1/2 + … + 1/m)), n - 1) / √n.
    """
    if images < 2:
        return float("inf")
    level = 0.025 / (questions * harmonic(questions))
    return float(student.ppf(1 - level, images - 1) / np.sqrt(images))


def speed() -> float:
    """Operations a second of this machine in small convolutions, measured for a moment."""
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(16, 64, 16, 16).to(memory_format=torch.channels_last)
    with torch.no_grad():
        layer(x)
        start = time.perf_counter()
        for _ in range(8):
            layer(x)
        seconds = time.perf_counter() - start
    return 8 * 16 * 256 * 64 * 64 * 9 * 2 / seconds / 2  # a UNet reaches about half of that
