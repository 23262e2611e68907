"""From rows to the ranked answer: effects, intervals, tests, corrections. No model in sight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from math import isnan

import numpy as np
from scipy.stats import pearsonr, spearmanr

from diffexplain.corpus import Corpus
from diffexplain.gate import calibrate, partial_effects, passed, readings
from diffexplain.records import (
    PLACEBO,
    Agreement,
    ConceptResult,
    Effect,
    GateLimits,
    Interval,
    JointPath,
    Placebo,
    Question,
    Status,
)
from diffexplain.search import Outcome
from diffexplain.statistics import (
    Estimate,
    benjamini_yekutieli,
    harmonic,
    mean_effect,
    minimal_detectable,
    paired_difference,
    ratio,
)

EXAMPLES = 4  # pairs shown per concept
ALPHA = 0.05
NAN = float("nan")

Table = dict[tuple[str, str], list[Effect]]  # rows by concept and direction


def rank(rows: Sequence[Effect], outcome: Outcome, corpus: Corpus) -> tuple[ConceptResult, ...]:
    """One result a question, measured ones first, by |effect| (log-odds).

    Only rows of images outside the race count. An inner node without words of its own that was not
    edited itself is the mean over its leaves' rows. q is over all questions measured and the joint path.
    """
    table: Table = defaultdict(list)
    for row in rows:
        table[row.concept, row.direction].append(row)
    limits = limits_of(rows)
    results = [_result(q, table, outcome, corpus, limits) for q in outcome.asked]
    path = _path_estimate(rows, outcome)
    qs = benjamini_yekutieli([*(r.p for r in results), path.p if path else NAN])
    partial = partial_effects(readings(rows))
    questions = sum(r.status == "measured" for r in results) + (path is not None)
    level = ALPHA / (questions * harmonic(questions)) if questions else ALPHA
    results = [
        replace(
            r,
            q=float(q),
            partial=partial.get((r.concept, r.direction), NAN),
            detectable=_detectable(table[r.concept, r.direction], level) if r.status == "measured" else NAN,
        )
        for r, q in zip(results, qs[:-1], strict=True)
    ]
    return tuple(sorted(_seconded(results, rows), key=_order))


def limits_of(rows: Sequence[Effect]) -> GateLimits:
    """The gate's limits, from the rows outside the race."""
    return calibrate([r for r in rows if r.stage == "report"])


def agreement(concepts: Sequence[ConceptResult]) -> Agreement:
    """The race's effects beside the reported ones, over single questions that have both."""
    return _compared([(c.race_effect, c.effect) for c in concepts if c.status == "measured"])


def second_opinion(concepts: Sequence[ConceptResult]) -> Agreement:
    """The second editor's effects beside the first's, of the same pictures."""
    return _compared([(c.second.value, c.effect) for c in concepts if c.second])


def _compared(effects: Sequence[tuple[float, float]]) -> Agreement:
    pairs = [(a, b) for a, b in effects if not isnan(a)]
    theirs, ours = np.array(pairs).reshape(-1, 2).T
    enough = len(pairs) > 2 and np.ptp(theirs) > 0 and np.ptp(ours) > 0
    return Agreement(
        questions=len(pairs),
        correlation=float(pearsonr(theirs, ours).statistic) if enough else NAN,
        rank_correlation=float(spearmanr(theirs, ours).statistic) if enough else NAN,
        same_sign=float((np.sign(theirs) == np.sign(ours)).mean()) if pairs else NAN,
    )


def _seconded(results: Sequence[ConceptResult], rows: Sequence[Effect]) -> list[ConceptResult]:
    """The results with what a second editor found for each, corrected over all that it was asked."""
    table: Table = defaultdict(list)
    for row in rows:
        if row.stage == "second" and row.eligible:
            table[row.concept, row.direction].append(row)
    if not table:
        return list(results)
    kept = [table[r.concept, r.direction] if r.status == "measured" else [] for r in results]
    found = [mean_effect([e.change for e in k], [e.image for e in k]) for k in kept]
    qs = benjamini_yekutieli([e.p if k else NAN for e, k in zip(found, kept, strict=True)])
    return [
        replace(r, second=_interval(e), second_q=float(q), supported=_supported(r, e.mean, float(q)))
        if k
        else r
        for r, e, k, q in zip(results, found, kept, qs, strict=True)
    ]


def _supported(result: ConceptResult, second: float, q: float) -> bool | None:
    """Whether both editors find the effect with one sign; None where neither finds one."""
    ours, theirs = result.q < ALPHA, q < ALPHA
    if not (ours or theirs):
        return None
    return ours and theirs and second * result.effect > 0


def placebo(rows: Sequence[Effect]) -> Placebo | None:
    """What the placebo did, beside the run's median edit; None where none was made."""
    mine = last_placebo(rows)
    if not mine:
        return None
    edits = [r for r in rows if r.stage == "report" and r.eligible]
    estimate = mean_effect([r.change for r in mine], [r.image for r in mine])
    return Placebo(
        effect=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        p=estimate.p,
        images=estimate.clusters,
        size=_mean([r.size for r in mine]),
        wanted=float(np.median([r.size for r in edits])),
        area=_mean([r.area for r in mine]),
        wanted_area=float(np.median([r.area for r in edits])),
        weight=_mean([r.strength for r in mine]),
        examples=tuple(sorted(mine, key=lambda r: -abs(r.change))[:EXAMPLES]),
    )


def last_placebo(rows: Sequence[Effect]) -> list[Effect]:
    """Each picture's last placebo: those before it were to find the weight."""
    return list({r.image: r for r in rows if r.stage == "placebo"}.values())


def _interval(estimate: Estimate) -> Interval:
    return Interval(estimate.mean, estimate.low, estimate.high)


def _order(result: ConceptResult) -> tuple[int, float, str, str]:
    strength = result.effect if result.status == "measured" else result.race_effect
    weight = 0.0 if isnan(strength) else abs(strength)
    standing = ("measured", "ruled out", "not eligible").index(result.status)
    return (standing, -weight, result.concept, result.direction)


def _result(
    question: Question, table: Table, outcome: Outcome, corpus: Corpus, limits: GateLimits
) -> ConceptResult:
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
    judged = [r for r in kept if not isnan(r.gain)]
    through = [r for r in judged if passed(r, limits)]
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
        beyond_placebo=_beyond(kept, last_placebo(table[PLACEBO, "add"])),
        per_presence=_per_presence(judged),
        passed=len(through) / len(judged) if judged else NAN,
        effect_passed=_mean([r.change for r in through]),
    )


def _means(rows: Sequence[Effect]) -> dict[str, float]:
    """Image -> its mean Δ."""
    changes: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        changes[row.image].append(row.change)
    return {image: float(np.mean(found)) for image, found in changes.items()}


def _detectable(rows: Sequence[Effect], level: float) -> float:
    """The least mean that a test at this level finds with power 0.8, at the spread seen."""
    means = list(_means([r for r in rows if r.stage == "report" and r.eligible]).values())
    return minimal_detectable(len(means), float(np.std(means, ddof=1)), level) if len(means) > 1 else NAN


def _beyond(rows: Sequence[Effect], controls: Sequence[Effect]) -> Interval | None:
    """The effect less the placebo's, over the pictures that have both."""
    difference = paired_difference(_means(rows), _means(controls))
    return _interval(difference) if difference.clusters > 1 else None


def _per_presence(rows: Sequence[Effect]) -> Interval | None:
    """Effect for each unit of presence gained; None where too few were judged, or nothing was gained."""
    found = ratio([r.change for r in rows], [r.gain for r in rows], [r.image for r in rows])
    return None if isnan(found[0]) else Interval(*found)


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


def joint_path(
    rows: Sequence[Effect], outcome: Outcome, concepts: Sequence[ConceptResult] = ()
) -> JointPath | None:
    """The joint combination that the search accepted, estimated on the report's images.

    Its q is corrected with the single questions' in `concepts`; its gain is over the first step alone.
    """
    path, estimate = outcome.path, _path_estimate(rows, outcome)
    if path is None or estimate is None:
        return None
    kept = _path_rows(rows, path)
    first = outcome.joint[0]
    alone = [
        r
        for r in rows
        if (r.concept, r.direction, r.stage) == (first.concept, first.direction, "report") and r.eligible
    ]
    gain = paired_difference(_means(kept), _means(alone))
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
        q=float(benjamini_yekutieli([*(c.p for c in concepts), estimate.p])[-1]),
        gain=_interval(gain) if gain.clusters > 1 else None,
    )


def _path_rows(rows: Sequence[Effect], path: Question) -> list[Effect]:
    asked = (path.concept, path.direction, "joint report")
    return [r for r in rows if (r.concept, r.direction, r.stage) == asked and r.eligible]


def _path_estimate(rows: Sequence[Effect], outcome: Outcome) -> Estimate | None:
    if outcome.path is None:
        return None
    kept = _path_rows(rows, outcome.path)
    return mean_effect([r.change for r in kept], [r.image for r in kept])
