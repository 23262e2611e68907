"""Second classifiers of a pocket classifier's labels: other architecture, other avatars, other seed.

For benchmarks only: a picture that only fools the first classifier does not move its twin.

`python -m training.twins --work FOLDER --out src/diffexplain/pocket --minutes 4`
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
from torch.nn import functional as F

from diffexplain.worlds import avatars as world
from training import cards, classifiers, data
from training.loop import Recipe, fit

NAMES = ("bearded", "cheerful")
ARCHITECTURE = "resnet10t"
OPTIONS = {"channels": [16, 32, 48, 64], "stem_width": 16}
TRAIN_SEED = 60_000
SIZE = 64


def train(name: str, folder: Path, out: Path, n: int, minutes: float) -> float:
    """Train one twin and save it as `out/twins/NAME`; returns its accuracy on avatars kept aside."""
    torch.manual_seed(31)
    plan, device = classifiers.PLANS[name], torch.device("cpu")
    cache = folder / f"twin-{name}-{n}.npz"
    if not cache.exists():
        folder.mkdir(parents=True, exist_ok=True)
        drawn, y = classifiers.labelled(name, n, seed=TRAIN_SEED)
        np.savez(cache, x=world.render_bytes(drawn, SIZE), y=y)
    with np.load(cache) as stored:
        array, y = stored["x"], torch.from_numpy(stored["y"])
    held = len(array) // 8
    model = timm.create_model(ARCHITECTURE, num_classes=1, **OPTIONS)

    def step(i: int) -> torch.Tensor:
        rng = np.random.default_rng((32, i))
        index = np.sort(rng.integers(held, len(array), size=64))
        images = classifiers.augment(data.batch(array, index, device), rng)
        z = model(classifiers.normalised(images))[:, 0]
        return F.binary_cross_entropy_with_logits(z, y[index].float())

    model = fit(f"twin-{name}", model, step, Recipe(minutes, 2e-3, 0.02, 0.99), folder)
    images = data.batch(array, np.arange(held), device)
    with torch.no_grad():
        z = torch.cat([model(classifiers.normalised(x)) for x in images.split(100)])[:, 0]
    accuracy = round(float(((z > 0) == y[:held].bool()).float().mean()), 4)
    extra = {
        "label_names": list(plan.labels),
        "model_args": OPTIONS,
        "target": plan.target,
        "held_out": plan.held_out,
        "held_out_accuracy": accuracy,
    }
    classifiers.save(model, ARCHITECTURE, SIZE, extra, out / "twins" / name)
    cards.write(
        out / "twins" / name,
        f"Twin of the pocket classifier {name}",
        f"A timm `{ARCHITECTURE}` with narrow stages, trained as `{name}` is (`training/classifiers.py`), on "
        "other avatars and from another seed (`training/twins.py`). For benchmarks only.",
        f"`python -m training.twins`: one CPU thread, {minutes:g} minutes, {n:,} avatars.",
        cards.table({"held_out_accuracy": accuracy}),
    )
    return accuracy


def main() -> None:
    """Train every twin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("src/diffexplain/pocket"))
    parser.add_argument("--minutes", type=float, default=4, help="for each twin")
    parser.add_argument("--pictures", type=int, default=5_000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in NAMES:
        print(name, train(name, asked.work, asked.out, asked.pictures, asked.minutes), flush=True)


if __name__ == "__main__":
    main()
