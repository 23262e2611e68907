"""What is drawn over a run's pictures: where a concept may act, and Grad-CAM of the same picture.

Both are kept in the run folder, in overlays.json, so that every later report shows them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffexplain.errors import RunError
from diffexplain.records import JOIN, Effect, Result
from diffexplain.report.regions import Mask, pixels, run_lengths

OVERLAYS = "overlays.json"


@dataclass(frozen=True, slots=True)
class Region:
    """A mask as COCO's run lengths: size (H, W), and alternating counts of 0s and 1s down the columns."""

    size: tuple[int, int]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, mask: Mask) -> Region:
        """From a mask (H, W)."""
        return cls((mask.shape[0], mask.shape[1]), tuple(run_lengths(mask)))

    def mask(self) -> Mask:
        """The mask (H, W)."""
        values = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(values, self.counts).reshape(self.size, order="F")


@dataclass(frozen=True, slots=True)
class Overlays:
    """Maps by picture, regions by edit (`edit_key`); both empty where a run has none."""

    maps: Mapping[str, str] = field(default_factory=dict)  # a picture's hash -> that of the one drawn over
    layer: str = ""  # of the network, where Grad-CAM looked
    regions: Mapping[str, Region] = field(default_factory=dict)
    segmenter: str = ""

    @classmethod
    def read(cls, folder: Path) -> Overlays:
        """What a run folder keeps of them. Raises RunError when the file is damaged."""
        file = folder / OVERLAYS
        if not file.exists():
            return cls()
        try:
            kept = json.loads(file.read_text("utf-8"))
            regions = {
                key: Region((int(one["size"][0]), int(one["size"][1])), tuple(map(int, one["counts"])))
                for key, one in kept["regions"].items()
            }
            return cls(dict(kept["maps"]), str(kept["layer"]), regions, str(kept["segmenter"]))
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise RunError(f"{file}: is damaged ({error}): remove it, and make it again") from error

    def write(self, folder: Path) -> None:
        """Keep them, completely or not at all. Raises RunError when that cannot be."""
        half, file = folder / f"{OVERLAYS}.tmp", folder / OVERLAYS
        try:
            half.write_text(json.dumps(asdict(self), sort_keys=True), "utf-8")
            half.replace(file)
        except OSError as error:
            half.unlink(missing_ok=True)
            raise RunError(f"{file}: cannot be written ({error.strerror}): free space") from error


def edit_key(e: Effect) -> str:
    """What tells one edit's region: what was edited, in which pictures."""
    return f"{e.edited_as}\t{e.reconstruction}\t{e.edited}"


def pairs(result: Result) -> list[Effect]:
    """The edits that overlays are made of: every measured question's examples, each once."""
    found: dict[str, Effect] = {}
    for concept in result.concepts:
        for e in concept.examples if concept.status == "measured" else ():
            if e.reconstruction and e.edited:
                found.setdefault(edit_key(e), e)
    return list(found.values())


def known_overlays(
    result: Result, rows: Iterable[Effect], picture: Callable[[str], bytes], kept: Overlays
) -> Overlays:
    """What a run keeps, and the regions that its world knows without a model."""
    segmenter = result.request.segmenter or ""
    shown = [e for e in rows if e.reconstruction and e.edited and e.edited_as]
    if kept.regions or not shown or not segmenter.startswith("world:"):
        return kept
    from diffexplain.judges import load_segmenter

    size, world = pixels(picture, shown[0].edited).shape[0], load_segmenter(segmenter)
    known: dict[str, Mask] = {}
    regions: dict[str, Region] = {}
    for e in shown:
        parts = e.edited_as.split(JOIN)
        for part in (part for part in parts if part not in known):
            known[part] = world_mask(world, part, size)
        regions[edit_key(e)] = Region.of(np.logical_or.reduce([known[part] for part in parts]))
    return replace(kept, regions=regions, segmenter=segmenter)


def world_mask(world: Any, concept: str, size: int) -> Mask:
    """Where a concept may act in any picture of a world, (size, size)."""
    import torch

    found = world.regions(torch.zeros(1, 3, size, size), [concept], [""])
    return np.asarray(found[0].numpy(), dtype=np.bool_)
