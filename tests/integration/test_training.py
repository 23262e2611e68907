"""Making the world, as small as can be: every part leaves a folder that loads, nothing is done twice."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from diffexplain.classifiers import checked_logits, load_classifier
from diffexplain.judges import load_segmenter
from diffexplain.worlds import avatars as world
from training import autoencoder, calibrate, make_world, turbo, unet
from training.classifiers import PLANS
from training.loop import Recipe, fit

SIZE = 32


def arguments(folder: Path) -> list[str]:
    options = {"pictures": 128, "minutes": 0.03, "size": SIZE, "threads": 1, "device": "cpu"}
    options |= {"work": folder / "work", "out": folder / "pocket"}
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*.safetensors"))
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    command = [sys.executable, "-m", "training.make_world", *arguments(folder)]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for part in make_world.RECIPES:
        assert f"{part}: done in" in done.stdout
    return folder


@torch.no_grad()
@pytest.mark.slow
def test_every_part_leaves_a_folder_that_loads(made: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from transformers import AutoTokenizer, CLIPModel

    pictures = world.render(world.sample(4, seed=0), SIZE)
    for name, plan in PLANS.items():
        model = load_classifier(f"timm:{made / 'pocket' / 'classifiers' / name}")
        assert model.labels == plan.labels
        assert checked_logits(model, pictures).shape[0] == 4
    oracle = load_classifier(f"timm:{made / 'pocket' / 'oracle'}")
    assert checked_logits(oracle, pictures).shape == (4, len(oracle.labels))

    clip = CLIPModel.from_pretrained(made / "pocket" / "clip", dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(made / "pocket" / "clip")(
        ["a person with a hat"], return_tensors="pt"
    )
    assert clip(**tokens, pixel_values=pictures).logits_per_image.shape == (4, 1)

    segmenter = load_segmenter(f"clipseg:{made / 'pocket' / 'clipseg'}")
    assert segmenter is not None
    assert segmenter.regions(pictures, ["any"] * 4, ["a person with a hat"] * 4).shape == (4, SIZE, SIZE)
    for part in ("editor", "turbo"):
        pipeline = StableDiffusionPipeline.from_pretrained(made / "pocket" / part, dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        drawn = pipeline("a person with a hat", num_inference_steps=1, output_type="np").images
        assert drawn.shape == (1, SIZE, SIZE, 3)
    assert {f.suffix for f in (made / "pocket").rglob("*") if f.is_file()} <= {
        ".safetensors",
        ".json",
        ".txt",
    }


@pytest.mark.slow
def test_no_folder_says_where_it_was_made(made: Path) -> None:
    for file in (made / "pocket").rglob("*.json"):
        assert str(made) not in file.read_text("utf-8"), file


@pytest.mark.slow
def test_a_second_call_trains_nothing_again(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(made / "pocket")
    checkpoints = {f: f.stat().st_mtime_ns for f in (made / "work").glob("*.ckpt.pt")}
    assert len(checkpoints) == len(make_world.RECIPES) - 1 + len(PLANS)
    monkeypatch.setattr(sys, "argv", ["make_world", *arguments(made)])
    threads = torch.get_num_threads()
    try:
        make_world.main()
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().out
    assert "steps/s" not in said
    assert all(f"{part}: done in" in said for part in make_world.RECIPES)
    assert {f: f.stat().st_mtime_ns for f in checkpoints} == checkpoints
    assert digests(made / "pocket") == before


@pytest.mark.parametrize("wrong", ["nothing", "clip,nothing"])
def test_an_unknown_part_names_the_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_world", "--parts", wrong, *arguments(tmp_path)])
    threads = torch.get_num_threads()
    try:
        with pytest.raises(SystemExit) as caught:
            make_world.main()
    finally:
        torch.set_num_threads(threads)
    assert caught.value.code == 2
    assert f"no part nothing; parts are {', '.join(make_world.RECIPES)}" in capsys.readouterr().err


def test_a_training_that_was_cut_short_goes_on_where_it_was(tmp_path: Path) -> None:
    steps: list[int] = []

    def train(seconds: float) -> torch.Tensor:
        steps.clear()
        model = nn.Linear(2, 1)

        def step(i: int) -> torch.Tensor:
            steps.append(i)
            return model(torch.ones(4, 2)).square().mean()

        return fit("line", model, step, Recipe(seconds / 60, 1e-2), tmp_path).weight

    first = train(0.05)
    done = len(steps)
    assert steps == [*range(done)] != []
    assert torch.equal(train(0.05), first)
    assert steps == []  # a finished training is not run again
    spent = torch.load(tmp_path / "line.ckpt.pt", weights_only=True)["spent"]
    longer = train(spent + 0.2)
    assert steps == [*range(done, done + len(steps))] != []
    assert not torch.equal(longer, first)


@pytest.mark.slow
def test_the_clipseg_reads_as_the_clip_does_and_has_learned_to_look(made: Path) -> None:
    clip, whole = (load_file(made / "pocket" / p / "model.safetensors") for p in ("clip", "clipseg"))
    shared = [k for k in clip if f"clip.{k}" in whole]
    looks = [k for k in shared if k.startswith("vision_model.")]
    reads = [k for k in shared if k not in looks]
    assert min(len(looks), len(reads)) > 20
    assert all(torch.equal(clip[k], whole[f"clip.{k}"]) for k in reads)
    assert any(not torch.equal(clip[k], whole[f"clip.{k}"]) for k in looks)


@pytest.mark.slow
def test_the_decoder_is_trained_without_moving_the_latents(made: Path) -> None:
    before = torch.load(made / "work" / "autoencoder.ckpt.pt", weights_only=True)["average"]
    after = torch.load(made / "work" / "decoder.ckpt.pt", weights_only=True)["average"]
    encoder = [k for k in before if k.startswith("encoder.")]
    assert all(torch.equal(before[k].half(), after[k].half()) for k in encoder)
    assert any(not torch.equal(before[k].half(), after[k].half()) for k in before if k.startswith("decoder."))


def test_every_attribute_weighs_the_same_in_the_autoencoder() -> None:
    weight = autoencoder.weights(64)
    assert float(weight.mean()) == pytest.approx(1)
    small, large = (
        world.region(path, 64) for path in ("expression/eyebrows/angry", "background/colour/blue")
    )
    assert float(weight[small].mean()) > 5 * float(weight[large & ~small].mean()) > 0


@given(st.integers(0, 3), st.integers(0, 2**31))
def test_the_distilled_step_arrives_where_the_teacher_does(leg: int, seed: int) -> None:
    signals = unet.scheduler().alphas_cumprod.double()
    route = turbo.times(len(signals))[leg]
    first = signals[route[0]]
    last = signals[route[-1]] if route[-1] else torch.ones((), dtype=torch.float64)
    x, arrived = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(seed)).double()
    v = turbo.wanted_v(x, arrived, first, last)
    torch.testing.assert_close(turbo.ddim(x, v, first, last), arrived)


def test_the_distilled_times_are_the_editors() -> None:
    routes = turbo.times(1000)
    assert [r[0] for r in routes] == [999, 749, 499, 249]
    assert [r[-1] for r in routes] == [749, 499, 249, 0]
    assert all(len(r) == turbo.SUBSTEPS + 1 and sorted(set(r), reverse=True) == r for r in routes)


def test_a_ddim_step_with_the_true_v_stays_on_the_path() -> None:
    noise = unet.scheduler()
    x0, epsilon = torch.randn(2, 3, 4, 5, 5)
    t, s = torch.tensor([700] * 3), torch.tensor([300] * 3)
    v = noise.get_velocity(x0, epsilon, t)
    a, b = noise.alphas_cumprod[700], noise.alphas_cumprod[300]
    arrived = turbo.ddim(noise.add_noise(x0, epsilon, t), v, a, b)
    torch.testing.assert_close(arrived, noise.add_noise(x0, epsilon, s), rtol=1e-4, atol=1e-4)


def test_captions_are_empty_single_or_free() -> None:
    rng = np.random.default_rng(0)
    avatar = world.sample(1, 3)[0]
    said = [unet.said(avatar, rng) for _ in range(2000)]
    assert np.mean([text == "" for text in said]) == pytest.approx(0.1, abs=0.03)
    assert np.mean([text.count(",") == 0 and text != "" for text in said]) > 0.3
    whole = world.caption(avatar).removeprefix("a person with ").split(", ")
    known = {*whole, *world.GENERAL.values()}
    assert {c for text in said if text for c in text.removeprefix("a person with ").split(", ")} <= known


def test_the_fewest_steps_within_a_standard_error_are_chosen() -> None:
    def tried(clean: float, off: float, steps: int) -> calibrate.Tried:
        return calibrate.Tried({"steps": steps}, 1.0, 1.0, clean, off)

    slow, quick, poor = tried(0.92, 0.03, 10), tried(0.91, 0.03, 5), tried(0.80, 0.02, 4)
    assert calibrate.choose([slow, quick, poor], 256) is quick.options
    assert calibrate.choose([slow, quick, poor], 100_000) is slow.options
    nearer = tried(0.905, 0.02, 5)  # as few steps
    assert calibrate.choose([slow, quick, nearer], 256) is nearer.options
