"""Edit-friendly DDPM inversion with masked semantic guidance, on diffusers components.

Inversion (Huberman-Spiegelglas, Kulikov & Michaeli, CVPR 2024): every noisy latent is drawn
independently, x_t = √ᾱ_t·x_0 + √(1-ᾱ_t)·ε̃_t, and the part of x_{t-1} that the model's mean μ̂(x_t) does not
explain is kept; sampling with it and no edit returns the input. Guidance (LEDITS++, Brack et al.,
CVPR 2024, eq. 4): ε_u + Σ_i s·w_i·M_i⊙(ε_{c_i} - ε_u), where u is the picture's source prompt, empty
unless one is given.

The mask M_i here is where the smoothed |ε_{c_i} - ε_u| exceeds a share τ of its maximum, not a fixed
quantile: a concept then takes as much room as it needs, glasses little and a background much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional as F

from diffexplain.editors.base import Edit, Inversion
from diffexplain.rows import in_rows


@dataclass(frozen=True, slots=True)
class DDPMOptions:
    """Settings of the editor; a pipeline folder may state its own in `diffexplain.json`."""

    steps: int = 50  # T, before the skip
    skip: float = 0.2  # share of the noisiest steps left out: more skip keeps more of the picture
    guidance: float = 8.0  # s
    threshold: float = 0.3  # τ, 0 to 1; 0 guides everywhere
    eta: float = 1.0  # stochasticity; 1 is DDPM
    rows: int = 64  # UNet rows a call

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and self.rows >= 1 and 0 <= self.skip < 1 and 0 <= self.threshold <= 1):
            raise ValueError("steps and rows are at least 1, skip is in [0, 1), threshold in [0, 1]")


class DDPMEditor:
    """Edits with a Stable-Diffusion-like pipeline (AutoencoderKL, UNet, CLIP text encoder)."""

    def __init__(
        self,
        pipeline: Any,
        *,
        name: str,
        options: DDPMOptions,
        default_judge: str,
        default_segmenter: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._device = device or torch.device("cpu")
        self.name, self.options = name, options
        self.rows = options.rows
        self.default_judge, self.default_segmenter = default_judge, default_segmenter
        self._unet = pipeline.unet.to(self._device, memory_format=torch.channels_last).eval()
        self._vae = pipeline.vae.to(self._device).eval()
        self._text = pipeline.text_encoder.to(self._device).eval()
        for part in (self._unet, self._vae, self._text):
            part.requires_grad_(False)
        self._tokenizer = pipeline.tokenizer
        self._factor = 2 ** (len(self._vae.config.block_out_channels) - 1)
        self.size = int(self._unet.config.sample_size * self._factor)
        noise = pipeline.scheduler
        self._alphas: torch.Tensor = noise.alphas_cumprod.to(self._device, torch.float64)
        self._prediction = noise.config.prediction_type
        self._times = self._schedule(len(self._alphas))
        self._embed = lru_cache(maxsize=1024)(self._encode_prompt)

    def settings(self) -> dict[str, Any]:
        """The options, and the pixel size."""
        return {"method": "ddpm", "size": self.size, **asdict(self.options)}

    def evaluations(self, edit: Edit) -> int:
        """One of the source prompt and one a term, at each step."""
        return len(self._times) * (1 + len(edit.terms))

    def invert(
        self, images: torch.Tensor, seeds: Sequence[int], prompts: Sequence[str] | None = None
    ) -> Inversion:
        """Independent noise per step and image, then what each step must add: (N, S, C, h, w)."""
        x0 = in_rows(self._encode, images.to(self._device), rows=min(self.rows, 16))
        noise = torch.stack([self._noise(seed, x0.shape[1:]) for seed in seeds])  # (N, S, C, h, w)
        path = [self._noised(x0, t, noise[:, i]) for i, t in enumerate(self._times)] + [x0]
        said = tuple(prompts) if prompts is not None else ("",) * len(x0)
        residuals = []
        for i in range(len(self._times)):
            epsilon = self._predict(path[i], self._times[i], said)
            residuals.append(path[i + 1] - self._mean(path[i], epsilon, i))
        return Inversion(path[0], torch.stack(residuals, dim=1), said)

    def reconstruct(self, inversion: Inversion) -> torch.Tensor:
        """An edit without terms of every row."""
        return self.edit(inversion, [Edit(i) for i in range(len(inversion))])

    def edit(self, inversion: Inversion, edits: Sequence[Edit]) -> torch.Tensor:
        """Sample every edit with its picture's residuals; all rows go through the UNet together."""
        chosen = inversion.select([e.row for e in edits])
        owners = torch.tensor([i for i, e in enumerate(edits) for _ in e.terms], dtype=torch.long)
        weights = torch.tensor([t.weight for e in edits for t in e.terms], device=self._device)
        prompts = [*chosen.prompts] + [t.prompt for e in edits for t in e.terms]
        owners = owners.to(self._device)
        x = chosen.start
        for i, t in enumerate(self._times):
            epsilon = self._predict(torch.cat([x, x[owners]]), t, prompts)
            source, towards = epsilon[: len(x)], epsilon[len(x) :]
            direction = towards - source[owners]  # (terms, C, h, w)
            push = self.options.guidance * weights.view(-1, 1, 1, 1) * self._mask(direction) * direction
            guided = source.index_add(0, owners, push)
            x = self._mean(x, guided, i) + chosen.residuals[:, i]
        return in_rows(self._decode, x, rows=min(self.rows, 16))

    def _schedule(self, training_steps: int) -> list[int]:
        """Leading-spaced times from (1 - skip)·T down to the last, noisiest first."""
        spacing = training_steps / self.options.steps
        times = [round((i + 1) * spacing) - 1 for i in range(self.options.steps)][::-1]
        return times[round(self.options.skip * self.options.steps) :]

    def _noise(self, seed: int, shape: torch.Size) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(len(self._times), *shape, generator=generator).to(self._device)

    def _noised(self, x0: torch.Tensor, t: int, noise: torch.Tensor) -> torch.Tensor:
        alpha = self._alphas[t]
        return (alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise).float()

    def _mean(self, x: torch.Tensor, epsilon: torch.Tensor, i: int) -> torch.Tensor:
        """μ̂(x_t): the DDIM update at stochasticity η (Song et al. 2021, eq. 12), without its noise."""
        last = i + 1 == len(self._times)
        alpha = self._alphas[self._times[i]]
        alpha_next = torch.ones_like(alpha) if last else self._alphas[self._times[i + 1]]
        variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next) * self.options.eta**2
        x0 = (x - (1 - alpha).sqrt().float() * epsilon) / alpha.sqrt().float()
        towards = (1 - alpha_next - variance).clamp(min=0).sqrt().float()
        return alpha_next.sqrt().float() * x0 + towards * epsilon

    def _predict(self, x: torch.Tensor, t: int, prompts: Sequence[str]) -> torch.Tensor:
        """ε̂ for rows (N, C, h, w), in UNet calls of the fixed row count."""
        states = torch.stack([self._embed(p) for p in prompts])

        def ask(rows: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
            rows = rows.to(memory_format=torch.channels_last)
            answer: torch.Tensor = self._unet(rows, t, conditions, return_dict=False)[0]
            return answer

        with torch.no_grad():
            raw = in_rows(ask, x, states, rows=self.rows)
        alpha = self._alphas[t]
        if self._prediction == "v_prediction":
            raw = alpha.sqrt().float() * raw + (1 - alpha).sqrt().float() * x
        return raw

    def _mask(self, direction: torch.Tensor) -> torch.Tensor:
        """Where a term may act: (terms, 1, h, w) of zeros and ones."""
        if not len(direction) or self.options.threshold <= 0:
            return torch.ones_like(direction[:, :1])
        strength = direction.abs().mean(1, keepdim=True)
        strength = F.avg_pool2d(F.pad(strength, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        return (strength >= self.options.threshold * strength.amax((2, 3), keepdim=True)).float()

    def _encode_prompt(self, prompt: str) -> torch.Tensor:
        tokens = self._tokenizer(
            prompt,
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            states: torch.Tensor = self._text(tokens["input_ids"].to(self._device)).last_hidden_state
        return states[0]

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            mode: torch.Tensor = self._vae.encode(images * 2 - 1).latent_dist.mode()
        return mode * float(self._vae.config.scaling_factor)

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x: torch.Tensor = self._vae.decode(latents / self._vae.config.scaling_factor).sample
        return (x / 2 + 0.5).clamp(0, 1).float().cpu()
