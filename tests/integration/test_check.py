"""The doctor finds each usual fault in a classifier that has it, and none in a sound one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import diffexplain.api as api
from diffexplain.api.checking import Checkup
from diffexplain.classifiers import load_classifier
from diffexplain.classifiers.modules import CallableClassifier, ModuleClassifier
from diffexplain.classifiers.preprocessing import Preprocessing
from diffexplain.cli import app
from diffexplain.errors import ClassifierError, InputError, RunError
from diffexplain.images import encode_png
from diffexplain.worlds import avatars

SOUND = ("awarded", "bearded", "hired", "rebel")  # the others are kept for final figures


@pytest.fixture(scope="module")
def portraits() -> torch.Tensor:
    return avatars.render(avatars.sample(12, seed=5), 64)


def network(name: str = "bearded") -> nn.Module:
    """A bundled network itself, which takes pictures minus 0.5, over 0.5."""
    made: Any = load_classifier(f"pocket:{name}")
    return made._module


def examined(
    function: Any, portraits: torch.Tensor, labels: tuple[str, ...] = ("no", "yes"), **more: Any
) -> Checkup:
    model = (
        function if hasattr(function, "logits") else CallableClassifier(function, labels, name="mine", **more)
    )
    return api.check(model, portraits, size=64, device="cpu")


def warned(checkup: Checkup) -> set[str]:
    return {finding.name for finding in checkup.warnings}


def three(x: torch.Tensor) -> torch.Tensor:
    return 20 * (x.mean((2, 3)) - 0.6)


LABELS = ("red", "green", "blue")


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_classifier_gets_no_warning(name: str, portraits: torch.Tensor) -> None:
    found = api.check(f"pocket:{name}", portraits, size=64, device="cpu")
    assert not found.warnings
    assert {f.name for f in found.findings} == {
        "range", "determinism", "batches", "gradient", "normalisation", "channels", "softmax", "speed",
    }  # fmt: skip
    reaches = next(f.says for f in found.findings if f.name == "gradient")
    assert int(re.findall(r"(\d+)%", reaches)[0]) > 90
    assert len(found.answers) == 12
    assert all(abs(sum(p for _, p in a.top) - 1) < 1e-6 for a in found.answers)  # of two labels


def test_dropout_left_on(portraits: torch.Tensor) -> None:
    found = examined(lambda x: nn.functional.dropout(three(x), 0.2), portraits, LABELS)
    assert "determinism" in warned(found)
    assert "dropout or other noise is left on" in found.warnings[0].says


def test_training_mode(portraits: torch.Tensor) -> None:
    training = nn.BatchNorm2d(3, momentum=0.0).train()
    found = examined(lambda x: three(training(x).sigmoid()), portraits, LABELS)
    assert warned(found) == {"batches"}
    assert "batch normalisation is in training mode" in found.warnings[0].says
    assert not examined(lambda x: three(training.eval()(x).sigmoid()), portraits, LABELS).warnings


@pytest.mark.parametrize(
    "numbers",
    [{}, {"mean": (0.5,) * 3}, {"scale": 1 / 255, "mean": (0.5,) * 3, "std": (0.5,) * 3}, {"scale": 255.0}],
    ids=["none", "no std", "divided twice", "0 to 255"],
)
def test_wrong_normalisation(numbers: dict[str, Any], portraits: torch.Tensor) -> None:
    wrong = ModuleClassifier(network(), ("no", "yes"), preprocessing=Preprocessing(**numbers))
    found = examined(wrong, portraits)
    assert "normalisation" in warned(found)
    right = ModuleClassifier(network(), ("no", "yes"), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert not examined(right, portraits).warnings


def test_a_black_box_that_divides_once_more(portraits: torch.Tensor) -> None:
    asked = network().eval()
    found = examined(lambda x: asked((x / 255 - 0.5) / 0.5), portraits)
    assert "normalisation" in warned(found)
    assert "divided by 255 once more" in found.warnings[0].says


@pytest.mark.parametrize("name", SOUND)
def test_bgr(name: str, portraits: torch.Tensor) -> None:
    asked = network(name).eval()
    found = examined(lambda x: asked((x.flip(1) - 0.5) / 0.5), portraits)
    assert warned(found) == {"channels"}
    assert "does the network take BGR?" in found.warnings[0].says


@pytest.mark.parametrize(
    ("function", "says", "more"),
    [
        (lambda x: three(x).softmax(1), "are read as logits, so that softmax is applied twice", {}),
        (lambda x: three(x).sigmoid(), "are read as logits", {"head": "sigmoid"}),
        (
            lambda x: three(x).softmax(1).softmax(1),
            "as if softmax had been applied twice",
            {"scores": "probabilities"},
        ),
        (lambda x: three(x).softmax(1).log_softmax(1), "as if softmax had been applied twice", {}),
    ],
)
def test_softmax_twice(
    function: Callable[..., Any], says: str, more: dict[str, Any], portraits: torch.Tensor
) -> None:
    found = examined(function, portraits, LABELS, **more)
    assert "softmax" in warned(found)
    assert says in " ".join(f.says for f in found.warnings)
    sound = examined(lambda x: three(x).softmax(1), portraits, LABELS, scores="probabilities")
    assert not sound.warnings


def test_saturated_probabilities_are_counted(portraits: torch.Tensor) -> None:
    sure = examined(lambda x: (1000 * three(x)).softmax(1), portraits, LABELS, scores="probabilities")
    assert {"range", "note"} <= warned(sure)
    assert "a probability of 1 within a millionth" in sure.warnings[0].says


def test_a_gradient_that_stops(portraits: torch.Tensor) -> None:
    class Cut(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return three(x.detach())

    found = examined(ModuleClassifier(Cut(), LABELS), portraits)
    assert warned(found) == {"gradient"}
    assert "does not reach the pixels" in found.warnings[0].says


def test_a_regression_shows_its_numbers(portraits: torch.Tensor) -> None:
    found = examined(lambda x: 40 + 5 * x.mean((1, 2, 3))[:, None], portraits, ("age",), head="regression")
    assert not found.warnings
    assert 40 < found.answers[0].top[0][1] < 45


@pytest.fixture
def folder(portraits: torch.Tensor, tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for i, picture in enumerate(portraits[:4]):
        (tmp_path / "pictures" / f"<b>{i}.png").write_bytes(encode_png(picture))
    return tmp_path


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["check", *map(str, words)], env={"COLUMNS": "200"})


def test_the_command_writes_a_page_and_a_table(folder: Path) -> None:
    done = run(
        "pocket:hired", "--images", folder / "pictures", "--size", 64, "--out", folder / "a" / "page.html"
    )
    assert done.exit_code == 0
    for word in (
        "pocket:hired: rejected, hired",
        "determinism",
        "gradient",
        "pictures a second",
        "page.html",
    ):
        assert word in done.stdout
    page = (folder / "a" / "page.html").read_text("utf-8")
    assert page.count("data:image/webp;base64,") == 4
    assert "&lt;b&gt;0.png" in page
    assert "<b>" not in page
    assert "http://" not in page
    assert "0 warnings" in page


def test_the_command_takes_labels_and_options(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine.py").write_text("def score(images):\n    return images.mean((2, 3)).softmax(1)\n")
    (folder / "labels.txt").write_text("red\ngreen\nblue\n")
    monkeypatch.chdir(folder)
    flags = ("--images", "pictures", "--size", 64, "--labels", "labels.txt", "--json")
    done = run(
        "mine:score",
        *flags,
        "--classifier-option",
        "scores=probabilities",
        "--classifier-option",
        "head=softmax",
    )
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["labels"] == ["red", "green", "blue"]
    assert Path(found["page"]) == Path("runs/check-mine-score.html")
    assert Path(found["page"]).is_file()
    for wrong, says in [
        (("--classifier-option", "colour=red"), "has no option colour; known are channels, fill, "),
        (("--labels", "a,b"), "returned shape (32, 3) for 32 images; expected (32, 2)"),
        (("--labels", "none.txt"), "labels file 'none.txt' cannot be read"),
        (("--limit", 1), "limit 1: give at least 2 pictures"),
    ]:
        refused = run("mine:score", "--images", "pictures", "--size", 64, *wrong)
        assert refused.exit_code == 2
        assert says in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


def test_what_cannot_be_checked(folder: Path, portraits: torch.Tensor) -> None:
    with pytest.raises(InputError, match="at least 2 pictures"):
        api.check("pocket:hired", portraits[:1], size=64)
    with pytest.raises(ClassifierError, match="returned NaN"):
        examined(lambda x: three(x) * float("nan"), portraits, LABELS)
    (folder / "file").write_text("")
    with pytest.raises(RunError, match=r"page\.html cannot be written"):
        api.check("pocket:hired", portraits, size=64, out=folder / "file" / "page.html")
