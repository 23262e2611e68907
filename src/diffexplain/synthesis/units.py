"""Which hidden units carry a class, and the pictures that excite them.

Gradient x activation summed over places (Shrikumar et al. 2016), which for the channels that the class's
last linear layer reads after averaging is activation x weight, as Salient ImageNet (Singla & Feizi 2022,
section 3) ranks them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from diffexplain.classifiers import Classifier, white_box
from diffexplain.errors import ClassifierError, InputError
from diffexplain.targets import choose_target, unit_name

ROWS = 32  # pictures a call


@dataclass(frozen=True, slots=True)
class Unit:
    """A channel of a layer, and what it gives to a class."""

    layer: str
    channel: int
    contribution: float  # to the class's log-odds, mean over images: activation x weight
    activation: float  # mean over images
    low: bool  # whether the class wants it low: by the mean gradient
    exciting: tuple[int, ...]  # images in which it is most active, or least where it is low, these first

    @property
    def name(self) -> str:
        """As it is asked for: "layer4:12", "layer4:low12"."""
        return unit_name(self.layer, self.channel, self.low)


def carrying_units(
    classifier: Classifier,
    layer: str,
    images: torch.Tensor,
    label: str | int | None,
    k: int,
    *,
    versus: str | None = None,
    exciting: int = 8,
) -> list[Unit]:
    """The k units of a layer that give most to a class on images (N, 3, H, W), strongest first.

    Behind a normalisation, units go below nought, and one of negative weight gives to the class by being low.

    Raises ClassifierError for a classifier without gradients, and an unknown label or layer, naming those
    that there are; InputError for k below 1 or no images.
    """
    white = white_box(classifier, "ranking its units")
    target = choose_target(white, label, versus)
    if k < 1 or not len(images):
        raise InputError(f"k is {k}, and there are {len(images)} images; give at least one of each")
    given, active, slopes = [], [], []
    for chunk in torch.split(images, ROWS):
        active.append(white.activations(chunk, layer).detach())  # finds an unknown layer first
        with torch.enable_grad(), _watched() as found:
            score = target.of_logits(_columns(white.logits(chunk.detach().clone().requires_grad_())))
            gradient = torch.autograd.grad(score.sum(), _last(found, layer), allow_unused=True)[0]
        answer = _last(found, layer)
        given.append(_over_places(gradient, answer))
        slopes.append(_over_places(gradient, torch.ones_like(answer)))
    contribution, activation = torch.cat(given).double(), torch.cat(active).double()  # (N, C)
    low = torch.cat(slopes).double().mean(0) < 0  # (C,)
    chosen = contribution.mean(0).argsort(descending=True, stable=True)[:k]
    towards = torch.where(low, -activation, activation)
    order = towards.argsort(dim=0, descending=True, stable=True)[:exciting]  # (exciting, C)
    return [
        Unit(
            layer=layer,
            channel=int(c),
            contribution=float(contribution[:, c].mean()),
            activation=float(activation[:, c].mean()),
            low=bool(low[c]),
            exciting=tuple(int(i) for i in order[:, c]),
        )
        for c in chosen
    ]


def _over_places(gradient: torch.Tensor | None, answer: torch.Tensor) -> torch.Tensor:
    """Gradient x activation, (N, C), summed over places (N, C, h, w) or tokens (N, T, C)."""
    product = torch.zeros_like(answer) if gradient is None else gradient * answer
    product = product.detach()
    if product.ndim == 4:
        return product.flatten(2).sum(2)
    return product.sum(1) if product.ndim == 3 else product


def _last(found: list[tuple[nn.Module, Any]], layer: str) -> torch.Tensor:
    """What the layer put out: found by its name in the outermost module, which ends last."""
    whole = found[-1][0]
    module = whole.get_submodule(layer)
    answer = next((out for part, out in reversed(found) if part is module), None)
    answer = answer[0] if isinstance(answer, tuple) else answer
    if not isinstance(answer, torch.Tensor):
        raise ClassifierError(
            f"layer {layer!r} puts out {type(answer).__name__}, not a tensor; choose another"
        )
    return answer


@contextmanager
def _watched() -> Iterator[list[tuple[nn.Module, Any]]]:
    """Every module that ends inside, and what it put out, in order."""
    found: list[tuple[nn.Module, Any]] = []
    hook = register_module_forward_hook(lambda module, inputs, output: found.append((module, output)))
    try:
        yield found
    finally:
        hook.remove()


def _columns(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, None] if logits.ndim == 1 else logits


def last_pooled(classifier: Classifier) -> str:
    """The last layer before the logits. Raises ClassifierError where there are no gradients, or no layers."""
    white = white_box(classifier, "looking at its units")
    with torch.no_grad():
        grey = torch.full((1, 3, 64, 64), 0.5)
        logits = _columns(white.logits(grey)).cpu()
        for layer in reversed(white.layers):
            try:
                found = white.activations(grey, layer).cpu()
            except (ClassifierError, RuntimeError, IndexError):  # a module that is not called
                continue
            if found.ndim == 2 and found.shape[1] > 1 and found.shape != logits.shape:
                return layer
    raise ClassifierError(f"classifier {classifier.name!r} has no layer before its logits: name one, --layer")
