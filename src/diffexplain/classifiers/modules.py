"""Adapters for what is in hand: PyTorch networks and plain callables."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from diffexplain.classifiers.answers import Adapter, Scores, unwrapped
from diffexplain.classifiers.base import Head
from diffexplain.classifiers.preprocessing import Prepare, Preprocessing
from diffexplain.errors import ClassifierError


class ModuleClassifier(Adapter):
    """A torch network with its preprocessing: resize to `size`, then (x - mean) / std, or a function.

    `preprocessing` takes pictures (N, 3, H, W) in [0, 1] and gives what the network takes; a Preprocessing
    says it in numbers. The network is asked in evaluation mode and left as it was.
    """

    def __init__(
        self,
        module: nn.Module,
        labels: Sequence[str],
        *,
        name: str = "module",
        size: int | tuple[int, int] | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        preprocessing: Prepare | None = None,
        head: Head = "softmax",
        scores: Scores = "logits",
        device: torch.device | None = None,
    ) -> None:
        super().__init__(name, labels, head=head, scores=scores)
        self.preprocessing = preprocessing or Preprocessing(size=size, mean=tuple(mean), std=tuple(std))
        self._device = device or torch.device("cpu")
        self._module = module.to(self._device)

    @property
    def module(self) -> nn.Module:
        """The network itself."""
        return self._module

    def with_module(self, module: nn.Module, name: str) -> ModuleClassifier:
        """Another network behind the same labels and preprocessing."""
        made = copy.copy(self)
        made.name, made._module = name, module.to(self._device)
        return made

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the network's modules."""
        return tuple(name for name, _ in self._module.named_modules() if name)

    def activations(self, images: torch.Tensor, layer: str) -> torch.Tensor:
        """What a module puts out, averaged over places (N, C, h, w) or tokens (N, T, C): (N, C).

        Raises ClassifierError when there is no such module, naming those that there are.
        """
        self._check_layer(layer)
        found: list[torch.Tensor] = []
        hook = self._module.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output: found.append(output)
        )
        try:
            self._asked(images)
        finally:
            hook.remove()
        return self._averaged(found[-1] if found else None, layer)

    def shift(self, images: torch.Tensor) -> float | None:
        """How far pictures are from those that the network was trained on, where it remembers.

        The larger of |mean − running mean| and |log(std / running std)|, in running stds, averaged over the
        channels that enter the first batch normalisation. None where there is none.
        """
        parts = (p for p in self._module.modules() if getattr(p, "running_mean", None) is not None)
        if (first := next(parts, None)) is None:
            return None
        seen: list[torch.Tensor] = []
        hook = first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
        try:
            with torch.no_grad():
                self._asked(images)
        finally:
            hook.remove()
        values = seen[-1].transpose(0, 1).flatten(1)  # (C, N·h·w)
        kept: Any = first
        std = kept.running_var.sqrt().clamp_min(1e-6)
        off = ((values.mean(1) - kept.running_mean) / std).abs().mean()
        spread = (values.std(1).clamp_min(1e-6) / std).log().abs().mean()
        return float(max(off, spread))

    def _check_layer(self, layer: str) -> None:
        if layer in self.layers:
            return
        near = difflib.get_close_matches(layer, self.layers, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        there = f"layers are {', '.join(self.layers)}" if self.layers else "its file names no layers"
        raise ClassifierError(f"layer {layer!r} is not in {self.name}; {hint}{there}")

    def _averaged(self, output: Any, layer: str) -> torch.Tensor:
        answer = unwrapped(output)
        if not isinstance(answer, torch.Tensor):
            said = "is not run" if output is None else f"puts out {type(answer).__name__}, no channels"
            raise ClassifierError(f"layer {layer!r} of {self.name} {said}; choose another one")
        if answer.ndim == 4:
            last = answer.shape[1] == answer.shape[2] != answer.shape[3]  # (N, h, w, C), as Swin has it
            return answer.mean((1, 2) if last else (2, 3))
        return answer.mean(1) if answer.ndim == 3 else answer

    def _asked(self, images: torch.Tensor) -> Any:
        """What the network answers to pictures in [0, 1]."""
        x = self.preprocessing(images.to(self._device))
        kind = next((p.dtype for p in self._module.parameters() if p.is_floating_point()), x.dtype)
        with _evaluating(self._module):
            return self._module(x.to(self._device, kind))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class CallableClassifier(Adapter):
    """Any function images (N, 3, H, W) in [0, 1] -> scores (N, K) or (N,).

    Attributes `labels`, `head` and `scores` of the function count where they are not given.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        labels: Sequence[str] | None,
        *,
        name: str,
        head: Head | None = None,
        scores: Scores | None = None,
    ) -> None:
        given = labels if labels is not None else getattr(function, "labels", None)
        super().__init__(
            name,
            tuple(given) if given is not None else ("no", "yes"),
            head=head or getattr(function, "head", None) or "softmax",
            scores=scores or getattr(function, "scores", None) or "logits",
        )
        self._function = function

    def _asked(self, images: torch.Tensor) -> Any:
        """Whatever the function says; checked by the caller."""
        return self._function(images)
