"""The attribute oracle: reads every attribute of an avatar's picture. For tests and benchmarks only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from diffexplain import pocket
from diffexplain.captions import filled, read_captions
from diffexplain.classifiers import checked_logits
from diffexplain.classifiers.networks import from_timm_folder
from diffexplain.corpus import Corpus
from diffexplain.editors import Edit, Editor, Term
from diffexplain.effects import presence
from diffexplain.images import rounded
from diffexplain.judges import Judge
from diffexplain.worlds import avatars as world


class Oracle:
    """The bundled multi-head network; one head an attribute."""

    def __init__(self) -> None:
        self._model = from_timm_folder(pocket.ROOT / "oracle", name="oracle", device=torch.device("cpu"))
        self._widths = [len(world.values(slot)) for slot in world.Avatar._fields]

    def read(self, images: torch.Tensor) -> dict[str, np.ndarray]:
        """Attribute -> value read in each picture (N,) of str; also where it cannot be seen."""
        parts = checked_logits(self._model, images).split(self._widths, dim=1)
        return {
            slot: np.array(world.values(slot))[part.argmax(1).numpy()]
            for slot, part in zip(world.Avatar._fields, parts, strict=True)
        }

    def accuracy(self, images: torch.Tensor, drawn: Sequence[world.Avatar]) -> dict[str, float]:
        """Attribute -> share read right, where it can be seen."""
        read = self.read(images)
        return {
            slot: float(np.mean(right))
            for slot in world.Avatar._fields
            if len(right := _right(read, drawn, slot))
        }


def _right(read: dict[str, np.ndarray], drawn: Sequence[world.Avatar], slot: str) -> list[bool]:
    return [read[slot][i] == getattr(a, slot) for i, a in enumerate(drawn) if world.applicable(a, slot)]


def added(
    editor: Editor,
    judge: Judge,
    corpus: Corpus,
    drawn: Sequence[world.Avatar],
    leaves: Sequence[str],
    seed: int,
    blank: bool = False,
) -> torch.Tensor:
    """Leaf i added to avatar i as `explain` does it, at the default strength: (N, 3, H, W), 8-bit values.

    `blank`: from the empty source prompt, asking for the leaf alone, as DiffEx does it.
    """
    images, seeds = world.render(drawn, editor.size), range(seed, seed + len(drawn))
    if blank:
        inversion = editor.invert(images, seeds)
        prompts = [corpus[leaf].prompt for leaf in leaves]
    else:
        captions = filled(read_captions(corpus, presence(judge, corpus, images)))
        inversion = editor.invert(images, seeds, [c.text for c in captions])
        prompts = [c.edited(leaf, "add")[0] for c, leaf in zip(captions, leaves, strict=True)]
    return rounded(editor.edit(inversion, [Edit(i, (Term(p),)) for i, p in enumerate(prompts)]))


def edit_readings(
    oracle: Oracle, drawn: Sequence[world.Avatar], leaves: Sequence[str], edited: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Per edit (avatar, leaf added): whether the leaf is read, and what else stayed.

    The second is the share of the visible attributes which `do()` leaves unchanged that are still read
    as they were.
    """
    read = oracle.read(edited)
    happened, unchanged = [], []
    for i, (avatar, leaf) in enumerate(zip(drawn, leaves, strict=True)):
        slot, name = world.LEAVES[leaf]
        happened.append(read[slot][i] == name)
        wanted = world.readings(world.do(avatar, leaf))
        others = [
            s for s, v in wanted.items() if s != slot and v is not None and v == world.readings(avatar)[s]
        ]
        unchanged.append(np.mean([read[s][i] == wanted[s] for s in others]))
    return np.array(happened), np.array(unchanged)
