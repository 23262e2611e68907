"""From a spec string (or a model in hand) to a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffexplain import pocket
from diffexplain.classifiers.base import Classifier
from diffexplain.classifiers.modules import (
    CallableClassifier,
    ModuleClassifier,
    from_path,
    from_timm_folder,
    from_timm_name,
)
from diffexplain.classifiers.null import NullClassifier
from diffexplain.errors import ClassifierError

SPECS = "pocket:NAME, timm:NAME, timm:FOLDER, package.module:function"


def load_classifier(spec: Any, *, device: torch.device | None = None) -> Classifier:
    """A classifier from `pocket:hired`, `timm:resnet50.a1_in1k`, `timm:FOLDER`, `pkg.module:function`.

    A `Classifier` passes through; an `nn.Module` with a `label_names` attribute or a plain function is
    wrapped. Raises ClassifierError when there is no such thing.
    """
    device = device or torch.device("cpu")
    if not isinstance(spec, str):
        return _wrapped(spec, device)
    kind, _, rest = spec.partition(":")
    if kind == "pocket" and rest:
        if rest == "null" or rest.startswith("null:"):
            return _null(spec, rest)
        return from_timm_folder(pocket.classifier_folder(rest), name=spec, device=device)
    if kind == "timm" and rest:
        folder = Path(rest)
        if (folder / "config.json").is_file():
            return from_timm_folder(folder, name=spec, device=device)
        return from_timm_name(rest, name=spec, device=device)
    if rest.isidentifier() and all(part.isidentifier() for part in kind.split(".")):
        return from_path(spec)
    raise ClassifierError(f"no classifier {spec!r}; a classifier is one of {SPECS}")


def _wrapped(model: Any, device: torch.device) -> Classifier:
    if isinstance(model, Classifier):
        return model
    if isinstance(model, nn.Module):
        labels = getattr(model, "label_names", None)
        if labels is None:
            raise ClassifierError(
                "a torch module needs labels: dx.ModuleClassifier(module, labels, size=…, mean=…, std=…)"
            )
        return ModuleClassifier(model, labels, device=device)
    if callable(model):
        return CallableClassifier(model, None, name=getattr(model, "__name__", "function"))
    raise ClassifierError(
        f"a classifier is a spec string, a module or a function, not {type(model).__name__}"
    )


def _null(spec: str, rest: str) -> NullClassifier:
    _, _, key = rest.partition(":")
    try:
        return NullClassifier(int(key or 0))
    except (ValueError, OverflowError):
        raise ClassifierError(f"{spec!r}: the key after pocket:null: is a whole number below 2**63") from None
