"""The pocket CLIPSeg (Lüddecke & Ecker, CVPR 2022): transformers trains its decoder only.

The frozen CLIP half is the pocket CLIP. Truth is the world's own: the pixels that an attribute's value owns,
found by re-rendering; for a value that is not there, none. Loss: cross-entropy and soft Dice.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
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
PROMPTS = 6  # a picture, half of them of what is there


def build(clip_config: object) -> CLIPSegForImageSegmentation:
    """The pocket CLIP with a decoder of 64 channels over all its layers.

    The prompt enters at the decoder's last layer, where finest patch states are: contrast trains the CLIP's
    class token alone, so the deepest patch states say little, and a prompt that enters there is ignored.
    """
    text, vision = clip_config.text_config, clip_config.vision_config  # type: ignore[attr-defined]
    config = CLIPSegConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=clip_config.projection_dim,  # type: ignore[attr-defined]
        extract_layers=list(range(vision.num_hidden_layers)),
        conditional_layer=vision.num_hidden_layers - 1,
        reduce_dim=64,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=256,
    )
    model = CLIPSegForImageSegmentation(config)
    for weight in model.decoder.parameters():
        if weight.dim() > 1:
            torch.nn.init.xavier_uniform_(weight)
    return model


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


def prompts() -> dict[str, list[str]]:
    """Attribute -> prompts of its leaves and of the inner nodes that have a word of their own."""
    return {
        slot: [v.path for v in values.values()]
        + [p for p in world.GENERAL if world.LEAVES[world.leaves(p)[0]][0] == slot]
        for slot, values in world.ATTRIBUTES.items()
    }


def train(folder: Path, out: Path, size: int, n: int, minutes: float, device: torch.device) -> None:
    """Train the decoder and save the whole as `out/clipseg`."""
    torch.manual_seed(8)
    drawn, array = data.pictures(n, size, folder)
    drawn = drawn[:AVATARS]
    owned = masks(drawn, size, folder)
    source = CLIPModel.from_pretrained(out / "clip", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(out / "clip")
    model = build(source.config)
    frozen = model.clip.load_state_dict(source.state_dict(), strict=False)
    if frozen.missing_keys:
        raise ValueError(f"the pocket CLIP lacks {', '.join(frozen.missing_keys)}")
    model = model.to(device)
    model.clip.requires_grad_(False)
    paths = [path for group in prompts().values() for path in group]
    slots = list(world.Avatar._fields)
    slot_of = np.array([slots.index(world.LEAVES[world.leaves(p)[0]][0]) for p in paths])
    there = np.array([[world.present(a, p) for p in paths] for a in drawn])  # (N, prompts)
    with torch.no_grad():
        tokens = clip.encode(tokenizer, [world.prompt(p) for p in paths], device)
        said = model.clip.get_text_features(**tokens).pooler_output
    mean, std = clip.MEAN.to(device), clip.STD.to(device)

    def step(i: int) -> torch.Tensor:
        rng = np.random.default_rng((9, i))
        index = np.sort(rng.integers(len(drawn), size=data.rows(8, device)))
        images = data.batch(array, index, device)
        images = images + 0.03 * torch.rand(len(images), 1, 1, 1, device=device) * torch.randn_like(images)
        asked = np.array([_draw(there[j], rng) for j in index])  # (N, PROMPTS)
        bits = np.unpackbits(owned[index[:, None], slot_of[asked]], axis=-1)
        target = torch.from_numpy(bits).to(device).float() * torch.from_numpy(
            np.take_along_axis(there[index], asked, 1)
        ).to(device).view(*asked.shape, 1, 1)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                pixels = (images - mean) / std
                looked = model.clip.get_image_features(pixel_values=pixels, output_hidden_states=True)
            states = [looked.hidden_states[k + 1].repeat_interleave(PROMPTS, 0) for k in model.extract_layers]
            logits = model.decoder(states, said[torch.from_numpy(asked.ravel())]).logits.float()
        target = target.flatten(0, 1)
        shares = logits.sigmoid()
        overlap = (shares * target).sum((1, 2))
        dice = 1 - (2 * overlap + 1) / ((shares + target).sum((1, 2)) + 1)
        seen = target.sum((1, 2)) > 0  # of what is not there, Dice would only ask for less of everything
        return F.binary_cross_entropy_with_logits(logits, target) * 2 + dice[seen].mean()

    model = fit("clipseg", model, step, Recipe(minutes, 1.5e-3, 0.01, 0.995), folder)
    clip.save(model, tokenizer, out / "clipseg", size)


def _draw(there: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Columns of prompts for one avatar: half are there, half are not."""
    half = PROMPTS // 2
    return np.concatenate(
        [rng.choice(np.flatnonzero(there), half), rng.choice(np.flatnonzero(~there), PROMPTS - half)]
    )
