"""From all rows of a run to its result: ranking, controls, and what a reader must know."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from diffexplain import controls
from diffexplain.corpus import Corpus
from diffexplain.gate import entanglement, readings
from diffexplain.ranking import agreement, joint_path, limits_of, placebo, rank, second_opinion
from diffexplain.records import ConceptResult, Cost, Drift, Effect, Request, Result
from diffexplain.search import Outcome


class Base(NamedTuple):
    """The reconstructions, from which everything is measured."""

    score: float  # mean, log-odds
    drift: Drift


def ranked(
    request: Request,
    corpus: Corpus,
    rows: Sequence[Effect],
    outcome: Outcome,
    base: Base,
    cost: Cost,
    notes: Sequence[str] = (),
) -> Result:
    """The result of a run. `notes`: what else is to be said, after the warnings."""
    concepts = rank(rows, outcome, corpus)
    control = placebo(rows)
    return Result(
        request=request,
        score_mean=base.score,
        concepts=concepts,
        joint=joint_path(rows, outcome, concepts),
        drift=base.drift,
        cost=cost,
        agreement=agreement(concepts) if request.screen else None,
        notes=(
            *controls.notes(control, concepts, request.second),
            *controls.shared_weights(request.classifier, request.judge),
            *_warnings(request, concepts, base.drift),
            *outcome.notes,
            *notes,
        ),
        placebo=control,
        gate=limits_of(rows),
        entanglement=entanglement(readings(rows)),
        second=second_opinion(concepts) if request.second else None,
    )


def _warnings(request: Request, concepts: Sequence[ConceptResult], drift: Drift) -> Iterator[str]:
    """What a reader must know before believing the numbers."""
    measured = [c for c in concepts if c.status == "measured"]
    failed = [c for c in measured if c.success_rate < 0.5]
    if failed:
        names = ", ".join(c.concept for c in failed[:5]) + (" …" if len(failed) > 5 else "")
        yield f"{len(failed)} concepts mostly failed to appear, so a small effect means little: {names}"
    largest = max((abs(c.effect) for c in measured), default=0.0)
    if drift.score > 0.5 and drift.score > 0.5 * largest:
        yield (
            f"reconstruction alone moves the score by {drift.score:.2f} log-odds on average; "
            "effects are measured from the reconstruction, but read them with care"
        )
    if request.segmenter is None:
        yield "no segmenter was given, so locality of the edits was not checked"
    if measured and all(math.isnan(c.q) or c.q >= 0.05 for c in measured):
        yield "no effect passes q < 0.05: nothing here is more than chance could do"
