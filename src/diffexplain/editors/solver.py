"""The second-order SDE-DPM-Solver++ on a discrete noise schedule, as inversion and sampling share it.

Notation (Lu et al. 2022, arXiv 2211.01095, section 5 and appendix B): x_t = α_t·x_0 + σ_t·ε with
α_t = √ᾱ_t, σ_t = √(1-ᾱ_t); λ_t = log(α_t/σ_t); a step goes from s to the less noisy t, h = λ_t - λ_s.
At first order the mean is DDPM's (Ho et al. 2020, eq. 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

Spacing = Literal["leading", "trailing"]


@dataclass(frozen=True, slots=True)
class Solver:
    """The times of S steps, noisiest first, and the update between them."""

    times: tuple[int, ...]  # training steps, (S,)
    alpha: torch.Tensor  # α at each time and at the end, (S + 1,) float64
    sigma: torch.Tensor  # σ likewise
    noise_alpha: torch.Tensor  # α and σ of the noise that inversion adds: as above but for a shift
    noise_sigma: torch.Tensor
    order: int
    prediction: str  # "epsilon" or "v_prediction"

    @classmethod
    def of(
        cls, scheduler: Any, *, steps: int, skip: float, order: int, spacing: Spacing, shift: int
    ) -> Solver:
        """For a diffusers scheduler's training noise.

        `steps` are made, after the noisiest share `skip` on top of them was left out; the end is the lowest
        training noise. `shift`: training steps by which the added noise is less than the model is told
        (TurboEdit, Deutch et al. 2024, section 4.1).
        """
        bar = scheduler.alphas_cumprod.to("cpu", torch.float64)
        offset = int(getattr(scheduler.config, "steps_offset", 0))
        times = _times(len(bar), steps, skip, spacing, offset)
        index = torch.tensor([*times, 0])
        shifted = (index - shift).clamp(min=0)
        return cls(
            times=times,
            alpha=bar[index].sqrt(),
            sigma=(1 - bar[index]).sqrt(),
            noise_alpha=bar[shifted].sqrt(),
            noise_sigma=(1 - bar[shifted]).sqrt(),
            order=order,
            prediction=scheduler.config.prediction_type,
        )

    def __len__(self) -> int:
        return len(self.times)

    def noised(self, x0: torch.Tensor, noise: torch.Tensor, i: int) -> torch.Tensor:
        """x_t at step i, drawn on its own: α·x_0 + σ·ε̃."""
        return float(self.noise_alpha[i]) * x0 + float(self.noise_sigma[i]) * noise

    def clean(self, x: torch.Tensor, answer: torch.Tensor, i: int) -> torch.Tensor:
        """x̂_0 from the model's answer at step i."""
        alpha, sigma = float(self.alpha[i]), float(self.sigma[i])
        if self.prediction == "v_prediction":
            return alpha * x - sigma * answer
        return (x - sigma * answer) / alpha

    def mean(self, x: torch.Tensor, x0: torch.Tensor, before: torch.Tensor | None, i: int) -> torch.Tensor:
        """μ̂: where step i goes without noise, from x̂_0 of this step and, at second order, of the one before.

        (σ_t/σ_s)·e^{-h}·x + α_t·(1 - e^{-2h})·(D_0 + D_1/2), D_0 = x̂_0, D_1 = (h/h_before)·(x̂_0 - before)
        """
        decay, h = self._step(i)
        carried = float(self.sigma[i + 1] / self.sigma[i]) * decay
        fresh = float(self.alpha[i + 1]) * (1 - decay**2)
        if self.order == 2 and before is not None:
            _, h_before = self._step(i - 1)
            x0 = x0 + 0.5 * (h / h_before) * (x0 - before)
        return carried * x + fresh * x0

    def _step(self, i: int) -> tuple[float, float]:
        """e^{-h} and h of step i; a start from pure noise (α = 0) is an infinite h."""
        decay = self.alpha[i] * self.sigma[i + 1] / (self.alpha[i + 1] * self.sigma[i])
        return float(decay), float(-decay.log())


def _times(training: int, steps: int, skip: float, spacing: Spacing, offset: int) -> tuple[int, ...]:
    """Noisiest first. Leading: as diffusers' solver spaces them; trailing: as distilled models learn."""
    total = int(steps * (1 + skip))
    if spacing == "trailing":
        grid = [round(training - k * training / total) - 1 for k in range(total)]
    else:
        ratio = training // (total + 1)
        grid = [k * ratio + offset for k in range(total, 0, -1)]
    return tuple(grid[-steps:])
