"""A finished run as everything that shows one takes it: the result, all its rows, its pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from diffexplain.errors import RunError
from diffexplain.records import Effect, Result
from diffexplain.report.overlays import Overlays
from diffexplain.store import read_kind, read_picture, read_result, read_rows


@dataclass(frozen=True, slots=True)
class Finished:
    """`picture(hash)` gives a stored picture as PNG bytes."""

    result: Result
    effects: tuple[Effect, ...]
    picture: Callable[[str], bytes]
    overlays: Overlays = field(default_factory=Overlays)

    @classmethod
    def read(cls, folder: Path | str) -> Finished:
        """A finished run of `explain`. Raises RunError when the folder holds none."""
        if (kind := read_kind(folder)) != "explanation":
            raise RunError(f"run {str(folder)!r} is of kind {kind!r}: give the folder of an `explain` run")
        rows, overlays = tuple(read_rows(folder)), Overlays.read(Path(folder))
        return cls(read_result(folder), rows, partial(read_picture, folder), overlays)

    @property
    def names(self) -> dict[str, str]:
        """File names of the input pictures by content hash."""
        request = self.result.request
        return dict(zip(request.images, request.names, strict=False))
