"""What optimised prompts cost: time to the same held-out log-odds as the published scheme's, and memory.

A part of `benchmarks.synthesis`. The published scheme draws one picture at a time by both branches, freezes
nothing and takes 1,000 iterations of four steps; here it is given up after half of them, and the ratio is
then a lower bound. It is run on the class that each planted classifier was made for. Ours is a class's share
of the batch of all classes; what its prompt reaches is the level.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from benchmarks.edit_speed import save_random
from diffexplain import pocket
from diffexplain.editors.generator import MODES, Generator, load_generator
from diffexplain.editors.latents import Said
from diffexplain.images import rounded
from diffexplain.rows import choose_device
from diffexplain.synthesis import SynthesisOptions, held_out_seeds
from diffexplain.synthesis.openings import most_drawn
from diffexplain.synthesis.optimisation import ON_GPU
from diffexplain.targets import ClassObjective

SHOWN = 22_345  # names the held-out seeds
ITERATIONS, EVERY = 500, 20  # of the published scheme at most, and how often its prompt is read
RATE = 0.01  # of its AdamW: a tenth of DEXTER's, for the pocket model's embeddings are small
GB = 2**30


class Reached(NamedTuple):
    """How the published scheme came to a level."""

    seconds: float
    iterations: int
    there: bool


def speed(
    generator: Generator,
    made: Mapping[str, tuple[ClassObjective, torch.Tensor]],
    ours: float,
    options: SynthesisOptions,
    quick: bool,
) -> dict[str, Any]:
    """Time to the same held-out log-odds by the published scheme, over ours; a bound where it never came.

    `made`: class -> its objective and our prompt, which took `ours` seconds a class.
    """
    limit, every = (2, 1) if quick else (ITERATIONS, EVERY)
    seeds = held_out_seeds(4 if quick else 16, SHOWN)
    names = [n for n in own_classes() if n in made]
    levels = [level(generator, *made[n], options, seeds) for n in names]
    theirs = [
        published(made[n][0], reached, options, seeds, limit, every)
        for n, reached in track(
            list(zip(names, levels, strict=True)), "published scheme", console=Console(stderr=True)
        )
    ]
    return {
        "ratio_speed": float(np.mean([t.seconds for t in theirs])) / ours,
        "ratio_speed_is_a_bound": not all(t.there for t in theirs),
        "ratio_speed_by_class": {n: t.seconds / ours for n, t in zip(names, theirs, strict=True)},
        "seconds_published": {n: t.seconds for n, t in zip(names, theirs, strict=True)},
        "iterations_published": {n: t.iterations for n, t in zip(names, theirs, strict=True)},
        "held_out_log_odds": dict(zip(names, levels, strict=True)),
    }


def own_classes() -> list[str]:
    """The class that each planted classifier was made for, as CLASSIFIER/LABEL."""
    names = [name for name in pocket.classifiers() if name != "null"]
    configs = [json.loads((pocket.classifier_folder(name) / "config.json").read_text()) for name in names]
    return [f"{name}/{config['target']}" for name, config in zip(names, configs, strict=True)]


def level(
    generator: Generator,
    objective: ClassObjective,
    soft: torch.Tensor,
    options: SynthesisOptions,
    seeds: list[int],
) -> float:
    """Mean log-odds of a prompt's pictures."""
    with torch.no_grad():
        said = generator.states(soft[None], options.text).of([0] * len(seeds))
        return float(objective.score(rounded(generator.images(said, seeds))).mean())


def published(
    objective: ClassObjective,
    wanted: float,
    options: SynthesisOptions,
    seeds: list[int],
    limit: int,
    every: int,
) -> Reached:
    """Until held-out pictures reach a level, within `limit` iterations; reading them is not counted."""
    scheme, spent = _Published(load_generator("pocket-turbo", device=choose_device()), options), 0.0
    for i in range(1, limit + 1):
        started = time.monotonic()
        scheme.step(objective.loss, 2 * i)
        spent += time.monotonic() - started
        if i % every == 0 and level(scheme.generator, objective, scheme.soft, options, seeds) >= wanted:
            return Reached(spent, i, True)
    return Reached(spent, limit, False)


class _Published:
    """As DEXTER's code: both branches at guidance 1, the UNet's input detached, gradients of all weights."""

    def __init__(self, generator: Generator, options: SynthesisOptions) -> None:
        self.generator, self._text = generator, options.text
        self._weights = [w for part in generator.model.parts for w in part.parameters()]
        for weight in self._weights:
            weight.requires_grad_(True)
        word = generator.embedding(options.word)[torch.zeros(options.tokens, dtype=torch.long)]
        self.soft = word.clone().to(generator.device).requires_grad_()
        self._adam = torch.optim.AdamW([self.soft], lr=RATE)
        self._empty = generator.prompts([""])

    def step(self, loss: Callable[[torch.Tensor], torch.Tensor], seed: int) -> None:
        """One iteration on one picture."""
        loss(self._picture(seed)).sum().backward()
        self._adam.step()
        self._adam.zero_grad()
        for weight in self._weights:
            weight.grad = None

    def _picture(self, seed: int) -> torch.Tensor:
        """(1, 3, H, W), every step of which asks the conditional and the unconditional branch."""
        model, path = self.generator.model, self.generator.path
        said, empty = self.generator.states(self.soft[None], self._text), self._empty
        pair = Said(
            torch.cat([empty.states, said.states]),
            torch.cat([empty.pooled, said.pooled]),
            torch.cat([empty.tokens, said.tokens]),
        )
        x = self.generator.noises([seed])[:, 0]
        for i, time_ in enumerate(path.times):
            without, with_ = model.asked(x.detach().expand(2, -1, -1, -1), time_, pair)[:, None]
            clean = path.clean(x, without + 1.0 * (with_ - without), i)
            kept = float(path.sigma[i + 1] / path.sigma[i])
            last = i + 1 == len(path)
            x = clean if last else kept * x + (float(path.alpha[i + 1]) - kept * float(path.alpha[i])) * clean
        return model.decoded(x)


def full_size(
    iterations: Mapping[str, int], options: SynthesisOptions, targets: int, quick: bool
) -> dict[str, Any]:
    """The speed at Stable Diffusion 1.5's size, where a GPU is at hand; a small model anywhere, when quick.

    Weights are random, so only each side's time for a picture is measured; how many pictures a class takes is
    known from the pocket model: the published scheme's `iterations` by class (a bound where it was given
    up), and ours with all openings. The classifier is left out on both sides.
    """
    device = choose_device()
    if device.type == "cpu" and not quick:
        return {}
    model = _random_sd(device, quick)
    rows = 2 if quick else ON_GPU
    times = 1 if quick else 3
    word = model.embedding("person")[-1:]

    def drawn() -> None:
        soft = word.expand(rows, options.tokens, -1).clone().requires_grad_()
        images = model.draw(model.states(soft, options.text), range(rows), mode=options.mode, k=options.k)
        torch.autograd.grad(images.float().mean(), soft)

    while True:
        try:
            ours = _timed(drawn, device, times) / rows
            break
        except torch.OutOfMemoryError:  # fewer rows, as an optimisation takes then
            if rows == 1:
                raise
            rows //= 2
    scheme = _Published(model, options)  # unfreezes the weights, so it comes last
    theirs = _timed(lambda: scheme.step(lambda images: images.float().mean((1, 2, 3)), 0), device, times)
    openings = most_drawn(options, targets) / targets / 3  # without a gradient a picture costs a third
    pictures = options.restarts * options.steps * options.seeds + openings
    return {
        "sd15_ratio_speed": theirs * float(np.mean(list(iterations.values()))) / (ours * pictures),
        "sd15_seconds_a_picture": {"published": theirs, "ours": ours},
        "sd15_rows": rows,
    }


def _timed(work: Callable[[], None], device: torch.device, times: int) -> float:
    """Seconds of one call, the mean of so many after the first."""

    def done() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    work()
    started = done()
    for _ in range(times):
        work()
    return (done() - started) / times


# -- memory -------------------------------------------------------------------------------------------


def memory(quick: bool) -> dict[str, Any]:
    """Peaks of each mode on top of the pocket model; of a `last-1` step of Stable Diffusion 1.5's size."""
    return {
        "peak_gb": {mode: apart(_peak, mode, 2 if quick else 16) for mode in MODES},
        "sd15_last_1_gb": apart(_full_size, quick),
    }


def apart(measured: Callable[..., float], *given: Any) -> float:
    """A figure taken in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as one:
        return one.submit(measured, *given).result()


def _peak(mode: Any, rows: int) -> float:
    """GB that pictures with a gradient take on top of the model."""
    device = choose_device()
    model = load_generator("pocket-turbo", device=device)
    soft = model.embedding("person")[None].expand(rows, -1, -1).clone().requires_grad_()
    model.images(model.prompts(["a person"]), [0])
    before = _memory(device, start=True)
    images = model.draw(model.states(soft, "a person with"), range(rows), mode=mode)
    torch.autograd.grad(images.sum(), soft)
    return (_memory(device) - before) / GB


def _full_size(quick: bool) -> float:
    """GB of one picture's gradient through the last of four steps, weights and all; float32 on a CPU."""
    device = choose_device()
    model = _random_sd(device, quick)
    soft = model.embedding("person")[None].clone().requires_grad_()
    _memory(device, start=True)
    image = model.draw(model.states(soft, "a picture of a"), [0], mode="last-k", k=1)
    torch.autograd.grad(image.sum(), soft)
    return _memory(device) / GB


def _random_sd(device: torch.device, quick: bool) -> Generator:
    """A few-step Stable Diffusion 1.5 with random weights; a small one, when quick."""
    smaller = {"sample_size": 16, "block_out_channels": (32, 64)} if quick else {}
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
              "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")} if quick else {}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        save_random("sd", Path(folder), **smaller, **blocks)
        return load_generator(f"turbo:{folder}", device=device)


def _memory(device: torch.device, *, start: bool = False) -> float:
    """The most bytes held since the start that was marked; those held now, where it is marked."""
    if device.type == "cuda":
        if start:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if start:
        Path("/proc/self/clear_refs").write_text("5")  # what was held while loading does not count
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line.split()[1] for line in status if line.startswith("VmHWM")))
