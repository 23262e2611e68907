"""Agreement of pictures and prompts by CLIP (Radford et al. 2021)."""

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

ROWS = 32


class Judge(Protocol):
    """Scores how well prompts fit pictures."""

    name: str

    def logits(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scaled cosine similarities (N, P), float64 on the CPU: a softmax over rival prompts is a choice."""
        ...


class CLIPJudge:
    """A transformers CLIPModel with its processor."""

    def __init__(self, clip: Pretrained, *, name: str) -> None:
        self.name = name
        self._clip = clip
        self._words = lru_cache(maxsize=8192)(self._text)

    def logits(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """exp(scale)·cos(image, prompt)."""
        with torch.no_grad():
            seen = in_rows(self._look, images, rows=ROWS)  # (N, D)
            said = self.text_vectors(prompts)  # (P, D)
            scale = float(self._clip.model.logit_scale.exp())
        return scale * seen.double() @ said.double().T

    def text_vectors(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit text features (P, D) on the CPU."""
        return torch.stack([self._words(p) for p in prompts])

    def _look(self, images: torch.Tensor) -> torch.Tensor:
        return _unit(self._clip.model.get_image_features(pixel_values=self._clip.pixels(images))).cpu()

    def _text(self, prompt: str) -> torch.Tensor:
        return _unit(self._clip.model.get_text_features(**self._clip.tokens(prompt)))[0].cpu()


def _unit(output: Any) -> torch.Tensor:
    features: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return F.normalize(features, dim=-1)


def load_judge(spec: Any, *, device: torch.device | None = None) -> Judge:
    """A judge from `pocket`, `clip:ORG/NAME` or `clip:FOLDER`; a Judge in hand passes through.

    Raises EditorError when it cannot be loaded.
    """
    if not isinstance(spec, str):
        return spec  # type: ignore[no-any-return]
    from transformers import CLIPModel

    if spec != "pocket" and not spec.startswith("clip:"):
        raise EditorError(f"no judge {spec!r}; a judge is pocket, clip:ORG/NAME or clip:FOLDER")
    source = str(pocket.ROOT / "clip") if spec == "pocket" else spec.removeprefix("clip:")
    return CLIPJudge(pretrained(CLIPModel, source, f"judge {spec!r}", device), name=spec)
