"""Words for what a unit sees, and concepts that are shortcuts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import nan
from typing import NamedTuple

import numpy as np
import torch

from diffexplain.corpus import Corpus
from diffexplain.effects import VISIBLE, presence
from diffexplain.errors import InputError
from diffexplain.judges import Judge
from diffexplain.records import Interval
from diffexplain.records.spurious import Content, Shortcut, Why
from diffexplain.spurious.removal import Object, grown
from diffexplain.statistics import benjamini_yekutieli, mean_effect

ALPHA = 0.05
SHOWN = 5  # concepts named of a unit
ROWS = 24  # edits of a concept whose place is looked at
BORDER = 0.03  # of the side, around the object, where a change still counts as on it


def contents(
    judge: Judge, corpus: Corpus, images: torch.Tensor, neutral: torch.Tensor
) -> tuple[Content, ...]:
    """The corpus's leaves that a unit's pictures show otherwise than neutral ones of the same seeds.

    By the judge's presence; the largest differences first, those with q < 0.05 over all leaves.
    """
    there, plain = presence(judge, corpus, images), presence(judge, corpus, neutral)
    names = [str(i) for i in range(len(images))]
    leaves = [c.path for c in corpus.leaves() if np.isfinite(there[c.path]).all()]
    found = [mean_effect(there[p] - plain[p], names) for p in leaves]
    qs = benjamini_yekutieli([e.p for e in found])
    rows = [
        Content(p, float(there[p].mean()), float(plain[p].mean()), e.low, e.high, float(q))
        for p, e, q in zip(leaves, found, qs, strict=True)
        if q < ALPHA
    ]
    return tuple(sorted(rows, key=lambda c: -abs(c.there - c.neutral))[:SHOWN])


class Moved(NamedTuple):
    """What a change of a concept did to the class."""

    concept: str
    direction: str
    effect: float  # mean Δ log-odds
    low: float
    high: float
    q: float
    images: int
    back: float = nan  # the same as told by pictures that show the concept already
    lost: float = nan  # what the editor's reconstruction takes from the concept
    in_all: Interval | None = None  # the edits' own and these, weighed

    def matters(self, margin: float) -> bool:
        """Whether it surely moves the class, and by more than the margin, by all that tells of it."""
        return self.q < ALPHA and abs(self.in_all.value if self.in_all else self.effect) > margin


def inside(thing: Object, names: Sequence[str], before: torch.Tensor, after: torch.Tensor) -> Interval | None:
    """The share of what edits of pictures changed that falls on the object in either: mean over pictures.

    `names` say which rows (N, 3, H, W) are of one picture. Where neither picture shows the object, nothing
    falls on it. None where nothing changed visibly.
    """
    names, before, after = names[:ROWS], before[:ROWS], after[:ROWS]
    if not len(names):
        return None
    own = grown(thing.masks(before) | thing.masks(after), BORDER)
    moved = (after - before).abs().amax(1) >= VISIBLE
    seen = [i for i in range(len(names)) if moved[i].any()]
    if not seen:
        return None
    shares = [float((moved[i] & own[i]).sum() / moved[i].sum()) for i in seen]
    found = mean_effect(shares, [names[i] for i in seen])
    return Interval(found.mean, max(found.low, 0.0), min(found.high, 1.0))


def shortcut(found: Moved, where: Interval | None, irrelevant: bool, margin: float) -> Shortcut | None:
    """The concept as a shortcut: it moves the class by more than the margin, and it should not.

    It should not where most of its change surely falls outside the object, or where the user said so.
    """
    outside = where is not None and where.high < 0.5
    if not found.matters(margin) or not (irrelevant or outside):
        return None
    why: Why = "said not to matter" if irrelevant else "outside the object"
    return Shortcut(**found._asdict(), inside=where, why=why)


def irrelevant_among(concepts: Iterable[str], names: Sequence[str]) -> frozenset[str]:
    """The concepts that are, or lie under, one of the names: a path, or any part of one.

    Raises InputError for a name that no concept has, listing what there is.
    """
    known = list(dict.fromkeys(concepts))
    found: set[str] = set()
    for name in names:
        wanted = name.strip().strip("/")
        mine = {c for c in known if f"/{wanted}/" in f"/{c}/"}
        if not mine:
            tops = ", ".join(dict.fromkeys(c.split("/")[0] for c in known))
            raise InputError(f"irrelevant {name!r}: no concept of the run has that name; there are {tops}")
        found |= mine
    return frozenset(found)
