"""Finished run folders of coloured squares, quick to make and to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffexplain.records import (
    Effect,
    Sample,
    SynthesisCost,
    SynthesisRequest,
    SynthesisResult,
    TargetResult,
)
from diffexplain.store import Run
from tests import factories

CONCEPTS = (
    "hat/red",
    "hat/blue",
    "beard",
    "glasses/round",
    "smile",
    "background/green",
    "hair/long",
    "scarf",
)
IMAGES, SIDE = 4, 48


def squares(keep: factories.Pictures, seed: int, many: int) -> list[str]:
    """Names of pictures of one colour each, with a darker square."""
    rng = np.random.default_rng(seed)
    names = []
    for _ in range(many):
        picture = np.full((SIDE, SIDE, 3), rng.integers(90, 250, 3), np.uint8)
        x, y = rng.integers(0, SIDE - 16, 2)
        picture[y : y + 16, x : x + 16] //= 2
        names.append(keep.keep(picture))
    return names


def explained(folder: Path, seed: int = 0, concepts: tuple[str, ...] = CONCEPTS, **asked: str) -> Path:
    """A finished run of `explain` whose effects shrink from concept to concept."""
    keep = factories.Pictures()
    inputs = squares(keep, 99, IMAGES)
    rows: list[Effect] = []
    for k, concept in enumerate(concepts):
        edited = squares(keep, seed * 100 + k, IMAGES)
        rows += [
            factories.effect(inputs[i], edited[i], concept=concept, image=inputs[i], after=2 - k / 4)
            for i in range(IMAGES)
        ]
    results = [factories.concept_result(c, effect=3 - k / 4, q=0.01) for k, c in enumerate(concepts)]
    settings = {"labels": ["rejected", "hired"]}
    given = {"images": tuple(inputs), "names": tuple(map(str, range(IMAGES))), "settings": settings, **asked}
    with Run.open(folder, factories.request(**given)) as run:
        run.record_inputs(keep.stored)
        run.append(0, rows, {})
        run.write_result(factories.result(results, **given))
    return folder


def synthesised(folder: Path) -> Path:
    """A finished run of `synthesize` with two targets and real pictures."""
    keep = factories.Pictures()
    shots = squares(keep, 7, 12)
    request = SynthesisRequest(
        "pocket:hired", ("hired", "rejected"), "pocket", "", ("", ""), "pocket", None, (), (), 4
    )
    kinds = (("hired", "optimised"), ("rejected", "optimised"), ("hired", "real"))
    samples = [
        Sample(target, origin, -1 if origin == "real" else 0, i, 1.0, True, 1.0, shots[4 * k + i], 0)  # type: ignore[arg-type]
        for k, (target, origin) in enumerate(kinds)
        for i in range(4)
    ]
    targets = tuple(
        TargetResult(t, "class", (), 0, *[0.0] * 6, True, *[0.5] * 5, "", "") for t in request.targets
    )
    with Run.open(folder, request) as run:
        run.append(0, samples, keep.stored)
        run.write_result(SynthesisResult(request, targets, SynthesisCost(1, 1, 1.0), ()))
    return folder
