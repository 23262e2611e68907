"""Flow-matching models as velocity fields v(x_σ, σ; c): one short adapter a family of diffusers pipelines.

All of them interpolate x_σ = (1-σ)·x_0 + σ·n and predict dx/dσ = n - x_0 (rectified flow, Liu et al. 2023;
flow matching, Lipman et al. 2023). An adapter says how prompts are encoded, to a fixed number of tokens, and
how the transformer is asked. Latents stay in float32, whatever it computes in; the autoencoder does too, as
at 16 bits some overflow and all blur what an edit is measured from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional as F

from diffexplain.editors.offloading import take_turns
from diffexplain.rows import in_rows

REMEMBERED = 256  # prompts whose conditions are kept: a long one of a big model takes 4 MB
PIXELS = 2**20  # the autoencoder sees that many at a time


class Velocity(ABC):
    """What the families share: an AutoencoderKL, sigmas from a flow-matching Euler scheduler."""

    unconditional = True  # guided by the empty prompt's velocity, not by telling the transformer the scale
    descending = True  # sigmas before the shift are 1, 1 - 1/T, …, 1/T; else the scheduler's own
    patch = 2  # side of a token, in latent pixels

    def __init__(self, pipeline: Any, device: torch.device, offload: bool = False) -> None:
        """`offload`: parts take turns on the device."""
        pipeline.vae.float()
        parts = [p for p in pipeline.components.values() if isinstance(p, torch.nn.Module)]
        for part in parts:
            part.eval().requires_grad_(False)
            if not offload:
                part.to(device)
        if offload:
            take_turns(parts, device)
        self._pipeline, self._device = pipeline, device
        self._transformer, self._vae = pipeline.transformer, pipeline.vae
        self.size = self._transformer.config.get("sample_size", 128) * self.factor
        self.condition = lru_cache(maxsize=REMEMBERED)(self._conditioned)

    @property
    def factor(self) -> int:
        """Pixels of a latent pixel's side."""
        return int(2 ** (len(self._vae.config.block_out_channels) - 1))

    def velocity(
        self, x: torch.Tensor, sigma: float, guidance: torch.Tensor, *conditions: torch.Tensor
    ) -> torch.Tensor:
        """Latents (N, C, h, w) at noise level σ in [0, 1], guidance (N,), conditions (N, …) -> dx/dσ."""
        levels = torch.full((len(x),), sigma, device=x.device)
        asked = self._asked(x.to(self._transformer.dtype), levels, guidance, *conditions)
        return asked.float()

    def sigmas(self, steps: int, latent: tuple[int, int]) -> list[float]:
        """The noise levels of T steps on latents of that size, T + 1 values from the noisiest to 0."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self._pipeline.scheduler.config)
        c = scheduler.config
        tokens = latent[0] * latent[1] // self.patch**2
        slope = (c.max_shift - c.base_shift) / (c.max_image_seq_len - c.base_image_seq_len)
        mu = c.base_shift + slope * (tokens - c.base_image_seq_len)  # Esser et al. 2024, section 5.3.2
        grid = [1 - i / steps for i in range(steps)] if self.descending else None
        scheduler.set_timesteps(None if grid else steps, sigmas=grid, mu=mu)
        return [float(sigma) for sigma in scheduler.sigmas]

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) -> latents (N, C, h, w); sides that do not fit are filled up by their edges."""
        multiple = self.factor * self.patch
        fill = (0, -images.shape[-1] % multiple, 0, -images.shape[-2] % multiple)
        images = F.pad(images, fill, mode="replicate")

        def encoded(x: torch.Tensor) -> torch.Tensor:
            return self._to_latents(x.to(self._device) * 2 - 1)

        latents: torch.Tensor = in_rows(encoded, images, rows=self._pictures(images, 1))
        return latents

    def decode(self, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Latents -> images of `size` (height, width) in [0, 1], on the CPU."""

        def decoded(z: torch.Tensor) -> torch.Tensor:
            return (self._to_pictures(z) / 2 + 0.5).clamp(0, 1).cpu()

        with torch.no_grad():
            images: torch.Tensor = in_rows(decoded, latents, rows=self._pictures(latents, self.factor))
        return images[..., : size[0], : size[1]]

    def _pictures(self, x: torch.Tensor, factor: int) -> int:
        """Rows of an autoencoder call."""
        return max(1, min(8, PIXELS // (x.shape[-2] * x.shape[-1] * factor**2)))

    def _to_latents(self, x: torch.Tensor) -> torch.Tensor:
        config = self._vae.config
        mode: torch.Tensor = self._vae.encode(x).latent_dist.mode()
        return (mode - float(config.shift_factor or 0)) * float(config.scaling_factor)

    def _to_pictures(self, z: torch.Tensor) -> torch.Tensor:
        config = self._vae.config
        z = z / float(config.scaling_factor) + float(config.shift_factor or 0)
        x: torch.Tensor = self._vae.decode(z).sample
        return x

    def _conditioned(self, prompt: str) -> tuple[torch.Tensor, ...]:
        """One prompt as the transformer reads it, without a batch dimension; the same shapes for any."""
        found = [c[0] for c in self._encoded(prompt)]
        return tuple(c.to(self._transformer.dtype) if c.is_floating_point() else c for c in found)

    @abstractmethod
    def _encoded(self, prompt: str) -> tuple[torch.Tensor, ...]:
        """What the text encoders make of one prompt, with a batch dimension of one."""

    @abstractmethod
    def _asked(
        self, x: torch.Tensor, sigma: torch.Tensor, guidance: torch.Tensor, *conditions: torch.Tensor
    ) -> torch.Tensor:
        """The transformer's answer for rows (R, C, h, w), dx/dσ."""


class StableDiffusion3(Velocity):
    """Stable Diffusion 3 and 3.5 (Esser et al. 2024): two CLIPs of 77 tokens and a T5 of 256."""

    descending = False

    def _encoded(self, prompt: str) -> tuple[torch.Tensor, ...]:
        states, _, pooled, _ = self._pipeline.encode_prompt(
            prompt, None, None, device=self._device, do_classifier_free_guidance=False
        )
        return states, pooled

    def _asked(
        self, x: torch.Tensor, sigma: torch.Tensor, guidance: torch.Tensor, *conditions: torch.Tensor
    ) -> torch.Tensor:
        states, pooled = conditions
        asked: torch.Tensor = self._transformer(
            hidden_states=x,
            timestep=sigma * 1000,
            encoder_hidden_states=states,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        return asked


class Flux(Velocity):
    """FLUX.1: a T5 of 512 tokens; dev is told the guidance that was distilled into it, schnell has none."""

    unconditional = False

    def _encoded(self, prompt: str) -> tuple[torch.Tensor, ...]:
        states, pooled, _ = self._pipeline.encode_prompt(prompt, device=self._device)
        return states, pooled

    def _asked(
        self, x: torch.Tensor, sigma: torch.Tensor, guidance: torch.Tensor, *conditions: torch.Tensor
    ) -> torch.Tensor:
        states, pooled = conditions
        height, width = (torch.arange(side // 2, device=x.device) for side in x.shape[-2:])
        asked = self._transformer(
            hidden_states=packed(x),
            timestep=sigma,
            guidance=guidance if self._transformer.config.guidance_embeds else None,
            encoder_hidden_states=states,
            pooled_projections=pooled,
            txt_ids=torch.zeros(states.shape[1], 3, device=x.device),
            img_ids=torch.cartesian_prod(torch.zeros_like(height[:1]), height, width),
            return_dict=False,
        )[0]
        return unpacked(asked, x.shape[-2])


class AuraFlow(Velocity):
    """AuraFlow: a T5 of 256 tokens, those past the prompt zero."""

    descending = False

    def _encoded(self, prompt: str) -> tuple[torch.Tensor, ...]:
        found = self._pipeline.encode_prompt(prompt, device=self._device, do_classifier_free_guidance=False)
        return (found[0],)

    def _asked(
        self, x: torch.Tensor, sigma: torch.Tensor, guidance: torch.Tensor, *conditions: torch.Tensor
    ) -> torch.Tensor:
        asked: torch.Tensor = self._transformer(
            x, encoder_hidden_states=conditions[0], timestep=sigma, return_dict=False
        )[0]
        return asked


class QwenImage(Velocity):
    """Qwen-Image (Wu et al. 2025): a video autoencoder and a language model's states, masked past the prompt.

    The pipeline rescales what is guided to the norm of the prompt's own velocity; here guidance stays linear.
    """

    tokens = 512

    @property
    def factor(self) -> int:
        """Pixels of a latent pixel's side."""
        return int(2 ** len(self._vae.temperal_downsample))

    def _encoded(self, prompt: str) -> tuple[torch.Tensor, ...]:
        states, _ = self._pipeline.encode_prompt(prompt, device=self._device, max_sequence_length=self.tokens)
        short = self.tokens - states.shape[1]
        mask = torch.arange(self.tokens, device=states.device) < states.shape[1]
        return F.pad(states, (0, 0, 0, short)), mask[None]

    def _asked(
        self, x: torch.Tensor, sigma: torch.Tensor, guidance: torch.Tensor, *conditions: torch.Tensor
    ) -> torch.Tensor:
        asked = self._transformer(
            hidden_states=packed(x),
            timestep=sigma,
            encoder_hidden_states=conditions[0],
            encoder_hidden_states_mask=conditions[1],
            img_shapes=[[(1, x.shape[-2] // 2, x.shape[-1] // 2)]] * len(x),
            return_dict=False,
        )[0]
        return unpacked(asked, x.shape[-2])

    def _to_latents(self, x: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._moments()
        mode: torch.Tensor = self._vae.encode(x[:, :, None]).latent_dist.mode()[:, :, 0]
        return (mode - mean) / deviation

    def _to_pictures(self, z: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._moments()
        x: torch.Tensor = self._vae.decode((z * deviation + mean)[:, :, None]).sample
        return x[:, :, 0]

    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of each latent channel, (C, 1, 1)."""
        config = self._vae.config
        mean, deviation = (
            torch.tensor(values, device=self._device)[:, None, None]
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, deviation


class ZImage(Velocity):
    """Z-Image: a language model's states, as many as the prompt has; its time runs from noise to picture.

    The picture's positions follow the prompt's length, so the transformer is asked for one row at a time.
    """

    tokens = 512

    def _encoded(self, prompt: str) -> tuple[torch.Tensor, ...]:
        (states,), _ = self._pipeline.encode_prompt(
            prompt, device=self._device, do_classifier_free_guidance=False, max_sequence_length=self.tokens
        )
        length = torch.tensor([len(states)], device=states.device)
        return F.pad(states, (0, 0, 0, self.tokens - len(states)))[None], length

    def _asked(
        self, x: torch.Tensor, sigma: torch.Tensor, guidance: torch.Tensor, *conditions: torch.Tensor
    ) -> torch.Tensor:
        answers = []
        for row, time, states, length in zip(x, 1 - sigma, *conditions, strict=True):
            asked = self._transformer([row[:, None]], time[None], [states[: int(length)]], return_dict=False)
            answers.append(-asked[0][0][:, 0])
        return torch.stack(answers)


def packed(x: torch.Tensor) -> torch.Tensor:
    """Latents (N, C, h, w) as tokens of 2×2 pixels, (N, h·w/4, 4·C)."""
    return F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)


def unpacked(tokens: torch.Tensor, height: int) -> torch.Tensor:
    """The latents of that height, (N, C, h, w), back from `packed`."""
    grid = tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[-1], height // 2, -1)
    return F.pixel_shuffle(grid, 2)


#: pipeline class name -> its adapter.
FAMILIES: Mapping[str, type[Velocity]] = MappingProxyType(
    {
        "StableDiffusion3Pipeline": StableDiffusion3,
        "FluxPipeline": Flux,
        "AuraFlowPipeline": AuraFlow,
        "QwenImagePipeline": QwenImage,
        "ZImagePipeline": ZImage,
    }
)
