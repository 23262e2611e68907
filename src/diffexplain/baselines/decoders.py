"""Activation maximisation through a generator's decoder (Nguyen et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffexplain.baselines.ascent import noise, unit
from diffexplain.editors import loading
from diffexplain.errors import EditorError
from diffexplain.quiet import quiet_loading
from diffexplain.targets import Objective


@dataclass(frozen=True, slots=True)
class DecoderOptions:
    """DGN-AM: the latent of a decoder is optimised, with weight decay, within three deviations.

    Nguyen et al. invert AlexNet's fc6; here the latents are those of a diffusers AutoencoderKL, whose
    scaling factor brings them to unit deviation.
    """

    decoder: Any  # diffusers AutoencoderKL, frozen
    size: int = 64  # side of the pictures, pixels
    steps: int = 200
    rate: float = 1.0  # L2 length of a step, latents of unit deviation
    decay: float = 0.005  # share of the latent lost a step
    bound: float = 3.0  # deviations

    def start(self, seeds: Sequence[int]) -> torch.Tensor:
        """Latents drawn from the prior, (N, C, h, w)."""
        side = self.size // 2 ** (len(self.decoder.config.block_out_channels) - 1)
        return noise(seeds, (self.decoder.config.latent_channels, side, side))

    def picture(self, x: torch.Tensor) -> torch.Tensor:
        """Latent -> image."""
        decoded = self.decoder.decode(x / self.decoder.config.scaling_factor).sample
        return (decoded / 2 + 0.5).clamp(0, 1)  # type: ignore[no-any-return]

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
        """Decay, and the bound."""
        return ((1 - self.decay) * x).clamp(-self.bound, self.bound)


def load_decoder(spec: Any, *, device: torch.device | None = None) -> Any:
    """The autoencoder of a diffusers pipeline, by the same specs as load_editor, or of one in hand.

    Frozen, float32. Raises EditorError when it cannot be loaded.
    """
    if not isinstance(spec, str | Path):
        return _placed(getattr(spec, "vae", spec), device)
    from diffusers import AutoencoderKL

    try:
        source = loading.parse_spec(str(spec)).source
        with quiet_loading():
            vae = AutoencoderKL.from_pretrained(
                source, subfolder="vae", torch_dtype=torch.float32, use_safetensors=True
            )
    except Exception as error:
        line = (str(error).splitlines() or ["no message"])[0][:200]
        raise EditorError(
            f"decoder {str(spec)!r} cannot be loaded ({line}); name a pipeline with an AutoencoderKL"
        ) from error
    return _placed(vae, device)


def _placed(vae: Any, device: torch.device | None) -> Any:
    return vae.to(device or "cpu").eval().requires_grad_(False)
