"""A vision-language model on this machine: any transformers image-text-to-text model with a chat template."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from diffexplain.errors import ModelError
from diffexplain.mining.endpoint import Answer, Message
from diffexplain.quiet import quiet_loading

MAX_TOKENS = 2048


class LocalModel:
    """Answers by greedy decoding; a schema is not enforced, it stands in the question."""

    def __init__(
        self, source: str, *, device: torch.device | None = None, max_tokens: int = MAX_TOKENS
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.name, self._max_tokens = f"transformers:{source}", max_tokens
        self._device = device or torch.device("cpu")
        try:
            with quiet_loading():
                self._processor = AutoProcessor.from_pretrained(source)
                model = AutoModelForImageTextToText.from_pretrained(
                    source, dtype="auto", use_safetensors=True
                )
        except Exception as error:
            line = (str(error).splitlines() or ["no message"])[0][:200]
            cure = "download it with `hf download` or name a folder"
            raise ModelError(f"model {self.name} cannot be loaded ({line}); {cure}") from error
        self._model = model.to(self._device).eval().requires_grad_(False)
        if not getattr(self._processor, "chat_template", None):
            raise ModelError(f"model {self.name} has no chat template; choose an instruction-tuned one")

    def ask(self, messages: Sequence[Message], schema: Mapping[str, Any] | None = None) -> Answer:
        """One answer. Raises ModelError when the model does not take the question."""
        try:
            inputs = self._processor.apply_chat_template(
                [_local(message) for message in messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            ).to(self._device, dtype=self._model.dtype)
            with torch.no_grad():
                made = self._model.generate(**inputs, max_new_tokens=self._max_tokens, do_sample=False)
        except (ValueError, IndexError, RuntimeError, TypeError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ModelError(
                f"model {self.name} did not take the question ({line}); choose another"
            ) from error
        asked = inputs["input_ids"].shape[1]
        said = made[0, asked:]
        text = self._processor.decode(said, skip_special_tokens=True)
        return Answer(text, asked, len(said), truncated=len(said) >= self._max_tokens)


def _local(message: Message) -> dict[str, Any]:
    """A message of the OpenAI protocol as transformers wants it: pictures as PIL images."""
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {"role": message["role"], "content": [_part(part) for part in parts]}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] != "image_url":
        return dict(part)
    data = part["image_url"]["url"].partition("base64,")[2]
    return {"type": "image", "image": Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")}
