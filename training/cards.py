"""Write the model cards from `python -m benchmarks.pocket --json` (its last line, on standard input)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LICENCE = """## Data and licence

Trained only on pictures rendered from known attributes (`diffexplain.worlds.avatars`): a remix of
*Avataaars* by Pablo Stanley (https://avataaars.com/, free for personal and commercial use), drawn through
DiceBear. No photograph and no person is in the data. Weights: Apache-2.0, fp16 safetensors.

For tests, demonstrations and benchmarks in the avatars world; useless on photographs.
"""

PARTS = {
    "clip": (
        "Pocket CLIP",
        "A transformers `CLIPModel` (1.5 M parameters, patch 4). `training/clip.py`: contrast with all true "
        "pairs as positives and a sigmoid loss over single clauses; then, with the text states frozen, a "
        "choice among the clauses of each attribute.",
        ("clip_accuracy",),
    ),
    "editor": (
        "Pocket editor",
        "A diffusers `StableDiffusionPipeline` folder: AutoencoderKL of factor 4 "
        "(`training/autoencoder.py`), UNet of 5.9 M parameters with v-prediction and EMA "
        "(`training/unet.py`), the pocket CLIP's text side. `diffexplain.json` holds the settings "
        "chosen by `training/calibrate.py`.",
        (
            "resolution", "vae_psnr_db", "full_caption_accuracy", "single_clause_accuracy",
            "single_clause_entropy", "reconstruction_unchanged", "edit_success", "edit_leaf_share",
            "edit_others_unchanged", "edit_all_others_unchanged",
        ),
    ),
    "turbo": (
        "Pocket editor, few steps",
        "The pocket editor's pipeline with its UNet distilled to four steps (`training/turbo.py`). "
        "`diffexplain.json` holds the settings chosen by `training/calibrate.py`.",
        ("turbo_success", "turbo_leaf_share", "turbo_others_unchanged", "turbo_all_others_unchanged"),
    ),
    "clipseg": (
        "Pocket CLIPSeg",
        "A transformers `CLIPSegForImageSegmentation`: the pocket CLIP, its vision tower trained on to see "
        "where things are, and a decoder of 64 channels (`training/clipseg.py`), both taught the pixels that "
        "re-rendering changes.",
        ("clipseg_miou",),
    ),
    "oracle": (
        "Attribute oracle",
        "A timm `resnet10t` with narrow stages, one head an attribute in one output "
        "(`training/classifiers.py`). For tests and benchmarks only, never used by the method.",
        ("oracle_accuracy", "oracle_accuracy_autoencoded"),
    ),
}  # fmt: skip


def main() -> None:
    """Read the figures from standard input and write one README.md a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("src/diffexplain/pocket"))
    parser.add_argument("--recipe", required=True, help="device, minutes a part, pictures")
    asked = parser.parse_args()
    measured = json.loads(sys.stdin.read())
    for folder, (title, text, keys) in PARTS.items():
        shown = table({k: measured["figures"][k] for k in keys})
        source = f"`python -m benchmarks.pocket --json`, {measured['machine']}"
        write(asked.out / folder, title, text, asked.recipe, f"{shown}\n\n{source}")
    for config in sorted((asked.out / "classifiers").glob("*/config.json")):
        stated = json.loads(config.read_text(encoding="utf-8"))
        text = (
            f"A timm `{stated['architecture']}` with planted reasons (`training/classifiers.py`); labels "
            f"{', '.join(stated['label_names'])}. Log-odds planted: {_plain(stated['reason'])}; shortcut: "
            f"{_plain(stated['shortcut'])}; confounders: {_plain(stated['correlate'])}. "
            + ("Kept for final figures." if stated["held_out"] else "For development.")
        )
        figures = {k: stated[k] for k in ("held_out_accuracy", "temperature")}
        write(config.parent, f"Pocket classifier: {config.parent.name}", text, asked.recipe, table(figures))


def write(folder: Path, title: str, text: str, recipe: str, measured: str) -> None:
    """A folder's README.md."""
    page = f"# {title}\n\n{text}\n\n{LICENCE}\n## Recipe\n\n{recipe}\n\n## Measured\n\n{measured}\n"
    (folder / "README.md").write_text(page, encoding="utf-8")


def table(figures: Mapping[str, Any]) -> str:
    """Figures as a Markdown table."""
    rows = [f"| {k} | {v:.4g} |" if isinstance(v, float) else f"| {k} | {v} |" for k, v in figures.items()]
    return "\n".join(["| figure | value |", "|---|---|", *rows])


def _plain(value: Any) -> str:
    return json.dumps(value) if value else "none"


if __name__ == "__main__":
    main()
