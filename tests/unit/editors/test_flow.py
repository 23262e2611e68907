"""FlowEdit on tiny real pipelines: the published equations, the pipelines' own sampling, independence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from diffexplain.editors import Edit, Inversion, Term
from diffexplain.editors.flow import PUBLISHED, FlowEditor, FlowOptions
from diffexplain.editors.velocities import FAMILIES, Velocity, packed, unpacked
from diffexplain.errors import EditorError
from tests import tiny_flow
from tests.tiny import tiny_pipeline

SIZE = tiny_flow.SIZE
SEEDS = (11, 22, 33)
HAT, DOG, CAT = (Term(f"a toy with a {what}") for what in ("hat", "dog", "cat"))
SOURCES = ("a toy", "a photo of a toy", "toys")
PIPELINES: dict[str, Callable[[], Any]] = {
    "sd3": tiny_flow.tiny_sd3,
    "flux": tiny_flow.tiny_flux,
    "auraflow": tiny_flow.tiny_auraflow,
    "qwen": tiny_flow.tiny_qwen_image,
    "z": tiny_flow.tiny_z_image,
}
PAPER = ("sd3", "flux")  # the families it treats
EDITS = (
    Edit(0, (HAT,)),
    Edit(2, (DOG._replace(weight=-0.5),)),
    Edit(1),
    Edit(0, (CAT._replace(weight=0.3), DOG)),
    Edit(1, (HAT._replace(warmup=1, cooldown=2),)),
)


@lru_cache
def pipeline(family: str) -> Any:
    return PIPELINES[family]()


def editor(family: str = "sd3", **options: Any) -> FlowEditor:
    few = dict(steps=4, n_max=3, source_guidance=1.5, target_guidance=2.5)
    return FlowEditor(
        pipeline(family), name="tiny", options=FlowOptions(**few | options), default_judge="pocket"
    )


@lru_cache
def pictures(n: int = 3, height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def latents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits come back as latents, before the autoencoder decodes them."""
    monkeypatch.setattr(Velocity, "decode", lambda self, z, size: z)


@torch.no_grad()
def round_trip(family: str, images: torch.Tensor) -> torch.Tensor:
    """What the autoencoder alone makes of pictures."""
    vae, x = pipeline(family).vae, images * 2 - 1
    if family == "qwen":
        return (vae.decode(vae.encode(x[:, :, None]).latent_dist.mode()).sample[:, :, 0] / 2 + 0.5).clamp(
            0, 1
        )
    return (vae.decode(vae.encode(x).latent_dist.mode()).sample / 2 + 0.5).clamp(0, 1)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


# --- the published equations ------------------------------------------------------------------------


def sd3_velocity(x: torch.Tensor, sigma: float, prompt: str, scale: float) -> torch.Tensor:
    """v(∅) + s·(v(c) - v(∅)) (Ho & Salimans 2022), the models called as the pipeline calls them."""
    parts = pipeline("sd3")
    embeds, empty, pooled, empty_pooled = parts.encode_prompt(prompt, None, None, negative_prompt="")

    def asked(states: torch.Tensor, pool: torch.Tensor) -> torch.Tensor:
        time = torch.tensor([sigma * 1000], dtype=torch.float32)
        return parts.transformer(x.float(), states, pool, time, return_dict=False)[0].double()

    without = asked(empty, empty_pooled)
    return without + scale * (asked(embeds, pooled) - without)


def flux_velocity(x: torch.Tensor, sigma: float, prompt: str, scale: float) -> torch.Tensor:
    """v(c, s): the scale is told to the transformer."""
    parts = pipeline("flux")
    embeds, pooled, ids = parts.encode_prompt(prompt)
    _, channels, height, width = x.shape
    tokens = parts._pack_latents(x.float(), 1, channels, height, width)
    places = parts._prepare_latent_image_ids(1, height // 2, width // 2, "cpu", torch.float32)
    answer = parts.transformer(
        hidden_states=tokens,
        timestep=torch.tensor([sigma], dtype=torch.float32),
        guidance=torch.tensor([scale]),
        pooled_projections=pooled,
        encoder_hidden_states=embeds,
        txt_ids=ids,
        img_ids=places,
        return_dict=False,
    )[0]
    side = parts.vae_scale_factor
    return parts._unpack_latents(answer, height * side, width * side, side).double()


def sigmas_of(family: str, steps: int, latent: tuple[int, int]) -> list[float]:
    """Esser et al. 2024, equation 23, with a shift of 3; FLUX's shift by tokens is exponential in μ."""
    if family == "sd3":
        train = [(1 - i / 1000) * 3 / (1 + 2 * (1 - i / 1000)) for i in range(1000)]  # 1000 training levels
        times = torch.linspace(train[0], train[-1], steps, dtype=torch.float64)
        return [float(3 * t / (1 + 2 * t)) for t in times] + [0.0]
    mu = 0.5 + (1.15 - 0.5) / (4096 - 256) * (latent[0] * latent[1] / 4 - 256)
    shifted = torch.tensor(mu).double().exp()
    return [float(shifted / (shifted + (1 / (1 - i / steps) - 1))) for i in range(steps)] + [0.0]


@torch.no_grad()
def published(
    family: str, row: int, target: Callable[..., torch.Tensor], options: FlowOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Algorithm 1 of Kulikov et al. 2024, transcribed: latents and picture; numbers in float64.

    `target(velocity, z, σ)` is V_tar. Steps count down from T; the last n_min continue from z_tar.
    """
    velocity = {"sd3": sd3_velocity, "flux": flux_velocity}[family]
    vae = pipeline(family).vae
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    x_src = (vae.encode(pictures()[row : row + 1] * 2 - 1).latent_dist.mode().double() - shift) * scale
    t = sigmas_of(family, options.steps, tuple(x_src.shape[-2:]))[::-1]  # t[0] = 0, t[T] is the noisiest
    draws = torch.Generator().manual_seed(SEEDS[row])

    def noise() -> torch.Tensor:
        return torch.randn(x_src.shape[1:], generator=draws).double()

    z = x_src.clone()
    for i in range(options.n_max, options.n_min, -1):
        v = torch.zeros_like(x_src)
        for _ in range(options.n_avg):
            z_src = (1 - t[i]) * x_src + t[i] * noise()
            z_tar = z + z_src - x_src
            v_src = velocity(z_src, t[i], SOURCES[row], options.source_guidance)
            v += (target(velocity, z_tar, t[i]) - v_src) / options.n_avg
        z = z + (t[i - 1] - t[i]) * v
    if options.n_min:
        i = options.n_min
        z = z + ((1 - t[i]) * x_src + t[i] * noise()) - x_src
        for i in range(options.n_min, 0, -1):
            z = z + (t[i - 1] - t[i]) * target(velocity, z, t[i])
    decoded = vae.decode((z / scale + shift).float()).sample[0]
    return z[0], (decoded / 2 + 0.5).clamp(0, 1)


def towards(prompt: str, scale: float) -> Callable[..., torch.Tensor]:
    return lambda velocity, z, sigma: velocity(z, sigma, prompt, scale)


SETTINGS = [
    {"steps": 5, "n_max": 5, "target_guidance": 3.0},
    {"n_avg": 2, "n_max": 2},
    {"n_min": 1},
    {"n_min": 2, "n_max": 2},
    {"source_guidance": 1.0, "target_guidance": 0.0},
]


@pytest.mark.parametrize("family", PAPER)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_one_term_is_what_the_paper_says(family: str, settings: dict[str, Any]):
    written = editor(family, **settings)
    inversion = written.invert(pictures(), SEEDS, SOURCES)
    made = written.edit(inversion, [Edit(1, (HAT,))])
    scale = written.options.target_guidance
    _, paper = published(family, 1, towards(HAT.prompt, scale), written.options)
    assert apart(made[0], paper) < 1e-4
    if scale:
        assert apart(made, round_trip(family, pictures()[1:2])) > 0.05


@pytest.mark.parametrize("family", PAPER)
@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
def test_the_reconstruction_is_the_edit_to_the_source_prompt(family: str, settings: dict[str, Any]):
    written = editor(family, **settings)
    made = written.reconstruct(written.invert(pictures(), SEEDS, SOURCES))
    goal = towards(SOURCES[2], written.options.target_guidance)
    assert apart(made[2], published(family, 2, goal, written.options)[1]) < 1e-4


@pytest.mark.usefixtures("latents")
@pytest.mark.parametrize("family", PAPER)
def test_several_terms_add_their_differences_from_the_source(family: str):
    written = editor(family)
    inversion = written.invert(pictures(), SEEDS, SOURCES)
    terms = (HAT._replace(weight=0.7), DOG._replace(weight=-0.4), CAT._replace(weight=1.2))

    def target(velocity: Callable[..., torch.Tensor], z: torch.Tensor, sigma: float) -> torch.Tensor:
        scale = written.options.target_guidance
        stay = velocity(z, sigma, SOURCES[0], scale)
        return stay + sum(t.weight * (velocity(z, sigma, t.prompt, scale) - stay) for t in terms)

    made = written.edit(inversion, [Edit(0, terms)])[0]
    assert apart(made, published(family, 0, target, written.options)[0].float()) < 1e-4


@pytest.mark.usefixtures("latents")
@pytest.mark.parametrize("family", PAPER)
def test_a_term_acts_from_its_warmup_up_to_its_cooldown(family: str):
    written = editor(family, n_max=4)
    inversion = written.invert(pictures(), SEEDS, SOURCES)
    levels = sigmas_of(family, 4, tuple(inversion["latent"].shape[-2:]))
    acting = [pytest.approx(s) for s in levels[1:3]]  # steps 1 and 2 from the noisiest

    def target(velocity: Callable[..., torch.Tensor], z: torch.Tensor, sigma: float) -> torch.Tensor:
        prompt = HAT.prompt if sigma in acting else SOURCES[0]
        return velocity(z, sigma, prompt, written.options.target_guidance)

    made = written.edit(inversion, [Edit(0, (HAT._replace(warmup=1, cooldown=3),))])[0]
    assert apart(made, published(family, 0, target, written.options)[0].float()) < 1e-4
    never = written.edit(inversion, [Edit(0, (HAT._replace(cooldown=0),))])
    assert torch.equal(never[0], written.reconstruct(inversion)[0])


@pytest.mark.parametrize("family", PIPELINES)
def test_where_every_step_is_sampled_it_is_the_pipelines_own_sampling(family: str):
    """A check on every adapter: prompts, packing, time, scale, sigmas and autoencoder, at an oblong size."""
    height, width = SIZE, SIZE + 8
    scale = 1.0 if family == "qwen" else 2.5  # its pipeline's guidance is not linear
    asked = {"z": {"guidance_scale": scale - 1}, "qwen": {}}.get(family, {"guidance_scale": scale})
    sampling = editor(family, steps=4, n_max=4, n_min=4, target_guidance=scale)
    inversion = sampling.invert(pictures(1, height, width), SEEDS[:1])
    made = sampling.edit(inversion, [Edit(0, (HAT,))])
    noise = torch.randn(inversion["latent"].shape, generator=torch.Generator().manual_seed(SEEDS[0]))
    parts = pipeline(family)
    parts.set_progress_bar_config(disable=True)
    drawn = parts(
        HAT.prompt,
        height=height,
        width=width,
        num_inference_steps=4,
        latents=packed(noise) if family in ("flux", "qwen") else noise,
        output_type="pt",
        **asked,
    ).images
    assert apart(made, drawn.float()) < 1e-4
    other = sampling.edit(inversion, [Edit(0, (DOG,))])
    assert apart(made, other) > 0.01


def test_flux_without_learned_guidance_is_told_none():
    parts = tiny_flow.tiny_flux(guidance_embeds=False)
    schnell, louder = (
        FlowEditor(
            parts,
            name="tiny",
            options=FlowOptions(steps=3, n_max=3, target_guidance=scale),
            default_judge="pocket",
        )
        for scale in (1.0, 9.0)
    )
    inversion = schnell.invert(pictures(1), SEEDS[:1])
    made = schnell.edit(inversion, [Edit(0, (HAT,))])
    assert torch.equal(made, louder.edit(inversion, [Edit(0, (HAT,))]))
    assert apart(made, schnell.reconstruct(inversion)) > 0.01


# --- what an edit that asks for little does -----------------------------------------------------------


@pytest.mark.parametrize("family", PIPELINES)
def test_at_equal_scales_the_reconstruction_is_the_autoencoders(family: str):
    same = editor(family, source_guidance=2.5)
    made = same.reconstruct(same.invert(pictures(), SEEDS))
    expected = round_trip(family, pictures())
    assert float(((expected > 0) & (expected < 1)).float().mean()) > 0.9  # it would show
    assert apart(made, expected) < 1e-5
    assert made.dtype == torch.float32


@pytest.mark.parametrize("family", PAPER)
def test_no_terms_no_weight_and_the_source_as_target_are_the_reconstruction(family: str):
    same = editor(family)
    inversion = same.invert(pictures(), SEEDS, SOURCES)
    expected = same.reconstruct(inversion)[1]
    for terms in ((), (HAT._replace(weight=0.0),), (HAT, Term(SOURCES[1])), (Term(SOURCES[1]),)):
        made = same.edit(inversion, [Edit(1, terms).at(0.0 if HAT in terms else 1.0)])[0]
        assert torch.equal(made, expected)
    assert apart(expected, round_trip(family, pictures()[1:2])[0]) > 0.01  # the scales differ


@pytest.mark.usefixtures("latents")
@pytest.mark.parametrize("family", PAPER)
def test_strength_leads_continuously_from_the_reconstruction(family: str):
    smooth = editor(family)
    inversion = smooth.invert(pictures(), SEEDS, SOURCES)
    start = smooth.reconstruct(inversion)[0]
    whole = apart(smooth.edit(inversion, [Edit(0, (HAT,))])[0], start)
    moves = [
        apart(smooth.edit(inversion, [Edit(0, (HAT,)).at(strength)])[0], start)
        for strength in (1e-3, 1e-2, 1e-1)
    ]
    assert moves[0] < 0.01 * whole
    assert moves[0] < moves[1] < moves[2]


@pytest.mark.usefixtures("latents")
@pytest.mark.parametrize("family", PAPER)
def test_a_negative_weight_goes_the_opposite_way(family: str):
    once = editor(family, n_max=1)  # of one step, an edit is linear in its weight
    inversion = once.invert(pictures(), SEEDS, SOURCES)
    still, there, back, twice = once.edit(inversion, [Edit(0, (HAT,)).at(w) for w in (0.0, 1.0, -1.0, 2.0)])
    assert apart(there, still) > 2e-3
    assert apart(back - still, still - there) < 2e-6
    assert apart(twice - still, 2 * (there - still)) < 2e-6


def test_without_prompts_the_source_is_the_options():
    named, given = editor(source="toys"), editor()
    plain = named.invert(pictures(), SEEDS)
    assert plain.prompts == ("toys",) * 3
    said = given.invert(pictures(), SEEDS, ["toys"] * 3)
    assert torch.equal(named.edit(plain, EDITS), given.edit(said, EDITS))


# --- rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", PIPELINES)
@pytest.mark.parametrize("settings", [{"n_min": 1}, {"n_avg": 2, "n_max": 1, "rows": 4}], ids=str)
def test_an_edit_does_not_depend_on_its_batch(family: str, settings: dict[str, Any]):
    steady = editor(family, **settings)
    inversion = steady.invert(pictures(), SEEDS, SOURCES)
    together = steady.edit(inversion, EDITS)
    for chosen in ([4], [3, 1], [2, 2, 0]):
        made = steady.edit(inversion, [EDITS[i] for i in chosen])
        assert torch.equal(made, together[chosen]), chosen


@pytest.mark.parametrize("family", PIPELINES)
def test_inversions_can_be_joined_selected_and_saved(family: str, tmp_path: Path):
    steady = editor(family)
    whole = steady.invert(pictures(), SEEDS, SOURCES)
    expected = steady.edit(whole, EDITS)
    parts = [steady.invert(pictures()[[i]], [SEEDS[i]], [SOURCES[i]]) for i in range(3)]
    assert torch.equal(steady.edit(Inversion.joined(parts), EDITS), expected)
    turned = whole.select([2, 0, 1])
    moved = [e._replace(row={0: 1, 1: 2, 2: 0}[e.row]) for e in EDITS]
    assert torch.equal(steady.edit(turned, moved), expected)
    whole.save(tmp_path / "inversion.safetensors")
    assert torch.equal(steady.edit(Inversion.load(tmp_path / "inversion.safetensors"), EDITS), expected)


def test_the_seed_makes_the_noise_and_edits_of_a_picture_share_it():
    steady = editor()
    inversion = steady.invert(pictures()[[0, 0, 0]], [1, 2, 1], ["a toy"] * 3)
    made = steady.edit(inversion, [Edit(i, (HAT,)) for i in range(3)])
    assert torch.equal(made[0], made[2])
    assert apart(made[0], made[1]) > 1e-3
    assert torch.equal(steady.edit(inversion, [Edit(0, (HAT,)), Edit(0, (HAT,))])[1], made[0])


def test_no_state_is_kept_and_none_is_touched():
    steady, parts = editor(), pipeline("sd3")
    before, sigmas = torch.get_rng_state(), parts.scheduler.sigmas.clone()
    inversion = steady.invert(pictures(), SEEDS)
    first = steady.edit(inversion, [EDITS[0]])
    steady.invert(pictures()[:1], [99])
    steady.edit(inversion, EDITS)
    assert torch.equal(steady.edit(inversion, [EDITS[0]]), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(parts.scheduler.sigmas, sigmas)


@pytest.mark.parametrize("family", PIPELINES)
@pytest.mark.parametrize(("height", "width"), [(13, 22), (16, 9)])
def test_pictures_of_any_size(family: str, height: int, width: int):
    odd = editor(family)
    images = pictures(2, height, width)
    inversion = odd.invert(images, SEEDS[:2])
    made = odd.edit(inversion, [Edit(1, (HAT,)), Edit(0)])
    assert inversion.size == (height, width)
    assert made.shape == images.shape
    down, right = -height % 4, -width % 4
    filled = torch.cat([images, images[..., -1:].expand(-1, -1, -1, right)], dim=-1)
    filled = torch.cat([filled, filled[:, :, -1:].expand(-1, -1, down, -1)], dim=-2)
    larger = odd.edit(odd.invert(filled, SEEDS[:2]), [Edit(1, (HAT,)), Edit(0)])
    assert torch.equal(made, larger[..., :height, :width])


@pytest.mark.parametrize("family", PIPELINES)
@pytest.mark.parametrize(
    "settings",
    [{"n_avg": 2, "n_min": 1, "n_max": 2}, {"source_guidance": 1.0, "target_guidance": 1.0}],
    ids=str,
)
def test_evaluations_are_counted(family: str, settings: dict[str, Any]):
    counting = editor(family, rows=1, **settings)
    inversion = counting.invert(pictures(), SEEDS, SOURCES)
    seen = 0

    def count(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal seen
        seen += len(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    hook = pipeline(family).transformer.register_forward_pre_hook(count, with_kwargs=True)
    try:
        costs = []
        for edit in EDITS:
            seen = 0
            counting.edit(inversion, [edit])
            assert counting.evaluations(edit) == seen, edit
            costs.append(seen)
        seen = 0
        counting.edit(inversion, EDITS)
        assert seen < sum(costs)  # edits of a picture share its source
    finally:
        hook.remove()


def test_what_has_no_share_is_not_evaluated():
    guided, plain = editor(), editor(source_guidance=1.0, target_guidance=1.0)
    assert [guided.evaluations(Edit(0, terms)) for terms in ((), (HAT,))] == [12, 12]  # 2 + 2 at 3 steps
    assert guided.evaluations(Edit(0, (HAT,)).at(0.5)) == 15
    assert plain.evaluations(Edit(0, (HAT,))) == 6
    assert editor("flux").evaluations(Edit(0, (HAT,))) == 6
    assert editor("flux").evaluations(Edit(0, (HAT, DOG))) == 12


# --- settings -----------------------------------------------------------------------------------------


def test_the_defaults_are_the_papers():
    assert set(PUBLISHED) <= set(FAMILIES)
    sd3, flux = FlowOptions(), FlowOptions.published("FluxPipeline")
    assert FlowOptions.published("StableDiffusion3Pipeline") == sd3
    assert (sd3.steps, sd3.n_max, sd3.source_guidance, sd3.target_guidance) == (50, 33, 3.5, 13.5)
    assert (flux.steps, flux.n_max, flux.source_guidance, flux.target_guidance) == (28, 24, 1.5, 5.5)
    assert FlowOptions.published("FluxPipeline", n_max=20).n_max == 20
    for name in FAMILIES:
        FlowOptions.published(name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"n_max": 0},
        {"n_max": 51},
        {"n_min": -1},
        {"n_min": 34},
        {"n_avg": 0},
        {"rows": 0},
        {"source_guidance": -1.0},
        {"target_guidance": float("nan")},
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FlowOptions(**wrong)


def test_a_threshold_is_refused():
    plain = editor()
    inversion = plain.invert(pictures(1), SEEDS[:1])
    with pytest.raises(EditorError, match=r"threshold 0\.5 of 'a toy with a hat'"):
        plain.edit(inversion, [Edit(0, (HAT._replace(threshold=0.5),))])


def test_another_pipeline_is_refused():
    with pytest.raises(EditorError, match=r"is a StableDiffusionPipeline; flow editing takes .*FluxPipeline"):
        FlowEditor(tiny_pipeline(), name="tiny", options=FlowOptions(), default_judge="pocket")


def test_the_settings_repeat_the_edit():
    made = editor("flux", n_avg=2)
    settings = json.loads(json.dumps(made.settings()))
    assert settings.pop("method") == "flow"
    assert settings.pop("size") == made.size == 256
    assert FlowOptions(**settings) == made.options
    assert (made.name, made.rows, made.default_judge, made.default_segmenter) == ("tiny", 8, "pocket", None)
    assert editor("sd3").size == SIZE


@pytest.mark.parametrize("family", PIPELINES)
def test_a_transformer_at_16_bits_and_latents_at_32(family: str):
    parts = PIPELINES[family]().to(torch.bfloat16)
    whole = editor(family)
    half = FlowEditor(parts, name="tiny", options=whole.options, default_judge="pocket")
    inversion = half.invert(pictures(), SEEDS, SOURCES)
    assert inversion["latent"].dtype == torch.float32
    assert parts.transformer.dtype == torch.bfloat16
    changes = []
    for one in (half, whole):
        kept = one.invert(pictures(), SEEDS, SOURCES)
        edits, still = one.edit(kept, EDITS[:1]), one.edit(kept, [Edit(0)])
        assert edits.dtype == torch.float32
        changes.append((edits - still).flatten())
    assert float(torch.corrcoef(torch.stack(changes))[0, 1]) > 0.5


def test_packing_is_undone():
    x = torch.randn(2, 3, 4, 6)
    assert torch.equal(unpacked(packed(x), 4), x)


def test_importing_loads_no_model_library():
    code = (
        "import sys, diffexplain.editors.flow, diffexplain.editors.instruct; "
        "sys.exit(any(m in sys.modules for m in ('diffusers', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def prompts_of(edits: Sequence[Edit]) -> list[str]:
    return [t.prompt for e in edits for t in e.terms]


def test_a_prompt_is_encoded_once():
    once = editor()
    encoded: list[str] = []
    plain = once._field._encoded
    once._field._encoded = lambda prompt: encoded.append(prompt) or plain(prompt)
    inversion = once.invert(pictures(), SEEDS, SOURCES)
    once.edit(inversion, EDITS)
    once.edit(inversion, EDITS[::-1])
    assert sorted(encoded) == sorted({"", *SOURCES, *prompts_of(EDITS)})


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_parts_that_take_turns_edit_the_same(family: str) -> None:
    plain = editor(family)
    wanted = plain.edit(plain.invert(pictures(), SEEDS), EDITS[:2])
    options = FlowOptions(steps=4, n_max=3, source_guidance=1.5, target_guidance=2.5, offload=True)
    parts = PIPELINES[family]()
    turns = FlowEditor(parts, name="tiny", options=options, default_judge="pocket")
    assert all(hasattr(part, "_hf_hook") for part in (parts.transformer, parts.vae, parts.text_encoder))
    assert apart(turns.edit(turns.invert(pictures(), SEEDS), EDITS[:2]), wanted) < 1e-6


def test_a_thread_may_decode_what_another_integrated():
    made = editor()
    inversion = made.invert(pictures(), SEEDS)
    rest = made.begun(inversion, EDITS[:2])
    with ThreadPoolExecutor(1) as reader:
        images = reader.submit(rest).result()
    assert not images.requires_grad
    assert torch.equal(images, made.edit(inversion, EDITS[:2]))
