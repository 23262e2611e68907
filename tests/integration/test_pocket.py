"""The bundled models: standard folders that load, read the world as recorded, and stay small and safe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from diffexplain import pocket
from diffexplain.classifiers import checked_logits, load_classifier
from diffexplain.classifiers.networks import from_timm_folder
from diffexplain.editors import load_editor
from diffexplain.editors.loading import editor_shape
from diffexplain.judges import load_segmenter
from diffexplain.worlds import avatars as world
from training.classifiers import PLANS, labelled

FRESH = 2_600_000  # seeds from here on: never trained, calibrated or measured on
FOLDERS = ["clip", "clipseg", "editor", "turbo", "oracle", *(f"classifiers/{name}" for name in PLANS)]


def test_every_planted_classifier_is_bundled_and_half_are_held_out() -> None:
    assert pocket.classifiers() == (*sorted(PLANS), "null")
    configs = [json.loads((pocket.classifier_folder(n) / "config.json").read_text("utf-8")) for n in PLANS]
    assert sum(config["held_out"] for config in configs) * 2 == len(PLANS) >= 8


@pytest.mark.parametrize("name", PLANS)
def test_a_bundled_classifier_reads_fresh_avatars_as_recorded(name: str) -> None:
    model = load_classifier(f"pocket:{name}")
    config = json.loads((pocket.classifier_folder(name) / "config.json").read_text("utf-8"))
    assert model.labels == PLANS[name].labels
    assert config["target"] in model.labels
    people, y = labelled(name, 400, FRESH)
    z = checked_logits(model, world.render(people))
    said = (z[:, 0] > 0).long() if z.shape[1] == 1 else z.argmax(1)
    accuracy = np.mean(said.numpy() == y)
    assert accuracy > config["held_out_accuracy"] - 0.05
    assert accuracy > 1 / len(model.labels) + 0.2


def test_the_null_is_among_the_bundled() -> None:
    assert load_classifier("pocket:null").labels == ("tails", "heads")


def test_the_oracle_reads_every_attribute() -> None:
    model = from_timm_folder(pocket.ROOT / "oracle", name="oracle", device=torch.device("cpu"))
    assert model.labels == tuple(f"{slot}:{v}" for slot in world.Avatar._fields for v in world.values(slot))
    people = world.sample(200, FRESH)
    z = checked_logits(model, world.render(people))
    accuracy = {}
    for slot in world.Avatar._fields:
        columns = [i for i, label in enumerate(model.labels) if label.startswith(f"{slot}:")]
        read = np.array(world.values(slot))[z[:, columns].argmax(1).numpy()]
        right = [
            r == getattr(a, slot) for r, a in zip(read, people, strict=True) if world.applicable(a, slot)
        ]
        accuracy[slot] = np.mean(right)
    assert np.mean(list(accuracy.values())) >= 0.97, accuracy


@torch.no_grad()
def test_the_clip_tells_what_is_in_a_picture() -> None:
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    folder = pocket.ROOT / "clip"
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), CLIPImageProcessor.from_pretrained(folder)
    people = world.sample(60, FRESH + 1)
    texts = [world.prompt("headwear/hijab"), "a person with no headwear"]
    people = [a._replace(headwear="hijab" if i % 2 else world.NONE) for i, a in enumerate(people)]
    asked = tokenizer(texts, padding=True, return_tensors="pt")
    seen = processor(list(world.render_bytes(people)), return_tensors="pt")
    logits = model(**asked, pixel_values=seen["pixel_values"]).logits_per_image  # (60, 2)
    assert np.mean([int(z[0] > z[1]) == i % 2 for i, z in enumerate(logits)]) >= 0.9


@torch.no_grad()
@pytest.mark.parametrize("part", ["editor", "turbo"])
def test_an_editor_is_a_pipeline_that_draws(part: str) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        pocket.ROOT / part, dtype=torch.float32, safety_checker=None, use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        "a person with a hat", num_inference_steps=2, guidance_scale=1, output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert drawn.shape == (1, 64, 64, 3)
    assert np.isfinite(drawn).all()
    assert drawn.std() > 0.02


@pytest.mark.parametrize("name", FOLDERS)
def test_a_model_folder_has_a_card_and_fp16_safetensors_alone(name: str) -> None:
    folder = pocket.ROOT / name
    card = (folder / "README.md").read_text("utf-8")
    for heading in ("# ", "## Data and licence", "## Recipe", "## Measured"):
        assert heading in card
    weights = list(folder.rglob("*.safetensors"))
    assert weights
    for file in weights:
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_tensor(key).dtype for key in tensors.keys()}  # noqa: SIM118
        assert kinds - {torch.int64} == {torch.float16}, file


def test_no_file_can_run_code_and_all_are_small() -> None:
    files = [f for f in pocket.ROOT.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".md", ".py", ".txt", ".yaml"}
    assert [f for f in files if f.suffix == ".py"] == [Path(pocket.__file__)]
    assert sum(f.stat().st_size for f in files) < 60e6


def test_the_segmenter_finds_what_is_there_and_nothing_that_is_not() -> None:
    people = [a._replace(headwear="hat", facewear=world.NONE) for a in world.sample(12, FRESH + 2)]
    segmenter = load_segmenter("pocket")
    assert segmenter is not None
    paths = ["headwear/hat", "headwear/hijab", "facewear/glasses/round"]
    maps = {
        path: segmenter.regions(world.render(people), [path] * 12, [world.prompt(path)] * 12)
        for path in paths
    }
    true = torch.stack([world.mask(a, "headwear") for a in people])
    assert float((maps[paths[0]] & true).sum() / (maps[paths[0]] | true).sum()) > 0.6
    for absent in paths[1:]:
        assert float(maps[absent].float().mean()) < 0.02


@pytest.mark.parametrize("name", ["pocket", "pocket-turbo"])
def test_an_editor_without_edits_returns_the_picture(name: str) -> None:
    people = world.sample(4, FRESH + 3)
    editor = load_editor(name)
    inversion = editor.invert(world.render(people), range(4))
    assert float((editor.reconstruct(inversion) - world.render(people)).abs().mean()) < 0.03


def test_the_few_step_editor_takes_at_most_four_steps() -> None:
    assert editor_shape("pocket-turbo").steps <= 4 < editor_shape("pocket").steps
