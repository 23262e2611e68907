"""Many questions of the same pictures: false discoveries and power, with noise as real edits have it.

A world's concepts take their noise from real cells of `benchmarks/data/changes.npz` (one leaf, one planted
classifier), centred, always of the same pictures: what edits of one picture have in common stays. Four fifths
of the concepts have no effect. Effects are those measured; every fifth comes with a sibling of the opposite
sign, and the node above both, their mean, is a question without effect (cancelling children).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import t as student

from benchmarks.changes import FILE
from benchmarks.search_cost import answered, grown_corpus, imagined
from diffexplain.corpus import Corpus
from diffexplain.ranking import rank
from diffexplain.records import Ask, ConceptResult, Effect
from diffexplain.search import SearchOptions, search
from diffexplain.statistics import benjamini_hochberg, benjamini_yekutieli

SHARE = 0.2  # of concepts with an effect
CLEAR = 0.25  # log-odds from which a measured effect is one
FEWEST = 24  # eligible pictures of a cell that gives noise
LEVEL = 0.05


@lru_cache(maxsize=1)
def noise() -> tuple[np.ndarray, np.ndarray]:
    """Centred changes of real cells (cells, pictures), nan where not eligible; and real effects."""
    with np.load(FILE) as data:
        table = data["table"].astype(float).reshape(-1, data["table"].shape[-1])
    table = table[np.isfinite(table).sum(1) >= FEWEST]
    means = np.nanmean(table, axis=1)
    return table - means[:, None], means[np.abs(means) >= CLEAR]


@lru_cache(maxsize=1)
def filled() -> np.ndarray:
    """The centred cells with each gap filled by a value of the same cell."""
    rng = np.random.default_rng(0)
    rows = [np.where(np.isfinite(r), r, rng.choice(r[np.isfinite(r)], len(r))) for r in noise()[0]]
    return np.stack([r - r.mean() for r in rows])


def planted(questions: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """True effects (questions,), and for each cancelling node its two children (nodes, 2).

    The last questions are the nodes.
    """
    _, real = noise()
    nodes = max(1, questions // 25)
    effects = np.zeros(questions)
    some = rng.permutation(questions - nodes)[: max(2 * nodes, int(SHARE * questions))]
    effects[some] = rng.choice(real, len(some))
    pairs = some[: 2 * nodes].reshape(nodes, 2)
    effects[pairs[:, 1]] = -effects[pairs[:, 0]]
    return effects, pairs


def asked(
    effects: np.ndarray, pairs: np.ndarray, images: int, rng: np.random.Generator, *, whole: bool = False
) -> np.ndarray:
    """Changes of every question on the same pictures: (questions, images), nan where not eligible.

    `whole`: every picture eligible, by which children cancel exactly; a gap is filled from its own cell.
    """
    cells = filled() if whole else noise()[0]
    shown = rng.integers(cells.shape[1], size=images)
    rows = rng.integers(len(cells), size=len(effects))
    changes = cells[rows][:, shown] + effects[:, None]
    if len(pairs):
        kinder = changes[pairs]  # (nodes, 2, images)
        changes[-len(pairs) :] = kinder.mean(1)
    return np.asarray(changes)


def p_values(changes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the t test over eligible pictures, as `mean_effect` gives them; t, and n."""
    n = np.isfinite(changes).sum(1)
    few = n < 2
    with np.errstate(invalid="ignore", divide="ignore"), np.testing.suppress_warnings() as sup:
        sup.filter(RuntimeWarning)
        t = np.nanmean(changes, 1) / (np.nanstd(changes, 1, ddof=1) / np.sqrt(n))
    t = np.where(few | ~np.isfinite(t), 0.0, t)
    return np.where(few, 1.0, 2 * student.sf(np.abs(t), np.maximum(n - 1, 1))), t, n


def e_values(t: np.ndarray, n: np.ndarray, prior: float = 1.0) -> np.ndarray:
    """Of the t test with a normal prior on the effect in standard deviations (Wang & Ramdas 2025, §4)."""
    n = np.maximum(n, 2)
    square = t * t / (n - 1)
    top = 0.5 * n * np.log1p(square)
    return np.asarray(
        np.exp(0.5 * np.log(prior / (n + prior)) + top - 0.5 * n * np.log1p(square * prior / (n + prior)))
    )


def e_bh(e: np.ndarray, level: float) -> np.ndarray:
    """Which questions e-BH rejects (Wang & Ramdas 2022): valid under any dependence and stopping."""
    order = np.argsort(-e)
    ranks = np.arange(1, len(e) + 1)
    passing = np.flatnonzero(ranks * e[order] >= len(e) / level)
    found = np.zeros(len(e), bool)
    if len(passing):
        found[order[: passing[-1] + 1]] = True
    return found


@dataclass
class Tally:
    """False discovery proportion and share of true effects found, over runs."""

    false: list[float]
    found: list[float]

    def add(self, rejected: np.ndarray, effects: np.ndarray) -> None:
        """Count one run."""
        null = effects == 0
        self.false.append(float((rejected & null).sum() / max(1, rejected.sum())))
        if not null.all():
            self.found.append(float(rejected[~null].mean()))


def exhaustive(questions: int, images: int, runs: int, seed: int) -> dict[str, dict[str, float]]:
    """Every question of every eligible picture, corrected in three ways: realised rate and power."""
    rng = np.random.default_rng((seed, questions))
    tallies: dict[str, Tally] = defaultdict(lambda: Tally([], []))
    for _ in range(runs):
        effects, pairs = planted(questions, rng)
        p, t, n = p_values(asked(effects, pairs, images, rng))
        tallies["yekutieli"].add(benjamini_yekutieli(p) < LEVEL, effects)
        tallies["hochberg"].add(benjamini_hochberg(p) < LEVEL, effects)
        tallies["e-values"].add(e_bh(e_values(t, n), LEVEL), effects)
    return {k: {"fdr": float(np.mean(v.false)), "power": float(np.mean(v.found))} for k, v in tallies.items()}


def raced(concepts: int, images: int, runs: int, seed: int) -> dict[str, float]:
    """The real search and ranking over grown trees: realised rate among what it reports."""
    tally = Tally([], [])
    for run in range(runs):
        rng = np.random.default_rng((seed, concepts, run))
        corpus = grown_corpus(concepts, rng)
        effects = _tree_effects(corpus, rng)
        leaves = [c.path for c in corpus.leaves()]
        made = asked(np.array([effects[x] for x in leaves]), np.empty((0, 2), int), images, rng, whole=True)
        results = _searched(corpus, dict(zip(leaves, made, strict=True)), images)
        measured = [c for c in results if c.status == "measured"]
        if measured:
            tally.add(
                np.array([c.q < LEVEL for c in measured]), np.array([effects[c.concept] for c in measured])
            )
    return {"fdr": float(np.mean(tally.false)), "power": float(np.mean(tally.found))}


def _tree_effects(corpus: Corpus, rng: np.random.Generator) -> dict[str, float]:
    """A fifth of the leaves with an effect; half of the families with two children or more cancel."""
    _, real = noise()
    effects = {c.path: 0.0 for c in corpus.walk()}
    for node in corpus.walk():
        if node.children and all(corpus[x].is_leaf for x in node.children):
            some = [x for x in node.children if rng.random() < SHARE]
            effects.update({x: float(rng.choice(real)) for x in some})
            if len(node.children) > 1 and rng.random() < 0.5:
                effects.update(dict.fromkeys(node.children, 0.0))
                size = float(rng.choice(real))
                effects[node.children[0]], effects[node.children[1]] = size, -size
    for node in corpus.walk():
        if node.children:
            mean = float(np.mean([effects[x] for x in node.leaves]))
            effects[node.path] = 0.0 if abs(mean) < 1e-12 else mean
    return effects


def _searched(corpus: Corpus, changes: Mapping[str, np.ndarray], images: int) -> tuple[ConceptResult, ...]:
    pictures = [f"picture {i}" for i in range(images)]

    def row(ask: Ask) -> Effect:
        return imagined(ask, pictures[ask.image], float(changes[ask.edited_as[0]][ask.image]))

    options = SearchOptions(directions=("add",), joint_steps=1)
    rows, _, outcome = answered(search(corpus, pictures, 1, lambda *_: True, options), row)
    return rank(rows, outcome, corpus)
