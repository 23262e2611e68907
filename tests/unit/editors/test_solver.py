"""The solver against diffusers' own, and against DDPM's posterior."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from diffexplain.editors.solver import Solver
from tests.tiny import NOISE


def scheduler(prediction: str = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(**NOISE, prediction_type=prediction, clip_sample=False)


def solver(prediction: str = "epsilon", **options: object) -> Solver:
    chosen = dict(steps=8, skip=0.25, order=2, spacing="leading", shift=0) | options
    return Solver.of(scheduler(prediction), **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [2, 8, 30])
@pytest.mark.parametrize("order", [1, 2])
def test_it_steps_as_diffusers_does(prediction: str, steps: int, order: int):
    ours = solver(prediction, steps=steps, order=order)
    theirs = DPMSolverMultistepScheduler.from_config(
        scheduler(prediction).config,
        algorithm_type="sde-dpmsolver++",
        solver_order=order,
        final_sigmas_type="sigma_min",
        lower_order_final=False,
        timestep_spacing="leading",
    )
    theirs.set_timesteps(int(steps * 1.25))
    assert tuple(theirs.timesteps[-steps:].tolist()) == ours.times
    x = y = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    before = None
    for i, time in enumerate(ours.times):
        answer = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i + 1))
        clean = ours.clean(x, answer, i)
        x, before = ours.mean(x, clean, before, i), clean
        y = theirs.step(answer, torch.tensor(time), y, variance_noise=torch.zeros_like(y)).prev_sample
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_its_first_order_is_the_posterior_of_ddpm():
    ours = solver(order=1)
    bars = scheduler().alphas_cumprod.double()
    x, clean = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    for i, t in enumerate(ours.times):  # Ho et al. 2020, eq. 7, between any two times
        before = bars[ours.times[i + 1]] if i + 1 < len(ours) else bars[0]
        alpha = bars[t] / before
        mean = (before.sqrt() * (1 - alpha) * clean + alpha.sqrt() * (1 - before) * x) / (1 - bars[t])
        torch.testing.assert_close(ours.mean(x, clean, None, i), mean)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_clean_latent_is_what_was_noised(prediction: str):
    ours = solver(prediction)
    x0, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for i in range(len(ours)):
        alpha, sigma = float(ours.alpha[i]), float(ours.sigma[i])
        answer = noise if prediction == "epsilon" else alpha * noise - sigma * x0
        torch.testing.assert_close(ours.clean(ours.noised(x0, noise, i), answer, i), x0, rtol=1e-3, atol=1e-3)


def test_trailing_times_are_those_of_distilled_models():
    assert solver(steps=4, skip=0.0, spacing="trailing").times == (999, 749, 499, 249)
    assert solver(steps=1, skip=0.0, spacing="trailing").times == (999,)


def test_a_shift_adds_the_noise_of_an_earlier_time_and_tells_the_model_the_later():
    plain, shifted = (solver(steps=4, skip=0.0, spacing="trailing", shift=s) for s in (0, 200))
    assert plain.times == shifted.times
    bars = scheduler().alphas_cumprod.double()
    for i, time in enumerate(plain.times):
        torch.testing.assert_close(shifted.noise_alpha[i] ** 2, bars[time - 200])
        torch.testing.assert_close(shifted.alpha[i] ** 2, bars[time])
    assert float(shifted.noise_sigma[-1]) == float(plain.sigma[-1])  # nothing is earlier than the end


def test_a_start_from_pure_noise_forgets_it():
    noise = scheduler()
    noise.alphas_cumprod[-1] = 0.0
    ours = Solver.of(noise, steps=1, skip=0.0, order=1, spacing="trailing", shift=0)
    x0 = torch.ones(1, 1, 2, 2)
    torch.testing.assert_close(ours.mean(torch.full_like(x0, 5.0), x0, None, 0), float(ours.alpha[1]) * x0)
