"""Soft prompts for a classifier that gives no gradient: CMA-ES in a small subspace of the embeddings.

Covariance matrix adaptation (Hansen & Ostermeier 2001, by the package `cma`) over the coordinates of every
token along a few directions of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from diffexplain.classifiers import checked_logits
from diffexplain.editors.generator import Generator
from diffexplain.errors import InputError, MissingExtra
from diffexplain.images import rounded
from diffexplain.synthesis.optimisation import Optimum, Step
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.synthesis.words import noises
from diffexplain.targets import ClassObjective

ROWS = 32  # pictures a call of the classifier, at most; calls are not padded, for each picture is paid for


@dataclass(frozen=True, slots=True)
class BlackBoxOptions:
    """How much is asked, and where is searched; raises InputError for values out of range."""

    queries: int = 4_000  # pictures that the classifier may see, for each objective
    dimensions: int = 8  # directions a token may move along
    subspace: Literal["principal", "random"] = "principal"  # of the vocabulary's words
    population: int = 0  # prompts a generation; 0: 4 + 3·ln(dimensions), as CMA-ES has it
    sigma: float = 0.5  # first deviation, in deviations of the vocabulary along a direction

    def __post_init__(self) -> None:
        if self.queries < 1 or self.dimensions < 1 or self.sigma <= 0:
            raise InputError("queries and dimensions are at least 1, sigma is above 0")
        if self.population == 1 or self.population < 0:
            raise InputError(f"population is {self.population}; it is at least 2, or 0 for the usual one")
        if self.subspace not in ("principal", "random"):
            raise InputError(f"subspace {self.subspace!r} is unknown; choose principal or random")


def optimise_black_box(
    generator: Generator,
    objectives: Sequence[ClassObjective],
    options: SynthesisOptions,
    black_box: BlackBoxOptions | None = None,
    *,
    tell: Callable[[Step], None] | None = None,
) -> list[Optimum]:
    """As optimise, asking the classifier for scores only; one Optimum an objective and restart.

    The budget of an objective is shared by its restarts; the last of it compares the best prompt met with
    the mean of the search on all noises. Of `options`, tokens, text, word, restarts, seeds, pool, spread and
    seed apply. Raises InputError when the budget holds no generation, ClassifierError as the classifier does,
    MissingExtra without cma.
    """
    black_box = black_box or BlackBoxOptions()
    space = _Space.of(generator, options, black_box)
    searches = [
        _Search(space, objective, o, r, options, black_box)
        for o, objective in enumerate(objectives)
        for r in range(options.restarts)
    ]
    generation, most = 0, max(s.generations for s in searches)
    while active := [s for s in searches if s.active(generation)]:
        asked = [s.ask() for s in active]
        pictures = _pictures(generator, torch.cat(asked), noises(options, generation), options)
        parts = torch.split(pictures, [len(soft) for soft in asked])
        for search, own in zip(active, parts, strict=True):
            search.hear(_losses(search.objective, own).mean(1))
        generation += 1
        if tell is not None:
            by_objective = [[s.curve[-1] for s in searches if s.index == o] for o in range(len(objectives))]
            tell(Step(generation, most, tuple(float(np.mean(x)) for x in by_objective), len(active)))
    return [s.optimum(generator, options) for s in searches]


def _pictures(
    generator: Generator, soft: torch.Tensor, seeds: Sequence[int], options: SynthesisOptions
) -> torch.Tensor:
    """Pictures (P, seeds, 3, H, W) of prompts (P, N, D), as 8 bits hold them."""
    rows = soft.repeat_interleave(len(seeds), dim=0)
    with torch.no_grad():
        images = rounded(generator.images(generator.states(rows, options.text), list(seeds) * len(soft)))
    return images.view(len(soft), len(seeds), *images.shape[1:])


def _losses(objective: ClassObjective, pictures: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (P, seeds), float64."""
    parts = [
        checked_logits(objective.target.classifier, part, rows=len(part))
        for part in torch.split(pictures.flatten(0, 1), ROWS)
    ]
    return objective.loss_of(torch.cat(parts)).view(pictures.shape[:2])


@dataclass(frozen=True, slots=True)
class _Space:
    """Coordinates (N·dimensions,) -> embeddings (N, D)."""

    centre: torch.Tensor  # (N, D)
    directions: torch.Tensor  # (dimensions, D), each as long as the vocabulary's deviation along it

    @staticmethod
    def of(generator: Generator, options: SynthesisOptions, black_box: BlackBoxOptions) -> _Space:
        """Around the neutral word, along the vocabulary's main or along random directions."""
        table = generator.vocabulary[1].double()
        table = table - table.mean(0)
        n = min(black_box.dimensions, *table.shape)
        if black_box.subspace == "principal":
            directions = torch.linalg.svd(table, full_matrices=False).Vh[:n]
        else:
            draw = torch.Generator().manual_seed(options.seed)
            gaussian = torch.randn(table.shape[1], n, generator=draw, dtype=torch.float64)
            directions = torch.linalg.qr(gaussian).Q.T
        deviations = (table @ directions.T).std(0, correction=0)  # (n,)
        centre = generator.embedding(options.word)[-1:].expand(options.tokens, -1)
        return _Space(centre, (directions * deviations[:, None]).float())

    @property
    def size(self) -> int:
        """How many coordinates."""
        return len(self.centre) * len(self.directions)

    def soft(self, coordinates: np.ndarray) -> torch.Tensor:
        """Coordinates (P, size) -> embeddings (P, N, D)."""
        x = torch.from_numpy(np.asarray(coordinates)).float().view(-1, len(self.centre), len(self.directions))
        return self.centre + x @ self.directions


class _Search:
    """One objective's one restart."""

    def __init__(
        self,
        space: _Space,
        objective: ClassObjective,
        index: int,
        restart: int,
        options: SynthesisOptions,
        black_box: BlackBoxOptions,
    ) -> None:
        self.objective, self.index, self.restart, self._space = objective, index, restart, space
        rng = np.random.default_rng((options.seed, index, restart))
        begin = rng.normal(0, options.spread, space.size) if restart else np.zeros(space.size)
        self._strategy = _strategy(begin, black_box, rng)
        budget = black_box.queries // options.restarts - 2 * options.pool  # the final comparison's
        self.generations = budget // (self._strategy.popsize * options.seeds)
        if self.generations < 1:
            least = options.restarts * (self._strategy.popsize * options.seeds + 2 * options.pool)
            raise InputError(
                f"queries is {black_box.queries}, too few for one generation; give {least} or more"
            )
        self.curve: list[float] = []
        self._asked: Any = None

    def active(self, generation: int) -> bool:
        """Whether there is budget, and something left to gain."""
        return generation < self.generations and not self._strategy.stop()

    def ask(self) -> torch.Tensor:
        """The generation's prompts (P, N, D)."""
        self._asked = self._strategy.ask()
        return self._space.soft(np.stack(self._asked))

    def hear(self, losses: torch.Tensor) -> None:
        """The prompts' losses (P,)."""
        self._strategy.tell(self._asked, losses.tolist())
        self.curve.append(float(losses.min()))

    def optimum(self, generator: Generator, options: SynthesisOptions) -> Optimum:
        """The better one of the best prompt met and the mean of the search, on all noises."""
        found = self._strategy.result
        soft = self._space.soft(np.stack([found.xbest, found.xfavorite]))
        losses = _losses(self.objective, _pictures(generator, soft, noises(options), options)).mean(1)
        best = int(losses.argmin())
        return Optimum(
            objective=self.index,
            restart=self.restart,
            soft=soft[best],
            latent=None,
            curve=tuple(self.curve),
            best=float(losses[best]),
            iterations=len(self.curve),
            stopped="steps" if len(self.curve) == self.generations else "patience",
        )


def _strategy(begin: np.ndarray, black_box: BlackBoxOptions, rng: np.random.Generator) -> Any:
    """A CMA-ES with a random generator of its own; the package would seed numpy's global one."""
    try:
        import cma
    except ImportError as error:
        raise MissingExtra("baselines", "cma") from error
    settings: dict[str, Any] = {"verbose": -9, "seed": np.nan, "randn": lambda *n: rng.standard_normal(n)}
    if black_box.population:
        settings["popsize"] = black_box.population
    return cma.CMAEvolutionStrategy(begin, black_box.sigma, settings)
