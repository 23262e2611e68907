"""Workers that only wait: a batch as long as on a GPU, rows and pictures as large as real ones. No torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import nan
from typing import Any

from diffexplain.records import Effect

EDITS = 16  # a batch
PICTURE_BYTES = 420_000  # a 512-pixel photograph as PNG
#: of a picture, Stable Diffusion 1.5 at 50 steps: residuals, latent and start in float32.
INVERSION_BYTES = (50 + 2) * 4 * 64 * 64 * 4

ROW = Effect(
    image="72804335db4d9dca71f2798c9ec00170", seed=0, concept="facial hair/beard/long", direction="add",
    edited_as="facial hair/beard/long", strength=1.0, stage="race", eligible=True, score_before=-0.1234567,
    score_after=0.98765432101, probability_before=0.47, probability_after=0.73, presence_before=0.0123456789,
    presence_after=0.98765432101, outside=nan, reconstruction="base", edited="", evaluations=100, batch=0,
    size=0.0123456789, area=0.123456789, others='{"hair/short": 0.123, "eyewear/glasses": -0.21}',
)  # fmt: skip


@dataclass(frozen=True)
class Stub:
    """What a worker holds: nothing."""


@dataclass(frozen=True)
class Sleeping:
    """A job as large as a batch's: the asks and their pictures' shares; its answer as large as one."""

    number: int
    asks: tuple[Any, ...]
    seconds: float
    shares: tuple[Callable[[], bytes], ...]

    def started(self, station: Stub) -> Callable[[], tuple[list[Any], dict[str, bytes]]]:
        """Fetch the shares, sleep, answer."""
        for share in self.shares:
            share()
        time.sleep(self.seconds)
        return lambda: (made_rows(self.number), made_pictures(self.number))


def made_rows(batch: int) -> list[Any]:
    """Rows as a run's."""
    return [replace(ROW, seed=i, edited=f"p{batch}x{i}", batch=batch) for i in range(EDITS)]


def made_pictures(batch: int) -> dict[str, bytes]:
    """Pictures as large as a run's: bytes that do not compress."""
    body = os.urandom(PICTURE_BYTES) + b"\x00\x00\x00\x00IEND\xaeB`\x82"
    return {f"p{batch}x{i}": i.to_bytes(1) + body for i in range(EDITS)}
