"""Adapters for PyTorch networks, timm folders and names, and plain callables."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from diffexplain.classifiers.base import first_line
from diffexplain.errors import ClassifierError


class ModuleClassifier:
    """A torch network with its preprocessing: resize to `size`, then (x - mean) / std.

    The network is asked in evaluation mode and left as it was.
    """

    def __init__(
        self,
        module: nn.Module,
        labels: Sequence[str],
        *,
        name: str = "module",
        size: tuple[int, int] | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        device: torch.device | None = None,
    ) -> None:
        self.name = name
        self.labels = tuple(labels)
        self._device = device or torch.device("cpu")
        self._module = module.to(self._device)
        self._size = size
        self._mean = torch.tensor(mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=self._device).view(1, 3, 1, 1)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Raw scores (N, K); Hugging Face outputs, tuples and dicts are unwrapped."""
        answer = self._asked(images)
        if isinstance(answer, dict) and "logits" in answer:
            answer = answer["logits"]
        elif isinstance(answer, tuple):
            answer = answer[0]
        return answer  # type: ignore[no-any-return]

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the network's modules."""
        return tuple(name for name, _ in self._module.named_modules() if name)

    def activations(self, images: torch.Tensor, layer: str) -> torch.Tensor:
        """What a module puts out, averaged over places (N, C, h, w) or tokens (N, T, C): (N, C).

        Raises ClassifierError when there is no such module, naming those that there are.
        """
        if layer not in self.layers:
            near = difflib.get_close_matches(layer, self.layers, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ClassifierError(
                f"layer {layer!r} is not in {self.name}; {hint}layers are {', '.join(self.layers)}"
            )
        found: list[torch.Tensor] = []
        hook = self._module.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output: found.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            self._asked(images)
        finally:
            hook.remove()
        answer = found[-1]
        return (
            answer.flatten(2).mean(2) if answer.ndim == 4 else answer.mean(1) if answer.ndim == 3 else answer
        )

    def _asked(self, images: torch.Tensor) -> Any:
        """What the network answers to pictures in [0, 1]."""
        x = images.to(self._device)
        if self._size and tuple(x.shape[-2:]) != self._size:
            x = F.interpolate(x, self._size, mode="bicubic", antialias=True).clamp(0, 1)
        with _evaluating(self._module):
            return self._module((x - self._mean) / self._std)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class CallableClassifier:
    """Any function images (N, 3, H, W) in [0, 1] -> scores (N, K) or (N,)."""

    def __init__(self, function: Callable[..., Any], labels: Sequence[str] | None, *, name: str) -> None:
        self.name = name
        self._function = function
        given = labels if labels is not None else getattr(function, "labels", None)
        self.labels = tuple(given) if given is not None else ("no", "yes")

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Whatever the function says; checked by the caller."""
        return self._function(images)  # type: ignore[no-any-return]


def from_timm_folder(folder: Path, *, name: str, device: torch.device) -> ModuleClassifier:
    """A timm folder: `config.json` (architecture, pretrained_cfg, label_names) and `model.safetensors`.

    Raises ClassifierError when they are missing, broken or do not fit each other.
    """
    import timm
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        arguments = config.get("model_args") or {}
        module = timm.create_model(config["architecture"], num_classes=config["num_classes"], **arguments)
        module.load_state_dict(load_file(folder / "model.safetensors"))
        labels = config.get("label_names") or [str(i) for i in range(config["num_classes"])]
        return _with_config(module.float(), labels, config["pretrained_cfg"], name, device)
    except Exception as error:
        raise ClassifierError(
            f"cannot load classifier {name!r}: {type(error).__name__}: {first_line(error)}; "
            f"{folder} needs a timm config.json and the model.safetensors that fits it"
        ) from error


def from_timm_name(model: str, *, name: str, device: torch.device) -> ModuleClassifier:
    """A timm model by name, with its pretrained weights and preprocessing."""
    import timm

    try:
        module = timm.create_model(model, pretrained=True)
    except Exception as error:
        raise ClassifierError(
            f"timm cannot load {model!r}: {first_line(error)}; "
            "give a name from timm.list_pretrained(), or a folder with config.json and model.safetensors"
        ) from error
    config = dict(module.pretrained_cfg)
    labels = config.get("label_names") or [str(i) for i in range(module.num_classes)]
    return _with_config(module, labels, config, name, device)


def _with_config(
    module: nn.Module, labels: Sequence[str], config: dict[str, Any], name: str, device: torch.device
) -> ModuleClassifier:
    size = tuple(config["input_size"][-2:])
    return ModuleClassifier(
        module, labels, name=name, size=size, mean=config["mean"], std=config["std"], device=device
    )


def from_path(spec: str) -> CallableClassifier:
    """`package.module:function`, imported because a person typed it, as `python -m` would find it.

    Raises ClassifierError when it cannot be imported or called.
    """
    module, _, attribute = spec.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module raises anything
        raise ClassifierError(
            f"cannot import classifier {spec!r}: {type(error).__name__}: {first_line(error)}; "
            "give module:function, the module in this folder or on PYTHONPATH"
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise ClassifierError(f"classifier {spec!r} is {type(function).__name__}, not a function of images")
    return CallableClassifier(function, None, name=spec)
