"""The avatar detector: does a picture show an avatar at all? A measuring device, like the oracle.

Positives: renders, autoencoded renders, both mildly augmented. Negatives: colours and noise, pieces of
avatars put wrongly, avatars mixed, warped and blurred, decoded random latents, and activation maximisation
of networks with random weights and of the classifiers for development; those held out for final figures
are never seen. No picture made from a prompt is.

`python -m training.detector --work FOLDER --out src/diffexplain/pocket --minutes 8`
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn
from torch.nn import functional as F

from diffexplain.baselines import YOSINSKI, DecoderOptions, NaturalOptions, load_decoder, maximise
from diffexplain.baselines.pixels import blurred
from diffexplain.worlds import avatars as world
from training import cards, classifiers
from training.loop import Recipe, fit

ARCHITECTURE = "resnet10t"
OPTIONS = {"channels": [16, 32, 48, 64], "stem_width": 16}
TRAIN_SEED, FRESH_SEED = 30_000, 700_000  # of avatars; benchmarks use seeds from 1,000,000 on
SIZE = 64
DEVELOPMENT = ("bearded", "hired", "rebel", "awarded")

TEXT = (
    "A timm `resnet10t` with narrow stages and one output: is this an avatar? (`training/detector.py`). "
    "For benchmarks only, never used by the method. Measured on avatars of fresh seeds, as shares read "
    "right: `not_…` are pictures that are no avatars, among them activation maximisation of the classifiers "
    "for development and of networks with other random weights."
)

Random = np.random.Generator


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures the examples are made from: uint8 (N, 3, H, W) each."""

    renders: torch.Tensor
    autoencoded: torch.Tensor
    maximised: torch.Tensor
    decoded: torch.Tensor  # random latents


@dataclass(frozen=True, slots=True)
class Network:
    """An objective: one output of a network, in a random direction where it has several."""

    module: nn.Module
    head: torch.Tensor  # (K,)
    name: str = "network"

    def loss(self, images: torch.Tensor) -> torch.Tensor:
        """(N,)."""
        return -(self.module(classifiers.normalised(images)) @ self.head)


def pool(n: int, seed: int, folder: Path) -> Pool:
    """`n` avatars, and a quarter as many made pictures of each kind; cached in `folder`."""
    cache = folder / f"detector-{n}-{seed}.npz"
    if not cache.exists():
        folder.mkdir(parents=True, exist_ok=True)
        renders = world.render(world.sample(n, seed), SIZE)
        vae = load_decoder("pocket")
        parts = {
            "renders": renders,
            "autoencoded": _autoencoded(vae, renders),
            "maximised": _maximised(vae, n // 4, seed),
            "decoded": _decoded(vae, renders, n // 4, seed),
        }
        np.savez(cache, **{k: (v * 255).round().byte().numpy() for k, v in parts.items()})
    with np.load(cache) as stored:
        return Pool(**{k: torch.from_numpy(stored[k]) for k in stored.files})


@torch.no_grad()
def _autoencoded(vae: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([_decode(vae, _encode(vae, x)) for x in images.split(32)])


def _encode(vae: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return vae.encode(images * 2 - 1).latent_dist.mode()


def _decode(vae: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    return (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def _decoded(vae: nn.Module, renders: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """Latents of no picture: noise, blurred noise, and avatars' latents with their places shuffled."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for i in range(0, n, 20):
        like = _encode(vae, renders[i : i + 20])
        z = torch.randn(like.shape, generator=draw)
        kind = (i // 20) % 3
        if kind == 1:
            z = blurred(z, 1.0 + 2 * (i % 3)) * 2
        if kind == 2:
            z = like.flatten(2)[..., torch.randperm(like[0, 0].numel(), generator=draw)].view_as(like)
        made.append(_decode(vae, z / vae.config.scaling_factor if kind < 2 else z))
    return torch.cat(made)[:n]


def _maximised(vae: nn.Module, n: int, seed: int) -> torch.Tensor:
    """Activation maximisation in pixels and latents of development and random networks, at many settings."""
    rng, made, count = np.random.default_rng((seed, 1)), [], 0
    while count < n:
        rows = min(20, n - count)
        seeds = [seed + count + i for i in range(rows)]
        made.append(maximise(_network(rng), seeds=seeds, options=_way(vae, rng)))
        count += rows
    return torch.cat(made)


def _network(rng: Random) -> Network:
    """A classifier for development, or a network with random weights."""
    from safetensors.torch import load_file

    from diffexplain import pocket

    if rng.random() < 0.7:
        folder = pocket.classifier_folder(str(rng.choice(DEVELOPMENT)))
        config = json.loads((folder / "config.json").read_text())
        module = timm.create_model(config["architecture"], num_classes=config["num_classes"])
        module.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    else:
        torch.manual_seed(int(rng.integers(2**31)))
        module = timm.create_model(str(rng.choice(["test_resnet", "test_convnext"])), num_classes=8)
    head = torch.from_numpy(rng.normal(size=module.num_classes)).float()
    return Network(module.eval().requires_grad_(False), head)


def _way(vae: nn.Module, rng: Random) -> object:
    """A method with its settings drawn at random."""
    steps = int(rng.integers(15, 60))
    kind = int(rng.integers(3))
    if kind == 0:
        chosen = YOSINSKI[int(rng.integers(len(YOSINSKI)))]
        return replace(chosen, steps=steps, rate=float(rng.uniform(0.3, 3)), blur=float(rng.uniform(0, 1.2)))
    if kind == 1:
        return NaturalOptions(
            steps=steps, strength=float(10 ** rng.uniform(-0.5, 1.5)), rate=float(rng.uniform(0.01, 0.06))
        )
    return DecoderOptions(vae, steps=steps, rate=float(rng.uniform(0.3, 3)))


# -- examples -------------------------------------------------------------------------------------------


def avatars(made: Pool, rng: Random, n: int) -> torch.Tensor:
    """Positives (n, 3, H, W)."""
    source = made.renders if rng.random() < 0.5 else made.autoencoded
    images = _some(source, rng, n)
    return classifiers.augment(images, rng) if rng.random() < 0.7 else images


def colours(made: Pool, rng: Random, n: int) -> torch.Tensor:
    """One colour a picture, two halves, or a gradient."""
    first, second = (torch.from_numpy(rng.random((n, 3, 1, 1))).float() for _ in range(2))
    angle = torch.from_numpy(rng.uniform(0, 2 * np.pi, (n, 1, 1, 1))).float()
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    along = (x * angle.cos() + y * angle.sin() + 1) / 2
    sharp = float(rng.choice([0, 1, 30]))
    return first + (second - first) * ((along - 0.5) * sharp + 0.5).clamp(0, 1)


def noises(made: Pool, rng: Random, n: int) -> torch.Tensor:
    """Pixel noise of any coarseness, in one colour or three."""
    side = int(rng.choice([64, 64, 32, 16, 8, 4]))
    z = torch.from_numpy(rng.normal(size=(n, int(rng.choice([1, 3])), side, side))).float()
    z = F.interpolate(z.expand(-1, 3, -1, -1), (SIZE, SIZE), mode="bicubic" if side < 64 else "nearest")
    return 0.5 + float(rng.uniform(0.05, 0.5)) * z


def shuffled(made: Pool, rng: Random, n: int) -> torch.Tensor:
    """Avatars cut into squares that change places."""
    k = int(rng.choice([4, 8, 16, 32]))
    patches = F.unfold(_some(made.renders, rng, n), k, stride=k)  # (n, 3·k·k, L)
    order = torch.from_numpy(np.argsort(rng.random((n, 1, patches.shape[2])), axis=2))
    return F.fold(patches.gather(2, order.expand_as(patches)), SIZE, k, stride=k)


def warped(made: Pool, rng: Random, n: int) -> torch.Tensor:
    """Avatars under a strong smooth warp, turned upside down, or shifted half out and round."""
    images = _some(made.renders, rng, n)
    kind = int(rng.integers(3))
    if kind == 0:
        return images.flip(2) if rng.random() < 0.5 else images.rot90(int(rng.choice([1, 3])), (2, 3))
    if kind == 1:
        return images.roll((int(rng.integers(20, 44)), int(rng.integers(20, 44))), (2, 3))
    coarse = torch.from_numpy(rng.normal(size=(n, 2, 5, 5))).float() * float(rng.uniform(0.3, 0.6))
    flow = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic").permute(0, 2, 3, 1)
    grid = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 3, SIZE, SIZE], align_corners=False)
    return F.grid_sample(images, grid + flow, padding_mode="reflection", align_corners=False)


def smeared(made: Pool, rng: Random, n: int) -> torch.Tensor:
    """Avatars blurred beyond recognition, or drowned in noise."""
    images = _some(made.renders, rng, n)
    if rng.random() < 0.5:
        return blurred(images, float(rng.uniform(5, 9)))
    return images + float(rng.uniform(0.5, 1)) * torch.from_numpy(rng.normal(size=images.shape)).float()


def mixed(made: Pool, rng: Random, n: int) -> torch.Tensor:
    """Halves of two avatars that do not belong together, or several laid over each other."""
    parts = [_some(made.renders, rng, n) for _ in range(4)]
    if rng.random() < 0.5:
        return torch.stack(parts).mean(0)
    turned = parts[1].flip(2) if rng.random() < 0.5 else parts[1].roll(SIZE // 2, 3)
    half = torch.arange(SIZE).view(1, 1, -1, 1) < SIZE // 2
    return torch.where(half if rng.random() < 0.5 else half.mT, parts[0], turned)


def maximised(made: Pool, rng: Random, n: int) -> torch.Tensor:
    """Activation maximisation."""
    return _some(made.maximised, rng, n)


def decoded(made: Pool, rng: Random, n: int) -> torch.Tensor:
    """Decoded latents of no picture."""
    return _some(made.decoded, rng, n)


NEGATIVES: tuple[Callable[[Pool, Random, int], torch.Tensor], ...] = (
    colours, noises, shuffled, warped, smeared, mixed, maximised, maximised, decoded,
)  # fmt: skip


def _some(source: torch.Tensor, rng: Random, n: int) -> torch.Tensor:
    return source[torch.from_numpy(rng.integers(len(source), size=n))].float() / 255


def negatives(made: Pool, rng: Random, n: int) -> torch.Tensor:
    """Every kind alike (n, 3, H, W), half of them augmented as the positives are."""
    share = -(-n // len(NEGATIVES))
    images = torch.cat([kind(made, rng, share) for kind in NEGATIVES])[torch.from_numpy(rng.permutation(n))]
    return classifiers.augment(images.clamp(0, 1), rng) if rng.random() < 0.5 else images.clamp(0, 1)


# -- training -------------------------------------------------------------------------------------------


def train(folder: Path, out: Path, n: int, minutes: float) -> Mapping[str, float]:
    """Train, measure on fresh avatars and other random networks, and save `out/detector` with its card."""
    torch.manual_seed(21)
    made = pool(n, TRAIN_SEED, folder)
    model = timm.create_model(ARCHITECTURE, num_classes=1, **OPTIONS)
    y = torch.cat([torch.ones(36), torch.zeros(36)])

    def step(i: int) -> torch.Tensor:
        rng = np.random.default_rng((22, i))
        images = torch.cat([avatars(made, rng, 36), negatives(made, rng, 36)])
        return F.binary_cross_entropy_with_logits(model(classifiers.normalised(images))[:, 0], y)

    model = fit("detector", model, step, Recipe(minutes, 2e-3, 0.02, 0.998), folder)
    figures = measured(model, pool(max(400, n // 5), FRESH_SEED, folder))
    extra = {"label_names": ["no avatar", "avatar"], "model_args": OPTIONS, "fresh": figures}
    classifiers.save(model, ARCHITECTURE, SIZE, extra, out / "detector")
    recipe = f"`python -m training.detector`: one CPU thread, {minutes:g} minutes, {n:,} avatars."
    cards.write(out / "detector", "Avatar detector", TEXT, recipe, cards.table(figures))
    return figures


@torch.no_grad()
def measured(model: nn.Module, made: Pool) -> dict[str, float]:
    """Share read right: of renders, of autoencoded ones, of every kind of negative."""

    def positive(images: torch.Tensor) -> float:
        answers = [model(classifiers.normalised(x))[:, 0] > 0 for x in images.split(100)]
        return float(torch.cat(answers).float().mean())

    figures = {
        "renders": positive(made.renders.float() / 255),
        "autoencoded": positive(made.autoencoded.float() / 255),
        "augmented": positive(torch.cat([avatars(made, np.random.default_rng(i), 20) for i in range(20)])),
    }
    for kind in dict.fromkeys(NEGATIVES):
        made_up = torch.cat([kind(made, np.random.default_rng((1, i)), 20) for i in range(20)]).clamp(0, 1)
        figures[f"not_{kind.__name__}"] = 1 - positive(made_up)
    return {k: round(v, 4) for k, v in figures.items()}


def main() -> None:
    """Train the detector."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("src/diffexplain/pocket"))
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--pictures", type=int, default=2_400)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(train(asked.work, asked.out, asked.pictures, asked.minutes)))


if __name__ == "__main__":
    main()
