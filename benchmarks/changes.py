"""Make `benchmarks/data/changes.npz`: how eight classifiers answered real edits of the pocket editor.

Two tables of changes in log-odds from the reconstruction, as `explain` measures them, nan where a picture is
not eligible: `pool` (classifiers, 8 concepts, 1,000 avatars), from which benchmarks resample, and `table`
(classifiers, all leaves, 48 avatars). `truth` holds the 8 concepts' effects by re-rendering.

`python -m benchmarks.changes` takes about half an hour on a quiet core, and goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from benchmarks.truth import rerendered
from diffexplain import pocket
from diffexplain.classifiers import load_classifier
from diffexplain.corpus import load_corpus
from diffexplain.editors import Edit, Editor, load_editor
from diffexplain.effects import Tools, prepare, terms
from diffexplain.images import pictures, rounded
from diffexplain.judges import Judge, load_judge
from diffexplain.records import Ask, Question
from diffexplain.targets import Target, choose_target
from diffexplain.worlds import avatars as world

FILE = Path(__file__).parent / "data" / "changes.npz"
SEED = 3_000_000  # avatars of no other use
POOL, TABLE, TRUTH, CHUNK = 1_000, 48, 300, 24
#: strong, weak and no effects; local ones and the whole background; two that often fail.
CONCEPTS = (
    "clothing/garment/blazer", "expression/mouth/smile", "facewear/glasses/round", "background/colour/blue",
    "facial hair/beard/long", "headwear/hat", "hair/style/bun", "sticker/star",
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What makes, reads and scores the edits."""

    targets: Sequence[Target]
    editor: Editor
    judge: Judge


def targets() -> dict[str, Target]:
    """The planted classifiers, by name."""
    found = {}
    for name in pocket.classifiers():
        if name != "null":
            model = load_classifier(f"pocket:{name}")
            found[name] = choose_target(model, model.labels[-1])
    return found


def changes(leaves: Sequence[str], avatars: Sequence[world.Avatar], bench: Bench) -> np.ndarray:
    """Δ log-odds of every leaf added to every avatar, (classifiers, leaves, avatars)."""
    aims, editor, corpus = bench.targets, bench.editor, load_corpus("avatars")
    found = np.full((len(aims), len(leaves), len(avatars)), np.nan, np.float16)
    given = pictures(world.render(avatars, editor.size))
    subject = prepare(Tools(aims[0], editor, bench.judge, None, corpus), given, 1)
    base = [t.score(subject.reconstructions).numpy() for t in aims]
    for k, leaf in enumerate(leaves):
        rows = [i for i in range(len(given)) if subject.eligible(corpus, i, 0, leaf, "add")]
        if not rows:
            continue
        asks = [Ask(i, 0, Question.single(leaf), (leaf,), "report") for i in rows]
        edits = [Edit(a.image, terms(subject.captions[a.image], a, 1.0)) for a in asks]
        made = rounded(editor.edit(subject.inversion, edits))
        for c, (aim, before) in enumerate(zip(aims, base, strict=True)):
            found[c, k, rows] = aim.score(made).numpy() - before[rows]
    return found


def truths(leaves: Sequence[str], aims: Sequence[Target], size: int) -> np.ndarray:
    """True mean effects by re-rendering, (classifiers, leaves)."""
    found = np.zeros((len(aims), len(leaves)))
    for k, leaf in enumerate(leaves):
        before, after = rerendered(leaf, TRUTH, size)
        found[:, k] = [float((a.score(after) - a.score(before)).mean()) for a in aims]
    return found


def main() -> None:
    """Write the file, a chunk of avatars at a time; what is there already is not made again."""
    torch.set_grad_enabled(False)
    aims = targets()
    leaves = [c.path for c in load_corpus("avatars").leaves()]
    bench = Bench(list(aims.values()), load_editor("pocket"), load_judge("pocket"))
    FILE.parent.mkdir(exist_ok=True)
    parts: dict[str, np.ndarray] = dict(np.load(FILE)) if FILE.exists() else {}
    parts |= {"classifiers": np.array(list(aims)), "concepts": np.array(CONCEPTS), "leaves": np.array(leaves)}
    if "truth" not in parts:
        parts["truth"] = truths(CONCEPTS, bench.targets, 64)
        np.savez_compressed(FILE, **parts)
    for name, asked, people in (
        ("table", leaves, world.sample(TABLE, SEED + 1)),
        ("pool", CONCEPTS, world.sample(POOL, SEED)),
    ):
        done = parts.get(name, np.empty((len(aims), len(asked), 0), np.float16))
        for start in track(range(done.shape[2], len(people), CHUNK), name, console=Console(stderr=True)):
            made = changes(asked, people[start : start + CHUNK], bench)
            parts[name] = done = np.concatenate([done, made], axis=2)
            np.savez_compressed(FILE, **parts)


if __name__ == "__main__":
    main()
