"""The editors on a CUDA device: as on the processor, exact without an edit, and within memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from diffexplain.editors import Edit, Term
from diffexplain.editors.ledits import LeditsEditor, LeditsOptions
from tests.tiny import tiny_pipeline, tiny_xl_pipeline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
EDITS = [Edit(0, (Term("a hat"),)), Edit(1, (Term("a dog", -1.0), Term("a cat"))), Edit(1)]


def editor(pipeline: Any, device: str, **options: Any) -> LeditsEditor:
    chosen = LeditsOptions(**dict(steps=10, rows=8, guidance=3.0, dtype="float32") | options)
    return LeditsEditor(
        pipeline, name="tiny", options=chosen, default_judge="pocket", device=torch.device(device)
    )


def made(family: Any, device: str, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of the edits, and those that the inversion ended with."""
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = editor(family(size=32, heed=1), device, **options)
    inversion = found.invert(images, [1, 2])
    return found.sample(inversion, EDITS).cpu(), inversion["latent"].cpu()


@pytest.mark.parametrize("family", [tiny_pipeline, tiny_xl_pipeline])
@pytest.mark.parametrize("mask", ["none", "intersection"])
def test_it_edits_as_on_the_processor(family: Any, mask: str):
    torch.backends.cuda.matmul.allow_tf32 = False
    here, _ = made(family, "cpu", mask=mask)
    there, still = made(family, "cuda", mask=mask)
    assert float((here - there).abs().max()) < 1e-2
    assert torch.equal(there[2], still[1])


@pytest.mark.parametrize("options", [dict(dtype="bfloat16"), dict(compiled=True), dict(offload=True)])
def test_without_an_edit_it_stays_exact(options: dict[str, Any]):
    there, still = made(tiny_pipeline, "cuda", **options)
    assert float((there[2] - still[1]).abs().max()) < 1e-4


def test_rows_are_chosen_by_memory():
    assert 1 <= editor(tiny_pipeline(size=32), "cuda", rows=0).rows <= 256


def test_a_thread_decodes_while_the_next_edits_are_sampled():
    model = editor(tiny_pipeline(size=32, heed=1), "cuda")
    inversion = model.invert(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), [1, 2])
    alone = [model.edit(inversion, [e]) for e in EDITS]
    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(model.begun(inversion, [e])) for e in EDITS]
    for images, one in zip(alone, waiting, strict=True):
        assert torch.equal(one.result(), images)
