"""Where a concept may act: asked of a segmenter or of the world, never of the editor's own mask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from diffexplain import pocket
from diffexplain.errors import EditorError
from diffexplain.judges.pretrained import Pretrained, pretrained
from diffexplain.rows import in_rows

ROWS = 16


class Segmenter(Protocol):
    """Finds concepts' regions in pictures."""

    name: str

    def regions(self, images: torch.Tensor, concepts: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
        """Where in picture i (N, 3, H, W) concept i is or would be: bool (N, H, W)."""
        ...


class AvatarRegions:
    """The avatars world's own answer: avatars are aligned, so a concept's reach is the same in all."""

    name = "world:avatars"

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


def load_segmenter(spec: Any, *, device: torch.device | None = None) -> Segmenter | None:
    """A segmenter from `world:avatars`, `pocket`, `clipseg:ORG/NAME` or `clipseg:FOLDER`; none for "none".

    None and a Segmenter in hand pass through. Raises EditorError when it cannot be loaded.
    """
    if spec is None or not isinstance(spec, str):
        return spec
    if spec == "none":
        return None
    if spec == "world:avatars":
        return AvatarRegions()
    if spec != "pocket" and not spec.startswith("clipseg:"):
        raise EditorError(
            f"no segmenter {spec!r}; "
            "there are world:avatars, pocket, clipseg:ORG/NAME, clipseg:FOLDER and none"
        )
    from transformers import CLIPSegForImageSegmentation

    source = str(pocket.ROOT / "clipseg") if spec == "pocket" else spec.removeprefix("clipseg:")
    loaded = pretrained(CLIPSegForImageSegmentation, source, f"segmenter {spec!r}", device)
    return CLIPSegRegions(loaded, name=spec)
