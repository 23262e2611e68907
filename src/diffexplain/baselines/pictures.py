"""Feature attack: a real picture pushed along the gradient (Singla & Feizi, Salient ImageNet, 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diffexplain.baselines.ascent import unit
from diffexplain.targets import Objective


@dataclass(frozen=True, slots=True)
class AttackOptions:
    """L2-normalised gradient ascent from real pictures; seed i takes picture i, counted round."""

    images: torch.Tensor  # (N, 3, H, W) in [0, 1]
    steps: int = 1000
    rate: float = 0.05  # L2 length of a step, pixel values in [0, 1]
    radius: float | None = None  # L2 distance from the picture that is never left; None: any

    def start(self, seeds: Sequence[int]) -> torch.Tensor:
        """The pictures."""
        return self.images[[s % len(self.images) for s in seeds]].float().clone()

    def picture(self, x: torch.Tensor) -> torch.Tensor:
        """Optimised as it is."""
        return x

    def loss(self, x: torch.Tensor, objective: Objective, seeds: Sequence[int], step: int) -> torch.Tensor:
        """The objective's own."""
        return objective.loss(x)

    def optimiser(self, x: torch.Tensor) -> torch.optim.Optimizer:
        """Plain steps, never beyond the radius."""
        return _Within(x, self.rate, self.radius)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Of unit length."""
        return unit(gradient)

    def regularised(self, x: torch.Tensor, gradient: torch.Tensor, step: int) -> torch.Tensor:
        """The range of pixels."""
        return x.clamp(0, 1)


class _Within(torch.optim.SGD):
    """Gradient descent inside a ball around where it began."""

    def __init__(self, x: torch.Tensor, rate: float, radius: float | None) -> None:
        super().__init__([x], lr=rate)
        self._x, self._begin, self._radius = x, x.detach().clone(), radius

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, then back onto the ball."""
        super().step()
        if self._radius is not None:
            away = self._x - self._begin
            lengths = torch.linalg.vector_norm(away.flatten(1), dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            self._x.copy_(self._begin + away * (self._radius / lengths).clamp_max(1))
