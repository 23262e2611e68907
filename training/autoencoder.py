"""The pocket autoencoder: a diffusers AutoencoderKL with a factor of 4, trained on flat vector drawings.

Every attribute's region weighs the same in the loss, however few pixels it has: an eyebrow is as much of
the picture as a background. Noise of a tenth of each channel's deviation is added to the latents, so that
details are coded clearly enough to survive a diffusion model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from diffexplain.worlds import avatars as world
from training import data
from training.loop import Recipe, fit

NOISE = 0.1


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


def weights(size: int) -> torch.Tensor:
    """Pixel weights of mean 1 (size, size): the attributes' regions, each of the same total."""
    first = {
        slot: next(p for p, (s, _) in world.LEAVES.items() if s == slot) for slot in world.Avatar._fields
    }
    regions = torch.stack([world.region(path, size).float() for path in first.values()])
    mean = (regions / regions.mean((1, 2), keepdim=True)).mean(0)
    mean = (mean / mean.mean()).clamp(0.3, 8)
    return mean / mean.mean()


def train(
    folder: Path,
    out: Path,
    size: int,
    n: int,
    minutes: float,
    device: torch.device,
    start: Path | None = None,
) -> None:
    """Train and save the autoencoder as `out/editor/vae`, its latents scaled to unit variance."""
    torch.manual_seed(1)
    _, array = data.pictures(n, size, folder)
    model = build(size)
    if start is not None:
        model = AutoencoderKL.from_pretrained(start / "editor" / "vae", dtype=torch.float32)
    model = model.to(device, memory_format=torch.channels_last)
    step = _step(model, array, weights(size).to(device), 2, device)
    model = fit("autoencoder", model, step, Recipe(minutes, 3e-3, 0.0, 0.998), folder)
    images = data.batch(array, np.arange(min(1024, len(array))), device) * 2 - 1
    with torch.no_grad():
        latents = torch.cat([model.encode(x).latent_dist.mean for x in images.split(64)])
    standardise(model, latents)
    _save(model, images, out)


def train_decoder(folder: Path, out: Path, size: int, n: int, minutes: float, device: torch.device) -> None:
    """Go on with the decoder alone: the latents, and a diffusion model trained on them, stay valid."""
    torch.manual_seed(7)
    _, array = data.pictures(n, size, folder)
    model = AutoencoderKL.from_pretrained(out / "editor" / "vae", dtype=torch.float32).to(device)
    model = model.to(memory_format=torch.channels_last)
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)
    step = _step(model, array, weights(size).to(device), 8, device)
    model = fit("decoder", model, step, Recipe(minutes, 2e-3, 0.0, 0.998), folder)
    _save(model, data.batch(array, np.arange(min(1024, len(array))), device) * 2 - 1, out)


def _step(
    model: AutoencoderKL, array: np.ndarray, weight: torch.Tensor, seed: int, device: torch.device
) -> Callable[[int], torch.Tensor]:
    def step(i: int) -> torch.Tensor:
        rng = np.random.default_rng((seed, i))
        images = data.batch(array, rng.integers(len(array), size=data.rows(32, device)), device)
        x = (images * 2 - 1).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = model.encode(x).latent_dist
            z = posterior.mean
            deviation = z.detach().float().std((0, 2, 3), keepdim=True)
            y = model.decode(z + NOISE * deviation * torch.randn_like(z)).sample
        y = y.float()
        across = (weight[:, 1:] * (torch.diff(y, dim=-1) - torch.diff(x, dim=-1)).abs()).mean()
        down = (weight[1:] * (torch.diff(y, dim=-2) - torch.diff(x, dim=-2)).abs()).mean()
        pixels = (weight * ((y - x).abs() + (y - x).square())).mean()
        return pixels + 0.5 * (across + down) + 1e-6 * posterior.kl().mean()

    return step


@torch.no_grad()
def _save(model: nn.Module, images: torch.Tensor, out: Path) -> None:
    decoded = torch.cat([model.decode(model.encode(x).latent_dist.mean).sample for x in images.split(64)])
    psnr = -10 * torch.log10(F.mse_loss(decoded.clamp(-1, 1), images) / 4)
    print(f"autoencoder: psnr {psnr:.2f} dB on training pictures", flush=True)
    model.to(torch.float16).save_pretrained(out / "editor" / "vae")
    data.forget_paths(out / "editor" / "vae")


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
