"""A diffusion model with a gradient: pictures equal to diffusers' own, gradients to finite differences."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from diffexplain.editors.generator import Generator, GeneratorOptions, load_generator
from diffexplain.errors import EditorError
from tests.tiny import WIDTH, tiny_pipeline, tiny_pipeline_folder, tiny_xl_pipeline

SIZE, STEPS = 16, 4  # steps that divide the training steps: else diffusers arrives one beside where it asks
SEEDS = (11, 22, 33)
TEXT = "a toy"
HEED = 3  # of the prompt by the UNet: more makes rounding errors, and differences' curvature, grow


def pipeline(kind: str = "epsilon") -> Any:
    return _pipeline(kind)


@lru_cache
def _pipeline(kind: str) -> Any:
    if kind == "xl":
        return tiny_xl_pipeline(size=SIZE, heed=HEED)
    return tiny_pipeline(size=SIZE, prediction=kind, heed=HEED)


def generator(kind: str = "epsilon", **options: Any) -> Generator:
    return Generator(pipeline(kind), name="tiny", options=GeneratorOptions(**dict(steps=STEPS) | options))


def exact(kind: str = "epsilon", **options: Any) -> Generator:
    """Everything in float64, on parts of its own."""
    made = tiny_pipeline(size=SIZE, prediction=kind, heed=HEED)
    chosen = GeneratorOptions(**dict(steps=STEPS) | options)
    return Generator(made, name="exact", options=chosen, dtype=torch.float64)


def ddim(made: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(
        made.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False
    )


# -- prompts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "xl"])
def test_embeddings_of_a_word_speak_as_the_word(kind: str) -> None:
    model = generator(kind)
    soft = model.embedding("cat")
    assert soft.shape == (3, model.width)
    assert model.width == (2 * WIDTH if kind == "xl" else WIDTH)
    said, real = model.states(soft[None], TEXT), model.prompts([f"{TEXT} cat"])
    torch.testing.assert_close(said.states, real.states)
    torch.testing.assert_close(said.pooled, real.pooled)
    assert torch.equal(said.tokens, real.tokens)


def test_each_row_hears_its_own_embeddings_and_the_encoder_is_left_alone() -> None:
    model = generator()
    soft = torch.randn(2, 4, model.width, generator=torch.Generator().manual_seed(0))
    both = model.states(soft, TEXT).states
    torch.testing.assert_close(both[1:], model.states(soft[1:], TEXT).states)
    assert not torch.allclose(both[0], both[1])
    assert not pipeline().text_encoder.get_input_embeddings()._forward_hooks


def test_embeddings_that_do_not_fit_behind_the_text_are_refused() -> None:
    model = generator()
    with pytest.raises(EditorError, match=r"^text 'x+' and 4 learnable tokens are longer than the 77"):
        model.states(torch.zeros(1, 4, model.width), "x" * 72)
    assert model.states(torch.zeros(1, 4, model.width), "x" * 71).states.shape == (1, 77, WIDTH)


def test_the_vocabulary_is_words_and_their_embeddings() -> None:
    model = generator()
    words, matrix = model.vocabulary
    assert matrix.shape == (len(words), model.width)
    assert "<|endoftext|>" not in words
    assert {"a", "z"} <= set(words)
    assert not {"!", "é"} & set(words)
    torch.testing.assert_close(matrix[words.index("q")], model.embedding("q")[0])
    with pytest.raises(EditorError, match=r"^word '' is no token of tiny; name a word"):
        model.embedding("")


# -- pictures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "xl"])
def test_pictures_are_those_of_diffusers_ddim(kind: str) -> None:
    model, made = generator(kind), pipeline(kind)
    before, made.scheduler = made.scheduler, ddim(made)
    made.set_progress_bar_config(disable=True)
    try:
        wanted = made(
            prompt=["a toy cat"] * 3,
            latents=model.noises(SEEDS)[:, 0],
            num_inference_steps=STEPS,
            guidance_scale=1.0,
            output_type="pt",
            **(dict(height=SIZE, width=SIZE) if kind == "xl" else {}),
        ).images
    finally:
        made.scheduler = before
    found = model.images(model.prompts(["a toy cat"] * 3), SEEDS)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)
    assert found.std(0).max() > 0.05


def test_pictures_of_a_latent_consistency_model_are_those_of_its_scheduler() -> None:
    from diffusers import LCMScheduler

    made = tiny_pipeline(size=SIZE, time_cond_proj_dim=8)
    made.scheduler = LCMScheduler.from_config(made.scheduler.config)
    model = Generator(made, name="lcm", options=GeneratorOptions(steps=4))
    assert model.settings()["sampler"] == "lcm"
    said = model.prompts(["a toy cat"])
    found = model.images(said, [5])
    random = torch.Generator().manual_seed(5)
    x = torch.randn(1, *model.latent_shape, generator=random)
    made.scheduler.set_timesteps(4, original_inference_steps=50)
    with torch.no_grad():
        for time in made.scheduler.timesteps:
            answer = model.model.asked(x, int(time), said)
            x = made.scheduler.step(answer, time, x, generator=random, return_dict=False)[0]
    torch.testing.assert_close(found, model.model.decoded(x).detach(), atol=1e-4, rtol=0)


def test_a_picture_depends_on_its_seed_and_not_on_its_batch() -> None:
    model = generator(rows=2)
    said = model.prompts(["a toy cat", "a toy dog", "a toy cat"])
    pictures = model.images(said, SEEDS)
    assert torch.equal(pictures[2:], model.images(said.of([2]), SEEDS[2:]))
    assert not torch.allclose(pictures[0], pictures[2], atol=1e-3)
    drawn = model.draw(said, SEEDS, mode="full")
    torch.testing.assert_close(drawn.detach(), pictures, atol=1e-5, rtol=0)
    given = model.noises([99] * 3)[:, 0]
    torch.testing.assert_close(
        model.images(said, SEEDS, latent=given), model.images(said, [99] * 3), atol=1e-6, rtol=0
    )


# -- gradients ----------------------------------------------------------------------------------------

Shown = list[torch.Tensor]


def rerun(
    model: Generator, made: Any, soft: torch.Tensor, shown: Shown | None = None, start: int = 0
) -> tuple[torch.Tensor, Shown]:
    """Pictures by diffusers' scheduler, and what the UNet was shown.

    `shown`: what it is shown instead, at every step; with `start`, the path is taken from there on.
    """
    said, scheduler = model.states(soft, TEXT), ddim(made)
    scheduler.set_timesteps(STEPS)
    x = model.noises(SEEDS[: len(soft)])[:, 0] if not start or shown is None else shown[start]
    seen = []
    for i, time in enumerate(scheduler.timesteps):
        if i < start:
            continue
        seen.append(x)
        looked = shown[i] if shown is not None and not start else x
        answer = made.unet(looked, time, encoder_hidden_states=said.states).sample
        x = scheduler.step(answer, time, x).prev_sample
    return (made.vae.decode(x / made.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1), seen


def slope(function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor, along: torch.Tensor) -> float:
    """The derivative by central differences of two widths (Richardson)."""
    with torch.no_grad():
        h = 1e-5
        wide, narrow = (
            (function(at + s * along) - function(at - s * along)).item() / (2 * s) for s in (h, h / 2)
        )
    return (4 * narrow - wide) / 3


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("mode", ["full", "last-1", "last-2", "detached"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_finite_differences_of_what_a_mode_differentiates(
    kind: str, mode: Any, checkpointing: bool
) -> None:
    made = tiny_pipeline(size=SIZE, prediction=kind, heed=HEED)
    model = Generator(made, name="x", options=GeneratorOptions(steps=STEPS), dtype=torch.float64)
    random = torch.Generator().manual_seed(3)
    soft, along = 0.1 * torch.randn(2, 2, 4, model.width, generator=random, dtype=torch.float64)
    weights = torch.randn(2, 3, SIZE, SIZE, generator=random, dtype=torch.float64)
    leaf = soft.clone().requires_grad_()
    name, k = ("last-k", int(mode[-1])) if mode.startswith("last") else (mode, 1)
    drawn = model.draw(model.states(leaf, TEXT), SEEDS[:2], mode=name, k=k, checkpointing=checkpointing)
    (gradient,) = torch.autograd.grad((drawn * weights).sum(), leaf)

    with torch.no_grad():
        _, seen = rerun(model, made, soft)
    shown, start = (None, 0) if mode == "full" else (seen, STEPS - k if name == "last-k" else 0)

    def value(s: torch.Tensor) -> torch.Tensor:
        return (rerun(model, made, s, shown, start)[0] * weights).sum()

    wanted = slope(value, soft, along)
    assert abs(wanted) > 1e-3
    assert (gradient * along).sum().item() == pytest.approx(wanted, rel=2e-5)


def test_modes_differ() -> None:
    model, soft = exact(), torch.randn(1, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    leaf = soft.double().requires_grad_()
    gradients = [
        torch.autograd.grad(model.draw(model.states(leaf), [1], mode=m, k=k).square().sum(), leaf)[0]
        for m, k in (("full", 1), ("detached", 1), ("last-k", 1), ("last-k", 2))
    ]
    for i, one in enumerate(gradients):
        for other in gradients[i + 1 :]:
            assert not torch.allclose(one, other, rtol=1e-3)
    whole = torch.autograd.grad(model.draw(model.states(leaf), [1], mode="last-k", k=9).square().sum(), leaf)
    torch.testing.assert_close(whole[0], gradients[0])


@pytest.mark.parametrize("sampler", ["ddim", "lcm"])
def test_a_learned_latent_gets_the_gradient_too(sampler: Any) -> None:
    model = exact(sampler=sampler)
    said = model.states(model.embedding("cat")[None].double(), TEXT)
    random = torch.Generator().manual_seed(3)
    latent, along = torch.randn(2, 1, *model.latent_shape, generator=random, dtype=torch.float64)
    leaf = latent.clone().requires_grad_()
    drawn = model.draw(said, [1], mode="full", latent=leaf)
    (gradient,) = torch.autograd.grad(drawn.square().sum(), leaf)
    wanted = slope(lambda z: model.draw(said, [1], mode="full", latent=z).square().sum(), latent, along)
    assert (gradient * along).sum().item() == pytest.approx(wanted, rel=2e-5)


def test_evaluations_count_each_step_of_each_picture() -> None:
    model = generator()
    before = model.evaluations
    model.images(model.prompts([TEXT]).of([0, 0, 0]), SEEDS)
    model.draw(model.prompts([TEXT]), SEEDS[:1], mode="last-k", k=1)
    assert model.evaluations - before == STEPS * 4


def test_no_weight_has_a_gradient() -> None:
    model, made = generator(), pipeline()
    leaf = model.embedding("cat")[None].clone().requires_grad_()
    model.draw(model.states(leaf, TEXT), [1], mode="full").sum().backward()
    assert leaf.grad is not None
    parts = (made.unet, made.vae, made.text_encoder)
    assert all(p.grad is None and not p.requires_grad for part in parts for p in part.parameters())


def test_what_last_1_keeps_for_the_gradient_is_less_than_full() -> None:
    def kept(mode: Any, **more: Any) -> int:
        model, sizes = generator(steps=4), []
        leaf = model.embedding("cat")[None].clone().requires_grad_()
        gc.collect()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.nbytes) or x, lambda x: x):
            model.draw(model.states(leaf, TEXT), [1], mode=mode, **more)
        return sum(sizes)

    assert kept("last-k") < 0.6 * kept("full")
    assert kept("full", checkpointing=True) < 0.6 * kept("full")


# -- loading ------------------------------------------------------------------------------------------


def test_loading_knows_few_step_models_and_plain_ones(tmp_path: Path) -> None:
    folder = tiny_pipeline_folder(tmp_path / "plain", size=SIZE)
    assert load_generator(str(folder)).steps == 20
    few = {"method": "turbo", "options": {"steps": 2, "guidance": 2.0}}
    folder = tiny_pipeline_folder(tmp_path / "few", size=SIZE, settings=few)
    model = load_generator(str(folder), rows=3)
    assert (model.steps, model.rows, model.size) == (2, 3, SIZE)
    assert model.settings()["sampler"] == "ddim"
    assert load_generator(model) is model
    assert load_generator("pocket-turbo").steps == 4


def test_bad_options_and_other_models_are_refused(tmp_path: Path) -> None:
    folder = str(tiny_pipeline_folder(tmp_path / "plain", size=SIZE))
    with pytest.raises(EditorError, match=r"unknown option guidance; known are dtype"):
        load_generator(folder, guidance=2.0)
    with pytest.raises(EditorError, match=r"steps is at least 1"):
        load_generator(folder, steps=0)
    with pytest.raises(EditorError, match=r"^steps is 51; a latent consistency model takes 50 at most"):
        load_generator(folder, steps=51, sampler="lcm")
    with pytest.raises(EditorError, match=r"^no editor 'nowhere'"):
        load_generator("nowhere")
