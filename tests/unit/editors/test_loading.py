"""From spec strings to editors: what is found, what is refused, and what the errors say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from diffexplain.editors import Edit, EditorShape, Term, editor_shape, load_editor
from diffexplain.editors.ledits import TURBO, LeditsOptions
from diffexplain.errors import EditorError
from tests.tiny import tiny_pipeline, tiny_pipeline_folder, tiny_xl_pipeline

SIZE = 16
HAT = Term("a toy with a hat")


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
    assert settings["threshold"] == LeditsOptions().threshold


def test_an_editor_in_hand_passes_through(folder: Path):
    mine = load_editor(folder)
    assert load_editor(mine) is mine
    assert editor_shape(mine).size == 32


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
    folder = state({"options": {"steps": 7, "skip": 0.3}, "judge": "clip:here", "segmenter": "world:avatars"})
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
    steps = LeditsOptions().steps
    assert shape == EditorShape("somebody/something", None, steps, 0.0, shape.default_judge, None)
    assert editor_shape("turbo:somebody/something").steps == TURBO.steps


# --- families and methods -----------------------------------------------------------------------------


def edits(folder: Path | str, **options: Any) -> tuple[dict[str, Any], torch.Tensor]:
    """What a spec's editor says of itself, and how far its edit is from the reconstruction."""
    found = load_editor(folder, rows=2, **options)
    inversion = found.invert(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), [1])
    made = found.edit(inversion, [Edit(0, (HAT,))]) - found.reconstruct(inversion)
    return found.settings(), made.abs().max()


def test_the_bundled_editors_have_few_steps():
    for name in ("pocket", "pocket-turbo"):
        assert editor_shape(name).steps <= 5
        assert editor_shape(name).size == 64


def test_xl_is_edited_with_both_its_text_encoders(tmp_path: Path):
    tiny_xl_pipeline(size=SIZE).save_pretrained(tmp_path)
    settings, moved = edits(tmp_path, steps=3)
    assert settings["mask"] == "intersection"
    assert float(moved) > 0.01


@pytest.mark.parametrize("spec", ["turbo:{}", "ledits:{}"])
def test_the_method_can_be_chosen(spec: str, tmp_path: Path):
    folder = tiny_pipeline_folder(tmp_path / "tiny")
    settings, _ = edits(spec.format(folder))
    assert settings["steps"] == (TURBO.steps if spec.startswith("turbo") else LeditsOptions().steps)


def test_a_distilled_model_is_edited_in_few_steps(tmp_path: Path):
    from diffusers import EulerDiscreteScheduler, LCMScheduler

    for name, scheduler in (
        ("lcm", LCMScheduler),
        ("sd-turbo", EulerDiscreteScheduler),
    ):
        parts = tiny_pipeline(size=SIZE)
        parts.scheduler = scheduler.from_config(parts.scheduler.config, timestep_spacing="trailing")
        parts.save_pretrained(tmp_path / name)
        settings, moved = edits(tmp_path / name)
        assert (settings["steps"], settings["shift"]) == (TURBO.steps, TURBO.shift)
        assert float(moved) > 0.01


def test_the_file_may_state_the_method(state: State):
    folder = state({"method": "turbo", "options": {"steps": 3}})
    settings = load_editor(folder).settings()
    assert (settings["steps"], settings["order"], settings["shift"]) == (3, TURBO.order, TURBO.shift)
    with pytest.raises(EditorError) as error:
        load_editor(state({"method": "magic"}))
    assert "magic" in one_line(error)


def test_a_lora_is_fused_into_the_model(tmp_path: Path):
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    folder = tiny_pipeline_folder(tmp_path / "tiny")
    parts = tiny_pipeline(size=SIZE)
    torch.manual_seed(0)
    parts.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"))
    for name, weight in parts.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    layers = get_peft_model_state_dict(parts.unet)
    StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", unet_lora_layers=layers)
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    starts = []
    for spec in (f"turbo:{folder}", f"turbo:{folder}+{tmp_path / 'lora'}"):
        found = load_editor(spec, rows=2)
        starts.append(found.invert(images, [1])["residuals"])
        assert found.name == spec
    assert float((starts[0] - starts[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("channels", [8, 9])
def test_a_unet_with_other_inputs_is_refused(channels: int, tmp_path: Path):
    tiny_pipeline(size=SIZE, in_channels=channels).save_pretrained(tmp_path)
    with pytest.raises(EditorError) as error:
        load_editor(tmp_path)
    assert f"{channels} input channels" in one_line(error)


def test_a_method_that_does_not_fit_the_model_is_refused(tmp_path: Path):
    folder = tiny_pipeline_folder(tmp_path / "tiny")
    with pytest.raises(EditorError) as error:
        load_editor(f"flow:{folder}")
    assert "which flow cannot edit with" in one_line(error)
    assert "XL" in str(error.value)


# --- the hub -----------------------------------------------------------------------------------------


#: what the hub answers about a model of this name, and what is then said
REFUSALS = {
    "gated": ((403, "GatedRepo"), "do that at https://huggingface.co/some/gated, then run `hf auth login`"),
    "missing": ((404, "RepoNotFound"), "the hub has no some/missing for you"),
    "broken": ((500, ""), "hf download some/broken"),
}  # fmt: skip


@pytest.fixture
def hub() -> Iterator[str]:
    """A hub on loopback that refuses everything, each model in its own way."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, code = next(answer for name, (answer, _) in REFUSALS.items() if name in self.path)
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "refused")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


PROGRAM = """
import sys
from diffexplain.editors import load_editor
from diffexplain.errors import EditorError
for name in sys.argv[1:]:
    try:
        load_editor(f"some/{name}")
    except EditorError as error:
        print("said:", error)
"""


def test_a_model_that_is_not_to_be_had_says_how_to_get_it(hub: str, tmp_path: Path):
    environment = {
        **{k: v for k, v in os.environ.items() if "proxy" not in k.lower() and k != "HF_HUB_OFFLINE"},
        "HF_ENDPOINT": hub,
        "HF_HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *REFUSALS], capture_output=True, text=True, env=environment
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("said:")]
    assert len(said) == len(REFUSALS), done.stderr
    for line, (_, cure) in zip(said, REFUSALS.values(), strict=True):
        assert cure in line
