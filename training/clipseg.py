"""The pocket CLIPSeg (Lüddecke & Ecker, CVPR 2022), in two stages.

Contrast trains the class token of the pocket CLIP alone, so its patch states say little of where things are.
First its vision tower, started from the pocket CLIP's, learns to mark every attribute's value at once through
a linear head that is thrown away; then the decoder learns to mark what a prompt names (transformers trains
that alone). Truth is the world's own: the pixels that an attribute's value owns, found by re-rendering; for a
value that is not there, none.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    CLIPModel,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPTokenizer,
)

from diffexplain.worlds import avatars as world
from training import clip, data
from training.loop import Recipe, fit

#: avatars with masks: the first of the training pictures.
AVATARS = 2_000
PROMPTS = 6  # a picture: two of what is there, then of what stands in its place elsewhere
#: what is asked for: leaves, and inner nodes that have a word of their own; and the attribute of each.
PATHS = (*world.LEAVES, *world.GENERAL)
SLOTS = np.array([world.Avatar._fields.index(world.LEAVES[world.leaves(p)[0]][0]) for p in PATHS])


def build(clip_config: object) -> CLIPSegForImageSegmentation:
    """The pocket CLIP with a decoder of 64 channels over all its layers; the prompt enters in the middle.

    Before it, the decoder is the same for all prompts; after it, it can still decide "not there".
    """
    text, vision = clip_config.text_config, clip_config.vision_config  # type: ignore[attr-defined]
    config = CLIPSegConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=clip_config.projection_dim,  # type: ignore[attr-defined]
        extract_layers=list(range(vision.num_hidden_layers)),
        conditional_layer=vision.num_hidden_layers // 2,
        reduce_dim=64,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=256,
    )
    model = CLIPSegForImageSegmentation(config)
    for weight in model.decoder.parameters():
        if weight.dim() > 1:
            torch.nn.init.xavier_uniform_(weight)
    return model


class Dense(nn.Module):
    """A vision tower with a linear map from the patch states of all its layers to every prompt's mask."""

    def __init__(self, vision: nn.Module, config: Any, prompts: int) -> None:
        super().__init__()
        self.vision, self.prompts, self.patch = vision, prompts, config.patch_size
        self.layers = config.num_hidden_layers
        self.head = nn.Linear(config.hidden_size * self.layers, prompts * self.patch**2)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.constant_(self.head.bias, -3.0)  # most of a picture is none of it

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pictures (N, 3, H, W) -> logits (N, prompts, H, W)."""
        states = self.vision(pixel_values=pixels, output_hidden_states=True).hidden_states[-self.layers :]
        normal = torch.cat([F.layer_norm(s, s.shape[-1:]) for s in states], -1)[:, 1:]
        side = int(normal.shape[1] ** 0.5)
        shares = self.head(normal).transpose(1, 2).unflatten(2, (side, side))
        return F.pixel_shuffle(shares, self.patch)


def _masks(job: tuple[list[world.Avatar], int]) -> np.ndarray:
    drawn, size = job
    owned = [[world.mask(a, slot, size).numpy() for slot in world.Avatar._fields] for a in drawn]
    return np.packbits(np.array(owned), axis=-1)


def masks(drawn: list[world.Avatar], size: int, folder: Path, workers: int | None = None) -> np.ndarray:
    """Pixels each attribute owns, bits packed along the width: (N, attributes, size, size / 8), cached."""
    cache = folder / f"masks-{len(drawn)}-{size}.npy"
    if not cache.exists():
        jobs = [(drawn[s : s + 50], size) for s in range(0, len(drawn), 50)]
        with ProcessPoolExecutor(workers) as pool:
            array = np.concatenate(list(pool.map(_masks, jobs)))
        np.save(cache, array)
    return np.load(cache)


@dataclass(frozen=True)
class Masked:
    """Avatars, their pictures, and where each prompt's value is."""

    array: np.ndarray  # (N, size, size, 3) bytes
    owned: np.ndarray  # (N, attributes, size, size / 8) bits
    there: np.ndarray  # (N, prompts): whether it is to be seen
    area: torch.Tensor  # (prompts,): share of the picture that it takes where it is

    @classmethod
    def of(cls, n: int, size: int, folder: Path) -> Masked:
        """The first `AVATARS` of the `n` training avatars."""
        drawn, array = data.pictures(n, size, folder)
        drawn = drawn[:AVATARS]
        owned = masks(drawn, size, folder)
        there = np.array([[world.present(a, p) for p in PATHS] for a in drawn])
        seen = [np.flatnonzero(column)[:60] for column in there.T]
        shares = [np.unpackbits(owned[rows, slot]).mean() for rows, slot in zip(seen, SLOTS, strict=True)]
        return cls(array, owned, there, torch.tensor(np.nan_to_num(shares)).float())

    def images(self, index: np.ndarray, device: torch.device) -> torch.Tensor:
        """Normalised pictures with a little noise, (N, 3, H, W)."""
        images = data.batch(self.array, index, device)
        noise = 0.03 * torch.rand(len(images), 1, 1, 1, device=device) * torch.randn_like(images)
        return (images + noise - clip.MEAN.to(device)) / clip.STD.to(device)

    def target(self, index: np.ndarray, asked: np.ndarray, device: torch.device) -> torch.Tensor:
        """Masks of the prompts asked of each picture, (N, P, H, W)."""
        bits = np.unpackbits(self.owned[index[:, None], SLOTS[asked]], axis=-1)
        there = np.take_along_axis(self.there[index], asked, 1)[..., None, None]
        return torch.from_numpy(bits * there).to(device).float()


def train_vision(folder: Path, out: Path, size: int, n: int, minutes: float, device: torch.device) -> None:
    """Teach the vision tower of `out/clip` where things are; save it in `out/clipseg`, decoder untaught."""
    torch.manual_seed(8)
    masked = Masked.of(n, size, folder)
    source = CLIPModel.from_pretrained(out / "clip", dtype=torch.float32)
    every = np.arange(len(PATHS))
    dense = Dense(source.vision_model, source.config.vision_config, len(every)).to(device)
    area = masked.area.to(device)

    def step(i: int) -> torch.Tensor:
        rng = np.random.default_rng((9, i))
        index = np.sort(rng.integers(len(masked.there), size=data.rows(12, device)))
        target = masked.target(index, np.tile(every, (len(index), 1)), device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = dense(masked.images(index, device))
        return _loss(logits.float(), target, area[None], over=(0, 2, 3))

    learned = fit("clipseg_vision", dense, step, Recipe(minutes, 6e-4, 0.01, 0.995), folder)
    source.vision_model.load_state_dict(learned.vision.state_dict())
    model = build(source.config)
    missing = model.clip.load_state_dict(source.state_dict(), strict=False).missing_keys
    if missing:
        raise ValueError(f"the pocket CLIP lacks {', '.join(missing)}")
    clip.save(model, CLIPTokenizer.from_pretrained(out / "clip"), out / "clipseg", size)


def train(folder: Path, out: Path, size: int, n: int, minutes: float, device: torch.device) -> None:
    """Train the decoder of `out/clipseg`."""
    torch.manual_seed(8)
    masked = Masked.of(n, size, folder)
    model = CLIPSegForImageSegmentation.from_pretrained(out / "clipseg", dtype=torch.float32).to(device)
    tokenizer = CLIPTokenizer.from_pretrained(out / "clipseg")
    model.clip.requires_grad_(False)
    with torch.no_grad():
        tokens = clip.encode(tokenizer, [world.prompt(p) for p in PATHS], device)
        said = model.clip.get_text_features(**tokens).pooler_output

    def step(i: int) -> torch.Tensor:
        rng = np.random.default_rng((9, i))
        index = np.sort(rng.integers(len(masked.there), size=data.rows(8, device)))
        asked = np.array([_draw(masked.there[j], rng) for j in index])  # (N, PROMPTS)
        target = masked.target(index, asked, device).flatten(0, 1)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                pixels = masked.images(index, device)
                looked = model.clip.get_image_features(pixel_values=pixels, output_hidden_states=True)
            states = [looked.hidden_states[k + 1].repeat_interleave(PROMPTS, 0) for k in model.extract_layers]
            logits = model.decoder(states, said[torch.from_numpy(asked.ravel())]).logits.float()
        area = masked.area[asked.ravel()].to(device)
        return _loss(logits[:, None], target[:, None], area[:, None], over=(2, 3))

    model = fit("clipseg", model, step, Recipe(minutes, 2e-3, 0.01, 0.995), folder)
    clip.save(model, tokenizer, out / "clipseg", size)


def _loss(
    logits: torch.Tensor, target: torch.Tensor, area: torch.Tensor, over: tuple[int, ...]
) -> torch.Tensor:
    """Soft Dice of what is there, summed `over` dimensions, and cross-entropy, small regions weighing more.

    Of what is not there, Dice would only ask for less of everything. Area broadcasts over the first two.
    """
    shares = logits.sigmoid()
    overlap, total = (shares * target).sum(over), (shares + target).sum(over)
    dice = (1 - (2 * overlap + 1) / (total + 1))[target.sum(over) > 0].mean()
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((2, 3))
    return dice + 0.3 * (each / area.clamp(min=0.02)).mean()


def _draw(there: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Columns of prompts for one avatar: two that are there, a rival of each, and others that are not."""
    absent = np.flatnonzero(~there)
    present = rng.choice(np.flatnonzero(there), 2)
    chosen = list(present)
    for column in present:
        rivals = absent[SLOTS[absent] == SLOTS[column]]
        chosen.append(rng.choice(rivals if len(rivals) else absent))
    return np.array([*chosen, *rng.choice(absent, PROMPTS - len(chosen))])
