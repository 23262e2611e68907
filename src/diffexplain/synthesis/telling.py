"""What the pictures of a target show, in sentences of a vision-language model."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from diffexplain.errors import InputError

#: chat messages as OpenAI-compatible endpoints take them -> the answer's text.
Ask = Callable[[Sequence[Mapping[str, Any]]], str]

CAPTION = "Describe this picture in one short sentence. Say only what can be seen."
REPORT = (
    "These pictures were generated so that an image classifier answers {target!r} strongly. In at most five "
    "sentences: what do they share, and which of it seems to belong to {target!r}, which seems incidental "
    "(background, other objects, style)? Say only what can be seen.{words}"
)
MOST = 16  # pictures in one message


def captions(images: torch.Tensor, ask: Ask) -> list[str]:
    """One sentence for each image (N, 3, H, W)."""
    return [_plain(ask([_message(CAPTION, image[None])])) for image in images]


def report(target: str, images: torch.Tensor, ask: Ask, *, words: Sequence[str] = ()) -> str:
    """What the first 16 images of a target share, core and incidental; `words` of its prompt are told too.

    Raises InputError without images.
    """
    if not len(images):
        raise InputError(f"no images of {target!r}; a report needs one")
    told = f" The optimised prompt's words were: {', '.join(words)}." if words else ""
    return _plain(ask([_message(REPORT.format(target=target, words=told), images[:MOST])]))


def _message(text: str, images: torch.Tensor) -> dict[str, Any]:
    pictures = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images]
    return {"role": "user", "content": [{"type": "text", "text": text}, *pictures]}


def _data_url(image: torch.Tensor) -> str:
    from PIL import Image

    out = io.BytesIO()
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(pixels).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _plain(answer: str) -> str:
    """An answer as one paragraph."""
    return " ".join(answer.split())
