"""Where an edit changed a picture: a mask of the pixels, its box, and its run lengths."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: change of a channel, of 255, from which one sees it; editors' noise stays below. As in report.js.
SEEN = 40
#: share of the picture below which a change is magnified. As in report.js.
SMALL = 0.3

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Box(NamedTuple):
    """A rectangle in pixels."""

    x: int
    y: int
    width: int
    height: int


def pixels(picture: Callable[[str], bytes], name: str) -> Pixels:
    """A stored picture as (H, W, 3), 0 to 255."""
    with Image.open(io.BytesIO(picture(name))) as opened:
        return np.asarray(opened.convert("RGB"))


def changed(before: Pixels, after: Pixels) -> Mask:
    """The pixels (H, W) that one sees differ; none where the sizes do."""
    if before.shape != after.shape:
        return np.zeros(after.shape[:2], dtype=np.bool_)
    distance = np.abs(before.astype(np.int16) - after.astype(np.int16)).max(axis=2)
    return np.asarray(distance > SEEN)


def box(mask: Mask) -> Box | None:
    """The smallest rectangle around the mask; None around nothing."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    x, y = int(columns[0]), int(rows[0])
    return Box(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)


def magnify(mask: Mask) -> Box | None:
    """The square to show larger, with a margin; None where the change is none, or large enough to see."""
    found, (height, width) = box(mask), mask.shape
    if found is None:
        return None
    side = round(1.2 * max(found.width, found.height, 8))
    if side * side > SMALL * width * height or side > min(width, height):
        return None
    x = min(max(0, found.x + (found.width - side) // 2), width - side)
    y = min(max(0, found.y + (found.height - side) // 2), height - side)
    return Box(x, y, side, side)


def run_lengths(mask: Mask) -> list[int]:
    """Alternating lengths of 0s and 1s, down the columns, 0s first: COCO's uncompressed RLE."""
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    ends = np.concatenate([[0], edges, [len(flat)]])
    lengths = np.diff(ends).tolist()
    return [0, *lengths] if len(flat) and flat[0] else lengths
