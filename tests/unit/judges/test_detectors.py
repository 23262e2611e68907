"""Detectors as segmenters: tiny models of the real classes from folders, functions, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffexplain.errors import EditorError
from diffexplain.images import to_8bit
from diffexplain.judges import load_segmenter
from diffexplain.judges.detectors import BoxRegions, GroundedRegions, filled, load_boxes, load_grounded
from tests.tiny_detectors import tiny_grounding_dino_folder, tiny_owlv2_folder, tiny_sam2_folder

PICTURES = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def grounded(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("grounded")
    dino, sam = tiny_grounding_dino_folder(root / "dino"), tiny_sam2_folder(root / "sam")
    return f"{dino}+{sam}"


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_owlv2_folder(tmp_path_factory.mktemp("owl") / "owlv2")


def test_grounding_dino_finds_boxes_and_sam_masks(grounded: str) -> None:
    segmenter = load_segmenter(f"groundingdino:{grounded}")
    assert isinstance(segmenter, GroundedRegions)
    assert segmenter.bare
    some = load_grounded("any", grounded, None)
    some._threshold = 0.0  # random weights are sure of nothing
    picture = to_8bit(PICTURES[0])
    boxes = some.boxes(picture, "hat")
    assert boxes.shape == (6, 4)
    assert float(boxes.min()) >= -48
    found = some.regions(PICTURES, ["x"] * 2, ["padlock", "hat"])
    assert found.shape == (2, 48, 48)
    assert found.dtype == torch.bool
    assert found.any()
    assert torch.equal(found[1:], some.regions(PICTURES[1:], ["x"], ["hat"]))
    some._threshold = 1.0
    assert not some.regions(PICTURES, ["x"] * 2, ["padlock", "hat"]).any()


def test_the_masks_are_sams_own_of_those_boxes(grounded: str) -> None:
    some = load_grounded("any", grounded, None)
    some._threshold = 0.0
    picture = to_8bit(PICTURES[0])
    boxes = some.boxes(picture, "padlock")
    processor, model = some._sam.processor, some._sam.model
    alone = torch.zeros(48, 48, dtype=torch.bool)
    for box in boxes:  # each box by itself
        read = processor(images=picture, input_boxes=[[box.tolist()]], return_tensors="pt")
        with torch.no_grad():
            said = model(**read, multimask_output=False)
        alone |= processor.post_process_masks(said.pred_masks, [(48, 48)])[0][0, 0].bool()
    together = some.regions(PICTURES[:1], ["x"], ["padlock"])[0]
    assert float((together == alone).float().mean()) > 0.99
    assert together.any()
    assert not together.all()


def test_owl_boxes_are_filled(owl: Path) -> None:
    segmenter = load_segmenter(f"owlv2:{owl}")
    assert isinstance(segmenter, BoxRegions)
    some = load_boxes("any", str(owl), None)
    some._threshold = 0.0
    found = some.regions(PICTURES, ["x"] * 2, ["padlock", "hat"])
    assert found.shape == (2, 48, 48)
    assert found.any()
    some._threshold = 1.0
    assert not some.regions(PICTURES, ["x"] * 2, ["padlock", "hat"]).any()


def test_boxes_cover_every_pixel_they_touch() -> None:
    region = filled(
        torch.tensor([[1.2, 2.0, 3.1, 4.0], [-5.0, -5.0, 0.5, 0.5], [-9.0, -9.0, -3.0, -3.0]]), (6, 6)
    )
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[2:4, 1:4] = True
    expected[0, 0] = True
    assert torch.equal(region, expected)


def bright(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """Where a picture is bright, whatever is asked."""
    return images.mean(1)


def test_any_function_is_a_segmenter() -> None:
    segmenter = load_segmenter(bright)
    assert segmenter is not None
    assert segmenter.name == "bright"
    assert torch.equal(segmenter.regions(PICTURES, ["x"] * 2, ["y"] * 2), PICTURES.mean(1) >= 0.5)


def test_a_function_is_imported_when_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lookers.py").write_text(
        "def dark(images, prompts):\n    return images.mean(1) < 0.5\ndark.bare = True\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    segmenter = load_segmenter("lookers:dark")
    assert segmenter is not None
    assert segmenter.bare  # type: ignore[attr-defined]
    assert torch.equal(segmenter.regions(PICTURES, ["x"] * 2, ["y"] * 2), PICTURES.mean(1) < 0.5)
    with pytest.raises(EditorError, match="'lookers:number' is int, no function"):
        load_segmenter("lookers:number")
    with pytest.raises(EditorError, match="cannot import segmenter 'lookers:bright': AttributeError"):
        load_segmenter("lookers:bright")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("groundingdino:only-one", "give groundingdino:DETECTOR\\+SAM2"),
        ("groundingdino:/no/where+/no/where", "'/no/where' cannot be loaded"),
        ("owlv2:/no/where", "'/no/where' cannot be loaded"),
        ("clipseg:", "no segmenter 'clipseg:'; there are world:avatars, pocket"),
        ("magic", "no segmenter 'magic'"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(spec: str, said: str) -> None:
    with pytest.raises(EditorError, match=said) as error:
        load_segmenter(spec)
    assert "\n" not in str(error.value)


def test_a_function_that_answers_otherwise_is_named() -> None:
    def flat(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return images

    def broken(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        raise KeyError("x")

    for function, said in ((flat, r"returned shape \(2, 3, 48, 48\)"), (broken, "raised KeyError")):
        segmenter = load_segmenter(function)
        assert segmenter is not None
        with pytest.raises(EditorError, match=said):
            segmenter.regions(PICTURES, ["x"] * 2, ["y"] * 2)
