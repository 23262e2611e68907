"""LEDITS++ on tiny real pipelines: exact, equal to diffusers' own, independent of the batch, as published."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from diffexplain.editors import Edit, Inversion, Term
from diffexplain.editors.ledits import TURBO, LeditsEditor, LeditsOptions
from diffexplain.errors import EditorError
from tests.tiny import tiny_pipeline, tiny_xl_pipeline

SIZE = 16
PREDICTIONS = ("epsilon", "v_prediction")
HAT, DOG, CAT = (Term(f"a toy with a {what}") for what in ("hat", "dog", "cat"))
SEEDS = (11, 22, 33)
MASKS = ("intersection", "attention", "quantile", "share", "none")


def pipeline(kind: str = "epsilon") -> Any:
    return _pipeline(kind)


@lru_cache
def _pipeline(kind: str) -> Any:
    return tiny_xl_pipeline(size=SIZE) if kind == "xl" else tiny_pipeline(size=SIZE, prediction=kind)


def editor(kind: str = "epsilon", **options: Any) -> LeditsEditor:
    chosen = LeditsOptions(**dict(steps=5, rows=8, mask="none", guidance=8.0) | options)
    return LeditsEditor(pipeline(kind), name="tiny", options=chosen, default_judge="pocket")


@lru_cache
def pictures(n: int = 3) -> torch.Tensor:
    return torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def round_trip(images: torch.Tensor) -> torch.Tensor:
    """What the autoencoder alone makes of pictures."""
    vae = pipeline().vae
    return (vae.decode(vae.encode(images * 2 - 1).latent_dist.mode()).sample / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def encoded(images: torch.Tensor, kind: str = "epsilon") -> torch.Tensor:
    """The latents that the autoencoder makes of pictures."""
    vae = pipeline(kind).vae
    return vae.encode(images * 2 - 1).latent_dist.mode() * vae.config.scaling_factor


# --- exactness --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*PREDICTIONS, "xl"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 20, 50])
def test_without_an_edit_the_latents_come_back(kind: str, order: int, steps: int):
    comes_back(kind, order, steps)


@pytest.mark.parametrize("steps", range(4, 101, 24))
def test_the_latents_come_back_at_every_step_count(steps: int):
    comes_back("epsilon", 2, steps)


def comes_back(kind: str, order: int, steps: int) -> None:
    exact = editor(kind, steps=steps, order=order)
    inversion = exact.invert(pictures(), SEEDS, ["", "a hat", "dogs"])
    made = exact.sample(inversion, [Edit(i) for i in range(3)])
    assert float((made - encoded(pictures(), kind)).abs().max()) < 1e-4
    assert torch.equal(made, inversion["latent"])


@pytest.mark.parametrize(
    "options",
    [
        dict(skip=0.0),
        dict(skip=0.6),
        dict(spacing="trailing"),
        dict(shift=200, order=1),
        dict(mask="attention"),
    ],
)
def test_that_holds_for_any_settings(options: dict[str, Any]):
    exact = editor(**options)
    made = exact.sample(exact.invert(pictures(), SEEDS), [Edit(i) for i in range(3)])
    assert float((made - encoded(pictures())).abs().max()) < 1e-4


def test_the_reconstruction_is_the_picture_as_the_autoencoder_makes_it():
    exact = editor()
    made = exact.reconstruct(exact.invert(pictures(), SEEDS))
    expected = round_trip(pictures())
    assert float(((expected > 0) & (expected < 1)).float().mean()) > 0.9  # it would show
    assert float((made - expected).abs().max()) < 1e-3
    assert made.shape == pictures().shape
    assert made.dtype == torch.float32


@pytest.mark.parametrize("edit", [Edit(1), Edit(1, (Term(HAT.prompt, 0.0),)), Edit(1, (HAT,)).at(0)])
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


# --- the reference ----------------------------------------------------------------------------------

# 75 letters: with a fast tokenizer the reference reads the attention to all 75 places between start and end
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LONG = tuple(
    "".join(f"{w} " for w in words).strip()
    for words in (
        [LETTERS[i:] + LETTERS[:i] for i in (0, 3)] + [LETTERS[:23]],
        [LETTERS[i:] + LETTERS[:i] for i in (9, 14)] + [LETTERS[3:]],
    )
)
CORRECTED = dict(final_sigmas_type="sigma_min", lower_order_final=False)
AT_ITS_MASKS = {
    "none": dict(use_intersect_mask=False, edit_threshold=0.0),
    "quantile": dict(use_intersect_mask=False, edit_threshold=0.6),
    "attention": dict(use_intersect_mask=False, use_cross_attn_mask=True, edit_threshold=0.6),
    "intersection": dict(use_intersect_mask=True, edit_threshold=0.6),
}


class Reference:
    """diffusers' LEDITS++ on one picture, six steps."""

    def __init__(self, family: str, **scheduler: Any) -> None:
        import diffusers

        xl = family == "xl"
        # random attention that heeds too much grows 1e-6 to 1e-4 in one call
        self.parts = (tiny_xl_pipeline if xl else tiny_pipeline)(size=64, heed=3)
        names = ["vae", "text_encoder", "tokenizer", "unet"]
        names += ["text_encoder_2", "tokenizer_2"] if xl else ["safety_checker", "feature_extractor"]
        solver = diffusers.DPMSolverMultistepScheduler.from_config(
            self.parts.scheduler.config, algorithm_type="sde-dpmsolver++", solver_order=2, **scheduler
        )
        kind = getattr(diffusers, f"LEditsPPPipelineStableDiffusion{'XL' if xl else ''}")
        more = dict(add_watermarker=False) if xl else dict(requires_safety_checker=False)
        self.pipe = kind(**{n: getattr(self.parts, n) for n in names}, scheduler=solver, **more)
        self.pipe.set_progress_bar_config(disable=True)
        self.more = dict(num_zero_noise_steps=0) if xl else {}
        self.picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def latents(self, terms: tuple[Term, ...] = (), **options: Any) -> torch.Tensor:
        """Invert and edit, as it must for each edit."""
        noise = torch.Generator().manual_seed(7)
        self.pipe.invert(
            self.picture, num_inversion_steps=6, skip=0.2, generator=noise, source_prompt="", **self.more
        )
        made = self.pipe(
            editing_prompt=[t.prompt for t in terms] or None,
            edit_guidance_scale=[3.0 * abs(t.weight) for t in terms],
            reverse_editing_direction=[t.weight < 0 for t in terms],
            output_type="latent",
            **options,
        )
        return made.images

    def ours(self, terms: tuple[Term, ...], mask: str, free_above: int) -> torch.Tensor:
        """The same edit by our editor, on the same components."""
        options = LeditsOptions(
            steps=6, skip=0.2, guidance=3.0, mask=mask, threshold=0.6, least=1, rows=2, free_above=free_above
        )
        made = LeditsEditor(self.parts, name="tiny", options=options, default_judge="pocket")
        return made.sample(made.invert(self.picture, [7]), [Edit(0, terms)])


@lru_cache
def reference(family: str) -> tuple[Reference, torch.Tensor]:
    """The corrected one, and its reconstruction."""
    corrected = Reference(family, **CORRECTED)
    return corrected, corrected.latents()


@pytest.mark.parametrize("family", ["sd", "xl"])
@pytest.mark.parametrize("mask", list(AT_ITS_MASKS))
@pytest.mark.parametrize("signs", [(1.0,), (-1.0,), (1.0, -1.0)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_equals_the_reference(family: str, mask: str, signs: tuple[float, ...]):
    theirs, reconstruction = reference(family)
    terms = tuple(Term(prompt, sign) for prompt, sign in zip(LONG, signs, strict=False))
    made = theirs.latents(terms, **AT_ITS_MASKS[mask])
    ours = theirs.ours(terms, mask, free_above=1000 if family == "xl" else 800)
    assert float((ours - made).abs().max()) < 1e-3
    assert float((made - reconstruction).abs().max()) > 0.5  # the edit is much larger than that


@pytest.mark.parametrize("family", ["sd", "xl"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_where_the_reference_differs_it_lacks_the_correction(family: str):
    """At its defaults its own reconstruction is off; with the correction it is exact, and is ours."""
    usual, (mended, reconstruction) = Reference(family), reference(family)
    truth = mended.ours((), "none", 800)
    assert float((usual.latents() - truth).abs().max()) > 0.3
    assert float((reconstruction - truth).abs().max()) < 1e-5
    terms = (Term(LONG[0]),)
    ours = mended.ours(terms, "none", 800)
    assert float((usual.latents(terms, **AT_ITS_MASKS["none"]) - ours).abs().max()) > 0.1
    assert float((mended.latents(terms, **AT_ITS_MASKS["none"]) - ours).abs().max()) < 1e-3


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


@pytest.mark.parametrize("kind", [*PREDICTIONS, "xl"])
@pytest.mark.parametrize("mask", MASKS)
def test_a_row_is_the_same_to_the_last_bit_whatever_is_made_with_it(kind: str, mask: str):
    steady = editor(kind, steps=3, mask=mask, threshold=0.6)
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
        assert torch.equal(alone["start"], together["start"][rows])
        assert torch.equal(alone["residuals"], together["residuals"][rows])


def test_the_seed_makes_the_noise():
    steady = editor()
    one = pictures()[:1].expand(3, -1, -1, -1)
    inversion = steady.invert(one, [1, 2, 1])
    assert torch.equal(inversion["start"][0], inversion["start"][2])
    assert not torch.allclose(inversion["start"][0], inversion["start"][1], atol=0.1)
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
    assert torch.equal(joined["start"], whole["start"])
    assert torch.equal(joined["residuals"], whole["residuals"])
    chosen = whole.select([2, 0, 2])
    assert len(chosen) == 3
    assert torch.equal(chosen["start"], whole["start"][[2, 0, 2]])
    assert torch.equal(chosen["residuals"], whole["residuals"][[2, 0, 2]])
    assert torch.equal(steady.edit(chosen, [Edit(1, (HAT,))]), steady.edit(whole, [Edit(0, (HAT,))]))


# --- what guidance does ------------------------------------------------------------------------------


def test_a_negative_weight_goes_the_opposite_way():
    once = editor(steps=1)
    inversion = once.invert(pictures(), SEEDS)
    still, there, back = once.sample(
        inversion, [Edit(0), Edit(0, (HAT,)), Edit(0, (HAT._replace(weight=-1.0),))]
    )
    assert float((there - still).abs().max()) > 1
    torch.testing.assert_close(there - still, still - back, rtol=1e-3, atol=1e-3)


def test_terms_add_up_and_their_weight_scales_them():
    once = editor(steps=1)
    inversion = once.invert(pictures(), SEEDS)
    asked = [(), (HAT,), (DOG,), (HAT, DOG), (DOG, HAT), (HAT._replace(weight=0.25),)]
    still, hat, dog, both, swapped, quarter = once.sample(inversion, [Edit(1, terms) for terms in asked])
    torch.testing.assert_close(both - still, (hat - still) + (dog - still), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(both, swapped, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(quarter - still, 0.25 * (hat - still), rtol=1e-3, atol=1e-3)
    assert float((hat - dog).abs().max()) > 0.5


@pytest.mark.parametrize("mask", ["share", "quantile", "attention", "intersection"])
def test_the_threshold_keeps_an_edit_where_the_prompt_acts_most(mask: str):
    edits = [Edit(i, (HAT,)) for i in range(3)]
    inversion = editor(steps=1).invert(pictures(), SEEDS)
    free = editor(steps=1).sample(inversion, edits) - inversion["latent"]
    share = 1.0
    for threshold in (0.6, 0.9, 0.99):
        change = editor(steps=1, mask=mask, threshold=threshold).sample(inversion, edits)
        change = change - inversion["latent"]
        moved = change.abs().amax(1) > 0  # (N, h, w)
        assert 0 < float(moved.float().mean()) <= share
        share = float(moved.float().mean())
        everywhere = moved[:, None].expand_as(change)
        torch.testing.assert_close(change[everywhere], free[everywhere], rtol=1e-3, atol=1e-3)  # in full
        if threshold == 0.9 and mask != "attention":
            strength = free.abs().mean(1)
            assert float(strength[moved].mean()) > float(strength[~moved].mean())
    assert share < 0.5


def test_a_threshold_of_its_own_wins():
    one = editor(steps=2, mask="quantile", threshold=0.9)
    inversion = one.invert(pictures(), SEEDS)
    own, general = one.sample(inversion, [Edit(0, (HAT._replace(threshold=0.5),)), Edit(0, (HAT,))])
    other = editor(steps=2, mask="quantile", threshold=0.5).sample(inversion, [Edit(0, (HAT,))])
    assert torch.equal(own, other[0])
    assert not torch.equal(own, general)


def test_guidance_acts_from_the_warm_up_to_the_cool_down():
    whole = editor(steps=4)
    inversion = whole.invert(pictures(), SEEDS)
    never = whole.sample(
        inversion, [Edit(0, (HAT._replace(warmup=4),)), Edit(0, (HAT._replace(cooldown=0),))]
    )
    assert torch.equal(never, inversion["latent"][[0, 0]])
    late = Edit(0, (HAT._replace(warmup=3),))
    early = Edit(0, (HAT._replace(cooldown=3),))
    made = whole.sample(inversion, [late, early, Edit(0, (HAT,))])
    assert torch.equal(editor(steps=4, warmup=3).sample(inversion, [Edit(0, (HAT,))])[0], made[0])
    assert torch.equal(editor(steps=4, cooldown=3).sample(inversion, [Edit(0, (HAT,))])[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert not torch.equal(made[1], made[2])
    assert [whole.evaluations(e) for e in (late, early, Edit(0, (HAT,)))] == [5, 7, 8]


def test_strength_is_a_slider():
    sliding = editor(steps=3, guidance=1.0)
    inversion = sliding.invert(pictures(), SEEDS)
    strengths = [0.0, 0.25, 0.5, 0.51, 1.0, 2.0]
    made = sliding.sample(inversion, [Edit(0, (HAT,)).at(s) for s in strengths])
    moved = [float((m - inversion["latent"][0]).norm()) for m in made]
    assert moved[0] == 0
    assert moved == sorted(moved)
    assert float((made[3] - made[2]).norm()) < 0.1 * moved[4]
    assert torch.equal(made[4], sliding.sample(inversion, [Edit(0, (HAT,))])[0])


def test_each_term_has_a_mask_of_its_own():
    masked = editor(steps=2, mask="share", threshold=0.9)
    inversion = masked.invert(pictures(), SEEDS)
    alone, with_nothing = masked.edit(inversion, [Edit(0, (HAT,)), Edit(0, (HAT, DOG._replace(weight=0.0)))])
    assert torch.equal(alone, with_nothing)


# --- what it costs ----------------------------------------------------------------------------------


def test_evaluations_are_what_the_unet_is_asked():
    counted = editor(rows=1, steps=3)
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
    assert said["method"] == "ledits"
    assert (said["size"], said["steps"], said["guidance"], said["rows"]) == (SIZE, 7, 3.0, 8)
    assert json.loads(json.dumps(said)) == said


def test_edits_of_a_picture_share_the_first_step():
    shared = editor(rows=1, steps=3)
    inversion = shared.invert(pictures(), SEEDS)
    edits = [Edit(0, (HAT,)), Edit(0, (HAT,)).at(0.5), Edit(0, (DOG,)), Edit(1, (HAT,))]
    calls = []
    hook = pipeline().unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        made = shared.sample(inversion, edits)
    finally:
        hook.remove()
    assert len(calls) == 2 + 3 + 2 * 8  # two pictures and three prompts, then all eight branches twice
    for edit, latents in zip(edits, made, strict=True):
        assert torch.equal(shared.sample(inversion, [edit])[0], latents)


def test_a_term_without_weight_is_never_computed():
    counted = editor(rows=1, steps=3)
    assert counted.evaluations(Edit(0, (HAT._replace(weight=0.0), DOG))) == 6
    assert editor(guidance=0.0).evaluations(Edit(0, (HAT,))) == 5


# --- few steps ---------------------------------------------------------------------------------------


@torch.no_grad()
def turbo_edit(parts: Any, image: torch.Tensor, seed: int, prompts: tuple[str, str]) -> torch.Tensor:
    """TurboEdit (Deutch et al. 2024) transcribed, in float64: latents of one edit.

    Noise of the time t - 200 (4.1), the posterior of t, and x̂_{t-1} = x_{t-1} + w·(μ(x̂_t, ĉ) - μ(x̂_t, c))
    + (μ(x̂_t, c) - μ(x_t, c)), cross-prompt and cross-trajectory (4.2), at w = 1.5.
    """
    bars = parts.scheduler.alphas_cumprod.double()
    times = [999, 749, 499, 249]
    ids = parts.tokenizer(list(prompts), padding="max_length", max_length=77, return_tensors="pt").input_ids
    source, target = parts.text_encoder(ids)[0].split(1)

    def mean(x: torch.Tensor, i: int, states: torch.Tensor) -> torch.Tensor:
        now, then = bars[times[i]], bars[times[i + 1]] if i < 3 else bars[0]
        more = {}
        if parts.unet.config.time_cond_proj_dim is not None:
            from diffusers import LatentConsistencyModelPipeline

            embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
            width = parts.unet.config.time_cond_proj_dim
            more["timestep_cond"] = embed(parts, torch.tensor([3.0]), embedding_dim=width)
        epsilon = parts.unet(x.float(), times[i], encoder_hidden_states=states, **more).sample.double()
        x0 = (x - (1 - now).sqrt() * epsilon) / now.sqrt()
        alpha = now / then
        return (then.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - then) * x) / (1 - now)

    x0 = parts.vae.encode(image[None] * 2 - 1).latent_dist.mode().double() * parts.vae.config.scaling_factor
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randn(x0.shape[1:], generator=generator).double() for _ in times][::-1]
    added = [max(t - 200, 0) for t in times]
    path = [bars[t].sqrt() * x0 + (1 - bars[t]).sqrt() * n for t, n in zip(added, draws, strict=True)] + [x0]
    edited = path[0]
    for i in range(4):
        cross_prompt = mean(edited, i, target) - mean(edited, i, source)
        cross_trajectory = mean(edited, i, source) - mean(path[i], i, source)
        edited = path[i + 1] + 1.5 * cross_prompt + cross_trajectory
    return edited


@pytest.mark.parametrize("consistency", [False, True])
def test_few_steps_are_turbo_edit(consistency: bool):
    parts = tiny_pipeline(size=SIZE, heed=3, **(dict(time_cond_proj_dim=8) if consistency else {}))
    turbo = LeditsEditor(parts, name="turbo", options=TURBO, default_judge="pocket")
    inversion = turbo.invert(pictures(), SEEDS, ["a toy"] * 3)
    made = turbo.sample(inversion, [Edit(1, (HAT,))])
    assert (
        float((made - turbo_edit(parts, pictures()[1], SEEDS[1], ("a toy", HAT.prompt))).abs().max()) < 1e-3
    )
    assert float((made - inversion["latent"][1]).abs().max()) > 0.3
    assert turbo.evaluations(Edit(1, (HAT,))) == 8


# --- sizes, memory, saving ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 32), (17, 23), (9, 40)])
@pytest.mark.parametrize("mask", ["none", "intersection"])
def test_any_size_comes_back_as_it_was(size: tuple[int, int], mask: str):
    sized = editor(steps=2, mask=mask)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    inversion = sized.invert(images, SEEDS[:2])
    assert inversion.size == size
    made = sized.edit(inversion, [Edit(1, (HAT,)), Edit(0)])
    assert made.shape == (2, 3, *size)
    assert torch.equal(made[1], sized.reconstruct(inversion)[0])
    assert all(side % 8 == 0 for side in (2 * s for s in inversion["latent"].shape[-2:]))


def test_an_inversion_is_saved_and_read(tmp_path: Path):
    saved = editor()
    inversion = saved.invert(pictures(), SEEDS, ["", "a hat", "é, “dogs”"])
    inversion.save(tmp_path / "one.safetensors")
    again = Inversion.load(tmp_path / "one.safetensors")
    assert (again.prompts, again.seeds, again.size) == (inversion.prompts, SEEDS, (SIZE, SIZE))
    edits = [Edit(2, (HAT,)), Edit(1, (DOG,))]
    assert torch.equal(saved.edit(again, edits), saved.edit(inversion, edits))
    (tmp_path / "other").write_bytes(b"nothing of the kind")
    for path in (tmp_path / "other", tmp_path / "missing"):
        with pytest.raises(EditorError, match="no saved inversion"):
            Inversion.load(path)


def test_inversions_that_do_not_fit_are_not_joined():
    one = editor(steps=2)
    with pytest.raises(EditorError, match="one editor"):
        Inversion.joined([one.invert(pictures(), SEEDS), editor(steps=3).invert(pictures(), SEEDS)])


def test_parts_that_wait_in_main_memory_make_the_same_edit():
    inversion = editor().invert(pictures(), SEEDS)
    offloaded = editor(offload=True)
    assert torch.equal(offloaded.invert(pictures(), SEEDS)["residuals"], inversion["residuals"])
    assert torch.equal(
        offloaded.edit(inversion, [Edit(0, (HAT,))]), editor().edit(inversion, [Edit(0, (HAT,))])
    )


@pytest.mark.parametrize("offload", [False, True])
def test_an_edit_is_begun_now_and_decoded_when_called(offload: bool, monkeypatch: pytest.MonkeyPatch):
    model = editor(offload=offload)
    inversion, decoded = model.invert(pictures(), SEEDS), []
    whole = model.edit(inversion, [Edit(0, (HAT,))])
    decode = model._model.decode
    monkeypatch.setattr(model._model, "decode", lambda *args: decoded.append(1) or decode(*args))
    rest = model.begun(inversion, [Edit(0, (HAT,))])
    assert bool(decoded) == offload  # parts that take turns on a device cannot be there two at a time
    assert torch.equal(rest(), whole)


def test_sixteen_bits_are_close_and_latents_stay_in_full():
    full, half = editor(steps=3, guidance=1.0), editor(steps=3, guidance=1.0, dtype="bfloat16")
    try:
        inversion = half.invert(pictures(), SEEDS)
        assert {t.dtype for t in inversion.tensors.values()} == {torch.float32}
        assert torch.equal(half.sample(inversion, [Edit(0)]), inversion["latent"][:1])  # exact there too
        made = half.sample(inversion, [Edit(0, (HAT,))])
    finally:
        pipeline().unet.float()
        pipeline().text_encoder.float()
    expected = full.sample(full.invert(pictures(), SEEDS), [Edit(0, (HAT,))])
    moved = float((expected - inversion["latent"][:1]).norm())
    assert float((made - expected).norm()) < 0.5 * moved


def test_rows_are_chosen_where_none_are_given():
    assert editor(rows=0).rows == 32
    assert editor(rows=0).settings()["rows"] == 32


def test_prompts_are_read_once():
    once = editor(steps=2)
    read = []
    hook = pipeline().text_encoder.register_forward_pre_hook(lambda _, args: read.append(len(args[0])))
    try:
        inversion = once.invert(pictures(), SEEDS)
        once.sample(inversion, [Edit(0, (HAT,)), Edit(1, (HAT,)), Edit(2, (DOG, HAT))])
        once.sample(inversion, [Edit(2, (HAT,))])
    finally:
        hook.remove()
    assert read == [16, 16]  # the empty prompt, then the two new ones: calls of sixteen rows


@pytest.mark.parametrize(
    "wrong",
    [dict(steps=0), dict(rows=-1), dict(skip=1.0), dict(threshold=2.0), dict(mask="round"), dict(order=3)],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=r"at least|is 1 or 2"):
        LeditsOptions(**wrong)
