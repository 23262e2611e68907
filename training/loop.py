"""One training loop for every part: a time budget, EMA, checkpoints that resume, a line a minute."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the loop needs to know; the learning rate falls linearly to zero over the time budget."""

    minutes: float
    learning_rate: float
    weight_decay: float = 0.01
    ema: float = 0.999
    clip_norm: float = 1.0


def fit(
    name: str,
    model: nn.Module,
    step: Callable[[int], torch.Tensor],
    recipe: Recipe,
    folder: Path,
    extra: Iterable[nn.Parameter] = (),
) -> nn.Module:
    """Train `model` by `step(i) -> loss` within the time budget; return its moving average.

    A checkpoint is written every minute, so a killed training goes on where it was. A finished
    training is not run again.
    """
    checkpoint = folder / f"{name}.ckpt.pt"
    parameters = [p for p in (*model.parameters(), *extra) if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
    )
    average = copy.deepcopy(model).eval().requires_grad_(False)
    spent, i = 0.0, 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        for parameter, value in zip(extra, state["extra"], strict=True):
            parameter.data.copy_(value)
        spent, i = state["spent"], state["i"]
    budget = recipe.minutes * 60
    started = time.monotonic() - spent
    last_saved, last_i, running = spent, i, 0.0
    model.train()
    while spent < budget:
        rate = recipe.learning_rate * min(1.0, (i + 1) / 100) * max(1 - spent / budget, 0.01)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        loss = step(i)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimiser.step()
        decay = min(recipe.ema, (1 + i) / (10 + i))
        with torch.no_grad():
            pairs = zip(average.parameters(), model.parameters(), strict=True)
            for ours, theirs in pairs:
                ours.lerp_(theirs, 1 - decay)
            for ours_b, theirs_b in zip(average.buffers(), model.buffers(), strict=True):
                ours_b.copy_(theirs_b)
        i += 1
        running += loss.item()
        spent = time.monotonic() - started
        if spent - last_saved > 60 or spent >= budget:
            speed = (i - last_i) / max(spent - last_saved, 1e-9)
            print(
                f"{name:<14} {spent / 60:6.1f}/{recipe.minutes:g} min  step {i:6d}  "
                f"{speed:5.2f} steps/s  loss {running / max(i - last_i, 1):.4f}",
                flush=True,
            )
            state = {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "extra": [p.data for p in extra],
                "spent": spent,
                "i": i,
                "loss": running / max(i - last_i, 1),
            }
            partial = checkpoint.with_suffix(".tmp")
            torch.save(state, partial)
            partial.replace(checkpoint)
            last_saved, last_i, running = spent, i, 0.0
    return average
