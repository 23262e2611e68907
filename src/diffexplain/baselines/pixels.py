"""Activation maximisation in pixels, with the regularisers that made it readable.

Any network will do: for the CaffeNet or AlexNet of the papers, put `torchvision.models.alexnet()` with
weights from a safetensors file into a ModuleClassifier (labels, size 224, ImageNet's mean and deviation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from diffexplain.baselines.ascent import noise, unit
from diffexplain.targets import Objective

GREY = 0.5  # pictures are optimised as differences from it; what is clipped falls back to it


@dataclass(frozen=True, slots=True)
class PixelOptions:
    """Yosinski et al. 2015 (Understanding neural networks through deep visualization, section 3).

    x ← r(x + η·direction), r being L2 decay, Gaussian blur and the clipping of pixels with small norm and of
    pixels with small contribution. Their step η is a constant times the raw gradient of one network; here the
    gradient has unit norm, so that a step means the same for every network.
    """

    size: int = 64  # side, pixels
    steps: int = 200
    rate: float = 1.0  # L2 length of a step, pixel values in [0, 1]
    decay: float = 0.0  # share of x lost a step
    blur: float = 0.5  # Gaussian's deviation, pixels; 0: none
    blur_every: int = 4  # steps
    norm_percentile: float = 50.0  # pixels whose norm is below it become grey
    contribution_percentile: float = 0.0  # pixels that matter less become grey
    begin: float = 0.05  # deviation of the noise to begin with

    def start(self, seeds: Sequence[int]) -> torch.Tensor:
        """Grey with a little noise."""
        return self.begin * noise(seeds, (3, self.size, self.size))

    def picture(self, x: torch.Tensor) -> torch.Tensor:
        """Difference from grey -> image."""
        return x + GREY

    def loss(self, x: torch.Tensor, objective: Objective, seeds: Sequence[int], step: int) -> torch.Tensor:
        """The objective's own."""
        return objective.loss(self.picture(x))

    def optimiser(self, x: torch.Tensor) -> torch.optim.Optimizer:
        """Plain steps."""
        return torch.optim.SGD([x], lr=self.rate)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Of unit length."""
        return unit(gradient)

    def regularised(self, x: torch.Tensor, gradient: torch.Tensor, step: int) -> torch.Tensor:
        """Decay, blur, the two clippings, and the range of pixels."""
        x = x * (1 - self.decay)
        if self.blur and (step + 1) % self.blur_every == 0:
            x = blurred(x, self.blur)
        if self.norm_percentile:
            x = _clipped(x, torch.linalg.vector_norm(x, dim=1, keepdim=True), self.norm_percentile)
        if self.contribution_percentile:  # a pixel's first-order share in the activation
            x = _clipped(x, (x * gradient).sum(1, keepdim=True).abs(), self.contribution_percentile)
        return x.clamp(-GREY, 1 - GREY)


#: four settings that complement each other, after the paper's.
YOSINSKI = (
    PixelOptions(decay=0.0, blur=0.5, blur_every=4, norm_percentile=50.0),
    PixelOptions(decay=0.3, blur=0.0, blur_every=1, norm_percentile=20.0),
    PixelOptions(decay=0.0001, blur=1.0, blur_every=4, norm_percentile=0.0),
    PixelOptions(decay=0.0, blur=0.5, blur_every=4, norm_percentile=0.0, contribution_percentile=90.0),
)


@dataclass(frozen=True, slots=True)
class NaturalOptions:
    """Mahendran & Vedaldi 2016 (Visualizing deep CNNs using natural pre-images, sections 3 and 4).

    strength·loss + mean((|x|/B)^α) + mean((|∇x|/V)^β) with V = B/6.5, over pictures jittered by up to
    `jitter` pixels a step. Adam stands for the paper's momentum with its per-pixel rates.
    """

    size: int = 64
    steps: int = 300
    rate: float = 0.02
    strength: float = 10.0  # of the objective against the two penalties
    alpha: float = 6.0  # bounds intensities
    beta: float = 2.0  # of the total variation
    bound: float = 80 / 255  # B: a typical distance from grey
    jitter: int = 4  # pixels
    begin: float = 0.05

    def start(self, seeds: Sequence[int]) -> torch.Tensor:
        """Grey with a little noise."""
        return self.begin * noise(seeds, (3, self.size, self.size))

    def picture(self, x: torch.Tensor) -> torch.Tensor:
        """Difference from grey -> image."""
        return x + GREY

    def loss(self, x: torch.Tensor, objective: Objective, seeds: Sequence[int], step: int) -> torch.Tensor:
        """The objective on jittered pictures, bounded intensities, total variation."""
        length: torch.Tensor = torch.linalg.vector_norm(x, dim=1)
        intensity = (length / self.bound).pow(self.alpha).flatten(1).mean(1)
        variation = total_variation(x, self.beta) / math.pow(self.bound / 6.5, self.beta)
        moved = _jittered(self.picture(x), seeds, step, self.jitter)
        return self.strength * objective.loss(moved).to(x) + intensity + variation

    def optimiser(self, x: torch.Tensor) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam([x], lr=self.rate)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """As it is."""
        return gradient

    def regularised(self, x: torch.Tensor, gradient: torch.Tensor, step: int) -> torch.Tensor:
        """The range of pixels."""
        return x.clamp(-GREY, 1 - GREY)


def total_variation(x: torch.Tensor, beta: float = 2.0) -> torch.Tensor:
    """Mean over pixels of (dx² + dy²)^(β/2), channels summed, forward differences: (N,)."""
    across = F.pad(x.diff(dim=3), (0, 1, 0, 0))
    down = F.pad(x.diff(dim=2), (0, 0, 0, 1))
    steep = (across**2 + down**2).sum(1)
    return (steep + 1e-12).pow(beta / 2).flatten(1).mean(1)


def blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur, edges repeated."""
    radius = max(1, round(3 * sigma))
    place = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.softmax(-0.5 * (place / sigma) ** 2, 0).expand(x.shape[1], 1, 1, -1)
    x = F.pad(x, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, kernel, groups=x.shape[1]), kernel.mT, groups=x.shape[1])


def _clipped(x: torch.Tensor, size: torch.Tensor, percentile: float) -> torch.Tensor:
    """Pixels whose size (N, 1, H, W) is below the picture's percentile become grey."""
    least = torch.quantile(size.flatten(1), percentile / 100, dim=1).view(-1, 1, 1, 1)
    return torch.where(size < least, torch.zeros_like(x), x)


def _jittered(images: torch.Tensor, seeds: Sequence[int], step: int, most: int) -> torch.Tensor:
    """Every picture rolled by its own random offset of up to ±`most` pixels."""
    moved = []
    for image, seed in zip(images, seeds, strict=True):
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
        down, across = torch.randint(-most, most + 1, (2,), generator=draw).tolist()
        moved.append(image.roll((down, across), dims=(1, 2)))
    return torch.stack(moved)
