"""Where a concept may act: asked of a segmenter or of the world, never of the editor's own mask."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from diffexplain.errors import EditorError


class Segmenter(Protocol):
    """Finds a concept's region in pictures."""

    name: str

    def regions(self, images: torch.Tensor, concept: str, prompt: str) -> torch.Tensor:
        """Where the concept is or would be: bool (N, H, W)."""
        ...


class AvatarRegions:
    """The avatars world's own answer: avatars are aligned, so a concept's reach is the same in all."""

    name = "world:avatars"

    def regions(self, images: torch.Tensor, concept: str, prompt: str) -> torch.Tensor:
        """The reach of the concept's attribute, repeated: bool (N, H, W)."""
        from diffexplain.worlds import avatars

        try:
            reach = avatars.region(concept, images.shape[-1])
        except KeyError:
            reach = torch.ones(images.shape[-2:], dtype=torch.bool)
        return reach.expand(len(images), -1, -1)


def load_segmenter(spec: Any) -> Segmenter | None:
    """A segmenter from `world:avatars`; None and a Segmenter in hand pass through.

    Raises EditorError for an unknown spec.
    """
    if spec is None or not isinstance(spec, str):
        return spec
    if spec == "world:avatars":
        return AvatarRegions()
    raise EditorError(f"no segmenter {spec!r}; there is world:avatars, or pass an object with regions(…)")
