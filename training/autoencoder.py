"""The pocket autoencoder: a diffusers AutoencoderKL with a factor of 4, trained on flat vector drawings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from training import data
from training.loop import Recipe, fit


def build(size: int) -> AutoencoderKL:
    """About 0.65 M parameters; 64 px give 4 x 16 x 16 latents."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=size,
    )


def train(folder: Path, out: Path, size: int, n: int, minutes: float, device: torch.device) -> None:
    """Train and save the autoencoder as `out/editor/vae`, its latents scaled to unit variance."""
    torch.manual_seed(1)
    _, array = data.pictures(n, size, folder)
    model = build(size).to(device, memory_format=torch.channels_last)

    def step(i: int) -> torch.Tensor:
        rng = np.random.default_rng((2, i))
        images = data.batch(array, rng.integers(len(array), size=32), device)
        if rng.random() < 0.5:
            images = images.flip(-1)
        x = (images * 2 - 1).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = model.encode(x).latent_dist
            y = model.decode(posterior.sample()).sample
        y = y.float()
        edges = sum(F.l1_loss(torch.diff(y, dim=d), torch.diff(x, dim=d)) for d in (-1, -2))
        return F.l1_loss(y, x) + F.mse_loss(y, x) + 0.5 * edges + 1e-6 * posterior.kl().mean()

    model = fit("autoencoder", model, step, Recipe(minutes, 3e-3, 0.0, 0.998), folder)
    images = data.batch(array, np.arange(min(1024, len(array))), device) * 2 - 1
    with torch.no_grad():
        latents = torch.cat([model.encode(x).latent_dist.mean for x in images.split(64)])
        decoded = torch.cat([model.decode(z).sample for z in latents.split(64)])
    psnr = -10 * torch.log10((decoded.clamp(-1, 1) - images).square().mean() / 4)
    print(f"autoencoder: psnr {psnr:.2f} dB on training pictures", flush=True)
    standardise(model, latents)
    model.to(torch.float16).save_pretrained(out / "editor" / "vae")


@torch.no_grad()
def standardise(model: AutoencoderKL, latents: torch.Tensor) -> None:
    """Fold mean and deviation of each latent channel into the 1x1 convolutions beside it.

    Pictures decode as before; the diffusion model then sees every channel at unit variance.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    c = len(mean)
    before, after = model.quant_conv, model.post_quant_conv
    before.weight[:c] /= std.view(-1, 1, 1, 1)
    before.bias[:c] = (before.bias[:c] - mean) / std
    before.bias[c:] -= 2 * std.log()
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std.view(1, -1, 1, 1)
    model.register_to_config(scaling_factor=1.0)
