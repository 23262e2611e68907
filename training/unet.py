"""The pocket diffusion model: a diffusers UNet over the autoencoder's latents, v-prediction, EMA.

Trained on captions in free order with clauses dropped, one in ten dropped whole for guidance
(Ho & Salimans 2022). High noise, where the caption decides, is drawn more often and weighted in full.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from diffexplain.worlds import avatars as world
from training import clip, data
from training.loop import Recipe, fit


def build(size: int, factor: int) -> UNet2DConditionModel:
    """About 5.9 M parameters: three levels, cross-attention on each."""
    return UNet2DConditionModel(
        sample_size=size // factor,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 96, 128),
        norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=128,
        attention_head_dim=4,
    )


def scheduler() -> DDPMScheduler:
    """The noise schedule of the pocket pipeline."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )


@torch.no_grad()
def latents_of(array: np.ndarray, vae: AutoencoderKL, cache: Path, device: torch.device) -> torch.Tensor:
    """Encode every picture once: (N, 4, h, w) float16 scaled latents, cached."""
    if cache.exists():
        return torch.from_numpy(np.load(cache))
    parts = []
    for start in range(0, len(array), 250):
        x = data.batch(array, np.arange(start, min(start + 250, len(array))), device) * 2 - 1
        with torch.autocast(device.type, torch.bfloat16):
            z = vae.encode(x).latent_dist.mean
        parts.append((z.float() * vae.config.scaling_factor).half().cpu())
    latents = torch.cat(parts)
    np.save(cache, latents.numpy())
    return latents


def said(avatar: world.Avatar, rng: np.random.Generator) -> str:
    """A training caption: one in ten empty, three in ten a single clause, as edits ask."""
    draw, text = rng.random(), world.caption(avatar, rng)
    if draw < 0.1:
        return ""
    if draw < 0.4:
        prefix = "a person with "
        return prefix + str(rng.choice(text.removeprefix(prefix).split(", ")))
    return text


def train(
    folder: Path,
    out: Path,
    size: int,
    n: int,
    minutes: float,
    device: torch.device,
    start: Path | None = None,
) -> None:
    """Train and save the pipeline folder `out/editor`."""
    torch.manual_seed(2)
    drawn, array = data.pictures(n, size, folder)
    vae = AutoencoderKL.from_pretrained(out / "editor" / "vae", dtype=torch.float32).to(device).eval()
    latents = latents_of(array, vae, folder / f"latents-{n}-{size}.npy", device)
    tokenizer = CLIPTokenizer.from_pretrained(out / "clip")
    full = CLIPModel.from_pretrained(out / "clip", dtype=torch.float32)
    text = CLIPTextModel(full.config.text_config)
    weights = {k.removeprefix("text_model."): v for k, v in full.text_model.state_dict().items()}
    target = text.state_dict()
    text.load_state_dict({k: weights[k.removeprefix("text_model.")] for k in target})
    text = text.to(device).eval().requires_grad_(False)
    model = build(size, 2 ** (len(vae.config.block_out_channels) - 1))
    if start is not None:
        model = UNet2DConditionModel.from_pretrained(start / "editor" / "unet", dtype=torch.float32)
    model = model.to(device, memory_format=torch.channels_last)
    noise = scheduler()
    rows, steps = data.rows(32, device), noise.config.num_train_timesteps

    def step(i: int) -> torch.Tensor:
        rng = np.random.default_rng((3, i))
        index = rng.integers(len(drawn), size=rows)
        x0 = latents[torch.from_numpy(index)].to(device).float()
        asked = [said(drawn[j], rng) for j in index]
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            states = text(**clip.encode(tokenizer, asked, device)).last_hidden_state
        stratified = (torch.arange(rows, device=device) + torch.rand(rows, device=device)) / rows
        t = (steps * stratified**0.7).long().clamp(max=steps - 1)  # captions matter where noise is high
        epsilon = torch.randn_like(x0)
        xt = noise.add_noise(x0, epsilon, t).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            v = model(xt, t, states).sample
        return F.mse_loss(v.float(), noise.get_velocity(x0, epsilon, t))

    model = fit("unet", model, step, Recipe(minutes, 2e-3, 0.01, 0.999), folder)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=model,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler=noise,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(out / "editor")
    data.forget_paths(out / "editor")
