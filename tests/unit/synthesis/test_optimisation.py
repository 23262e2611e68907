"""Prompts optimised through a tiny real pipeline: lower losses, all in one batch, the same in halves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pytest
import torch

from diffexplain.editors.generator import Generator, GeneratorOptions
from diffexplain.errors import InputError
from diffexplain.rows import FewerRows
from diffexplain.synthesis.gallery import Gallery
from diffexplain.synthesis.optimisation import Optimum, Step, held_out_seeds, optimisation_seeds, optimise
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.synthesis.prompts import Adam, Norms, Prompt, generator_of, started, views
from tests.tiny import tiny_pipeline

OPTIONS = SynthesisOptions(
    tokens=2,
    text="a toy",
    word="cat",
    candidates=0,
    steps=6,
    restarts=2,
    seeds=2,
    pool=2,
    cutouts=1,
    rate=0.3,
    patience=0,
)


@dataclass(frozen=True)
class Channel:
    """The mean of a colour; broken: what the losses of its first calls are."""

    colour: int
    broken: tuple[float, ...] = ()
    calls: Any = None

    @property
    def name(self) -> str:
        return f"colour {self.colour}"

    @property
    def key(self) -> object:
        return "colours"

    def read(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))

    def loss_of(self, read: torch.Tensor) -> torch.Tensor:
        factor = 1.0
        if self.calls is not None and torch.is_grad_enabled():
            self.calls.append(len(read))
            factor = self.broken[len(self.calls) - 1] if len(self.calls) <= len(self.broken) else 1.0
        return -read[:, self.colour] * factor

    def loss(self, images: torch.Tensor) -> torch.Tensor:
        return self.loss_of(self.read(images))

    def score(self, images: torch.Tensor) -> torch.Tensor:
        return -self.loss(images).double().cpu()


class Small(Generator):
    """Has memory for so many rows with a gradient."""

    holds = 64

    def draw(self, conditioning: Any, seeds: Sequence[int], **more: Any) -> torch.Tensor:
        if len(seeds) > self.holds:
            raise torch.OutOfMemoryError(f"{len(seeds)} rows")
        return super().draw(conditioning, seeds, **more)


@lru_cache
def generator() -> Small:
    return Small(tiny_pipeline(size=16, heed=2), name="tiny", options=GeneratorOptions(steps=2))


def losses(soft: torch.Tensor, objective: Channel, seeds: Sequence[int]) -> float:
    model = generator()
    images = model.images(model.states(soft[None], OPTIONS.text).of([0] * len(seeds)), seeds)
    return float(objective.loss(images).mean())


@lru_cache
def optima(mode: Any = "full") -> list[Optimum]:
    return optimise(generator(), [Channel(0), Channel(2)], replace(OPTIONS, mode=mode))


# -- what comes out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["full", "detached", "last-k"])
def test_every_restart_of_every_objective_gets_better_also_on_held_out_seeds(mode: Any) -> None:
    found = optima(mode)
    assert [(o.objective, o.restart) for o in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    model = generator()
    norms = Norms.of(model)
    begun = started(model, [Channel(0), Channel(1)], OPTIONS, norms, optimisation_seeds(2, 0), Gallery())
    for optimum, start in zip(found, begun, strict=True):
        objective = Channel((0, 2)[optimum.objective])
        for seeds in (optimisation_seeds(2, 0), held_out_seeds(8, 0)):
            assert losses(optimum.soft, objective, seeds) < losses(start.soft.detach(), objective, seeds)


def test_the_best_is_the_exact_loss_over_the_pool() -> None:
    for optimum in optima():
        objective = Channel((0, 2)[optimum.objective])
        wanted = losses(optimum.soft, objective, optimisation_seeds(2, 0))
        assert optimum.best == pytest.approx(wanted, abs=1e-6)
        assert (len(optimum.curve), optimum.iterations, optimum.stopped) == (6, 6, "steps")
        assert optimum.latent is None


def test_embeddings_stay_among_the_vocabulary_norms() -> None:
    norms = Norms.of(generator())
    assert norms.least < norms.mean < norms.most
    fast = optimise(generator(), [Channel(0)], replace(OPTIONS, rate=3.0, steps=3))
    for optimum in [*optima(), *fast]:
        assert (optimum.soft.norm(dim=1) <= norms.most * 1.0001).all()
        assert (optimum.soft.norm(dim=1) >= norms.least * 0.9999).all()


def test_targets_optimised_together_are_those_optimised_alone() -> None:
    alone = optimise(generator(), [Channel(0)], replace(OPTIONS, mode="full"))
    for one, other in zip(alone, optima()[:2], strict=True):
        torch.testing.assert_close(one.soft, other.soft, atol=2e-3, rtol=0)
        assert one.best == pytest.approx(other.best, abs=1e-3)


def test_nothing_learned_without_steps() -> None:
    (first, second) = optimise(generator(), [Channel(0)], replace(OPTIONS, steps=0))
    model = generator()
    word = model.embedding("cat")[:2]
    cosine = torch.nn.functional.cosine_similarity(first.soft, word, dim=1)
    torch.testing.assert_close(cosine, torch.ones(2))
    torch.testing.assert_close(first.soft.norm(dim=1), torch.full((2,), Norms.of(model).mean))
    assert not torch.allclose(first.soft, second.soft)
    assert first.curve == ()


def test_a_run_shorter_than_its_pool_keeps_what_it_learned() -> None:
    """Two steps of two noises do not draw a pool of eight."""
    short = replace(OPTIONS, restarts=1, seeds=2, pool=8)
    (before,) = optimise(generator(), [Channel(0)], replace(short, steps=0))
    (after,) = optimise(generator(), [Channel(0)], replace(short, steps=2))
    assert after.best < before.best


def test_annealed_steps_get_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[float] = []
    step = Adam.step

    def measured(adam: Adam, prompt: Prompt, share: float) -> None:
        before = prompt.soft.detach().clone()
        step(adam, prompt, share)
        lengths.append(float((prompt.soft.detach() - before).norm()))

    monkeypatch.setattr(Adam, "step", measured)
    monkeypatch.setattr(Adam, "_direction", lambda adam, prompt, i, gradient: torch.ones_like(gradient))
    optimise(generator(), [Channel(0)], replace(OPTIONS, restarts=1, steps=4, anneal=True))
    expected = [1.0, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4]  # (1 + cos πt/T) / 2
    assert [length / lengths[0] for length in lengths] == pytest.approx(expected, rel=1e-4)
    lengths.clear()
    optimise(generator(), [Channel(0)], replace(OPTIONS, restarts=1, steps=4))
    assert lengths == pytest.approx([lengths[0]] * 4, rel=1e-4)


def test_a_seed_repeats_a_run() -> None:
    short = replace(OPTIONS, steps=2)
    one, again, other = (
        optimise(generator(), [Channel(0)], o)[1].soft for o in (short, short, replace(short, seed=1))
    )
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)


def test_progress_is_told() -> None:
    told: list[Step] = []
    optimise(generator(), [Channel(0), Channel(1)], replace(OPTIONS, steps=2), tell=told.append)
    assert [(s.iteration, s.steps, len(s.losses), s.active) for s in told] == [(1, 2, 2, 4), (2, 2, 2, 4)]


def test_a_learned_latent_moves_and_keeps_the_norm_of_noise() -> None:
    model, options = generator(), replace(OPTIONS, learn_latent=True, mode="full", steps=3)
    (first, second) = optimise(model, [Channel(0)], options)
    for restart, optimum in enumerate((first, second)):
        assert optimum.latent is not None
        seed = optimisation_seeds(2, 0)[restart]
        start = model.noises([seed])[0, 0]
        assert not torch.allclose(optimum.latent, start, atol=1e-3)
        assert optimum.latent.norm().item() == pytest.approx(start.numel() ** 0.5, rel=1e-4)
        said = model.states(optimum.soft[None], OPTIONS.text)
        made = model.images(said, [0], latent=optimum.latent[None])
        assert Channel(0).loss(made).item() == pytest.approx(optimum.best, abs=1e-5)
        assert optimum.best <= optimum.curve[0]
    with pytest.raises(InputError, match=r"^learn_latent needs a gradient at the first step"):
        optimise(model, [Channel(0)], replace(options, mode="last-k"))


# -- when something goes wrong ------------------------------------------------------------------------


def test_what_memory_does_not_hold_is_done_in_halves_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = replace(OPTIONS, steps=2, mode="full")
    whole = optimise(generator(), [Channel(0), Channel(2)], short)
    monkeypatch.setattr(generator(), "holds", 3)
    with pytest.warns(FewerRows, match=r"^memory did not hold 8 rows with a gradient: 4 now"):
        halves = optimise(generator(), [Channel(0), Channel(2)], short)
    for one, other in zip(whole, halves, strict=True):
        torch.testing.assert_close(one.soft, other.soft, atol=2e-3, rtol=0)
        assert one.best == pytest.approx(other.best, abs=1e-3)
    monkeypatch.setattr(generator(), "holds", 0)
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(FewerRows):
        optimise(generator(), [Channel(0)], short)


def test_a_loss_that_is_no_number_is_passed_over_and_hurts_no_other() -> None:
    one = replace(OPTIONS, restarts=1, steps=4, mode="full")
    broken = Channel(0, (float("nan"),) * 4, [])  # both rows of the first two steps
    hurt, other = optimise(generator(), [broken, Channel(2)], one)
    (alone,) = optimise(generator(), [Channel(2)], one)
    assert len(hurt.curve) == 2
    assert hurt.soft.isfinite().all()
    assert len(other.curve) == 4
    torch.testing.assert_close(other.soft, alone.soft, atol=2e-3, rtol=0)


def test_losses_that_stay_no_number_stop_the_run() -> None:
    broken = Channel(0, (float("nan"),) * 100, [])
    with pytest.raises(InputError, match=r"^loss of 'colour 0' was no number in 3 steps in a row; check the"):
        optimise(generator(), [broken, Channel(2)], replace(OPTIONS, steps=9))


def test_a_prompt_without_improvement_leaves_the_batch() -> None:
    told: list[Step] = []
    flat = Channel(0, (0.0,) * 100, [])
    options = replace(OPTIONS, restarts=1, steps=8, patience=2, pool=2)
    first, second = optimise(generator(), [flat, Channel(2)], options, tell=told.append)
    assert (first.stopped, first.iterations) == ("patience", 3)
    assert second.iterations > 3
    assert [s.active for s in told[:4]] == [2, 2, 2, 1]


# -- its parts ----------------------------------------------------------------------------------------


def test_held_out_seeds_are_never_those_of_an_optimisation() -> None:
    for seed in range(5):
        used, kept = optimisation_seeds(1000, seed), held_out_seeds(1000, seed)
        assert len(set(used)) == len(set(kept)) == 1000
        assert all(s % 2 == 0 for s in used)
        assert all(s % 2 == 1 for s in kept)
    assert held_out_seeds(5, 3) == held_out_seeds(5, 3)
    assert held_out_seeds(5, 3) != held_out_seeds(5, 4)


def test_the_least_loss_over_a_whole_pool_is_kept() -> None:
    soft = torch.zeros(1, 1)
    prompt = Prompt(0, 0, soft, None, (soft, None), (soft.clone(), None))
    for i, loss in enumerate([5.0, 1.0, 2.0, 1.0, 9.0, 0.5, 9.0]):
        soft.fill_(i)
        prompt.heard(loss, window=2, patience=3)
        if prompt.stopped:
            break
    assert (prompt.best, prompt.kept[0].item()) == (1.5, 2.0)  # of steps 1 and 2; no lower one after
    assert (prompt.stopped, prompt.waited, len(prompt.curve)) == ("patience", 3, 6)


def test_what_steps_only_spoil_is_given_back_as_it_set_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = generator(), replace(OPTIONS, pool=4 * OPTIONS.seeds)
    pool = optimisation_seeds(asked.pool, asked.seed)
    begun = started(model, [Channel(0)], asked, Norms.of(model), pool, Gallery())
    down = Adam._direction
    monkeypatch.setattr(Adam, "_direction", lambda *of: -down(*of))  # uphill
    for optimum, start in zip(optimise(model, [Channel(0)], asked), begun, strict=True):
        assert torch.equal(optimum.soft, start.soft.detach())
        assert optimum.best == pytest.approx(losses(optimum.soft, Channel(0), pool), abs=1e-5)


def test_the_first_view_is_the_picture_and_the_others_crops_of_it() -> None:
    ramp = torch.linspace(0, 1, 16).expand(2, 3, 16, 16)
    options = replace(OPTIONS, cutouts=3, smallest=0.5, noise=0.0)
    seen = views(ramp, options, [(0, 0), (0, 1)])
    assert seen.shape == (2, 4, 3, 16, 16)
    assert torch.equal(seen[:, 0], ramp)
    spread = seen[:, 1:].amax((2, 3, 4)) - seen[:, 1:].amin((2, 3, 4))
    assert ((spread >= 0.4) & (spread < 1)).all()  # a crop of half the side shows half of the ramp
    assert seen.min() >= 0
    assert seen.max() <= 1
    torch.testing.assert_close(views(ramp[1:], options, [(0, 1)]), seen[1:])
    assert not torch.allclose(seen[0], seen[1])
    assert torch.equal(views(ramp, replace(options, cutouts=0), [(0,), (1,)]), ramp[:, None])


def test_noise_is_as_strong_as_said() -> None:
    grey = torch.full((4, 3, 32, 32), 0.5)
    seen = views(grey, replace(OPTIONS, cutouts=2, noise=0.1), [(i,) for i in range(4)])
    assert (seen[:, 1:] - 0.5).std().item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(seen[:, 0], grey)


def test_keys_name_generators() -> None:
    draws = {
        torch.rand(1, generator=generator_of(*key)).item() for key in [(0, 1), (1, 0), (0, 1, 2), (0, 1)]
    }
    assert len(draws) == 3


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (dict(tokens=0), "tokens is 0; it is at least 1"),
        (dict(restarts=0), "restarts is 0; it is at least 1"),
        (dict(mode="half"), "mode 'half' is unknown; choose detached, last-k, full"),
        (dict(rate=0), "rate is above 0"),
        (dict(anneal="maybe"), "anneal is 'maybe'; it is true or false"),
        (dict(seeds=3, pool=8), "pool 8 is no multiple of seeds 3; make it one"),
        (dict(word=" "), "word is empty"),
    ],
)
def test_bad_options_are_refused(bad: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=rf"^{says}"):
        SynthesisOptions(**bad)
