"""Pictures without the object, without a region as large elsewhere, and with nothing but the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from diffexplain.editors.generator import Generator
from diffexplain.editors.inpainting import inpaint, touched
from diffexplain.images import rounded
from diffexplain.judges import Segmenter
from diffexplain.spurious.verdicts import Floats, SpuriousOptions

SHIFTS = 8  # places a side that a placebo may lie at


@dataclass(frozen=True, slots=True)
class Object:
    """What is looked for, and by whom."""

    words: str
    prompt: str  # that asks for it
    segmenter: Segmenter

    def masks(self, images: torch.Tensor) -> torch.Tensor:
        """Where it is, bool (N, H, W)."""
        n = len(images)
        prompt = self.words if getattr(self.segmenter, "bare", False) else self.prompt
        return self.segmenter.regions(images, [self.words] * n, [prompt] * n)

    def areas(self, images: torch.Tensor) -> Floats:
        """The share of each picture that it takes, (N,)."""
        return area(self.masks(images))


@dataclass(frozen=True, slots=True)
class Removal:
    """The same pictures drawn anew in part, (N, 3, H, W) of 8 bits; all measured from `base`."""

    index: tuple[int, ...]  # which of the pictures given
    base: torch.Tensor  # the same drawing with an empty mask
    no_object: torch.Tensor
    no_placebo: torch.Tensor
    object_only: torch.Tensor
    masks: torch.Tensor  # the object's, (N, H, W)
    places: torch.Tensor  # the placebos'
    asked: int  # pictures in which the object was found

    def __len__(self) -> int:
        return len(self.index)


def area(masks: torch.Tensor) -> Floats:
    """Share of each picture, (N,)."""
    return masks.double().mean((1, 2)).numpy()


def remove(
    generator: Generator,
    images: torch.Tensor,
    thing: Object,
    least: float,
    prompt: str,
    options: SpuriousOptions,
    seeds: Sequence[int],
) -> Removal:
    """Draw over the object, over a placebo, and over all but the object, by a prompt that does not name it.

    Of the pictures in which the object takes `least`; kept are those whose drawing really is without it, and
    still with it where it alone was kept, as the segmenter decides, never the classifier.
    """
    own = thing.masks(images)
    found = [int(i) for i in np.flatnonzero(area(own) >= least)]
    if not found:
        none, size = images[:0], own[:0]
        return Removal((), none, none, none, none, size, size, 0)
    images, own = images[found], own[found]
    chosen = [seeds[i] for i in found]
    region = touched(generator, grown(own, options.grow))
    places = torch.stack([placebo(m, s) for m, s in zip(region, chosen, strict=True)])

    def drawn(masks: torch.Tensor, shift: int = 0) -> torch.Tensor:
        own_seeds = [s + shift for s in chosen]
        prompts = [prompt] * len(images)
        return rounded(inpaint(generator, images, masks, prompts, own_seeds, rounds=options.rounds))

    without, left = _best(thing, [drawn(region, t) for t in range(options.tries)], most=False)
    alone, stays = _best(thing, [drawn(~region, t) for t in range(options.tries)], most=True)
    kept = [i for i in range(len(images)) if left[i] < least <= stays[i]]
    return Removal(
        index=tuple(found[i] for i in kept),
        base=drawn(torch.zeros_like(region))[kept],
        no_object=without[kept],
        no_placebo=drawn(places)[kept],
        object_only=alone[kept],
        masks=own[kept],
        places=places[kept],
        asked=len(found),
    )


def _best(thing: Object, tried: Sequence[torch.Tensor], *, most: bool) -> tuple[torch.Tensor, Floats]:
    """Of several drawings of each picture the one with most, or least, of the object, and how much it has."""
    areas = np.stack([thing.areas(x) for x in tried])  # (tries, N)
    best = areas.argmax(0) if most else areas.argmin(0)
    rows = np.arange(areas.shape[1])
    return torch.stack([tried[t][i] for i, t in enumerate(best)]), areas[best, rows]


def grown(masks: torch.Tensor, share: float) -> torch.Tensor:
    """Masks (N, H, W) with a border of a share of the side."""
    border = round(share * masks.shape[-1])
    return F.max_pool2d(masks[:, None].float(), 2 * border + 1, 1, border)[:, 0].bool()


def placebo(mask: torch.Tensor, seed: int) -> torch.Tensor:
    """A mask (H, W) moved, around the borders, to where it overlaps itself least: as large, elsewhere."""
    height, width = mask.shape
    moves = [
        (i * height // SHIFTS, j * width // SHIFTS) for i in range(SHIFTS) for j in range(SHIFTS) if i or j
    ]
    moved = torch.stack([torch.roll(mask, move, (0, 1)) for move in moves])
    overlap = (moved & mask).sum((1, 2))
    least = torch.nonzero(overlap == overlap.min())[:, 0]
    return moved[least[np.random.default_rng(seed).integers(len(least))]]


def shown(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Pictures with masks drawn over them: red within, a darker line around."""
    inner = ~F.max_pool2d((~masks)[:, None].float(), 3, 1, 1)[:, 0].bool()
    edge = (masks & ~inner)[:, None]
    red = torch.tensor([1.0, 0.1, 0.1]).view(1, 3, 1, 1)
    over = torch.where(masks[:, None], 0.6 * images + 0.4 * red, images)
    return rounded(torch.where(edge, red * 0.85, over))
