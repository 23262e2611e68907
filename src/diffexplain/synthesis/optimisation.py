"""Soft prompts that lower an objective on the pictures that a generator makes of them.

DiffExplainer (Pennisi et al. 2025): embeddings after a fixed text are optimised through the generator by
Adam. All targets, restarts and seeds are rows of one batch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diffexplain.editors.generator import Generator
from diffexplain.errors import InputError
from diffexplain.rows import FewerRows
from diffexplain.synthesis.gallery import Gallery
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.synthesis.prompts import Adam, Norms, Prompt, annealed, started, views
from diffexplain.targets import Objective

FAILURES = 3  # steps in a row without a number, after which a run stops
ON_GPU, ON_CPU = 64, 16  # pictures with a gradient at a time, at first


@dataclass(frozen=True, slots=True, eq=False)
class Optimum:
    """The best prompt of one target and restart."""

    objective: int  # which of the objectives
    restart: int
    soft: torch.Tensor  # (N, D) float32 on the CPU
    latent: torch.Tensor | None  # (C, h, w), if it was learned
    curve: tuple[float, ...]  # un-augmented loss of every iteration
    best: float  # un-augmented loss of `soft`, mean over the optimisation seeds
    iterations: int
    stopped: str  # "steps" or "patience"


@dataclass(frozen=True, slots=True)
class Step:
    """What `tell` hears after each iteration."""

    iteration: int
    steps: int
    losses: tuple[float, ...]  # the best restart's last, one an objective
    active: int  # prompts still optimised


def optimise(
    generator: Generator,
    objectives: Sequence[Objective],
    options: SynthesisOptions,
    *,
    gallery: Gallery | None = None,
    tell: Callable[[Step], None] | None = None,
) -> list[Optimum]:
    """Optimise all objectives' prompts in one batch; one Optimum an objective and restart, in that order.

    `gallery` keeps the pictures of words that prompts set out from; without one, for this call alone.

    Each step draws every prompt with the next `seeds` of the pool. Kept is the prompt of the least loss,
    without crops and noise, over the last steps that together drew the whole pool (over all, where they are
    fewer), or what it set out from where that has a lesser one on all of the pool. A prompt that stays
    without improvement for `patience` steps leaves the batch. Where memory does not hold the rows, they are
    halved and FewerRows is warned of; the result is the same up to rounding.

    Raises InputError when a loss is no number several steps in a row, or the options do not fit.
    """
    return _Optimisation(generator, objectives, options, gallery or Gallery()).run(tell)


def held_out_seeds(n: int, seed: int) -> list[int]:
    """N seeds that no optimisation uses, for what is reported: odd ones, and those are even."""
    return [2 * s + 1 for s in _drawn(n, seed)]


def optimisation_seeds(n: int, seed: int) -> list[int]:
    """The pool of n seeds that prompts are optimised with."""
    return [2 * s for s in _drawn(n, seed)]


def _drawn(n: int, seed: int) -> list[int]:
    return [int(s) for s in np.random.default_rng(seed).choice(2**30, n, replace=False)]


Leaves = tuple[torch.Tensor, torch.Tensor | None]  # a prompt's embeddings, and its latent if learned
Row = tuple[int, int]  # a prompt, and which of the pool's seeds


class _Optimisation:
    """One run's prompts, and how many rows fit."""

    def __init__(
        self,
        generator: Generator,
        objectives: Sequence[Objective],
        options: SynthesisOptions,
        gallery: Gallery,
    ) -> None:
        if options.learn_latent and options.mode == "last-k" and options.k < generator.steps:
            raise InputError(
                f"learn_latent needs a gradient at the first step, and mode last-k with k {options.k} of "
                f"{generator.steps} steps has none; choose mode detached or full"
            )
        self._generator, self._objectives, self._options = generator, objectives, options
        self._norms = Norms.of(generator)
        self._pool = optimisation_seeds(options.pool, options.seed)
        self._prompts = started(generator, objectives, options, self._norms, self._pool, gallery)
        self._rows = options.rows or (ON_GPU if generator.device.type == "cuda" else ON_CPU)
        self._adam = Adam(options.rate * self._norms.mean)

    def run(self, tell: Callable[[Step], None] | None) -> list[Optimum]:
        """All steps, then the kept prompts' exact losses."""
        options = self._options
        for i in range(options.steps):
            active = [j for j, p in enumerate(self._prompts) if not p.stopped]
            if not active:
                break
            self._step(i, active)
            if tell is not None:
                tell(Step(i + 1, options.steps, self._last(), len(active)))
        kept, begun = ([getattr(p, which) for p in self._prompts] for which in ("kept", "begun"))
        return [
            _optimum(p, *min(one, other, key=lambda found: (math.isnan(found[1]), found[1])))
            for p, one, other in zip(self._prompts, self._exact(kept), self._exact(begun), strict=True)
        ]

    def _step(self, i: int, active: Sequence[int]) -> None:
        """One Adam step of every active prompt on its next seeds."""
        options = self._options
        each = 1 if options.learn_latent else options.seeds  # a learned latent is its own seed
        now = [(i * each + s) % options.pool for s in range(each)]
        losses = self._gradients(i, [(j, s) for j in active for s in now])
        share = annealed(i, options.steps) if options.anneal else 1.0
        for n, j in enumerate(active):
            prompt = self._prompts[j]
            loss = float(np.mean(losses[n * len(now) : (n + 1) * len(now)]))
            if self._usable(prompt, loss):
                window = 1 if options.learn_latent else min(options.pool // options.seeds, options.steps)
                prompt.heard(loss, window, options.patience)
                self._adam.step(prompt, share)
                self._norms.keep(prompt.soft)
            for leaf in prompt.leaves:
                leaf.grad = None

    def _usable(self, prompt: Prompt, loss: float) -> bool:
        """Whether loss and gradient are numbers. Raises InputError after several that are not."""
        good = math.isfinite(loss) and all(
            leaf.grad is not None and bool(leaf.grad.isfinite().all()) for leaf in prompt.leaves
        )
        prompt.failed = 0 if good else prompt.failed + 1
        if prompt.failed >= FAILURES:
            raise InputError(
                f"loss of {self._objectives[prompt.objective].name!r} was no number in {FAILURES} steps in a "
                "row; check the classifier's answers, lower rate, or load the generator with dtype float32"
            )
        return good

    def _gradients(self, i: int, rows: Sequence[Row]) -> list[float]:
        """Add every row's gradient to its prompt; the rows' losses without crops and noise."""
        losses: list[float] = []
        while len(losses) < len(rows):
            chunk = rows[len(losses) : len(losses) + self._rows]
            try:
                losses += self._chunk(i, chunk)
            except torch.OutOfMemoryError:
                if self._rows == 1:
                    raise
                self._rows = min(self._rows, len(chunk)) // 2 or 1
                note = f"memory did not hold {len(chunk)} rows with a gradient: {self._rows} now"
                warnings.warn(FewerRows(note), stacklevel=2)
        return losses

    def _chunk(self, i: int, rows: Sequence[Row]) -> list[float]:
        """As `_gradients`, in one call of the generator; nothing is added when it fails."""
        options, names = self._options, list(dict.fromkeys(j for j, _ in rows))
        prompts = [self._prompts[j] for j in names]
        said = self._generator.states(torch.stack([p.soft for p in prompts]), options.text)
        own = [names.index(j) for j, _ in rows]
        latent = _stacked([prompts[k].latent for k in own])
        images = self._generator.draw(
            said.of(own), [self._pool[s] for _, s in rows], mode=options.mode, k=options.k, latent=latent
        )
        seen = views(images, options, [(i, self._prompts[j].restart, s) for j, s in rows])
        losses = self._losses([p.objective for p in (prompts[k] for k in own)], seen)  # (R, views)
        leaves = [leaf for p in prompts for leaf in p.leaves]
        total = losses.mean(1).sum() / (1 if options.learn_latent else options.seeds)
        for leaf, gradient in zip(leaves, torch.autograd.grad(total, leaves), strict=True):
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
        return [float(x) for x in losses[:, 0].detach()]

    def _losses(self, objectives: Sequence[int], seen: torch.Tensor) -> torch.Tensor:
        """Each row's loss on each of its views (R, views, 3, H, W): (R, views).

        Rows whose objectives read the same of a classifier are read together.
        """
        n = seen.shape[1]
        keys = [self._objectives[o].key for o in objectives]
        found: dict[int, torch.Tensor] = {}
        for key in dict.fromkeys(keys):
            members = [r for r, k in enumerate(keys) if k == key]
            read = self._objectives[objectives[members[0]]].read(seen[members].flatten(0, 1))
            for place, r in enumerate(members):
                found[r] = self._objectives[objectives[r]].loss_of(read[place * n : (place + 1) * n])
        return torch.stack([found[r].to(seen.device) for r in range(len(objectives))])

    def _last(self) -> tuple[float, ...]:
        """The least last loss of each objective's restarts."""
        last = [p.curve[-1] if p.curve else math.nan for p in self._prompts]
        each = self._options.restarts
        return tuple(min(last[o * each : (o + 1) * each]) for o in range(len(self._objectives)))

    def _exact(self, found: Sequence[Leaves]) -> list[tuple[Leaves, float]]:
        """A state of each prompt, and its mean loss over the whole pool."""
        options, pool, losses = self._options, self._pool, []
        with torch.no_grad():
            said = self._generator.states(torch.stack([soft for soft, _ in found]), options.text)
            own = [j for j in range(len(found)) for _ in pool]
            latent = _stacked([found[j][1] for j in own])
            images = self._generator.images(said.of(own), pool * len(found), latent=latent)
            for p, some in zip(self._prompts, torch.split(images, len(pool)), strict=True):
                losses.append(float(self._objectives[p.objective].loss(some).mean()))
        return list(zip(found, losses, strict=True))


def _stacked(latents: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """One a row, or None where none is learned."""
    learned = [x for x in latents if x is not None]
    return torch.stack(learned) if learned else None


def _optimum(prompt: Prompt, found: Leaves, loss: float) -> Optimum:
    soft, latent = found
    return Optimum(
        objective=prompt.objective,
        restart=prompt.restart,
        soft=soft.cpu(),
        latent=None if latent is None else latent.float().cpu(),
        curve=tuple(prompt.curve),
        best=loss,
        iterations=len(prompt.curve),
        stopped=prompt.stopped or "steps",
    )
