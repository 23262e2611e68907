"""The few-step pocket editor, by progressive distillation (Salimans & Ho, ICLR 2022, section 3).

From each of four times the student learns to arrive in one DDIM step where the teacher, the pocket UNet,
arrives in three. Captions as the teacher saw them, no guidance: guidance is the editor's to choose.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch.nn import functional as F

from training import clip, data, unet
from training.loop import Recipe, fit

STEPS, SUBSTEPS = 4, 3


def times(training_steps: int) -> list[list[int]]:
    """Per student step: where the teacher passes, noisiest first; the last arrives at 0, no noise."""
    ends = [round((STEPS - k) * training_steps / STEPS) - 1 for k in range(STEPS)] + [0]
    return [[round(a + (b - a) * k / SUBSTEPS) for k in range(SUBSTEPS + 1)] for a, b in pairwise(ends)]


def ddim(x: torch.Tensor, v: torch.Tensor, signal: torch.Tensor, signal_next: torch.Tensor) -> torch.Tensor:
    """One deterministic step of a v-prediction; signals are ᾱ, (N, 1, 1, 1)."""
    x0 = signal.sqrt() * x - (1 - signal).sqrt() * v
    epsilon = (1 - signal).sqrt() * x + signal.sqrt() * v
    return signal_next.sqrt() * x0 + (1 - signal_next).sqrt() * epsilon


def wanted_v(
    x: torch.Tensor, arrived: torch.Tensor, signal: torch.Tensor, signal_next: torch.Tensor
) -> torch.Tensor:
    """The v whose one DDIM step leads from x to `arrived` (Salimans & Ho, appendix G)."""
    ratio = ((1 - signal_next) / (1 - signal)).sqrt()
    x0 = (arrived - ratio * x) / (signal_next.sqrt() - ratio * signal.sqrt())
    return (signal.sqrt() * x - x0) / (1 - signal).sqrt()


def train(folder: Path, out: Path, size: int, n: int, minutes: float, device: torch.device) -> None:
    """Distil `out/editor` and save the pipeline folder `out/turbo`."""
    torch.manual_seed(10)
    drawn, array = data.pictures(n, size, folder)
    pipeline = StableDiffusionPipeline.from_pretrained(
        out / "editor", dtype=torch.float32, safety_checker=None
    )
    pipeline.to(device)
    teacher = pipeline.unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    student = copy.deepcopy(teacher).train().requires_grad_(True)
    latents = unet.latents_of(array, pipeline.vae, folder / f"latents-{n}-{size}.npy", device)
    noise, rows = pipeline.scheduler, data.rows(32, device)
    signals = noise.alphas_cumprod.to(device)
    routes = torch.tensor(times(noise.config.num_train_timesteps), device=device)  # (STEPS, SUBSTEPS + 1)
    arrival = torch.where(routes > 0, signals[routes], torch.ones_like(routes, dtype=signals.dtype))

    def step(i: int) -> torch.Tensor:
        rng = np.random.default_rng((11, i))
        index = rng.integers(len(drawn), size=rows)
        x0 = latents[torch.from_numpy(index)].to(device).float()
        asked = [unet.said(drawn[j], rng) for j in index]
        leg = torch.arange(rows, device=device) % STEPS
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            states = pipeline.text_encoder(**clip.encode(pipeline.tokenizer, asked, device)).last_hidden_state
        start = noise.add_noise(x0, torch.randn_like(x0), routes[leg, 0])
        x = start
        for k in range(SUBSTEPS):
            a, b = (arrival[leg, j].view(-1, 1, 1, 1) for j in (k, k + 1))
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
                v = teacher(x.to(memory_format=torch.channels_last), routes[leg, k], states).sample
            x = ddim(x, v.float(), a, b)
        a, b = arrival[leg, 0].view(-1, 1, 1, 1), arrival[leg, SUBSTEPS].view(-1, 1, 1, 1)
        target = wanted_v(start, x, a, b)
        with torch.autocast(device.type, torch.bfloat16):
            v = student(start.to(memory_format=torch.channels_last), routes[leg, 0], states).sample
        return F.mse_loss(v.float(), target)

    pipeline.unet = fit("turbo", student, step, Recipe(minutes, 5e-4, 0.01, 0.995), folder)
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(out / "turbo")
    data.forget_paths(out / "turbo")
