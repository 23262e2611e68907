"""What a run survives, in short: `python -m benchmarks.faults` does the same by full force."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import faults
from benchmarks.ground import Ground, made
from diffexplain.classifiers import load_classifier
from diffexplain.cli.console import printable
from diffexplain.editors import load_editor
from diffexplain.errors import ClassifierError, EditorError

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return made(tmp_path_factory.mktemp("ground"))


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_nothing(ground: Ground) -> None:
    found = faults.kills(ground, 3)
    assert found["kills"] >= 3
    assert found["results_equal"]
    assert found["rows_lost"] == 0
    assert 0 <= found["batches_repeated_max"] <= 1


@pytest.mark.parametrize("fault", faults.CASES, ids=lambda case: case.__name__)
def test_a_run_survives(ground: Ground, fault: Callable[[Ground], str]) -> None:
    assert fault(ground) == ""


def test_memory_does_not_grow_with_the_edits(ground: Ground) -> None:
    assert faults.long_run(ground, 500) <= 0.05


def test_no_visitor_of_fifty_is_lost(tmp_path: Path) -> None:
    assert faults.visitors(tmp_path / "web", faults.VISITORS) == 0


# -- hostile files that no other test holds --------------------------------------------------------------


class Bomb:
    """What a pickle can do to who opens it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.fixture
def bomb(tmp_path: Path) -> Iterator[Path]:
    """A pickle that leaves a mark when it is opened; it may not."""
    mark, file = tmp_path / "mark", tmp_path / "net.pt"
    file.write_bytes(pickle.dumps({"weight": Bomb(mark)}))
    pickle.loads(file.read_bytes())
    assert mark.exists()
    mark.unlink()
    yield file
    assert not mark.exists()


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "safetensors"])
@pytest.mark.parametrize("source", ["timm:test_resnet", "torchvision:resnet18"])
def test_a_pickle_given_as_a_checkpoint_is_refused(bomb: Path, source: str, suffix: str) -> None:
    file = bomb.with_suffix(f".{suffix}")
    if file != bomb:
        shutil.copyfile(bomb, file)
    with pytest.raises(ClassifierError) as caught:
        load_classifier(f"{source}@{file}", labels="a,b")
    assert str(file) in str(caught.value)


def test_a_pickle_in_an_editor_folder_is_refused(bomb: Path, ground: Ground, tmp_path: Path) -> None:
    folder = tmp_path / "editor"
    shutil.copytree(ground.folder / "editor", folder)
    for file in folder.rglob("*.safetensors"):
        shutil.copyfile(bomb, file.with_suffix(".bin"))
        file.unlink()
    with pytest.raises(EditorError):
        load_editor(str(folder))


HOSTILE = "\x1b]0;owned\x07\x1b[2Jred"


def test_escape_sequences_and_html_in_labels_reach_neither_terminal_nor_report(
    ground: Ground, tmp_path: Path
) -> None:
    label = f"<img src=x onerror=alert(1)>{HOSTILE}"
    (ground.folder / "hostile.py").write_text(
        "def score(images):\n    return 60 * images.mean((1, 2, 3)) - 30\n\n\n"
        f"score.labels = ('dark', {label!r})\n"
    )
    asked = {"classifier": "hostile:score", "budget": 8}
    code, said = ground.run(ground.words(tmp_path / "run", **asked))  # which asks for "bright"
    assert code == 2
    assert "red" in said
    assert "\x1b" not in said
    code, said = ground.run(ground.words(tmp_path / "run", **asked, target=label))
    assert code == 0, said
    shown = (ground.folder / "shown").read_text()
    assert "red" in shown
    assert "\x1b" not in shown + said
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "&lt;img src=x onerror" in page
    assert "<img src=x onerror" not in page
    assert "\x1b" not in page
    assert printable(HOSTILE) == "�]0;owned��[2Jred"
