"""UNet evaluations until the five strongest concepts are found, as the corpus grows: 50, 500, 5,000 concepts.

The real search is played against simulated rows; no picture is made. A tree's true effects run in families
(a node's is its parent's and a deviation of its own), heavy-tailed, and in every fifth tree one of the
strongest leaves has a parent and siblings without effect. Sizes of effects and noise are those of the
bundled classifiers (the constants below say how they were measured). Recall is the share of the truly
strongest five among the five largest effects reported when a search stops by its own rule.

The families matter: with deviations of one scale at every node (Student's t, two degrees of freedom), the
model first tried, the race's recall at 5,000 concepts was 0.76 (20 trees, seed 0).

The trees and the noise come from `SEED`; everything was chosen on those of seed 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks import harness
from diffexplain.corpus import Concept, Corpus
from diffexplain.records import Ask, Direction, Effect
from diffexplain.search import Outcome, Rounds, SearchOptions, search

SEED = 1  # nothing is ever chosen on its trees
SIZES = {50: 150, 500: 100, 5_000: 60}  # concepts -> trees
IMAGES, TOP, BEAM = 64, 5, 8
OPTIONS = SearchOptions(directions=("add",), joint_steps=1, beam=BEAM)

# UNet evaluations: 50 steps to invert, 50 to reconstruct, and 2 x 50 an edit; 4 steps when screening.
EDIT, INVERSION, RECONSTRUCTION = 100, 50, 50
SCREEN_EDIT, SCREEN_INVERSION, SCREEN_RECONSTRUCTION = 8, 4, 4
ROOT_SEEDS = 4  # of the released DiffEx at its first level; it inverts again for every edit

# Measured with the 50-step `pocket` editor on 48 avatars, 64 leaves and the eight planted classifiers: the
# standard deviation of a leaf's change over pictures is 0.32 + 0.41 |effect| log-odds, 0.26 of it common
# to all leaves of a picture; 73 % of (picture, leaf) pairs are eligible; the strongest effects are these.
FLOOR, SLOPE, COMMON, ELIGIBLE = 0.32, 0.41, 0.26, 0.73
STRONGEST = (2.6, 2.4, 4.2, 4.3, 4.3, 5.9, 6.1, 9.8)
# A node's deviation is N(0, s²), its ln s its parent's plus N(0, 1.2²). At the size of that corpus a sibling
# of one of the strongest five then has a median |effect| of 0.27, any other leaf 0.06; measured: 0.50, 0.05.
VOLATILITY = 1.2
GAP = 1.25  # the fifth effect over the sixth at least: nearer ties are no mistake to confuse
HIDDEN = 5  # each tree whose number it divides hides a strong leaf among siblings without effect
# A leaf's effect when screening: its own, times N(1, 0.2). (`pocket-turbo` does better: correlation 0.999.)
SCREEN_ERROR = 0.2


@dataclass(frozen=True)
class World:
    """A tree with true effects and one noisy change for each (concept, picture)."""

    corpus: Corpus
    effects: dict[str, float]
    changes: dict[str, np.ndarray]  # (IMAGES,)
    screened: dict[str, np.ndarray]  # the same by the screening editor
    eligible: dict[str, np.ndarray]  # (IMAGES,) of bool

    @property
    def best(self) -> set[str]:
        """The truly strongest leaves."""
        leaves = (c.path for c in self.corpus.leaves())
        return set(sorted(leaves, key=lambda x: -abs(self.effects[x]))[:TOP])


def measure(quick: bool) -> Mapping[str, Any]:
    """All figures."""
    trees = {50: 10, 500: 5} if quick else SIZES
    return figures({size: played(size, n, SEED) for size, n in trees.items()})


def played(size: int, trees: int, seed: int) -> dict[str, dict[str, float]]:
    """Scheme -> figure -> mean over trees of a size."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for k in track(range(trees), description=f"{size} concepts", console=Console(stderr=True)):
        world = grown_world(size, hidden=k % HIDDEN == 0, seed=(seed, size, k))
        for name, scheme in SCHEMES.items():
            for key, value in scheme(world).items():
                found[name][key].append(value)
    return {name: {key: float(np.mean(v)) for key, v in scheme.items()} for name, scheme in found.items()}


def figures(by_size: Mapping[int, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """The headline is of the largest corpus; everything is listed by size."""
    sizes = list(by_size)

    def table(scheme: str, key: str) -> dict[str, float]:
        return {str(n): by_size[n][scheme][key] for n in sizes}

    last, released = by_size[sizes[-1]], table("released", "evaluations")
    ratios = {s: {n: v / released[n] for n, v in table(s, "evaluations").items()} for s in SCHEMES}
    edits = table("race", "edits")
    exhaustive = table("exhaustive", "edits")
    slope = np.polyfit(np.log(sizes), np.log([edits[str(n)] for n in sizes]), 1)[0]
    return {
        "concepts": sizes[-1],
        "images": IMAGES,
        "evals_released": last["released"]["evaluations"],
        "evals_ours": last["race"]["evaluations"],
        "evals_two_speed": last["two-speed race"]["evaluations"],
        "ratio": ratios["race"][str(sizes[-1])],
        "ratio_two_speed": ratios["two-speed race"][str(sizes[-1])],
        "edits_ratio": edits[str(sizes[-1])] / exhaustive[str(sizes[-1])],
        "recall": last["race"]["recall"],
        "recall_two_speed": last["two-speed race"]["recall"],
        "recall_lowest": min(table("race", "recall").values()),
        "growth_exponent": float(slope),
        "edits_ratio_by_size": {n: edits[n] / exhaustive[n] for n in edits},
        "ratio_by_size": ratios,
        "by_scheme": {
            s: {key: table(s, key) for key in by_size[sizes[0]][s]} for s in SCHEMES
        },
    }  # fmt: skip


# --- worlds -----------------------------------------------------------------------------------------


def grown_world(size: int, *, hidden: bool, seed: tuple[int, ...]) -> World:
    """A tree of `size` concepts, its effects, and the noise of every edit."""
    rng = np.random.default_rng(seed)
    corpus = grown_corpus(size, rng)
    effects = drawn_effects(corpus, hidden, rng)
    true = np.array(list(effects.values()))  # (concepts,)
    factor = 1 + SCREEN_ERROR * rng.normal(size=len(true))
    common = COMMON * rng.normal(size=IMAGES)

    def changes(mean: np.ndarray) -> dict[str, np.ndarray]:
        own = np.sqrt((FLOOR + SLOPE * np.abs(mean)) ** 2 - COMMON**2)
        rows = mean[:, None] + common + own[:, None] * rng.normal(size=(len(mean), IMAGES))
        return dict(zip(effects, rows, strict=True))

    eligible = rng.random((len(true), IMAGES)) < ELIGIBLE
    return World(
        corpus, effects, changes(true), changes(true * factor), dict(zip(effects, eligible, strict=True))
    )


def grown_corpus(size: int, rng: np.random.Generator) -> Corpus:
    """Eight to twelve roots, three or four levels, inner nodes without words; leaves have a prompt."""
    concepts: dict[str, Concept] = {}
    roots = int(rng.integers(8, 13))
    for i, n in enumerate(_shares(size, roots, rng)):
        _grow(concepts, f"{i}", None, 0, n, int(rng.integers(2, 4)), rng)
    tops = tuple(p for p, c in concepts.items() if c.parent is None)
    return Corpus("simulated", "simulated", "{phrase}", "", concepts, tops)


def _shares(total: int, parts: int, rng: np.random.Generator) -> list[int]:
    """`total` in uneven parts of at least one."""
    return [int(1 + n) for n in rng.multinomial(total - parts, rng.dirichlet(np.full(parts, 4.0)))]


def _grow(
    concepts: dict[str, Concept], path: str, parent: str | None, depth: int, n: int, below: int,
    rng: np.random.Generator,
) -> tuple[str, ...]:  # fmt: skip
    """Add a node of `n` concepts with at most `below` levels under it; its leaves."""
    concepts[path] = blank(path, parent, depth)
    width = 0 if n == 1 else n - 1 if below == 1 else max(2, round((n - 1) ** (1 / below)))
    shares = _shares(n - 1, min(width, n - 1), rng) if width else []
    children = tuple(f"{path}/{i}" for i in range(len(shares)))
    leaves = tuple(
        leaf
        for child, m in zip(children, shares, strict=True)
        for leaf in _grow(concepts, child, path, depth + 1, m, below - 1, rng)
    )
    if children:
        concepts[path] = replace(concepts[path], prompt="", phrase="", children=children, leaves=leaves)
    return leaves or (path,)


def blank(path: str, parent: str | None, depth: int) -> Concept:
    """A leaf as `parse_corpus` makes it of a name alone."""
    name = path.rsplit("/", 1)[-1]
    return Concept(
        path=path, name=name, depth=depth, prompt=name, phrase=name, own_prompt="", parent=parent,
        children=(), leaves=(path,), directions=("add", "remove"), slot=None, absent_prompt=None, absent=None,
        hidden_by=(), replaces=(), whole_image=False, protected=False,
    )  # fmt: skip


def drawn_effects(corpus: Corpus, hidden: bool, rng: np.random.Generator) -> dict[str, float]:
    """Concept -> true effect, drawn until the fifth stands out from the sixth."""
    strongest = float(rng.choice(STRONGEST))
    leaves = [c.path for c in corpus.leaves()]
    while True:
        effects: dict[str, float] = {}
        spread: dict[str | None, float] = {None: 1.0}
        for c, (jump, deviation) in zip(corpus.walk(), rng.normal(size=(len(corpus), 2)), strict=True):
            spread[c.path] = spread[c.parent] * exp(VOLATILITY * jump)
            effects[c.path] = (effects[c.parent] if c.parent else 0.0) + spread[c.path] * deviation
        scale = strongest / max(abs(effects[x]) for x in leaves)
        effects = {path: scale * x for path, x in effects.items()}
        if hidden:
            _hide(corpus, effects, rng)
        order = sorted((abs(effects[x]) for x in leaves), reverse=True)
        if order[TOP - 1] >= GAP * order[TOP]:
            return effects


def _hide(corpus: Corpus, effects: dict[str, float], rng: np.random.Generator) -> None:
    """Give one leaf of a family the effect of the third strongest, and the others none."""
    third = sorted((abs(effects[c.path]) for c in corpus.leaves()), reverse=True)[2]
    families = [c for c in corpus.walk() if c.children and all(corpus[x].is_leaf for x in c.children)]
    family = families[int(rng.integers(len(families)))]
    effects.update(dict.fromkeys((family.path, *family.children), 0.0))
    effects[family.children[int(rng.integers(len(family.children)))]] = third * rng.choice([-1.0, 1.0])


# --- schemes ----------------------------------------------------------------------------------------


def released(world: World) -> dict[str, float]:
    """DiffEx as released, exhaustively: it inverts again for each edit; four seeds at the roots."""
    corpus = world.corpus
    edits = IMAGES * (len(corpus) + (ROOT_SEEDS - 1) * len(corpus.roots))
    means = {c.path: float(world.changes[c.path].mean()) for c in corpus.leaves()}
    return scored(world, means, edits, edits * (INVERSION + EDIT))


def exhaustive(world: World) -> dict[str, float]:
    """Every leaf on every eligible picture, each inverted once: `method="exhaustive"`."""
    leaves = [c.path for c in world.corpus.leaves()]
    return _asked(world, leaves, leaves)


def beam(world: World) -> dict[str, float]:
    """A plain beam: each level's best eight by |mean| over all pictures, their children next."""
    asked: list[str] = []
    level, kept = list(world.corpus.roots), []
    while level != kept:
        asked += [x for x in level if x not in asked]
        kept = sorted(level, key=lambda x: -abs(_mean(world, x)))[:BEAM]
        level = [x for k in kept for x in world.corpus[k].children or (k,)]
    return _asked(world, asked, kept)


def _asked(world: World, asked: Sequence[str], found: Sequence[str]) -> dict[str, float]:
    edits = int(sum(world.eligible[x].sum() for x in asked))
    evaluations = edits * EDIT + IMAGES * (INVERSION + RECONSTRUCTION)
    return scored(world, {x: _mean(world, x) for x in found}, edits, evaluations)


def _mean(world: World, concept: str) -> float:
    where = world.eligible[concept]
    return float(world.changes[concept][where].mean()) if where.any() else 0.0


def race(world: World) -> dict[str, float]:
    """The default search, everything by the main editor."""
    means, asks = searched(world, world.changes, OPTIONS)
    evaluations = len(asks) * EDIT + IMAGES * (INVERSION + RECONSTRUCTION)
    return scored(world, means, len(asks), evaluations) | {
        "race edits": float(sum(a.stage == "race" for a in asks))
    }


def two_speed(world: World) -> dict[str, float]:
    """The same, raced by a screening editor of four steps; what it finds is reported by the main one."""
    means, asks = searched(world, world.screened, OPTIONS.screened())
    raced = sum(a.stage == "race" for a in asks)
    images = IMAGES // 2
    evaluations = (
        raced * SCREEN_EDIT
        + (len(asks) - raced) * EDIT
        + images * (SCREEN_INVERSION + SCREEN_RECONSTRUCTION)
        + (IMAGES - images) * (INVERSION + RECONSTRUCTION)
    )
    return scored(world, means, len(asks), evaluations)


def searched(
    world: World, raced: Mapping[str, np.ndarray], options: SearchOptions
) -> tuple[dict[str, float], list[Ask]]:
    """Play the search to its own stop: reported leaf -> mean outside the race; every ask."""
    pictures = [f"picture {i}" for i in range(IMAGES)]

    def eligible(image: int, seed: int, concept: str, direction: Direction) -> bool:
        return bool(world.eligible[concept][image])

    def row(ask: Ask) -> Effect:
        source = raced if ask.stage == "race" else world.changes
        return imagined(ask, pictures[ask.image], float(source[ask.edited_as[0]][ask.image]))

    rows, asks, outcome = answered(search(world.corpus, pictures, 1, eligible, options), row)
    changes = defaultdict(list)
    for effect in rows:
        if effect.stage == "report":
            changes[effect.concept].append(effect.change)
    leaves = [q.concept for q in outcome.reported if world.corpus[q.concept].is_leaf]
    return {x: float(np.mean(changes[x])) for x in leaves if changes[x]}, asks


def answered(rounds: Rounds, row: Callable[[Ask], Effect]) -> tuple[list[Effect], list[Ask], Outcome]:
    """Every row, every ask, and what the search decided."""
    rows: list[Effect] = []
    made: list[Ask] = []
    try:
        asks = next(rounds)
        while True:
            new = [row(a) for a in asks]
            made += asks
            rows += new
            asks = rounds.send(new)
    except StopIteration as stop:
        return rows, made, stop.value


def imagined(ask: Ask, picture: str, change: float) -> Effect:
    """A row with nothing in it but its change."""
    return Effect(
        image=picture, seed=ask.seed, concept=ask.question.concept, direction=ask.question.direction,
        edited_as=ask.edited_as[0], strength=1.0, stage=ask.stage, eligible=True, score_before=0.0,
        score_after=change, probability_before=0.5, probability_after=0.5, presence_before=0.0,
        presence_after=1.0, outside=0.0, reconstruction="", edited="", evaluations=0, batch=0,
    )  # fmt: skip


def scored(world: World, means: Mapping[str, float], edits: float, evaluations: float) -> dict[str, float]:
    """What a scheme found, by its own measurements, and what it spent."""
    ranked = sorted(means, key=lambda x: -abs(means[x]))
    strength = sum(abs(world.effects[x]) for x in world.best)
    return {
        "recall": len(world.best & set(ranked[:TOP])) / TOP,
        "recall in beam": len(world.best & set(ranked[:BEAM])) / TOP,
        "effect share": sum(abs(world.effects[x]) for x in ranked[:TOP]) / strength,
        "edits": float(edits),
        "evaluations": float(evaluations),
    }


SCHEMES: dict[str, Callable[[World], dict[str, float]]] = {
    "released": released,
    "exhaustive": exhaustive,
    "plain beam": beam,
    "race": race,
    "two-speed race": two_speed,
}

if __name__ == "__main__":
    harness.run("search_cost", __doc__ or "", measure)
