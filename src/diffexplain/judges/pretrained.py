"""What a CLIP and a CLIPSeg have in common: loading, how pictures and prompts go in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from diffexplain.errors import EditorError
from diffexplain.quiet import quiet_loading


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A transformers model with its tokenizer and its processor's normalisation."""

    model: Any
    tokenizer: Any
    device: torch.device
    side: int
    mean: torch.Tensor  # (1, 3, 1, 1)
    std: torch.Tensor

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures in [0, 1] as the model wants them: its size, normalised."""
        x = images.to(self.device)
        if x.shape[-2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
        return (x - self.mean) / self.std

    def tokens(self, prompt: str) -> Any:
        """One prompt as the model's text arguments; what is too long is cut."""
        return self.tokenizer(prompt, truncation=True, return_tensors="pt").to(self.device)


def pretrained(kind: Any, source: str, named: str, device: torch.device | None) -> Pretrained:
    """Load a model class from a folder or hub name. Raises EditorError; `named` says in it what was asked."""
    from transformers import AutoTokenizer, CLIPImageProcessor

    device = device or torch.device("cpu")
    try:
        with quiet_loading():
            model = kind.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(source)
        processor = CLIPImageProcessor.from_pretrained(source)
    except Exception as error:
        line = (str(error).splitlines() or ["no message"])[0][:200]
        raise EditorError(f"{named} cannot be loaded ({line}); download it or name a folder") from error
    return Pretrained(
        model=model.to(device).eval().requires_grad_(False),
        tokenizer=tokenizer,
        device=device,
        side=int(model.config.vision_config.image_size),
        mean=torch.tensor(processor.image_mean, device=device).view(1, 3, 1, 1),
        std=torch.tensor(processor.image_std, device=device).view(1, 3, 1, 1),
    )
