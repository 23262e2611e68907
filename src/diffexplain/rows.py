"""Model calls with a fixed row count.

A UNet, autoencoder or classifier always sees the same number of rows, the last call padded, so a row's
result does not depend on how many others were asked with it (kernels differ by batch shape).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, overload

import torch

from diffexplain.errors import InputError


class FewerRows(UserWarning):
    """The device's memory did not hold the rows of a call; they were made in smaller ones."""


Pair = tuple[torch.Tensor, torch.Tensor]


@overload
def in_rows(function: Callable[..., Pair], *inputs: torch.Tensor, rows: int) -> Pair: ...
@overload
def in_rows(function: Callable[..., torch.Tensor], *inputs: torch.Tensor, rows: int) -> torch.Tensor: ...
def in_rows(function: Callable[..., Any], *inputs: torch.Tensor, rows: int) -> Any:
    """Apply `function` to chunks of exactly `rows` rows and join the answers without the padding.

    All inputs have the same first dimension N ≥ 1; returns (N, …), or a pair of such if `function` does.
    Where a call does not fit into memory it is made again with half the rows, and FewerRows is warned of.
    """
    total = len(inputs[0])
    answers: list[tuple[torch.Tensor, ...]] = []
    start = 0
    while start < total:
        try:
            answer = _padded(function, [x[start : start + rows] for x in inputs], rows)
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
            warnings.warn(FewerRows(f"memory did not hold {rows} rows a call: {rows // 2} now"), stacklevel=2)
            rows //= 2
            continue
        answers.append(answer if isinstance(answer, tuple) else (answer,))
        start += rows
    joined = tuple(torch.cat(parts)[:total] for parts in zip(*answers, strict=True))
    return joined if isinstance(answer, tuple) else joined[0]


def _padded(function: Callable[..., Any], chunk: list[torch.Tensor], rows: int) -> Any:
    """The function of a chunk filled up to `rows` rows with its last one."""
    short = rows - len(chunk[0])
    if short:
        chunk = [torch.cat([c, c[-1:].expand(short, *c.shape[1:])]) for c in chunk]
    return function(*(c.contiguous() for c in chunk))  # kernels differ by memory layout too


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
