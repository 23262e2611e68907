"""The pictures of one page: each embedded once, as WebP, no larger than the page can bear.

The run keeps its pictures lossless; here they are for looking at. A page of many large pictures takes
the first setting of `LADDER` whose projected size fits the budget.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image

#: bytes of all pictures before base64 (which adds a third): 12 MB of page.
BUDGET = 9_000_000
_SAMPLED = 12  # pictures tried to project a setting's size


class Setting(NamedTuple):
    """How pictures are encoded: the longer side at most (0: as is), WebP quality (None: lossless)."""

    side: int
    quality: int | None


LADDER = (Setting(0, None), Setting(512, 88), Setting(384, 82), Setting(256, 76), Setting(160, 64))


class Album:
    """Numbers the pictures that a page shows, in the order it first shows them."""

    def __init__(self, picture: Callable[[str], bytes]) -> None:
        self._picture = picture
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """The picture's number on the page; a picture shown twice keeps its number."""
        return self._numbers.setdefault(name, len(self._numbers))

    def __len__(self) -> int:
        return len(self._numbers)

    def ratio(self) -> str:
        """Width over height of the first picture, as CSS writes it."""
        if not self._numbers:
            return "1 / 1"
        with Image.open(io.BytesIO(self._picture(next(iter(self._numbers))))) as first:
            return f"{first.width} / {first.height}"

    def uri(self, name: str, setting: Setting | None = None) -> str:
        """One picture as a data URI, small by default."""
        return _uri(encode(self._picture(name), setting or LADDER[-1]))

    def uris(self, budget: int = BUDGET) -> list[str]:
        """All pictures as data URIs, by number, together near `budget` bytes or below."""
        names = tuple(self._numbers)
        setting = choose([self._picture(n) for n in _spread(names, _SAMPLED)], len(names), budget)
        return [_uri(encode(self._picture(n), setting)) for n in names]


def choose(sampled: Sequence[bytes], count: int, budget: int) -> Setting:
    """The first setting of the ladder that takes `count` pictures like these within the budget."""
    for setting in LADDER[:-1]:
        spent = sum(len(encode(p, setting)) for p in sampled)
        if spent * count <= budget * len(sampled):
            return setting
    return LADDER[-1]


def encode(png: bytes, setting: Setting) -> bytes:
    """One picture as WebP."""
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGB")
    if setting.side and max(image.size) > setting.side:
        image.thumbnail((setting.side, setting.side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    lossless = setting.quality is None
    image.save(out, "WEBP", lossless=lossless, quality=setting.quality or 60, method=4)
    return out.getvalue()


def _spread(names: Sequence[str], most: int) -> list[str]:
    step = max(1, -(-len(names) // most))
    return list(names[::step])


def _uri(webp: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(webp).decode("ascii")
