"""Whether an edit did what it was asked to, and nothing else; from rows alone.

An edit passes when the concept appeared (or went), the picture changed no more outside the concept's region
than edits of this run do, and no other concept moved. What counts as appeared is calibrated in each run, for
its editor and pictures: the readings of concepts that no edit asked for show how far the judge errs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np

from diffexplain.records import Effect, Entanglement, GateLimits
from diffexplain.statistics import Floats

PRESENT = 0.5  # presence that a concept must reach where a run is too small to calibrate
FENCE = 3.0  # interquartile ranges above the third quartile at which a change outside is far out (Tukey 1977)
OTHERS = 0.5  # presence change by which another concept has come or gone
FEWEST = 20  # readings from which limits are calibrated
RIDGE = 1e-3  # of the readings' mean square: keeps columns that hardly move from taking any effect


def others(row: Effect) -> dict[str, float]:
    """Presence change of each other leaf that moved."""
    found: dict[str, float] = json.loads(row.others) if row.others else {}
    return found


def calibrate(rows: Sequence[Effect]) -> GateLimits:
    """The limits of a run, from its rows outside the race.

    `presence`: the judge's own cut, moved where its readings of these pictures call for it: half-way between
    the typical reading where the concept was absent before an edit and where an edit put it. `outside`:
    Tukey's far-out fence over the run's edits.
    """
    judged = [r for r in rows if r.eligible and not isnan(r.presence_after)]
    if len(judged) < FEWEST:
        return GateLimits(PRESENT, 0.0, float("inf"), OTHERS)
    before = np.array([_towards(r, r.presence_before) for r in judged])
    after = np.array([_towards(r, r.presence_after) for r in judged])
    there = after[after >= PRESENT]
    cut = PRESENT if len(there) < FEWEST else (float(np.median(before)) + float(np.median(there))) / 2
    outside = np.array([r.outside for r in judged if not isnan(r.outside)])
    fence = float("inf")
    if len(outside) >= FEWEST:
        low, high = np.quantile(outside, [0.25, 0.75])
        fence = float(high + FENCE * (high - low))
    return GateLimits(cut, cut / 2, fence, OTHERS)


def _towards(row: Effect, presence: float) -> float:
    """Presence of what was asked for: of a removal, absence."""
    return 1 - presence if row.direction.startswith("remove") else presence


def happened(row: Effect, limits: GateLimits) -> bool:
    """Whether the concept came (or went)."""
    return _towards(row, row.presence_after) >= limits.presence and row.gain >= limits.gain


def passed(row: Effect, limits: GateLimits) -> bool:
    """Whether the edit happened, stayed in place and left every other concept as it was."""
    local = isnan(row.outside) or row.outside <= limits.outside
    moved = max((abs(v) for v in others(row).values()), default=0.0)
    return happened(row, limits) and local and moved < limits.others


# -- what else moved -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Readings:
    """Presence changes of report rows: own and other concepts."""

    rows: tuple[Effect, ...]
    concepts: tuple[str, ...]  # asked in some row: only their effects can be told apart
    change: Floats  # (rows, concepts)


def readings(rows: Sequence[Effect]) -> Readings:
    """The table behind the entanglement matrix, from the eligible rows of the report."""
    kept = tuple(r for r in rows if r.stage == "report" and r.eligible and not isnan(r.gain))
    concepts = tuple(dict.fromkeys(r.edited_as for r in kept))
    place = {c: k for k, c in enumerate(concepts)}
    change = np.zeros((len(kept), len(concepts)))
    for i, row in enumerate(kept):
        change[i, place[row.edited_as]] = row.presence_after - row.presence_before
        for concept, moved in others(row).items():
            if concept in place:
                change[i, place[concept]] = moved
    return Readings(kept, concepts, change)


def entanglement(found: Readings) -> Entanglement | None:
    """Mean presence change of each concept by each question; None where nothing was judged."""
    if not found.rows:
        return None
    keys = [f"{r.direction} {r.concept}" for r in found.rows]
    questions = tuple(dict.fromkeys(keys))
    names = np.array(keys)
    means = [found.change[names == q].mean(0) for q in questions]
    table = tuple(tuple(round(float(v), 4) for v in row) for row in means)
    return Entanglement(questions, found.concepts, table)


def partial_effects(found: Readings) -> dict[tuple[str, str], float]:
    """Effect of each (concept, direction), less what the others that moved with it explain.

    Least squares of Δ on the presence changes of all concepts asked, over all rows (Frisch & Waugh 1933); of
    a question's mean Δ, the part that other concepts' changes carry is taken off.
    """
    if not found.rows:
        return {}
    x, y = found.change, np.array([r.change for r in found.rows])
    ridge = RIDGE * float(np.mean(x * x)) * len(x) * np.eye(x.shape[1])
    slopes = np.linalg.solve(x.T @ x + ridge + 1e-12 * np.eye(x.shape[1]), x.T @ y)
    left: dict[tuple[str, str], list[float]] = {}
    for row, change, delta in zip(found.rows, x, y, strict=True):
        own = found.concepts.index(row.edited_as)
        foreign = float(change @ slopes - change[own] * slopes[own])
        left.setdefault((row.concept, row.direction), []).append(float(delta) - foreign)
    return {key: float(np.mean(values)) for key, values in left.items()}
