"""Learnable prompts: where they start, how they stay near words, and what the classifier sees of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from diffexplain.editors.generator import Generator
from diffexplain.synthesis.gallery import Gallery
from diffexplain.synthesis.openings import openings
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.targets import Objective

LATENT = 0.02  # a learned latent's step, against its norm
FEWEST, MOST = 0.05, 0.95  # quantiles of the vocabulary's norms between which embeddings stay


@dataclass(slots=True, eq=False)
class Prompt:
    """One row of targets x restarts while it is optimised."""

    objective: int
    restart: int
    soft: torch.Tensor  # (N, D), a leaf
    latent: torch.Tensor | None  # (C, h, w), a leaf, where it is learned
    begun: tuple[torch.Tensor, torch.Tensor | None]  # where it set out from
    kept: tuple[torch.Tensor, torch.Tensor | None]
    curve: list[float] = field(default_factory=list)
    best: float = float("inf")
    waited: int = 0  # steps since the best
    failed: int = 0  # steps in a row without a number
    stopped: str = ""
    moments: list[tuple[torch.Tensor, torch.Tensor, int]] = field(default_factory=list)  # Adam's, and steps

    @property
    def leaves(self) -> list[torch.Tensor]:
        """What is optimised."""
        return [self.soft] if self.latent is None else [self.soft, self.latent]

    def heard(self, loss: float, window: int, patience: int) -> None:
        """Note an iteration's loss; keep the embeddings where the last `window` losses are the least so far.

        What counts as an improvement is a hundredth of all so far, whatever the loss's unit.
        """
        self.curve.append(loss)
        if len(self.curve) < window:
            return
        now, first = float(np.mean(self.curve[-window:])), float(np.mean(self.curve[:window]))
        enough = now < self.best - 0.01 * max(0.0, first - self.best) if np.isfinite(self.best) else True
        if now < self.best:
            self.best = now
            self.kept = (self.soft.detach().clone(), _copy(self.latent))
        self.waited = 0 if enough else self.waited + 1
        if patience and self.waited >= patience:
            self.stopped = "patience"


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam (Kingma & Ba 2015) with one second moment an embedding.

    With one of its own, each of an embedding's many numbers that say nothing would move as far as the few
    that do; so the step keeps the gradient's direction, and its length is that of the gradients' agreement.
    """

    rate: float  # length of a step whose gradients agree
    betas: tuple[float, float] = (0.9, 0.97)

    def step(self, prompt: Prompt, share: float) -> None:
        """Move a prompt's leaves, in place, by their gradients; `share` of the rate."""
        with torch.no_grad():
            for i, leaf in enumerate(prompt.leaves):
                gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
                if i == 0:
                    leaf.sub_(share * self.rate * self._direction(prompt, i, gradient))
                else:  # a latent is one row, and keeps the norm that noise of its size has
                    size = leaf.numel() ** 0.5
                    flat = self._direction(prompt, i, gradient.reshape(1, -1))
                    leaf.sub_(share * LATENT * size * flat.view_as(leaf))
                    leaf.mul_(size / leaf.norm().clamp(min=1e-12))

    def _direction(self, prompt: Prompt, i: int, gradient: torch.Tensor) -> torch.Tensor:
        """Adam's step of a leaf for its gradient (N, D); of length about 1 a row while gradients agree."""
        if len(prompt.moments) == i:
            prompt.moments.append((torch.zeros_like(gradient), gradient.new_zeros(len(gradient), 1), 0))
        first, second, before = prompt.moments[i]
        first = first.lerp(gradient, 1 - self.betas[0])
        second = second.lerp(gradient.square().sum(1, keepdim=True), 1 - self.betas[1])
        prompt.moments[i] = (first, second, before + 1)
        mean, square = (
            m / (1 - beta ** (before + 1)) for m, beta in zip((first, second), self.betas, strict=True)
        )
        return mean / (square.sqrt() + 1e-20)


def annealed(step: int, steps: int) -> float:
    """Share of the rate in a step: half a cosine from 1 to 0 (Loshchilov & Hutter 2017, equation 5).

    Far steps lead out of what is only better than its neighbours; short ones at last come to rest, which
    long ones do not, for few noises tell a gradient badly.
    """
    return 0.5 * (1 + math.cos(math.pi * step / steps))


@dataclass(frozen=True, slots=True)
class Norms:
    """The vocabulary's norms: their mean, and the two between which embeddings are kept."""

    mean: float
    least: float
    most: float

    @classmethod
    def of(cls, generator: Generator) -> Norms:
        """Over the real words of a generator's vocabulary."""
        norms = generator.vocabulary[1].norm(dim=1)
        return cls(
            float(norms.mean()), float(torch.quantile(norms, FEWEST)), float(torch.quantile(norms, MOST))
        )

    def keep(self, soft: torch.Tensor) -> None:
        """Scale embeddings (N, D) in place whose norm left the vocabulary's range."""
        with torch.no_grad():
            norm = soft.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            soft.mul_(norm.clamp(self.least, self.most) / norm)


def started(
    generator: Generator,
    objectives: Sequence[Objective],
    options: SynthesisOptions,
    norms: Norms,
    pool: Sequence[int],
    gallery: Gallery,
) -> list[Prompt]:
    """All prompts where they set out from: at the words that pay, or at the neutral one.

    Without `candidates`, restarts after the first set out a way off the neutral word.
    """
    word = generator.embedding(options.word)
    word = word[torch.arange(options.tokens) % len(word)]  # (N, D)
    neutral = (norms.mean * F.normalize(word, dim=-1)).to(generator.device)
    made = []
    if options.candidates:
        opened = openings(generator, objectives, options, neutral, pool, gallery)
    else:
        opened = [[_off(neutral, options, r) for r in range(options.restarts)] for _ in objectives]
    for objective, each in enumerate(opened):
        for restart, start in enumerate(each):
            latent = generator.noises([pool[restart % len(pool)]])[0, 0] if options.learn_latent else None
            soft = start.clone()
            begun = (soft.clone(), _copy(latent))
            leaf = None if latent is None else latent.requires_grad_()
            made.append(Prompt(objective, restart, soft.requires_grad_(), leaf, begun, begun))
    return made


def _off(neutral: torch.Tensor, options: SynthesisOptions, restart: int) -> torch.Tensor:
    """The neutral prompt (N, D); restarts after the first, a way off it."""
    if not restart:
        return neutral
    random = generator_of(options.seed, 1, restart)
    off = F.normalize(torch.randn(neutral.shape, generator=random), dim=-1).to(neutral)
    norm: torch.Tensor = neutral.norm(dim=-1, keepdim=True)
    return norm * F.normalize(F.normalize(neutral, dim=-1) + options.spread * off, dim=-1)


def views(images: torch.Tensor, options: SynthesisOptions, rows: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """What the classifier sees of each picture (R, 3, H, W): (R, 1 + cutouts, 3, H, W), itself first.

    The others are random square crops, scaled up again, with pixel noise (DiG-IN, Augustin et al. 2024,
    section 4). `rows` names each row's randomness, so that it does not depend on the others.
    """
    n = options.cutouts
    if not n:
        return images[:, None]
    numbers, noise = [], []
    for row in rows:
        random = generator_of(options.seed, 2, *row)
        numbers.append(torch.rand(n, 3, generator=random))
        noise.append(torch.randn((n, *images.shape[1:]), generator=random))
    drawn = torch.stack(numbers).flatten(0, 1).to(images)  # (R·n, 3)
    side = 1 - (1 - options.smallest) * drawn[:, 0]
    place = (2 * drawn[:, 1:] - 1) * (1 - side)[:, None]  # of the middle, in [-1, 1]
    theta = torch.cat([torch.diag_embed(side[:, None].expand(-1, 2)), place[..., None]], dim=2)
    whole = images.repeat_interleave(n, dim=0)
    grid = F.affine_grid(theta, list(whole.shape), align_corners=False)
    crops = F.grid_sample(whole, grid, padding_mode="border", align_corners=False)
    crops = crops.view(-1, n, *images.shape[1:]) + options.noise * torch.stack(noise).to(images)
    return torch.cat([images[:, None], crops], dim=1)


def generator_of(*key: int) -> torch.Generator:
    """A random generator for a key of whole numbers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def _copy(x: torch.Tensor | None) -> torch.Tensor | None:
    return None if x is None else x.detach().clone()
