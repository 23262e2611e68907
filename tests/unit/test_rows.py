"""Calls of a fixed row count: the same answers as one call, whoever shares it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffexplain.rows import FewerRows, choose_device, in_rows

light = settings(max_examples=60, deadline=None)


@light
@given(n=st.integers(1, 40), rows=st.integers(1, 17))
def test_the_answers_are_those_of_one_call(n: int, rows: int) -> None:
    x, y = torch.randn(n, 3, 2), torch.randn(n)

    def score(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a.sum(2) * b[:, None]

    assert torch.equal(in_rows(score, x, y, rows=rows), score(x, y))
    assert torch.equal(in_rows(lambda a: a, x, rows=rows), x)


@light
@given(n=st.integers(1, 40), rows=st.integers(1, 17))
def test_the_function_always_sees_as_many_rows(n: int, rows: int) -> None:
    seen: list[torch.Tensor] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.arange(len(x))  # a row's place in its call

    x = torch.arange(n) + 100
    places = in_rows(look, x, rows=rows)
    assert places.tolist() == [i % rows for i in range(n)]  # nothing of the padding comes out
    assert [len(chunk) for chunk in seen] == [rows] * -(-n // rows)
    assert torch.equal(torch.cat(seen)[:n], x)
    assert set(torch.cat(seen)[n:].tolist()) <= {100 + n - 1}  # padded with the last row


def test_a_row_is_bit_identical_whatever_its_mates() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.SiLU(), nn.Conv2d(16, 24, 3), nn.Flatten(), nn.LazyLinear(10)
    )
    x = torch.rand(11, 3, 16, 16)
    with torch.no_grad():
        together = in_rows(network, x, rows=4)
        alone = torch.cat([in_rows(network, row[None], rows=4) for row in x])
        order = torch.randperm(len(x))
        mixed = in_rows(network, x[order], rows=4)
    assert torch.equal(together, alone)
    assert torch.equal(together[order], mixed)


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")],
)
def test_auto_takes_the_best_device(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device().type == chosen
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("holds", [1, 3, 5])
def test_what_memory_does_not_hold_is_made_in_smaller_calls(holds: int) -> None:
    seen: list[int] = []

    def greedy(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(x) > holds:
            raise torch.OutOfMemoryError("no room")
        seen.append(len(x))
        return x * 2, x + 1

    x = torch.arange(11.0)
    with pytest.warns(FewerRows, match="8 rows a call: 4 now"):
        doubled, more = in_rows(greedy, x, rows=8)
    assert torch.equal(doubled, x * 2)  # no row is lost
    assert torch.equal(more, x + 1)
    assert set(seen) == {2 ** int(np.log2(holds))}


def test_where_not_even_one_row_fits_the_error_stays() -> None:
    def full(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError), pytest.warns(FewerRows):
        in_rows(full, torch.zeros(4), rows=2)
