"""How good the bundled models are, on fresh seeds, read by the attribute oracle or by exact re-rendering."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

from benchmarks import harness
from benchmarks.oracle import Oracle, edit_readings
from diffexplain import pocket
from diffexplain.corpus import load_corpus
from diffexplain.editors import Edit, Term, load_editor
from diffexplain.effects import presence
from diffexplain.images import rounded
from diffexplain.judges import load_judge
from diffexplain.worlds import avatars as world

SEED = 2_000_000


def measure(quick: bool) -> Mapping[str, Any]:
    """All figures."""
    n, each = (24, 1) if quick else (200, 8)
    oracle, drawn = Oracle(), world.sample(n, SEED)
    fresh = world.render(drawn, 64)
    vae = AutoencoderKL.from_pretrained(pocket.ROOT / "editor" / "vae", dtype=torch.float32)
    coded = autoencoded(vae, fresh)
    editor = load_editor("pocket")
    inversion = editor.invert(fresh, list(range(n)))
    rebuilt = rounded(editor.reconstruct(inversion))
    return {
        "resolution": editor.size,
        "oracle_accuracy": average(oracle.accuracy(fresh, drawn)),
        "oracle_accuracy_autoencoded": average(oracle.accuracy(coded, drawn)),
        "vae_psnr_db": float(-10 * torch.log10((coded - fresh).square().mean())),
        "full_caption_accuracy": full_captions(oracle, n),
        "single_clause_accuracy": single_clauses(oracle, each),
        "reconstruction_unchanged": unchanged(oracle, rebuilt, drawn),
        **edits(oracle, each),
        "clip_accuracy": zero_shot(fresh, drawn),
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
    """One picture a caption: 30 DDIM steps, guidance 2, seeds in order."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        pocket.ROOT / "editor", dtype=torch.float32, safety_checker=None
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    made = []
    for start in range(0, len(captions), 32):
        asked = captions[start : start + 32]
        seeds = [torch.Generator().manual_seed(SEED + start + i) for i in range(len(asked))]
        made.append(
            pipeline(
                asked, num_inference_steps=30, guidance_scale=2.0, generator=seeds, output_type="pt"
            ).images
        )
    return rounded(torch.cat(made))


def full_captions(oracle: Oracle, n: int) -> float:
    """Share of attributes as asked, over pictures generated from full captions."""
    drawn = world.sample(n, SEED + 1)
    return average(oracle.accuracy(generated([world.caption(a) for a in drawn]), drawn))


def single_clauses(oracle: Oracle, each: int) -> float:
    """Share of pictures generated from a one-clause caption that show it."""
    leaves = [leaf for leaf in world.LEAVES for _ in range(each)]
    read = oracle.read(generated([world.prompt(leaf) for leaf in leaves]))
    return float(np.mean([read[world.LEAVES[x][0]][i] == world.LEAVES[x][1] for i, x in enumerate(leaves)]))


def unchanged(oracle: Oracle, images: torch.Tensor, drawn: list[world.Avatar]) -> float:
    """Share of pictures in which every visible attribute is read as it is."""
    read = oracle.read(images)
    right = [
        all(read[s][i] == v for s, v in world.readings(a).items() if v is not None)
        for i, a in enumerate(drawn)
    ]
    return float(np.mean(right))


def edits(oracle: Oracle, each: int) -> dict[str, float]:
    """Every leaf added to `each` eligible avatars at the default strength."""
    editor, pool = load_editor("pocket"), world.sample(600, SEED + 2)
    pairs = [
        (a, leaf)
        for k, leaf in enumerate(world.LEAVES)
        for a in [a for a in pool[5 * k :] if world.eligible(a, leaf)][:each]
    ]
    happened, others = [], []
    for start in range(0, len(pairs), 64):
        drawn, leaves = zip(*pairs[start : start + 64], strict=True)
        inversion = editor.invert(world.render(drawn, editor.size), [start + i for i in range(len(drawn))])
        asked = [Edit(i, (Term(world.prompt(leaf)),)) for i, leaf in enumerate(leaves)]
        h, u = edit_readings(oracle, drawn, leaves, rounded(editor.edit(inversion, asked)))
        happened.append(h)
        others.append(u)
    took, kept = np.concatenate(happened), np.concatenate(others)
    by_leaf = [np.mean(took[[i for i, (_, x) in enumerate(pairs) if x == leaf]]) for leaf in world.LEAVES]
    return {
        "edit_success": float(took.mean()),
        "edit_leaf_share": float(np.mean(np.array(by_leaf) >= 0.85)),
        "edit_others_unchanged": float(kept[took].mean()) if took.any() else float("nan"),
        "edit_all_others_unchanged": float((kept[took] == 1).mean()) if took.any() else float("nan"),
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


if __name__ == "__main__":
    harness.run("pocket", __doc__ or "", measure)
