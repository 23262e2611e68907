"""From rows to the ranked answer: effects, intervals, tests, corrections. No model in sight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from math import isnan

import numpy as np
from scipy.stats import pearsonr, spearmanr

from diffexplain.corpus import Corpus
from diffexplain.records import Agreement, ConceptResult, Effect, JointPath, Question, Status
from diffexplain.search import Outcome
from diffexplain.statistics import benjamini_hochberg, mean_effect

EXAMPLES = 4  # pairs shown per concept
NAN = float("nan")

Table = dict[tuple[str, str], list[Effect]]  # rows by concept and direction


def rank(rows: Sequence[Effect], outcome: Outcome, corpus: Corpus) -> tuple[ConceptResult, ...]:
    """One result a question, measured ones first, by |effect| (log-odds).

    Only rows of images outside the race count. An inner node without words of its own that was not
    edited itself is the mean over its leaves' rows.
    """
    table: Table = defaultdict(list)
    for row in rows:
        table[row.concept, row.direction].append(row)
    results = [_result(q, table, outcome, corpus) for q in outcome.asked]
    qs = benjamini_hochberg([r.p for r in results])
    results = [replace(r, q=float(q)) for r, q in zip(results, qs, strict=True)]
    return tuple(sorted(results, key=_order))


def agreement(concepts: Sequence[ConceptResult]) -> Agreement:
    """The race's effects beside the reported ones, over single questions that have both."""
    pairs = [
        (c.race_effect, c.effect) for c in concepts if c.status == "measured" and not isnan(c.race_effect)
    ]
    screened, confirmed = np.array(pairs).reshape(-1, 2).T
    enough = len(pairs) > 2 and np.ptp(screened) > 0 and np.ptp(confirmed) > 0
    return Agreement(
        questions=len(pairs),
        correlation=float(pearsonr(screened, confirmed).statistic) if enough else NAN,
        rank_correlation=float(spearmanr(screened, confirmed).statistic) if enough else NAN,
        same_sign=float((np.sign(screened) == np.sign(confirmed)).mean()) if pairs else NAN,
    )


def _order(result: ConceptResult) -> tuple[int, float, str, str]:
    strength = result.effect if result.status == "measured" else result.race_effect
    weight = 0.0 if isnan(strength) else abs(strength)
    standing = ("measured", "ruled out", "not eligible").index(result.status)
    return (standing, -weight, result.concept, result.direction)


def _result(question: Question, table: Table, outcome: Outcome, corpus: Corpus) -> ConceptResult:
    direction = question.directions[0]
    node = corpus[question.concept]
    reported = question in outcome.reported
    mine = table.get((question.concept, direction), [])
    under = [r for leaf in node.leaves for r in table.get((leaf, direction), [])]
    own = [r for r in mine if r.stage == "report"]
    if not own and not node.prompt:
        own = [r for r in under if r.stage == "report"]
    kept = [r for r in own if r.eligible] if reported else []
    raced = [r.change for r in under if r.stage == "race" and r.eligible]
    status: Status = "measured" if kept else "ruled out"
    if not kept and (reported or question in outcome.ineligible):
        status = "not eligible"
    effect = mean_effect([r.change for r in kept], [r.image for r in kept])
    odds = mean_effect([r.probability_change for r in kept], [r.image for r in kept])
    return ConceptResult(
        concept=question.concept,
        direction=direction,
        status=status,
        effect=effect.mean,
        low=effect.low,
        high=effect.high,
        effect_probability=odds.mean,
        p=effect.p if kept else NAN,
        q=NAN,
        flip_rate=_mean([r.flipped for r in kept]),
        presence_gain=_mean([r.gain for r in kept]),
        success_rate=_mean([r.succeeded for r in kept if not isnan(r.presence_after)]),
        outside=_mean([r.outside for r in kept]),
        images=len({r.image for r in kept}),
        edits=len(mine),
        race_effect=_mean(raced),
        examples=_examples(kept, effect.mean),
    )


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not isnan(v)]
    return float(np.mean(known)) if known else NAN


def _examples(rows: Sequence[Effect], effect: float) -> tuple[Effect, ...]:
    """Edits that happened first, strongest in the effect's direction, one an image."""
    sign = 1.0 if isnan(effect) or effect >= 0 else -1.0
    best: dict[str, Effect] = {}
    for row in sorted(rows, key=lambda r: (not r.succeeded, -sign * r.change)):
        best.setdefault(row.image, row)
    return tuple(list(best.values())[:EXAMPLES])


def joint_path(rows: Sequence[Effect], outcome: Outcome) -> JointPath | None:
    """The joint combination that the search accepted, estimated on the report's images."""
    path = outcome.path
    if path is None:
        return None
    mine = [r for r in rows if (r.concept, r.direction) == (path.concept, path.direction)]
    kept = [r for r in mine if r.stage == "joint report" and r.eligible]
    estimate = mean_effect([r.change for r in kept], [r.image for r in kept])
    return JointPath(
        steps=tuple(str(q) for q in outcome.joint),
        concepts=path.concepts,
        directions=path.directions,
        effect=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        p=estimate.p,
        images=len({r.image for r in kept}),
        flip_rate=_mean([r.flipped for r in kept]),
        examples=_examples(kept, estimate.mean),
    )
