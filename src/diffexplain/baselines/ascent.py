"""Gradient ascent on whatever a picture is made from: the loop that every baseline shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from diffexplain.errors import InputError
from diffexplain.rows import in_rows
from diffexplain.targets import Objective

ROWS = 32  # pictures ascended at a time


class Ascent(Protocol):
    """A way to maximise: what is optimised, how it becomes a picture, what holds it back.

    `x` is (N, …), one row a picture; nothing may mix rows.
    """

    @property
    def steps(self) -> int:
        """Gradient steps."""
        ...

    def start(self, seeds: Sequence[int]) -> torch.Tensor:
        """Where to begin: (N, …), row i drawn from seed i alone."""
        ...

    def picture(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1], with gradient."""
        ...

    def loss(self, x: torch.Tensor, objective: Objective, seeds: Sequence[int], step: int) -> torch.Tensor:
        """What to minimise, (N,)."""
        ...

    def optimiser(self, x: torch.Tensor) -> torch.optim.Optimizer:
        """Fresh for every batch."""
        ...

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient as the optimiser gets it."""
        ...

    def regularised(self, x: torch.Tensor, gradient: torch.Tensor, step: int) -> torch.Tensor:
        """`x` after a step, held to what a picture may be; `gradient` is the loss's before the step."""
        ...


def maximise(
    objective: Objective,
    *,
    seeds: Sequence[int],
    options: Ascent,
    rows: int = ROWS,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Images (N, 3, H, W) in [0, 1] that the objective likes, one a seed, on the CPU.

    `options` choose the method: PixelOptions and YOSINSKI (Yosinski et al. 2015), NaturalOptions (Mahendran &
    Vedaldi 2016), DecoderOptions (Nguyen et al. 2016), AttackOptions (from real pictures). A picture does not
    depend on the other seeds. Raises InputError without seeds; ClassifierError as the objective does.
    """
    if not seeds:
        raise InputError("seeds is empty; give one seed a picture to make")

    def made(chunk: torch.Tensor) -> torch.Tensor:
        return _ascended(objective, chunk.tolist(), options, torch.device(device or "cpu"))

    return in_rows(made, torch.tensor(seeds), rows=min(rows, len(seeds)))


def _ascended(
    objective: Objective, seeds: Sequence[int], options: Ascent, device: torch.device
) -> torch.Tensor:
    x = options.start(seeds).to(device).requires_grad_()
    optimiser = options.optimiser(x)
    for step in range(options.steps):
        with torch.enable_grad():
            loss = options.loss(x, objective, seeds, step)
            (gradient,) = torch.autograd.grad(loss.sum(), x)
        gradient = torch.nan_to_num(gradient, posinf=0.0, neginf=0.0)  # such a step is left out
        x.grad = options.direction(gradient)
        optimiser.step()
        with torch.no_grad():
            x.copy_(options.regularised(x, gradient, step))
    with torch.no_grad():
        return options.picture(x).clamp(0, 1).cpu()


def noise(seeds: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Standard normal (N, *shape), one generator a row."""
    return torch.stack([torch.randn(*shape, generator=torch.Generator().manual_seed(s)) for s in seeds])


def unit(gradient: torch.Tensor) -> torch.Tensor:
    """Rows scaled to an L2 norm of one; rows of zeros stay."""
    norms: torch.Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1).clamp_min(1e-12)
    return gradient / norms.view(-1, *[1] * (gradient.ndim - 1))
