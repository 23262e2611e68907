"""Choose the pocket editor's settings: `python -m training.calibrate --out src/diffexplain/pocket`.

Looks at avatars kept for this (CALIBRATION_SEED) and at oracle readings only, never at classifier scores
or true effects. Of the settings whose share of edits that happened and left everything else as it was is
within a standard error of the largest, the one with the fewest steps is written to `diffexplain.json`
beside the weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

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


def trial(options: dict[str, float], each: int, oracle: Oracle, folder: Path) -> dict[str, float]:
    """Edit every leaf on `each` avatars; shares by oracle reading."""
    editor = load_editor(str(folder), **options)
    assert isinstance(editor, LeditsEditor)
    judge, corpus = load_judge(f"clip:{folder.parent / 'clip'}"), load_corpus("avatars")
    pool = world.sample(400, data.CALIBRATION_SEED)
    pairs = [(a, leaf) for k, leaf in enumerate(world.LEAVES) for a in _eligible(pool, leaf, k, each)]
    happened, unchanged = [], []
    for start in range(0, len(pairs), 64):
        drawn, leaves = zip(*pairs[start : start + 64], strict=True)
        h, u = edit_readings(oracle, drawn, leaves, added(editor, judge, corpus, drawn, leaves, start))
        happened.append(h)
        unchanged.append(u)
    h, u = np.concatenate(happened), np.concatenate(unchanged)
    return {"happened": h.mean(), "others": u[h].mean() if h.any() else 0.0, "clean": (h & (u == 1)).mean()}


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
            shares = trial(options, asked.each, oracle, asked.out / asked.editor)
        print(options, {k: round(float(v), 3) for k, v in shares.items()}, flush=True)
        tried.append((float(shares["clean"]), options))
    best = choose(tried, asked.each * len(world.LEAVES))
    file = asked.out / asked.editor / "diffexplain.json"
    stated = {**json.loads(file.read_text()), "judge": "pocket", "segmenter": "world:avatars"}
    stated["options"] = {**stated["options"], **best, "rows": ROWS}
    data.write_json(file, stated)
    print("written:", stated)


def choose(tried: Sequence[tuple[float, dict[str, float]]], n: int) -> dict[str, float]:
    """The fewest steps within one standard error of the best share (Breiman et al. 1984, section 3.4.3).

    `tried`: share of clean edits among `n`, and its options. Among as few steps, the larger share.
    """
    top = max(share for share, _ in tried)
    enough = top - (top * (1 - top) / n) ** 0.5
    likely = [options for share, options in sorted(tried, key=lambda t: -t[0]) if share >= enough]
    return min(likely, key=lambda options: options["steps"])


if __name__ == "__main__":
    main()
