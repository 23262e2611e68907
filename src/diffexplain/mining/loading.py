"""From a spec to a language model."""

from __future__ import annotations

import re
from typing import Any

import torch

from diffexplain.errors import ModelError
from diffexplain.mining.endpoint import OPENAI, Endpoint, Model, Patience

SPECS = "openai:MODEL@http://HOST:PORT/v1, openai:MODEL, transformers:ORG/NAME or transformers:FOLDER"


def load_model(spec: Any, *, device: torch.device | None = None, patience: Patience | None = None) -> Model:
    """A model from a spec; one in hand passes through. Raises ModelError when there is no such model."""
    if not isinstance(spec, str):
        return spec  # type: ignore[no-any-return]
    kind, _, rest = spec.partition(":")
    if kind == "openai" and rest and not rest.startswith("@"):
        found = re.fullmatch(r"(.+)@([a-z]+://.*)", rest)
        model, url = (found[1], found[2]) if found else (rest, OPENAI)
        return Endpoint(model, url, patience or Patience())
    if kind == "transformers" and rest:
        from diffexplain.mining.local import LocalModel

        return LocalModel(rest, device=device)
    raise ModelError(f"no model {spec!r}; give {SPECS}")
