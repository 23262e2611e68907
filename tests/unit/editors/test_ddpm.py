"""The DDPM editor on a tiny real pipeline: exactness, independence of the batch, the published equations."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from diffexplain.editors import Edit, EditorShape, Inversion, Term, editor_shape, load_editor
from diffexplain.editors.ddpm import DDPMEditor, DDPMOptions
from diffexplain.errors import EditorError
from tests.tiny import tiny_pipeline, tiny_pipeline_folder

SIZE = 16
PREDICTIONS = ("epsilon", "v_prediction")
HAT, DOG, CAT = (Term(f"a toy with a {what}") for what in ("hat", "dog", "cat"))
SEEDS = (11, 22, 33)


def pipeline(prediction: str = "epsilon") -> Any:
    return _pipeline(prediction)


@lru_cache
def _pipeline(prediction: str) -> Any:
    return tiny_pipeline(size=SIZE, prediction=prediction)


def editor(prediction: str = "epsilon", **options: Any) -> DDPMEditor:
    chosen = DDPMOptions(**dict(steps=5, rows=8, threshold=0.0) | options)
    return DDPMEditor(pipeline(prediction), name="tiny", options=chosen, default_judge="pocket")


@lru_cache
def pictures(n: int = 3) -> torch.Tensor:
    return torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def round_trip(images: torch.Tensor) -> torch.Tensor:
    """What the autoencoder alone makes of pictures."""
    vae = pipeline().vae
    return (vae.decode(vae.encode(images * 2 - 1).latent_dist.mode()).sample / 2 + 0.5).clamp(0, 1)


@pytest.fixture
def latents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits come back as latents, before the autoencoder decodes them."""
    monkeypatch.setattr(DDPMEditor, "_decode", lambda self, x: x)


# --- exactness --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [5, 20, 50])
def test_without_an_edit_the_picture_comes_back_as_the_autoencoder_makes_it(prediction: str, steps: int):
    exact = editor(prediction, steps=steps)
    made = exact.reconstruct(exact.invert(pictures(), SEEDS))
    expected = round_trip(pictures())
    assert float(((expected > 0) & (expected < 1)).float().mean()) > 0.9  # it would show
    assert float((made - expected).abs().max()) < 1e-3
    assert made.shape == pictures().shape
    assert made.dtype == torch.float32


@pytest.mark.parametrize("options", [{"eta": 0.0}, {"eta": 0.5}, {"skip": 0.0}, {"skip": 0.6}, {"steps": 1}])
def test_that_holds_for_any_stochasticity_and_skip(options: dict[str, Any]):
    exact = editor(**options)
    made = exact.reconstruct(exact.invert(pictures(), SEEDS))
    assert float((made - round_trip(pictures())).abs().max()) < 1e-3


@pytest.mark.parametrize(
    "edit", [Edit(1), Edit(1, (Term(HAT.prompt, 0.0),)), Edit(1, (HAT._replace(prompt=""),))]
)
def test_an_edit_that_asks_for_nothing_is_the_reconstruction(edit: Edit):
    same = editor()
    inversion = same.invert(pictures(), SEEDS)
    assert torch.equal(same.edit(inversion, [edit])[0], same.reconstruct(inversion)[1])


def test_without_guidance_an_edit_is_the_reconstruction():
    same = editor(guidance=0.0)
    inversion = same.invert(pictures(), SEEDS)
    made = same.edit(inversion, [Edit(0, (HAT, DOG)), Edit(2, (CAT,))])
    assert torch.equal(made, same.reconstruct(inversion)[[0, 2]])
    assert not torch.equal(editor().edit(inversion, [Edit(0, (HAT,))]), made[:1])


# --- independence -----------------------------------------------------------------------------------

EDITS = [
    Edit(0, (HAT,)),
    Edit(1, (HAT,)),
    Edit(0),
    Edit(2, (DOG._replace(weight=-1.0),)),
    Edit(0, (HAT, DOG)),
    Edit(2, (CAT, HAT, DOG)),
    Edit(1, (CAT._replace(weight=0.5),)),
]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("threshold", [0.0, 0.85])
def test_a_row_is_the_same_to_the_last_bit_whatever_is_made_with_it(prediction: str, threshold: float):
    steady = editor(prediction, steps=3, threshold=threshold)
    inversion = steady.invert(pictures(), SEEDS)
    together = steady.edit(inversion, EDITS)  # 15 UNet rows in calls of 8
    generator = torch.Generator().manual_seed(0)
    for size in (1, 1, 2, 3, 5, 7):
        chosen = torch.randperm(len(EDITS), generator=generator)[:size].tolist()
        made = steady.edit(inversion, [EDITS[i] for i in chosen])
        assert torch.equal(made, together[chosen]), chosen


def test_a_picture_is_inverted_the_same_whatever_is_inverted_with_it():
    steady = editor()
    together = steady.invert(pictures(), SEEDS)
    for rows in ([0], [2], [2, 0], [1, 1, 0]):
        alone = steady.invert(pictures()[rows], [SEEDS[i] for i in rows])
        assert torch.equal(alone.start, together.start[rows])
        assert torch.equal(alone.residuals, together.residuals[rows])


def test_the_seed_makes_the_noise():
    steady = editor()
    one = pictures()[:1].expand(3, -1, -1, -1)
    inversion = steady.invert(one, [1, 2, 1])
    assert torch.equal(inversion.start[0], inversion.start[2])
    assert not torch.allclose(inversion.start[0], inversion.start[1], atol=0.1)
    made = steady.edit(inversion, [Edit(i, (HAT,)) for i in range(3)])
    assert torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[1])


def test_no_state_is_kept_and_none_is_touched():
    steady = editor()
    inversion = steady.invert(pictures(), SEEDS)
    before, scheduler = torch.get_rng_state(), dict(pipeline().scheduler.config)
    first = steady.edit(inversion, [EDITS[0]])
    steady.invert(pictures()[:1], [99])
    steady.edit(inversion, EDITS)
    assert torch.equal(steady.edit(inversion, [EDITS[0]]), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert dict(pipeline().scheduler.config) == scheduler


def test_an_inversion_can_be_sliced_and_joined():
    steady = editor()
    whole = steady.invert(pictures(), SEEDS)
    parts = [steady.invert(pictures()[i : i + 1], SEEDS[i : i + 1]) for i in range(3)]
    joined = Inversion.joined(parts)
    assert len(joined) == len(whole) == 3
    assert torch.equal(joined.start, whole.start)
    assert torch.equal(joined.residuals, whole.residuals)
    chosen = whole.select([2, 0, 2])
    assert len(chosen) == 3
    assert torch.equal(chosen.start, whole.start[[2, 0, 2]])
    assert torch.equal(chosen.residuals, whole.residuals[[2, 0, 2]])
    assert torch.equal(steady.edit(chosen, [Edit(1, (HAT,))]), steady.edit(whole, [Edit(0, (HAT,))]))


# --- the published equations ------------------------------------------------------------------------


@torch.no_grad()
def published(
    prediction: str, image: torch.Tensor, seed: int, terms: tuple[Term, ...], options: DDPMOptions
) -> torch.Tensor:
    """One edit, transcribed; numbers in float64, models as they are.

    Edit-friendly inversion (Huberman-Spiegelglas et al. 2024, eq. 6 and algorithm 1) with the DDPM
    posterior (Ho et al. 2020, eq. 7): z_t = (x_{t-1} - μ̂_t(x_t)) / σ_t. Where σ is 0, at the end, the whole
    difference is kept. Guidance: LEDITS++ (Brack et al. 2024), eq. 4, without a mask.
    """
    parts = pipeline(prediction)
    bars = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    times = [k * 1000 // options.steps - 1 for k in range(options.steps, 0, -1)]
    times = times[round(options.skip * options.steps) :]

    def states(prompt: str) -> torch.Tensor:
        ids = parts.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
        return parts.text_encoder(ids)[0]

    def noise_in(x: torch.Tensor, t: int, prompt: str) -> torch.Tensor:
        raw = parts.unet(x.float(), t, encoder_hidden_states=states(prompt)).sample.double()
        if prediction == "epsilon":
            return raw
        x0 = bars[t].sqrt() * x - (1 - bars[t]).sqrt() * raw  # Salimans & Ho 2022, appendix D
        return (x - bars[t].sqrt() * x0) / (1 - bars[t]).sqrt()

    def posterior(x: torch.Tensor, t: int, before: int | None, noise: torch.Tensor) -> Any:
        bar, bar_before = bars[t], bars[before] if before is not None else torch.tensor(1.0).double()
        alpha = bar / bar_before
        x0 = (x - (1 - bar).sqrt() * noise) / bar.sqrt()
        mean = bar_before.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - bar_before) * x
        sigma = ((1 - alpha) * (1 - bar_before) / (1 - bar)).sqrt()
        return mean / (1 - bar), sigma if sigma > 0 else torch.tensor(1.0).double()

    scale = parts.vae.config.scaling_factor
    x0 = parts.vae.encode(image[None] * 2 - 1).latent_dist.mode().double() * scale
    draws = torch.randn(len(times), *x0.shape[1:], generator=torch.Generator().manual_seed(seed)).double()
    xs = [bars[t].sqrt() * x0 + (1 - bars[t]).sqrt() * draws[k] for k, t in enumerate(times)] + [x0]
    steps = list(zip(times, [*times[1:], None], strict=True))
    zs = []
    for k, (t, before) in enumerate(steps):
        mean, sigma = posterior(xs[k], t, before, noise_in(xs[k], t, ""))
        zs.append((xs[k + 1] - mean) / sigma)
    x = xs[0]
    for z, (t, before) in zip(zs, steps, strict=True):
        empty = noise_in(x, t, "")
        guided = empty + sum(
            options.guidance * term.weight * (noise_in(x, t, term.prompt) - empty) for term in terms
        )
        mean, sigma = posterior(x, t, before, guided)
        x = mean + sigma * z
    return (parts.vae.decode(x.float() / scale).sample[0] / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("steps", "skip"), [(5, 0.2), (10, 0.0), (20, 0.35)])
def test_it_is_what_the_papers_say(prediction: str, steps: int, skip: float):
    options = dict(steps=steps, skip=skip, guidance=1.5)
    written = editor(prediction, **options)
    inversion = written.invert(pictures(), SEEDS)
    for edit in (Edit(0), Edit(1, (HAT,)), Edit(2, (DOG._replace(weight=-0.7),)), Edit(1, (HAT, CAT))):
        made = written.edit(inversion, [edit])[0]
        paper = published(
            prediction, pictures()[edit.row], SEEDS[edit.row], edit.terms, DDPMOptions(**options)
        )
        assert float((made - paper).abs().max()) < 1e-4
        if edit.terms:
            assert float((made - round_trip(pictures())[edit.row]).abs().max()) > 0.02


@pytest.mark.usefixtures("latents")
def test_a_negative_weight_goes_the_opposite_way():
    once = editor(steps=1)
    inversion = once.invert(pictures(), SEEDS)
    still, there, back = once.edit(
        inversion, [Edit(0), Edit(0, (HAT,)), Edit(0, (HAT._replace(weight=-1.0),))]
    )
    assert float((there - still).abs().max()) > 1
    torch.testing.assert_close(there - still, still - back, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("latents")
def test_terms_add_up_and_their_weight_scales_them():
    once = editor(steps=1)
    inversion = once.invert(pictures(), SEEDS)
    asked = [(), (HAT,), (DOG,), (HAT, DOG), (DOG, HAT), (HAT._replace(weight=0.25),)]
    still, hat, dog, both, swapped, quarter = once.edit(inversion, [Edit(1, terms) for terms in asked])
    torch.testing.assert_close(both - still, (hat - still) + (dog - still), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(both, swapped, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(quarter - still, 0.25 * (hat - still), rtol=1e-3, atol=1e-3)
    assert float((hat - dog).abs().max()) > 0.5


@pytest.mark.usefixtures("latents")
def test_the_threshold_keeps_an_edit_where_the_prompt_acts_most():
    edits = [Edit(i, (HAT,)) for i in range(3)]
    inversion = editor(steps=1).invert(pictures(), SEEDS)
    still = editor(steps=1).reconstruct(inversion)
    free = editor(steps=1).edit(inversion, edits) - still
    share = 1.0
    for threshold in (0.6, 0.9, 0.99):
        change = editor(steps=1, threshold=threshold).edit(inversion, edits) - still
        moved = change.abs().amax(1) > 0  # (N, h, w)
        assert 0 < float(moved.float().mean()) <= share
        share = float(moved.float().mean())
        everywhere = moved[:, None].expand_as(change)
        torch.testing.assert_close(change[everywhere], free[everywhere])  # inside it acts in full
        if threshold == 0.9:
            strength = free.abs().mean(1)  # smoothed by its neighbours
            assert float(strength[moved].mean()) > float(strength[~moved].mean())
    assert share < 0.5
    assert float(moved.flatten(1).sum(1).min()) >= 1  # the strongest place stays


def test_each_term_has_a_mask_of_its_own():
    masked = editor(steps=2, threshold=0.9)
    inversion = masked.invert(pictures(), SEEDS)
    alone, with_nothing = masked.edit(inversion, [Edit(0, (HAT,)), Edit(0, (HAT, DOG._replace(weight=0.0)))])
    assert torch.equal(alone, with_nothing)


# --- what it costs ----------------------------------------------------------------------------------


def test_evaluations_are_what_the_unet_is_asked():
    counted = editor(rows=1, skip=0.4)
    inversion = counted.invert(pictures(), SEEDS)
    calls = []
    hook = pipeline().unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        for edit in (Edit(0), Edit(0, (HAT,)), Edit(0, (HAT, DOG))):
            calls.clear()
            counted.edit(inversion, [edit])
            assert counted.evaluations(edit) == len(calls) == 3 * (1 + len(edit.terms))
    finally:
        hook.remove()


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_the_unet_always_sees_the_same_number_of_rows(rows: int):
    steady = editor(rows=rows)
    seen = set()
    hook = pipeline().unet.register_forward_pre_hook(lambda _, args: seen.add(len(args[0])))
    try:
        steady.edit(steady.invert(pictures(), SEEDS), EDITS)
    finally:
        hook.remove()
    assert seen == {rows}
    assert steady.rows == rows


def test_settings_say_what_was_chosen():
    said = editor(steps=7, guidance=3.0).settings()
    assert said["method"] == "ddpm"
    assert (said["size"], said["steps"], said["guidance"], said["rows"]) == (SIZE, 7, 3.0, 8)
    assert json.loads(json.dumps(said)) == said


# --- loading ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_folder(tmp_path_factory.mktemp("editor") / "tiny", size=32)


State = Callable[[Any], Path]


@pytest.fixture
def state(folder: Path) -> Any:
    """Write `diffexplain.json` into the folder for one test."""
    file = folder / "diffexplain.json"
    yield lambda content: (
        file.write_text(content if isinstance(content, str) else json.dumps(content)),
        folder,
    )[1]
    file.unlink(missing_ok=True)


def one_line(error: pytest.ExceptionInfo[EditorError]) -> str:
    text = str(error.value)
    assert text.count("\n") == 0
    return text


def test_a_pipeline_folder_is_loaded_and_edits(folder: Path):
    found = load_editor(str(folder), rows=4, steps=2)
    assert (found.name, found.size, found.rows) == (str(folder), 32, 4)
    assert found.default_judge.startswith("clip:")
    assert found.default_segmenter is None
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    inversion = found.invert(images, [1])
    still, moved = found.edit(inversion, [Edit(0), Edit(0, (HAT,))])
    assert still.shape == (3, 32, 32)
    assert float((still - moved).abs().max()) > 0.01
    assert torch.equal(still, found.reconstruct(inversion)[0])
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1


def test_the_folder_may_state_its_settings_and_a_caller_wins(state: State):
    folder = state(
        {
            "options": {"steps": 6, "guidance": 2.5, "rows": 3},
            "judge": "clip:here",
            "segmenter": "world:avatars",
        }
    )
    found = load_editor(folder, guidance=4.0)
    settings = found.settings()
    assert (settings["steps"], settings["guidance"], settings["rows"]) == (6, 4.0, 3)
    assert (found.default_judge, found.default_segmenter) == ("clip:here", "world:avatars")
    assert settings["threshold"] == DDPMOptions().threshold


def test_an_editor_in_hand_passes_through():
    mine = editor()
    assert load_editor(mine) is mine
    assert editor_shape(mine).size == SIZE


@pytest.mark.parametrize("ask", [load_editor, editor_shape])
def test_an_unknown_option_is_named(ask: Callable[[Path], Any], state: State):
    with pytest.raises(EditorError) as error:
        ask(state({"options": {"stepz": 6}}))
    assert "stepz" in one_line(error)
    assert "steps" in str(error.value)


@pytest.mark.parametrize("ask", [load_editor, editor_shape])
@pytest.mark.parametrize("spec", ["nonsense", "./no/such/folder", "/no/such"])
def test_an_unknown_editor_is_named_with_what_there_is(ask: Callable[[str], Any], spec: str):
    with pytest.raises(EditorError) as error:
        ask(spec)
    assert repr(spec) in one_line(error)
    assert "pocket" in str(error.value)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(EditorError) as error:
        load_editor(tmp_path)
    assert "cannot be loaded" in one_line(error)
    assert str(tmp_path) in str(error.value)


def test_another_kind_of_pipeline_is_refused(tmp_path: Path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(EditorError) as error:
        load_editor(tmp_path)
    assert "DDPMPipeline" in one_line(error)
    assert "Stable Diffusion" in str(error.value)


def test_a_pipeline_with_two_text_encoders_is_refused(tmp_path: Path):
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModelWithProjection

    parts = tiny_pipeline(size=SIZE)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
    )
    StableDiffusionXLPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        text_encoder_2=CLIPTextModelWithProjection(parts.text_encoder.config),
        tokenizer=parts.tokenizer,
        tokenizer_2=parts.tokenizer,
        unet=unet,
        scheduler=parts.scheduler,
    ).save_pretrained(tmp_path)
    with pytest.raises(EditorError) as error:
        load_editor(tmp_path)
    assert "StableDiffusionXLPipeline" in one_line(error)


def test_a_prediction_type_that_is_not_known_is_refused(tmp_path: Path):
    with pytest.raises(EditorError) as error:
        load_editor(tiny_pipeline_folder(tmp_path, prediction="sample"))
    assert "sample" in one_line(error)


@pytest.mark.parametrize(
    "content",
    ["{bad", "[1]", '{"options": [1]}', '{"options": {"skip": "much"}}', '{"options": {"steps": 0}}'],
)
def test_malformed_settings_are_one_line(content: str, state: State):
    folder = state(content)
    for asked in (load_editor, editor_shape):
        with pytest.raises(EditorError) as error:
            asked(folder)
        assert "diffexplain.json" in one_line(error)


def test_the_shape_of_an_editor_is_read_without_its_models(state: State):
    folder = state(
        {"options": {"steps": 10, "skip": 0.3}, "judge": "clip:here", "segmenter": "world:avatars"}
    )
    program = (
        "import sys; from diffexplain.editors import editor_shape; print(editor_shape(sys.argv[1]));"
        "print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True
    )
    said, loaded = done.stdout.strip().splitlines()
    shape = editor_shape(str(folder))
    assert said == str(shape)
    assert loaded == "[]"
    assert (shape.name, shape.size, shape.steps) == (str(folder), 32, 7)
    assert (shape.default_judge, shape.default_segmenter) == ("clip:here", "world:avatars")
    assert shape.operations > 0


def test_the_shape_agrees_with_the_loaded_editor(folder: Path):
    shape, found = editor_shape(folder), load_editor(folder)
    assert shape.size == found.size
    assert shape.steps == found.evaluations(Edit(0))
    assert (shape.default_judge, shape.default_segmenter) == (found.default_judge, found.default_segmenter)


def test_the_shape_of_an_editor_elsewhere_is_unknown():
    shape = editor_shape("somebody/something")
    steps = editor_shape("somebody/something", skip=0.0).steps
    assert shape == EditorShape("somebody/something", None, shape.steps, 0.0, shape.default_judge, None)
    assert 0 < shape.steps <= steps == DDPMOptions().steps
