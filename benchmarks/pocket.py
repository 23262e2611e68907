"""How good the bundled models are, on fresh seeds, read by the attribute oracle or by exact re-rendering."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from rich.console import Console
from rich.progress import track
from scipy.stats import entropy

from benchmarks import harness
from benchmarks.oracle import Oracle, added, edit_readings
from diffexplain import pocket
from diffexplain.corpus import load_corpus
from diffexplain.editors import load_editor
from diffexplain.effects import presence
from diffexplain.images import rounded
from diffexplain.judges import load_judge, load_segmenter
from diffexplain.worlds import avatars as world

SEED = 2_000_000
STEPS, GUIDANCE = 20, 2.0  # of pictures generated from captions, by DDIM
SUCCEEDS = 0.85  # share of a leaf's edits

bar = partial(track, console=Console(stderr=True))


def measure(quick: bool) -> Mapping[str, Any]:
    """All figures."""
    n, each, clauses = (24, 1, 1) if quick else (200, 20, 8)
    oracle, drawn = Oracle(), world.sample(n, SEED)
    editor = load_editor("pocket")
    fresh = world.render(drawn, editor.size)
    vae = AutoencoderKL.from_pretrained(pocket.ROOT / "editor" / "vae", dtype=torch.float32)
    coded = autoencoded(vae, fresh)
    inversion = editor.invert(fresh, list(range(n)))
    rebuilt = rounded(editor.reconstruct(inversion))
    return {
        "resolution": editor.size,
        "oracle_accuracy": average(oracle.accuracy(fresh, drawn)),
        "oracle_accuracy_autoencoded": average(oracle.accuracy(coded, drawn)),
        "vae_psnr_db": float(-10 * torch.log10((coded - fresh).square().mean())),
        "full_caption_accuracy": full_captions(oracle, n),
        **single_clauses(oracle, clauses),
        "reconstruction_unchanged": unchanged(oracle, rebuilt, drawn),
        **edits(oracle, each, "pocket", "edit_"),
        **edits(oracle, each, "pocket-turbo", "turbo_"),
        **edits(oracle, clauses, "pocket", "blank_", blank=True),
        "clip_accuracy": zero_shot(fresh, drawn),
        "clipseg_miou": intersection_over_union(fresh[: n // 2], drawn[: n // 2]),
        "weights_mb": sum(f.stat().st_size for f in pocket.ROOT.rglob("*.safetensors")) / 1e6,
    }


def average(by_attribute: Mapping[str, float]) -> float:
    """Mean over attributes."""
    return float(np.mean(list(by_attribute.values())))


@torch.no_grad()
def autoencoded(vae: Any, images: torch.Tensor) -> torch.Tensor:
    """Pictures passed through the autoencoder."""
    parts = [vae.decode(vae.encode(x * 2 - 1).latent_dist.mode()).sample for x in images.split(16)]
    return rounded((torch.cat(parts) / 2 + 0.5).clamp(0, 1))


def generated(captions: list[str]) -> torch.Tensor:
    """One picture a caption: DDIM, seeds in order."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        pocket.ROOT / "editor", dtype=torch.float32, safety_checker=None
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    made = []
    for start in bar(range(0, len(captions), 32), description="captions"):
        asked = captions[start : start + 32]
        seeds = [torch.Generator().manual_seed(SEED + start + i) for i in range(len(asked))]
        made.append(
            pipeline(
                asked, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=seeds, output_type="pt"
            ).images
        )
    return rounded(torch.cat(made))


def full_captions(oracle: Oracle, n: int) -> float:
    """Share of attributes as asked, over pictures generated from full captions."""
    drawn = world.sample(n, SEED + 1)
    return average(oracle.accuracy(generated([world.caption(a) for a in drawn]), drawn))


def single_clauses(oracle: Oracle, each: int) -> dict[str, float]:
    """Pictures generated from one-clause captions: whether they show it, and how free the rest is.

    The entropy is over readings of one attribute in all pictures whose caption says nothing of it and in
    which it can be seen, as a share of the world's own; the mean over attributes.
    """
    leaves = [leaf for leaf in world.LEAVES for _ in range(each)]
    read = oracle.read(generated([world.prompt(leaf) for leaf in leaves]))
    seen = [world.Avatar(*(str(read[s][i]) for s in world.Avatar._fields)) for i in range(len(leaves))]
    shown = [getattr(a, world.LEAVES[x][0]) == world.LEAVES[x][1] for a, x in zip(seen, leaves, strict=True)]
    shares = []
    for slot in world.Avatar._fields:
        free = [
            getattr(a, slot)
            for a, x in zip(seen, leaves, strict=True)
            if world.LEAVES[x][0] != slot and world.applicable(a, slot)
        ]
        counts = np.unique(free, return_counts=True)[1]
        none, names = world.OPTIONAL.get(slot, (0.0, ""))[0], world.ATTRIBUTES[slot]
        shares.append(entropy(counts) / entropy([none, *[(1 - none) / len(names)] * len(names)]))
    return {
        "single_clause_accuracy": float(np.mean(shown)),
        "single_clause_entropy": float(np.mean(shares)),
    }


def unchanged(oracle: Oracle, images: torch.Tensor, drawn: list[world.Avatar]) -> float:
    """Share of pictures in which every visible attribute is read as it is."""
    read = oracle.read(images)
    right = [
        all(read[s][i] == v for s, v in world.readings(a).items() if v is not None)
        for i, a in enumerate(drawn)
    ]
    return float(np.mean(right))


def edits(oracle: Oracle, each: int, name: str, prefix: str, blank: bool = False) -> dict[str, Any]:
    """Every leaf added to `each` eligible avatars at an editor's default strength.

    `blank`: without captions, for comparison.
    """
    editor, judge, corpus = load_editor(name), load_judge("pocket"), load_corpus("avatars")
    pool = world.sample(600, SEED + 2)
    pairs = [
        (a, leaf)
        for k, leaf in enumerate(world.LEAVES)
        for a in [a for a in pool[5 * k :] if world.eligible(a, leaf)][:each]
    ]
    happened, others = [], []
    for start in bar(range(0, len(pairs), 64), description=name):
        drawn, leaves = zip(*pairs[start : start + 64], strict=True)
        pictures = added(editor, judge, corpus, drawn, leaves, start, blank)
        h, u = edit_readings(oracle, drawn, leaves, pictures)
        happened.append(h)
        others.append(u)
    took, kept = np.concatenate(happened), np.concatenate(others)
    by_leaf = [np.mean(took[[i for i, (_, x) in enumerate(pairs) if x == leaf]]) for leaf in world.LEAVES]
    return {
        f"{prefix}success": float(took.mean()),
        f"{prefix}leaf_share": float(np.mean(np.array(by_leaf) >= SUCCEEDS)),
        f"{prefix}others_unchanged": float(kept[took].mean()) if took.any() else float("nan"),
        f"{prefix}all_others_unchanged": float((kept[took] == 1).mean()) if took.any() else float("nan"),
        f"{prefix}by_leaf": dict(zip(world.LEAVES, map(float, by_leaf), strict=True)),
    }


def zero_shot(images: torch.Tensor, drawn: list[world.Avatar]) -> float:
    """Mean over attributes of the judge's choice among the attribute's values, where it can be seen."""
    table = presence(load_judge("pocket"), load_corpus("avatars"), images)
    shares = []
    for slot, values in world.ATTRIBUTES.items():
        names = list(values)
        there = np.stack([table[v.path] for v in values.values()], axis=1)  # (N, values)
        absent = np.where(slot in world.OPTIONAL, 1 - there.sum(1, keepdims=True), -1.0)
        choice = np.concatenate([there, absent], axis=1).argmax(1)
        right = [
            ([*names, world.NONE][choice[i]] == getattr(a, slot))
            for i, a in enumerate(drawn)
            if world.applicable(a, slot)
        ]
        shares.append(np.mean(right))
    return float(np.mean(shares))


def intersection_over_union(images: torch.Tensor, drawn: list[world.Avatar]) -> float:
    """Mean over leaves of intersection over union, each summed over all pictures, with the leaf or not."""
    segmenter = load_segmenter("pocket")
    assert segmenter is not None
    size = images.shape[-1]
    owned = {slot: torch.stack([world.mask(a, slot, size) for a in drawn]) for slot in world.Avatar._fields}
    found = []
    for leaf, (slot, _) in bar(world.LEAVES.items(), description="regions"):
        there = torch.tensor([world.present(a, leaf) for a in drawn])
        true = owned[slot] & there[:, None, None]
        said = segmenter.regions(images, [leaf] * len(drawn), [world.prompt(leaf)] * len(drawn))
        found.append(float((said & true).sum() / (said | true).sum().clamp(min=1)))
    return float(np.mean(found))


if __name__ == "__main__":
    harness.run("pocket", __doc__ or "", measure)
