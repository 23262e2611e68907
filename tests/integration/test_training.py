"""Making the world, as small as can be: every part leaves a folder that loads, nothing is done twice."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from diffexplain.classifiers import checked_logits, load_classifier
from diffexplain.worlds import avatars as world
from training import make_world
from training.classifiers import PLANS
from training.loop import Recipe, fit

SIZE = 32


def arguments(folder: Path) -> list[str]:
    options = {"pictures": 256, "minutes": 0.2, "size": SIZE, "threads": 1, "device": "cpu"}
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

    pipeline = StableDiffusionPipeline.from_pretrained(made / "pocket" / "editor", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline("a person with a hat", num_inference_steps=1, output_type="np").images
    assert drawn.shape == (1, SIZE, SIZE, 3)
    assert {f.suffix for f in (made / "pocket").rglob("*") if f.is_file()} <= {
        ".safetensors",
        ".json",
        ".txt",
    }


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
