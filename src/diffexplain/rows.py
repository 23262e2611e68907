"""Model calls with a fixed row count.

A UNet, autoencoder or classifier always sees the same number of rows, the last call padded, so a row's
result does not depend on how many others were asked with it (kernels differ by batch shape).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from diffexplain.errors import InputError


def in_rows(function: Callable[..., torch.Tensor], *inputs: torch.Tensor, rows: int) -> torch.Tensor:
    """Apply `function` to chunks of exactly `rows` rows and join the answers without the padding.

    All inputs have the same first dimension N ≥ 1; returns (N, …).
    """
    total = len(inputs[0])
    answers = []
    for start in range(0, total, rows):
        chunk = [x[start : start + rows] for x in inputs]
        short = rows - len(chunk[0])
        if short:
            chunk = [torch.cat([c, c[-1:].expand(short, *c.shape[1:])]) for c in chunk]
        plain = [c.contiguous() for c in chunk]  # kernels differ by memory layout too
        answers.append(function(*plain)[: rows - short])
    return torch.cat(answers)


def choose_device(name: str = "auto") -> torch.device:
    """`auto` takes cuda, then mps, then the CPU."""
    if name != "auto":
        try:
            return torch.zeros(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"device {name!r} is not to be had here; choose auto, cpu, cuda or mps"
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
