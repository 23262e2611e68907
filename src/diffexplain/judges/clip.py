"""Agreement of pictures and prompts by CLIP (Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from diffexplain import pocket
from diffexplain.errors import EditorError
from diffexplain.quiet import quiet_loading
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

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, *, name: str, device: torch.device
    ) -> None:
        self.name = name
        self._device = device
        self._model = model.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._side = int(model.config.vision_config.image_size)
        self._mean = torch.tensor(processor.image_mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(processor.image_std, device=device).view(1, 3, 1, 1)
        self._words = lru_cache(maxsize=8192)(self._text)

    def logits(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """exp(scale)·cos(image, prompt)."""
        with torch.no_grad():
            seen = in_rows(self._look, images, rows=ROWS)  # (N, D)
            said = torch.stack([self._words(p) for p in prompts])  # (P, D)
            scale = float(self._model.logit_scale.exp())
        return scale * seen.double() @ said.double().T

    def _look(self, images: torch.Tensor) -> torch.Tensor:
        x = images.to(self._device)
        if x.shape[-1] != self._side:
            x = F.interpolate(x, (self._side, self._side), mode="bicubic", antialias=True).clamp(0, 1)
        features = self._model.get_image_features(pixel_values=(x - self._mean) / self._std)
        return _unit(features).cpu()

    def _text(self, prompt: str) -> torch.Tensor:
        tokens = self._tokenizer(prompt, truncation=True, return_tensors="pt").to(self._device)
        return _unit(self._model.get_text_features(**tokens))[0].cpu()


def _unit(output: Any) -> torch.Tensor:
    features: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return F.normalize(features, dim=-1)


def load_judge(spec: Any, *, device: torch.device | None = None) -> Judge:
    """A judge from `pocket`, `clip:ORG/NAME` or `clip:FOLDER`; a Judge in hand passes through.

    Raises EditorError when it cannot be loaded.
    """
    if not isinstance(spec, str):
        return spec  # type: ignore[no-any-return]
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    if spec != "pocket" and not spec.startswith("clip:"):
        raise EditorError(f"no judge {spec!r}; a judge is pocket, clip:ORG/NAME or clip:FOLDER")
    source = str(pocket.ROOT / "clip") if spec == "pocket" else spec.removeprefix("clip:")
    try:
        with quiet_loading():
            model = CLIPModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(source)
        processor = CLIPImageProcessor.from_pretrained(source)
    except Exception as error:
        line = (str(error).splitlines() or ["no message"])[0][:200]
        raise EditorError(
            f"judge {spec!r} cannot be loaded ({line}); download it or name a folder"
        ) from error
    return CLIPJudge(model, tokenizer, processor, name=spec, device=device or torch.device("cpu"))
