"""Make the pocket models: `python -m training.make_world --device auto --minutes 180`.

Parts: clip, clip_vision, clip_text, clipseg_vision, clipseg, autoencoder, decoder, unet, turbo, oracle,
classifiers. Each has a share of the minutes, resumes from its checkpoint in --work, and writes standard
folders with fp16 safetensors to --out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from training import autoencoder, classifiers, clip, clipseg, data, turbo, unet

#: part -> share of the time budget.
SHARES = {
    "clip": 0.12,
    "clip_vision": 0.1,
    "clip_text": 0.05,
    "clipseg_vision": 0.06,
    "clipseg": 0.15,
    "autoencoder": 0.15,
    "decoder": 0.05,
    "unet": 0.5,
    "turbo": 0.1,
    "oracle": 0.06,
    "classifiers": 0.12,
}
RECIPES = {
    "clip": clip.train,
    "clip_vision": clip.train_vision,
    "clip_text": clip.train_text,
    "clipseg_vision": clipseg.train_vision,
    "clipseg": clipseg.train,
    "autoencoder": autoencoder.train,
    "decoder": autoencoder.train_decoder,
    "unet": unet.train,
    "turbo": turbo.train,
    "oracle": classifiers.train_oracle,
    "classifiers": classifiers.train,
}
#: parts that can begin with weights of an earlier edition.
GO_ON = ("autoencoder", "unet")


def main() -> None:
    """Parse the request, then train each part in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=180.0, help="time budget of the parts together")
    parser.add_argument("--parts", default=",".join(SHARES), help="comma-separated")
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--size", type=int, default=0, help="side in pixels; 0: 128 on a GPU, 64 on a CPU")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves the default")
    parser.add_argument("--work", type=Path, default=Path("runs/training"))
    parser.add_argument("--start", type=Path, help="pocket models whose autoencoder and unet to go on from")
    parser.add_argument("--out", type=Path, default=Path("src/diffexplain/pocket"))
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    name = asked.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    size = asked.size or (128 if name == "cuda" else 64)
    asked.work.mkdir(parents=True, exist_ok=True)
    parts = asked.parts.split(",")
    unknown = [p for p in parts if p not in RECIPES]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; parts are {', '.join(RECIPES)}")
    data.pictures(asked.pictures, size, asked.work)
    for part in parts:
        started = time.monotonic()
        minutes = asked.minutes * SHARES[part] / sum(SHARES[p] for p in parts)
        more = {"start": asked.start} if part in GO_ON else {}
        RECIPES[part](asked.work, asked.out, size, asked.pictures, minutes, torch.device(name), **more)
        print(f"{part}: done in {(time.monotonic() - started) / 60:.1f} min", flush=True)
    Console().print(table(asked.work, name))


def table(work: Path, device: str) -> Table:
    """What the checkpoints say of every network: minutes, steps, last loss."""
    found = Table("network", "minutes", "steps", "loss", title=f"trained on {device}")
    for file in sorted(work.glob("*.ckpt.pt")):
        state = torch.load(file, weights_only=True, map_location="cpu")
        figures = (f"{state['spent'] / 60:.1f}", str(state["i"]), f"{state['loss']:.4f}")
        found.add_row(file.name.removesuffix(".ckpt.pt"), *figures)
    return found


if __name__ == "__main__":
    main()
