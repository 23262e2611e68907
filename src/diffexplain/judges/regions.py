"""Where a concept may act: asked of a segmenter or of the world, never of the editor's own mask."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from diffexplain import pocket
from diffexplain.errors import EditorError
from diffexplain.judges.pretrained import Pretrained, pretrained
from diffexplain.rows import in_rows

ROWS = 16


class Segmenter(Protocol):
    """Finds concepts' regions in pictures.

    It may also have `finds` (False: it says where a thing would be, not whether it is there), `locates`
    (False: it says whether, not where) and `bare` (True: it wants a thing's name, not a sentence).
    """

    name: str

    def regions(self, images: torch.Tensor, concepts: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
        """Where in picture i (N, 3, H, W) concept i is or would be: bool (N, H, W)."""
        ...


class AvatarRegions:
    """The avatars world's own answer: avatars are aligned, so a concept's reach is the same in all."""

    name = "world:avatars"
    finds = False

    def regions(self, images: torch.Tensor, concepts: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
        """The reach of each concept's attribute; everywhere for a concept that the world does not have."""
        from diffexplain.worlds import avatars

        def reach(concept: str) -> torch.Tensor:
            try:
                return avatars.region(concept, images.shape[-1])
            except KeyError:
                return torch.ones(images.shape[-2:], dtype=torch.bool)

        return torch.stack([reach(c) for c in concepts])


class CLIPSegRegions:
    """A transformers CLIPSegForImageSegmentation (Lüddecke & Ecker, CVPR 2022) with its processor."""

    def __init__(self, clipseg: Pretrained, *, name: str) -> None:
        self.name = name
        self._clipseg = clipseg
        self._words = lru_cache(maxsize=8192)(self._text)

    def regions(self, images: torch.Tensor, concepts: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
        """Where the model gives the prompt at least one half."""
        return self.shares(images, prompts) >= 0.5

    def shares(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """The sigmoid of the model's answer to prompt i in picture i: (N, H, W) in [0, 1], on the CPU."""
        with torch.no_grad():
            said = torch.stack([self._words(p) for p in prompts])
            maps = in_rows(self._ask, images, said, rows=ROWS)
        if maps.shape[-2:] != images.shape[-2:]:
            maps = F.interpolate(maps[:, None], images.shape[-2:], mode="bilinear")[:, 0]
        return maps

    def _ask(self, images: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        asked = said.to(self._clipseg.device)
        pixels = self._clipseg.pixels(images)
        answer = self._clipseg.model(pixel_values=pixels, conditional_embeddings=asked)
        return torch.sigmoid(answer.logits.float()).cpu()

    def _text(self, prompt: str) -> torch.Tensor:
        tokens = self._clipseg.tokens(prompt)
        said: torch.Tensor = self._clipseg.model.get_conditional_embeddings(batch_size=1, **tokens)
        return said[0].cpu()


class CallableRegions:
    """Any function of pictures (N, 3, H, W) in [0, 1] and N prompts to masks (N, H, W)."""

    def __init__(self, function: Callable[..., Any], *, name: str) -> None:
        self.name, self._function = name, function
        for told in ("finds", "locates", "bare"):
            if hasattr(function, told):
                setattr(self, told, bool(getattr(function, told)))

    def regions(self, images: torch.Tensor, concepts: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
        """The function's masks as booleans; numbers count from one half on. Raises EditorError for others."""
        try:
            found = torch.as_tensor(self._function(images, list(prompts)))
        except Exception as error:  # a user's function raises anything
            line = (str(error).splitlines() or ["no message"])[0][:200]
            raise EditorError(f"segmenter {self.name!r} raised {type(error).__name__}: {line}") from error
        wanted = (len(images), *images.shape[-2:])
        if tuple(found.shape) != wanted:
            raise EditorError(
                f"segmenter {self.name!r} returned shape {tuple(found.shape)} for {len(images)} pictures; "
                f"expected masks {wanted}"
            )
        return found if found.dtype == torch.bool else found >= 0.5


SPECS = (
    "world:avatars, pocket, clipseg:NAME, groundingdino:NAME+SAM2NAME, owlv2:NAME (hub names or folders), "
    "package.module:function and none"
)


def load_segmenter(spec: Any, *, device: torch.device | None = None) -> Segmenter | None:
    """A segmenter from `pocket`, `clipseg:`, `groundingdino:NAME+SAM2NAME`, `owlv2:`, `world:avatars`.

    Or from `package.module:function`, or a function in hand. None for "none"; None and a Segmenter in hand
    pass through. Raises EditorError when it cannot be loaded.
    """
    if spec is None or hasattr(spec, "regions"):
        return spec  # type: ignore[no-any-return]
    if callable(spec):
        return CallableRegions(spec, name=getattr(spec, "__name__", "function"))
    spec = str(spec)
    kind, colon, source = spec.partition(":")
    if spec == "none":
        return None
    if spec == "world:avatars":
        return AvatarRegions()
    if spec == "pocket" or (kind == "clipseg" and source):
        return _clipseg(spec, source, device)
    if kind in ("groundingdino", "owlv2"):
        from diffexplain.judges import detectors

        load: Any = detectors.load_grounded if kind == "groundingdino" else detectors.load_boxes
        return load(spec, source, device)  # type: ignore[no-any-return]
    if colon and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", spec) and kind not in ("world", "clip"):
        return CallableRegions(_imported(spec), name=spec)
    raise EditorError(f"no segmenter {spec!r}; there are {SPECS}")


def _clipseg(spec: str, source: str, device: torch.device | None) -> CLIPSegRegions:
    from transformers import CLIPSegForImageSegmentation

    where = str(pocket.ROOT / "clipseg") if spec == "pocket" else source
    loaded = pretrained(CLIPSegForImageSegmentation, where, f"segmenter {spec!r}", device)
    return CLIPSegRegions(loaded, name=spec)


def _imported(spec: str) -> Callable[..., Any]:
    """`package.module:function`, imported because a person typed it, as `python -m` would find it."""
    module, _, attribute = spec.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module raises anything
        line = (str(error).splitlines() or ["no message"])[0][:200]
        raise EditorError(
            f"cannot import segmenter {spec!r}: {type(error).__name__}: {line}; give one of {SPECS}"
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise EditorError(f"segmenter {spec!r} is {type(found).__name__}, no function of images and prompts")
    return found  # type: ignore[no-any-return]
