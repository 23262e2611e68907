"""Pictures before and after one concept changed: scored again by any classifier, or learnt from.

A run of `explain` keeps every edit. Read back as pairs, the same edits serve a biased model and its twin,
or a model before and after its mitigation, so their difference is paired and costs no edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diffexplain.images import decode_png
from diffexplain.records import Effect
from diffexplain.statistics import Estimate, cluster_means, exact_interval, mean_effect
from diffexplain.targets import Target


@dataclass(frozen=True, slots=True)
class Counterfactuals:
    """The edits of one concept in one direction: reconstructions and edits, (N, 3, H, W)."""

    concept: str
    direction: str
    images: tuple[str, ...]  # content hash of the picture that was edited
    before: torch.Tensor
    after: torch.Tensor
    happened: np.ndarray  # (N,) bool; the judge saw the change

    def __len__(self) -> int:
        return len(self.images)

    def only(self, images: Iterable[str]) -> Counterfactuals:
        """Those of some pictures."""
        chosen = set(images)
        rows = [i for i, name in enumerate(self.images) if name in chosen]
        return Counterfactuals(
            self.concept,
            self.direction,
            tuple(self.images[i] for i in rows),
            self.before[rows],
            self.after[rows],
            self.happened[rows],
        )


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Pictures as given and as the editor rebuilds them, (N, 3, H, W); a row for each image and noise."""

    images: tuple[str, ...]  # content hash of the picture
    originals: torch.Tensor
    reconstructions: torch.Tensor

    def lost(self, target: Target, twin: Target | None = None) -> Mapping[str, float]:
        """Image -> the score that rebuilding it took; less what it took of the twin's, where one is given."""
        change = target.score(self.originals) - target.score(self.reconstructions)
        if twin is not None:
            change = change - (twin.score(self.originals) - twin.score(self.reconstructions))
        return by_image(change.numpy(), self.images)


@dataclass(frozen=True, slots=True)
class Gap:
    """What a change did to a score: mean Δ log-odds with its interval, and how often the answer flipped."""

    change: Estimate
    flip_rate: float
    flip_low: float
    flip_high: float
    happened: float  # share of the edits
    changes: Mapping[str, float]  # Δ of each picture


def counterfactuals(
    rows: Iterable[Effect], picture: Callable[[str], bytes]
) -> Mapping[tuple[str, str], Counterfactuals]:
    """(concept, direction) -> pairs, of the eligible reported rows; `picture` gives a PNG by its hash."""
    table: dict[tuple[str, str], list[Effect]] = {}
    for row in _reported(rows):
        table.setdefault((row.concept, row.direction), []).append(row)
    known: dict[str, torch.Tensor] = {}

    def seen(names: Iterable[str]) -> torch.Tensor:
        chosen = list(names)
        known.update((n, decode_png(picture(n))) for n in chosen if n not in known)
        return torch.stack([known[n] for n in chosen])

    return {
        key: Counterfactuals(
            *key,
            images=tuple(r.image for r in mine),
            before=seen(r.reconstruction for r in mine),
            after=seen(r.edited for r in mine),
            happened=np.array([r.succeeded for r in mine]),
        )
        for key, mine in table.items()
    }


def rebuilt(rows: Iterable[Effect], picture: Callable[[str], bytes]) -> Rebuilt | None:
    """The pictures that those edits are of; None where there are none. `picture` gives a PNG by its hash."""
    names = sorted({(row.image, row.reconstruction) for row in _reported(rows)})
    if not names:
        return None
    originals, reconstructions = (
        torch.stack([decode_png(picture(n)) for n in each]) for each in zip(*names, strict=True)
    )
    return Rebuilt(tuple(image for image, _ in names), originals, reconstructions)


def _reported(rows: Iterable[Effect]) -> Iterator[Effect]:
    return (row for row in rows if row.eligible and row.stage == "report")


def by_image(values: np.ndarray, images: Sequence[str]) -> Mapping[str, float]:
    """The mean of each image's values."""
    return dict(zip(sorted(set(images)), map(float, cluster_means(values, images)), strict=True))


def gap(target: Target, pairs: Counterfactuals, twin: Target | None = None) -> Gap:
    """What the change does to a target's score; less what it does to the twin's, where one is given.

    Flips are the target's own: images whose answer crosses zero log-odds in any of their edits.
    """
    before, after = target.score(pairs.before).numpy(), target.score(pairs.after).numpy()
    change = after - before
    if twin is not None:
        change = change - (twin.score(pairs.after) - twin.score(pairs.before)).numpy()
    flipped = {name for name, b, a in zip(pairs.images, before, after, strict=True) if (b > 0) != (a > 0)}
    n = len(set(pairs.images))
    low, high = exact_interval(len(flipped), n)
    return Gap(
        mean_effect(change, pairs.images),
        len(flipped) / n if n else float("nan"),
        low,
        high,
        float(pairs.happened.mean()) if len(pairs) else float("nan"),
        by_image(change, pairs.images),
    )
