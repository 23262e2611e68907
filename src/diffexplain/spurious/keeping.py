"""What a run of `find_spurious` keeps, and what it reads of its synthesis."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path

import torch

from diffexplain.images import decode_png, encode_png, picture_hash
from diffexplain.records import Sample, TargetResult
from diffexplain.records.spurious import Look, Looked
from diffexplain.spurious.removal import area, shown
from diffexplain.store import MemoryRun, read_picture, read_rows

DRAWN = 8  # pictures of a look that a page shows


class Album:
    """The rows of a run and their pictures, until they are kept together."""

    def __init__(self, run: MemoryRun) -> None:
        self.rows: list[Looked] = []
        self._run = run
        self._pictures: dict[str, bytes] = {}
        self._shown: dict[str, list[int]] = {}

    def look(
        self,
        look: Look,
        images: torch.Tensor,
        masks: torch.Tensor,
        scores: Sequence[float],
        *,
        unit: str = "",
        activations: Sequence[float] = (),
        index: Sequence[int] = (),
    ) -> list[Looked]:
        """A row for each picture, with its mask drawn over it."""
        over = shown(images, masks)
        made = [
            Looked(look, unit, i, float(a), float(v), float(s), self._name(x), self._name(o))
            for i, a, v, s, x, o in zip(
                index or range(len(images)), area(masks), activations or [nan] * len(images), scores, images,
                over, strict=True,
            )
        ]  # fmt: skip
        self.rows += made
        self._shown.setdefault(look, [r.pair for r in made[:DRAWN]])
        return made

    def shown(self, look: str) -> list[int]:
        """Which pictures of a look the page shows."""
        return self._shown.get(look, [])

    def append(self) -> None:
        """Keep all of it; a resumed run that has it already keeps that."""
        if 0 not in self._run.batches():
            self._run.append(0, self.rows, self._pictures)
        else:
            self._run.record_inputs(self._pictures)

    def _name(self, image: torch.Tensor) -> str:
        name = picture_hash(image)
        self._pictures.setdefault(name, encode_png(image))
        return name


class Shots:
    """The held-out pictures of a synthesis."""

    def __init__(self, targets: Sequence[TargetResult], place: Path) -> None:
        self._of = {t.target: t for t in targets}
        self._rows: list[Sample] = read_rows(place)
        self._place = place

    def target(self, unit: str) -> TargetResult:
        """What the synthesis says of a unit."""
        return self._of[unit]

    def images(self, unit: str, origin: str) -> torch.Tensor:
        """Pictures (N, 3, H, W) by the chosen restart, or by the plain prompt, in the order of the seeds."""
        restart = self._of[unit].chosen if origin == "optimised" else -1
        wanted = (unit, origin, restart)
        names = [r.picture for r in self._rows if (r.target, r.origin, r.restart) == wanted]
        return torch.stack([decode_png(read_picture(self._place, n)) for n in names])
