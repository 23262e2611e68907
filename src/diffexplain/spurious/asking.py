"""Presence asked of a vision-language model: yes or no, and no mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from diffexplain.errors import EditorError, ModelError
from diffexplain.images import picture_hash
from diffexplain.judges import Segmenter, load_segmenter
from diffexplain.mining.endpoint import Model, image_part, text_part
from diffexplain.mining.loading import load_model

QUESTION = "Is {} to be seen in this picture? Answer with one word, yes or no."
ENDPOINT = "endpoint:"


class AskedRegions:
    """A yes/no question a picture; yes marks all of it. Each picture is asked about once."""

    bare, locates = True, False

    def __init__(self, model: Model, *, name: str) -> None:
        self.name, self._model = name, model
        self._known: dict[tuple[str, str], bool] = {}

    def regions(self, images: torch.Tensor, concepts: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
        """All of picture i, or nothing of it: bool (N, H, W). Raises ModelError for another answer."""
        seen = [self._seen(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        return torch.tensor(seen).view(-1, 1, 1).expand(-1, *images.shape[-2:]).clone()

    def _seen(self, image: torch.Tensor, prompt: str) -> bool:
        key = (picture_hash(image), prompt)
        if key not in self._known:
            content: list[dict[str, Any]] = [text_part(QUESTION.format(prompt)), image_part(image)]
            said = self._model.ask([{"role": "user", "content": content}]).text
            self._known[key] = _yes(said, self.name)
        return self._known[key]


def _yes(said: str, name: str) -> bool:
    word = said.strip().lower().lstrip("*\"'` ")
    if word.startswith(("yes", "no")):
        return word.startswith("yes")
    raise ModelError(f"segmenter {name!r} answered {said[:60]!r}, neither yes nor no; choose another model")


def load_finder(spec: Any, *, device: torch.device | None = None) -> Segmenter:
    """A segmenter that can say whether a thing is there: `endpoint:MODEL@URL`, or as `load_segmenter` has it.

    Raises EditorError for one that cannot, and as load_segmenter; ModelError for a wrong endpoint.
    """
    if isinstance(spec, str) and spec.startswith(ENDPOINT):
        return AskedRegions(load_model("openai:" + spec.removeprefix(ENDPOINT)), name=spec)
    found = load_segmenter(spec, device=device)
    if found is None or not getattr(found, "finds", True):
        raise EditorError(
            f"segmenter {spec!r} cannot say whether an object is there; choose pocket, clipseg:NAME, "
            "groundingdino:NAME+SAM2NAME, owlv2:NAME, endpoint:MODEL@URL or module:function"
        )
    return found
