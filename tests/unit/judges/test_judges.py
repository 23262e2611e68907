"""Judges against the models they wrap, and what is said of those that do not exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from diffexplain.errors import EditorError
from diffexplain.images import rounded, to_8bit
from diffexplain.judges import Judge, load_judge, load_segmenter
from diffexplain.judges.regions import AvatarRegions, CLIPSegRegions
from diffexplain.worlds import avatars
from tests.tiny import tiny_clip_folder, tiny_clipseg_folder

SIZE = 16
PROMPTS = ["a toy", "a toy with a red ball and a very long story", "a cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip_folder(tmp_path_factory.mktemp("judge") / "clip", size=SIZE)


@pytest.fixture(scope="module")
def judge(folder: Path) -> Judge:
    return load_judge(f"clip:{folder}")


def pictures(n: int, size: int = SIZE) -> torch.Tensor:
    return rounded(torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(n)))


# --- CLIP -------------------------------------------------------------------------------------------


def test_logits_are_the_models_own(folder: Path, judge: Judge):
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    images = pictures(5)
    shown = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in to_8bit(images)]
    pixels = CLIPImageProcessor.from_pretrained(folder)(shown, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(folder)(**pixels, **tokens).logits_per_image
    logits = judge.logits(images, PROMPTS)
    assert logits.dtype == torch.float64
    assert logits.shape == (5, 3)
    assert float(expected.std()) > 0.1
    assert float((logits - expected).abs().max()) < 1e-4


def test_logits_do_not_depend_on_what_else_is_asked(judge: Judge):
    images = pictures(70)  # more than a call has rows
    together = judge.logits(images, PROMPTS)
    for rows, columns in (([3], [0, 1, 2]), ([69, 0], [2, 0]), (list(range(40)), [1])):
        alone = judge.logits(images[rows], [PROMPTS[c] for c in columns])
        torch.testing.assert_close(alone, together[rows][:, columns], rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [8, 24, 64])
def test_pictures_of_another_size_are_resized(judge: Judge, size: int):
    plain = torch.full((1, 3, size, size), 0.4)
    same = judge.logits(torch.full((1, 3, SIZE, SIZE), 0.4), PROMPTS)
    torch.testing.assert_close(judge.logits(plain, PROMPTS), same, rtol=1e-3, atol=1e-3)


def test_a_finer_picture_is_averaged_not_sampled(judge: Judge):
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    fine = judge.logits(board.float().expand(1, 3, 64, 64), PROMPTS)
    grey = judge.logits(torch.full((1, 3, SIZE, SIZE), 0.5), PROMPTS)
    black = judge.logits(torch.zeros(1, 3, SIZE, SIZE), PROMPTS)
    assert float((fine - grey).abs().max()) < 0.05 * float((black - grey).abs().max())


def test_a_prompt_longer_than_the_model_reads_is_cut(judge: Judge):
    assert judge.logits(pictures(1), ["long " * 100]).isfinite().all()


def test_judging_leaves_the_random_state_alone(judge: Judge):
    before = torch.get_rng_state()
    judge.logits(pictures(1), ["something new"])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_judge_in_hand_passes_through(judge: Judge):
    assert load_judge(judge) is judge


@pytest.mark.parametrize("spec", ["nonsense", "openai/clip-vit-base-patch32", ""])
def test_an_unknown_judge_is_named_with_what_there_is(spec: str):
    with pytest.raises(EditorError) as error:
        load_judge(spec)
    assert f"no judge {spec!r}" in str(error.value)
    assert "clip:ORG/NAME" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_clip_is_refused(tmp_path: Path):
    with pytest.raises(EditorError) as error:
        load_judge(f"clip:{tmp_path}")
    assert "cannot be loaded" in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_only_the_first_line_of_a_long_complaint_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from transformers import CLIPModel

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("the weights are torn\nand here is a page of advice")

    monkeypatch.setattr(CLIPModel, "from_pretrained", fail)
    with pytest.raises(EditorError) as error:
        load_judge(f"clip:{folder}")
    assert "the weights are torn" in str(error.value)
    assert "\n" not in str(error.value)


# --- segmenters -------------------------------------------------------------------------------------


def test_the_avatars_regions_are_the_worlds_own():
    found = load_segmenter("world:avatars")
    assert isinstance(found, AvatarRegions)
    assert found.name == "world:avatars"
    regions = found.regions(torch.zeros(3, 3, 32, 32), ["facewear/glasses/round"] * 3, ["round glasses"] * 3)
    assert regions.shape == (3, 32, 32)
    assert regions.dtype == torch.bool
    assert torch.equal(regions[0], regions[2])
    assert torch.equal(regions[0], avatars.region("facewear/glasses/round", 32))
    assert 0 < float(regions.float().mean()) < 0.5


def test_where_the_world_knows_no_region_the_whole_picture_counts():
    regions = AvatarRegions().regions(torch.zeros(2, 3, 16, 16), ["no such concept"] * 2, ["", ""])
    assert regions.all()
    assert regions.shape == (2, 16, 16)


@pytest.fixture(scope="module")
def segmenting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clipseg_folder(tmp_path_factory.mktemp("segmenter") / "clipseg", size=SIZE)


def test_clipseg_regions_are_the_models_own(segmenting: Path):
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPSegForImageSegmentation

    images = pictures(3)
    shown = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in to_8bit(images)]
    pixels = CLIPImageProcessor.from_pretrained(segmenting)(shown, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(segmenting)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        model = CLIPSegForImageSegmentation.from_pretrained(segmenting).eval()
        expected = model(**pixels, **tokens).logits.sigmoid()
    found = load_segmenter(f"clipseg:{segmenting}")
    assert isinstance(found, CLIPSegRegions)
    torch.testing.assert_close(found.shares(images, PROMPTS), expected, rtol=1e-4, atol=1e-4)
    regions = found.regions(images, ["any"] * 3, PROMPTS)
    assert torch.equal(regions, expected >= 0.5)
    assert 0 < float(regions.float().mean()) < 1


def test_clipseg_regions_depend_on_the_prompt_and_not_on_batch_mates(segmenting: Path):
    found, images = load_segmenter(f"clipseg:{segmenting}"), pictures(20)
    assert isinstance(found, CLIPSegRegions)
    said = [PROMPTS[i % 3] for i in range(20)]
    together = found.shares(images, said)
    assert torch.equal(found.shares(images[[17]], [said[17]])[0], together[17])
    assert not torch.allclose(
        found.shares(images[[17]], [PROMPTS[1]]), found.shares(images[[17]], [PROMPTS[0]])
    )


def test_clipseg_maps_have_the_pictures_size(segmenting: Path):
    found = load_segmenter(f"clipseg:{segmenting}")
    assert found is not None
    assert found.regions(torch.rand(1, 3, 40, 40), ["any"], PROMPTS[:1]).shape == (1, 40, 40)


def test_a_folder_without_a_clipseg_is_refused(tmp_path: Path):
    with pytest.raises(EditorError, match="cannot be loaded") as error:
        load_segmenter(f"clipseg:{tmp_path}")
    assert "\n" not in str(error.value)


def test_a_segmenter_in_hand_and_none_pass_through():
    mine = AvatarRegions()
    assert load_segmenter(mine) is mine
    assert load_segmenter(None) is None
    assert load_segmenter("none") is None


def test_an_unknown_segmenter_is_named_with_what_there_is():
    with pytest.raises(EditorError) as error:
        load_segmenter("world:cats")
    assert "no segmenter 'world:cats'" in str(error.value)
    assert "world:avatars" in str(error.value)
    assert "\n" not in str(error.value)
