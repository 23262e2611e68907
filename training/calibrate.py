"""Choose the pocket editor's settings: `python -m training.calibrate --out src/diffexplain/pocket`.

Looks at avatars kept for this (CALIBRATION_SEED), at oracle readings and exact pictures only, never at
classifier scores or true effects. Of the settings whose share of edits that happened and left everything else
as it was is within a standard error of the largest, those with the fewest steps are kept; the one whose
pictures come nearest to the exact ones is written to `diffexplain.json` beside the weights. Readings alone
would let an editor overdo: dark skin that is too dark is read as dark.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.oracle import Oracle, added, edit_readings
from diffexplain.corpus import load_corpus
from diffexplain.editors import load_editor
from diffexplain.editors.ledits import LeditsEditor
from diffexplain.judges import load_judge
from diffexplain.worlds import avatars as world
from training import data

ROWS = 32  # UNet rows a call: with 64, small waves of the search are mostly padding


class Tried(NamedTuple):
    """Settings, and what edits with them did."""

    options: dict[str, float]
    happened: float  # share of edits
    others: float  # share of the other attributes that stayed, where they happened
    clean: float  # share of edits that happened and left all else
    off: float  # root mean square difference of pixels from the picture drawn exactly


def trial(options: dict[str, float], each: int, oracle: Oracle, folder: Path) -> Tried:
    """Edit every leaf on `each` avatars; shares by oracle reading."""
    editor = load_editor(str(folder), **options)
    assert isinstance(editor, LeditsEditor)
    judge, corpus = load_judge(f"clip:{folder.parent / 'clip'}"), load_corpus("avatars")
    pool = world.sample(400, data.CALIBRATION_SEED)
    pairs = [(a, leaf) for k, leaf in enumerate(world.LEAVES) for a in _eligible(pool, leaf, k, each)]
    happened, unchanged, squares = [], [], []
    for start in range(0, len(pairs), 64):
        drawn, leaves = zip(*pairs[start : start + 64], strict=True)
        made = added(editor, judge, corpus, drawn, leaves, start)
        exact = world.render([world.do(a, leaf) for a, leaf in zip(drawn, leaves, strict=True)], editor.size)
        h, u = edit_readings(oracle, drawn, leaves, made)
        happened.append(h)
        unchanged.append(u)
        squares.append((made - exact).square().mean((1, 2, 3)).numpy())
    h, u, off = np.concatenate(happened), np.concatenate(unchanged), np.concatenate(squares).mean() ** 0.5
    others = u[h].mean() if h.any() else 0.0
    return Tried(options, float(h.mean()), float(others), float((h & (u == 1)).mean()), float(off))


def _eligible(pool: list[world.Avatar], leaf: str, k: int, each: int) -> list[world.Avatar]:
    chosen = [a for a in pool[k:] if world.eligible(a, leaf)]
    return chosen[:each]


def main() -> None:
    """Try the grid, print it, write the best."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("src/diffexplain/pocket"))
    parser.add_argument("--editor", default="editor", choices=["editor", "turbo"])
    parser.add_argument("--each", type=int, default=2, help="avatars a leaf")
    parser.add_argument("--steps", default="5,8")
    parser.add_argument("--skip", default="0,0.1")
    parser.add_argument("--guidance", default="1.5,2")
    parser.add_argument("--threshold", default="0.5,0.7")
    asked = parser.parse_args()
    grid = [
        dict(zip(("steps", "skip", "guidance", "threshold"), values, strict=True))
        for values in itertools.product(
            map(int, asked.steps.split(",")),
            map(float, asked.skip.split(",")),
            map(float, asked.guidance.split(",")),
            map(float, asked.threshold.split(",")),
        )
    ]
    oracle, tried = Oracle(), []
    for options in grid:
        with torch.no_grad():
            tried.append(trial(options, asked.each, oracle, asked.out / asked.editor))
        print(tried[-1], flush=True)
    best = choose(tried, asked.each * len(world.LEAVES))
    file = asked.out / asked.editor / "diffexplain.json"
    stated = {**json.loads(file.read_text()), "judge": "pocket", "segmenter": "world:avatars"}
    stated["options"] = {**stated["options"], **best, "rows": ROWS}
    data.write_json(file, stated)
    print("written:", stated)


def choose(tried: Sequence[Tried], n: int) -> dict[str, float]:
    """The fewest steps within one standard error of the best share (Breiman et al. 1984, section 3.4.3).

    Of `n` edits a setting. Among as few steps, the nearest to the exact pictures.
    """
    top = max(t.clean for t in tried)
    enough = top - (top * (1 - top) / n) ** 0.5
    return min((t for t in tried if t.clean >= enough), key=lambda t: (t.options["steps"], t.off)).options


if __name__ == "__main__":
    main()
