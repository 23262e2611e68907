"""Whether the numbers can be believed: coverage, false discoveries, selection, nulls, the gate.

Scores and noise are those of real pocket edits (`benchmarks/data/changes.npz`; `python -m benchmarks.changes`
makes it): intervals are of samples from a pool of 1,000 avatars, whose mean is the estimand; whole runs are
played by the real search, ranking and correction against those changes. Networks of chance and the gate need
pictures: they are made anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from scipy.stats import binomtest
from scipy.stats import t as student

from benchmarks import harness, multiplicity
from benchmarks.changes import FILE
from benchmarks.edited import gate_figures, network_figures
from benchmarks.search_cost import OPTIONS, World, answered, grown_world, imagined
from diffexplain.corpus import load_corpus
from diffexplain.ranking import joint_path, rank
from diffexplain.records import Ask, Effect
from diffexplain.search import Outcome, SearchOptions, search
from diffexplain.statistics import mean_effect

SEED = 7
SIZES = (8, 16, 32, 64)  # pictures of an interval
IMAGES = 32  # pictures that answer a question in the simulations of many
TREE = 500  # concepts of the trees on which selection is watched

bar = partial(track, console=Console(stderr=True))


def measure(quick: bool) -> Mapping[str, Any]:
    """All figures."""
    intervals = coverage(100 if quick else 1000)
    discoveries = false_discoveries(quick)
    chosen = selection(10 if quick else 150)
    null = null_runs(40 if quick else 1000)
    return {**intervals, **discoveries, **chosen, **null, **network_figures(quick), **gate_figures(quick)}


# -- intervals -----------------------------------------------------------------------------------------------


def coverage(repetitions: int) -> dict[str, Any]:
    """How often the interval holds the pool's mean, and the re-rendered truth; its width beside t's.

    A concept's repetitions are spread over the planted classifiers.
    """
    with np.load(FILE) as data:
        pool, truth = data["pool"].astype(float), data["truth"]
        concepts = data["concepts"].tolist()
    by_n: dict[str, list[float]] = {}
    truths: dict[str, float] = {}
    widths: dict[str, float] = {}
    for n in bar(SIZES, description="intervals"):
        found = [
            _covered(pool[:, k], truth[:, k], n, repetitions, (SEED, n, k)) for k in range(len(concepts))
        ]
        held, true, ratio = (np.array(v) for v in zip(*found, strict=True))
        by_n[str(n)] = held.tolist()
        truths[str(n)] = float(true.mean())
        widths[str(n)] = float(np.median(np.concatenate(ratio)))
    return {
        "coverage": {n: float(np.mean(v)) for n, v in by_n.items()},
        "coverage_worst": min(min(v) for v in by_n.values()),
        "coverage_truth": truths,
        "width_ratio": max(widths.values()),
        "width_ratio_by_n": widths,
        "coverage_by_concept": {n: dict(zip(concepts, v, strict=True)) for n, v in by_n.items()},
    }


def _covered(
    cells: np.ndarray, truth: np.ndarray, n: int, repetitions: int, seed: tuple[int, ...]
) -> tuple[float, float, np.ndarray]:
    """Shares of intervals that hold the pool's mean and the truth, and widths over t's: (repetitions,)."""
    rng = np.random.default_rng(seed)
    held, true, ratios = [], [], []
    for i in range(repetitions):
        c = i % len(cells)
        eligible = cells[c][np.isfinite(cells[c])]
        sample = rng.choice(eligible, n)
        e = mean_effect(sample, np.arange(n))
        held.append(e.low <= eligible.mean() <= e.high)
        true.append(e.low <= truth[c] <= e.high)
        width = 2 * student.ppf(0.975, n - 1) * sample.std(ddof=1) / np.sqrt(n)
        ratios.append((e.high - e.low) / width if width else 1.0)
    return float(np.mean(held)), float(np.mean(true)), np.array(ratios)


# -- many questions ------------------------------------------------------------------------------------------


def false_discoveries(quick: bool) -> dict[str, Any]:
    """Realised false discovery rate and power by number of concepts; the larger of asking all and racing."""
    runs = {50: (100, 10), 500: (20, 3)} if quick else {50: (2000, 200), 500: (600, 60), 5000: (100, 12)}
    everything = {
        n: multiplicity.exhaustive(n, IMAGES, many, SEED)
        for n, (many, _) in bar(runs.items(), description="all")
    }
    race = {
        n: multiplicity.raced(n, 2 * IMAGES, few, SEED)
        for n, (_, few) in bar(runs.items(), description="raced")
    }
    schemes = {
        k: {str(n): v[k] for n, v in everything.items()} for k in ("yekutieli", "hochberg", "e-values")
    }
    return {
        "fdr": {str(n): max(everything[n]["yekutieli"]["fdr"], race[n]["fdr"]) for n in runs},
        "power": schemes["yekutieli"][str(max(runs))]["power"],
        "power_hochberg": schemes["hochberg"][str(max(runs))]["power"],
        "by_correction": schemes,
        "raced": {str(n): v for n, v in race.items()},
    }


# -- selection -----------------------------------------------------------------------------------------------


def selection(trees: int) -> dict[str, Any]:
    """What the search's choosing does to the numbers: of the beam, by reported and by raced changes.

    Bias is along the sign that the race saw, over the spread of the effects of the beam.
    """
    fresh, raced, spread, steps, wrong, joint_error = [], [], [], 0, 0, []
    for k in bar(range(trees), description="selection"):
        world = grown_world(TREE, hidden=k % 5 == 0, seed=(SEED, TREE, k))
        rows, outcome = played(world)
        results = rank(rows, outcome, world.corpus)
        beam = [c for c in results if c.status == "measured" and world.corpus[c.concept].is_leaf]
        true = np.array([world.effects[c.concept] for c in beam])
        spread.append(float(true.std()))
        signs = np.sign([c.race_effect for c in beam])
        fresh += list(signs * (np.array([c.effect for c in beam]) - true))
        raced += list(signs * (np.array([c.race_effect for c in beam]) - true))
        signed = np.sign(world.effects[outcome.joint[0].concept]) if outcome.joint else 1.0
        wrong += sum(bool(signed * world.effects[q.concept] <= 0) for q in outcome.joint[1:])
        steps += len(outcome.joint[1:])
        if path := joint_path(rows, outcome, results):
            joint_error.append(signed * (path.effect - sum(world.effects[q] for q in path.concepts)))
    scale = float(np.mean(spread))
    return {
        "selection_bias": abs(float(np.mean(fresh))) / scale,
        "selection_bias_error": float(np.std(fresh) / np.sqrt(len(fresh))) / scale,
        "selection_bias_of_race": abs(float(np.mean(raced))) / scale,
        "joint_bias": abs(float(np.mean(joint_error))) / scale if joint_error else float("nan"),
        "joint_steps": steps,
        "joint_steps_wrong": wrong,
    }


def played(world: World) -> tuple[list[Effect], Outcome]:
    """A search with a joint path over a simulated world: joint edits add up."""
    images = len(next(iter(world.changes.values())))
    pictures = [f"picture {i}" for i in range(images)]

    def row(ask: Ask) -> Effect:
        change = sum(float(world.changes[c][ask.image]) for c in ask.edited_as)
        return imagined(ask, pictures[ask.image], change)

    options = SearchOptions(directions=("add",), joint_steps=3, beam=OPTIONS.beam)
    rows, _, outcome = answered(
        search(world.corpus, pictures, 1, lambda i, s, c, d: bool(world.eligible[c][i]), options), row
    )
    return rows, outcome


# -- nulls ---------------------------------------------------------------------------------------------------


def null_runs(runs: int) -> dict[str, Any]:
    """Share of whole runs with any discovery where there is no effect, and the exact test of 5 %."""
    with np.load(FILE) as data:
        table, leaves = data["table"].astype(float), data["leaves"].tolist()
    found = {"null": 0, "flipped": 0}
    for k in bar(range(runs), description="null runs"):
        rng = np.random.default_rng((SEED, k))
        kind = ("null", "flipped")[k % 2]
        shown = rng.permutation(table.shape[2])[:IMAGES]
        real = table[k // 2 % len(table)][:, shown]
        changes = dict(zip(leaves, _without_effect(real, kind, rng), strict=True))
        found[kind] += _discovers(changes, np.isfinite(real), leaves, rng)
    total = sum(found.values())
    return {
        "null_run_rate": total / runs,
        "null_run_p": float(binomtest(total, runs, 0.05, alternative="greater").pvalue),
        "null_runs": runs,
        "null_run_rate_by_kind": {kind: n / (runs / 2) for kind, n in found.items()},
    }


def _without_effect(real: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """`pocket:null`'s answers, whose every picture is an independent normal deviate; or flipped real ones."""
    images = real.shape[1]
    if kind == "null":
        return rng.normal(size=real.shape) - rng.normal(size=images)  # each Δ from its picture's one baseline
    return np.where(np.isfinite(real), real, 0.0) * rng.choice([-1.0, 1.0], images)


def _discovers(
    changes: Mapping[str, np.ndarray], eligible: np.ndarray, leaves: Sequence[str], rng: np.random.Generator
) -> bool:
    """Whether a whole run, the joint path included, finds anything."""
    corpus = load_corpus("avatars")
    pictures = [f"picture {i}" for i in range(eligible.shape[1])]
    place = {leaf: k for k, leaf in enumerate(leaves)}

    def row(ask: Ask) -> Effect:
        under = [leaf for c in ask.edited_as for leaf in (corpus[c].leaves if c not in place else (c,))]
        return imagined(ask, pictures[ask.image], float(np.mean([changes[x][ask.image] for x in under])))

    def fits(image: int, seed: int, concept: str, direction: str) -> bool:
        return all(eligible[place[x], image] for x in corpus[concept].leaves)

    rows, _, outcome = answered(search(corpus, pictures, 1, fits, SearchOptions(directions=("add",))), row)
    results = rank(rows, outcome, corpus)
    path = joint_path(rows, outcome, results)
    return any(c.q < 0.05 for c in results) or bool(path and path.q < 0.05)


if __name__ == "__main__":
    harness.run("validity", __doc__ or "", measure)
