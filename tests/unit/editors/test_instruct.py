"""Editing by instruction on tiny real pipelines: what each is asked, and that rows are independent."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from diffexplain.editors import Edit, Inversion, Term
from diffexplain.editors.instruct import FAMILIES, USUAL, InstructEditor, InstructOptions
from diffexplain.errors import EditorError
from tests import tiny_flow
from tests.tiny import tiny_pipeline

SIZE = tiny_flow.SIZE
SEEDS = (11, 22, 33)
HAT, DOG = Term("a hat"), Term("a dog")
PIPELINES: dict[str, Callable[[], Any]] = {
    "pix2pix": tiny_flow.tiny_pix2pix,
    "kontext": lambda: tiny_flow.tiny_flux(kontext=True),
    "qwen": lambda: tiny_flow.tiny_qwen_image(edit=True),
}
QUICK = ("pix2pix", "kontext")  # Qwen's sees a megapixel, some seconds a call
EDITS = (
    Edit(0, (HAT,)),
    Edit(2, (DOG._replace(weight=-0.5),)),
    Edit(1),
    Edit(0, (HAT._replace(weight=0.3), DOG)),
)


@lru_cache
def pipeline(family: str) -> Any:
    return PIPELINES[family]()


def editor(family: str, **options: Any) -> InstructEditor:
    few = dict(steps=2, guidance=4.0)
    return InstructEditor(
        pipeline(family), name="tiny", options=InstructOptions(**few | options), default_judge="pocket"
    )


@lru_cache
def pictures(n: int = 3, height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(5))


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


def direct(family: str, row: int, prompt: str, scale: float) -> torch.Tensor:
    """The pipeline called as its documentation does."""
    from torchvision.transforms.functional import to_pil_image

    image, draws = pictures()[row], torch.Generator().manual_seed(SEEDS[row])
    asked = {
        "pix2pix": dict(image=image[None], guidance_scale=scale, image_guidance_scale=1.5),
        "kontext": dict(
            image=image[None],
            guidance_scale=scale,
            height=SIZE,
            width=SIZE,
            max_area=SIZE**2,
            _auto_resize=False,
        ),
        "qwen": dict(
            image=to_pil_image(
                torch.nn.functional.pad(image[None], (0, 64 - SIZE, 0, 64 - SIZE), mode="replicate")[0]
            ),
            negative_prompt=" ",
            true_cfg_scale=scale,
            height=64,
            width=64,
        ),
    }[family]
    made = pipeline(family)(
        prompt=prompt, num_inference_steps=2, generator=draws, output_type="pt", **asked
    ).images
    return made[0, :, :SIZE, :SIZE]


@pytest.mark.parametrize("family", QUICK)
@pytest.mark.parametrize(
    ("terms", "prompt", "scale"),
    [
        ((), "change nothing", 4.0),
        ((HAT._replace(weight=0.0),), "change nothing", 4.0),
        ((HAT,), "add a hat", 4.0),
        ((DOG._replace(weight=-1.0),), "remove a dog", 4.0),
        ((HAT._replace(weight=2.0),), "add a hat", 7.0),
        ((HAT._replace(weight=0.5), DOG._replace(weight=-1.5)), "add a hat; remove a dog", 4.0),
        ((HAT._replace(weight=0.2), DOG._replace(weight=0.0)), "add a hat", 1.6),
    ],
    ids=str,
)
def test_it_is_the_pipeline_asked_in_words(family: str, terms: tuple[Term, ...], prompt: str, scale: float):
    asking = editor(family)
    made = asking.edit(asking.invert(pictures(), SEEDS), [Edit(1, terms)])
    assert apart(made[0], direct(family, 1, prompt, scale)) < 1e-6
    if prompt != "change nothing":
        assert apart(made[0], direct(family, 1, "change nothing", scale)) > 1e-3


def test_qwen_is_asked_so_too():
    asking = editor("qwen")
    inversion = asking.invert(pictures(), SEEDS)
    together = asking.edit(inversion, [Edit(1, (HAT,)), Edit(1)])
    assert apart(together[0], direct("qwen", 1, "add a hat", 4.0)) < 1e-6
    assert apart(together[0], together[1]) > 1e-3
    assert together.shape == (2, 3, SIZE, SIZE)


@pytest.mark.parametrize("family", QUICK)
def test_the_picture_counts(family: str):
    seeing = editor(family)
    inversion = seeing.invert(pictures(), [7, 7, 7])
    one, other = seeing.edit(inversion, [Edit(0, (HAT,)), Edit(1, (HAT,))])
    assert apart(one, other) > 1e-4


@pytest.mark.parametrize("family", QUICK)
def test_an_edit_does_not_depend_on_its_batch_and_inversions_can_be_kept(family: str, tmp_path: Path):
    steady = editor(family)
    whole = steady.invert(pictures(), SEEDS)
    together = steady.edit(whole, EDITS)
    for chosen in ([0], [3, 1], [2, 2, 0], [3, 2, 1, 0]):
        assert torch.equal(steady.edit(whole, [EDITS[i] for i in chosen]), together[chosen])
    assert torch.equal(steady.reconstruct(whole)[1], together[2])
    parts = [steady.invert(pictures()[[i]], [SEEDS[i]]) for i in range(3)]
    assert torch.equal(steady.edit(Inversion.joined(parts), EDITS), together)
    turned = steady.edit(whole.select([2, 0]), [Edit(1, EDITS[0].terms), Edit(0, EDITS[1].terms)])
    assert torch.equal(turned, together[:2])
    whole.save(tmp_path / "inversion.safetensors")
    assert torch.equal(steady.edit(Inversion.load(tmp_path / "inversion.safetensors"), EDITS), together)


@pytest.mark.parametrize("family", QUICK)
def test_the_seed_makes_the_noise(family: str):
    steady, before = editor(family), torch.get_rng_state()
    inversion = steady.invert(pictures()[[0, 0, 0]], [1, 2, 1])
    made = steady.edit(inversion, [Edit(i, (HAT,)) for i in range(3)])
    assert torch.equal(made[0], made[2])
    assert apart(made[0], made[1]) > 1e-2
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("family", QUICK)
def test_pictures_of_any_size(family: str):
    odd = editor(family)
    images = pictures(1, 13, 22)
    made = odd.edit(odd.invert(images, SEEDS[:1]), [Edit(0, (HAT,))])
    assert made.shape == images.shape
    multiple = {"pix2pix": 2, "kontext": 4}[family]
    down, right = -13 % multiple, -22 % multiple
    filled = torch.cat([images, images[..., -1:].expand(-1, -1, -1, right)], dim=-1)
    filled = torch.cat([filled, filled[:, :, -1:].expand(-1, -1, down, -1)], dim=-2)
    larger = odd.edit(odd.invert(filled, SEEDS[:1]), [Edit(0, (HAT,))])
    assert torch.equal(made, larger[..., :13, :22])


@pytest.mark.parametrize("family", PIPELINES)
def test_evaluations_are_counted(family: str):
    counting = editor(family)
    inversion = counting.invert(pictures(), SEEDS)
    parts = pipeline(family)
    seen = 0

    def count(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal seen
        seen += len(args[0] if args else kwargs["hidden_states"])

    denoiser = parts.unet if family == "pix2pix" else parts.transformer
    hook = denoiser.register_forward_pre_hook(count, with_kwargs=True)
    try:
        counting.edit(inversion, [EDITS[0]])
        assert seen == counting.evaluations(EDITS[0]) == 2 * {"pix2pix": 3, "kontext": 1, "qwen": 2}[family]
        seen = 0
        plain = editor(family, guidance=1.0)
        plain.edit(inversion, [EDITS[0]])
        assert seen == plain.evaluations(EDITS[0]) == 2
    finally:
        hook.remove()


def test_a_safety_checker_is_not_applied():
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(
            vision_config=dict(image_size=16, patch_size=8, projection_dim=8, **vision), projection_dim=8
        )
    )
    checker.concept_embeds_weights.data.fill_(-2.0)  # flags everything
    parts = tiny_flow.tiny_pix2pix()
    size = {"height": 16, "width": 16}
    parts.register_modules(
        safety_checker=checker.eval(),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size),
    )
    black = parts("add a hat", image=pictures(1), num_inference_steps=2, output_type="pt").images
    assert float(black.max()) == 0
    made = InstructEditor(parts, name="tiny", options=InstructOptions(steps=2), default_judge="pocket")
    assert float(made.reconstruct(made.invert(pictures(1), SEEDS[:1])).max()) > 0.1


def test_words_can_be_chosen():
    worded = editor("kontext", nothing="keep it", remove="no more {}!")
    inversion = worded.invert(pictures(), SEEDS)
    made = worded.edit(inversion, [Edit(1), Edit(1, (DOG._replace(weight=-1.0),))])
    assert apart(made[0], direct("kontext", 1, "keep it", 4.0)) < 1e-6
    assert apart(made[1], direct("kontext", 1, "no more a dog!", 4.0)) < 1e-6


@pytest.mark.parametrize("stated", [{"threshold": 0.5}, {"warmup": 1}, {"cooldown": 0}], ids=str)
def test_what_it_has_not_is_refused(stated: dict[str, Any]):
    plain = editor("kontext")
    inversion = plain.invert(pictures(), SEEDS)
    with pytest.raises(EditorError, match="'a hat' states a threshold, warmup or cooldown"):
        plain.edit(inversion, [Edit(0), Edit(1, (HAT._replace(**stated),))])


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"guidance": 0.5},
        {"image_guidance": float("inf")},
        {"nothing": ""},
        {"remove": "away"},
        {"add": "more"},
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        InstructOptions(**wrong)


def test_another_pipeline_is_refused():
    with pytest.raises(EditorError, match=r"is a StableDiffusionPipeline; instructions go to .*FluxKontext"):
        InstructEditor(tiny_pipeline(), name="tiny", options=InstructOptions(), default_judge="pocket")


def test_the_settings_repeat_the_edit():
    made = editor("pix2pix", image_guidance=1.2)
    settings = json.loads(json.dumps(made.settings()))
    assert settings.pop("method") == "instruct"
    assert settings.pop("size") == made.size == SIZE
    assert InstructOptions(**settings) == made.options
    assert (made.name, made.rows, made.default_judge, made.default_segmenter) == ("tiny", 1, "pocket", None)


def test_the_defaults_are_the_pipelines():
    import inspect

    import diffusers

    scales = {"QwenImageEditPipeline": "true_cfg_scale"}
    assert set(USUAL) <= set(FAMILIES)
    for name in FAMILIES:
        call = inspect.signature(getattr(diffusers, name).__call__).parameters
        usual = InstructOptions.usual(name)
        assert usual.steps == call["num_inference_steps"].default
        assert usual.guidance == call[scales.get(name, "guidance_scale")].default
        if "image_guidance_scale" in call:
            assert usual.image_guidance == call["image_guidance_scale"].default
    assert InstructOptions.usual("FluxKontextPipeline", steps=8).steps == 8


@pytest.mark.parametrize("family", QUICK)
def test_parts_that_take_turns_edit_the_same(family: str) -> None:
    edits = EDITS[:2]
    plain = editor(family)
    wanted = plain.edit(plain.invert(pictures(), SEEDS), edits)
    options = InstructOptions(steps=2, guidance=4.0, offload=True)
    turns = InstructEditor(PIPELINES[family](), name="tiny", options=options, default_judge="pocket")
    assert apart(turns.edit(turns.invert(pictures(), SEEDS), edits), wanted) < 1e-6
