"""Bad input gets a one-line error, exit code 2, and loses nothing; a run that was stopped goes on."""

import importlib
import json
import math
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from benchmarks import ground
from diffexplain.cli import app
from diffexplain.editors import editor_shape
from tests.tiny import tiny_clip_folder, tiny_pipeline_folder

pytestmark = pytest.mark.timeout(900)

#: a user's module of classifiers. What goes wrong, and when, is set from outside.
SCORERS = """
import os, resource, time
from itertools import count
from pathlib import Path

calls, healthy, fault = count(), float("inf"), None


def bright(images):
    time.sleep(float(os.environ.get("SLEEP", 0)))
    return 60 * images.mean((1, 2, 3)) - 30


def flaky(images):
    return bright(images) if next(calls) < healthy else fault(images)


def filling(images):
    if next(calls) == int(os.environ.get("FULL_FROM", -1)):
        if os.environ["FILLER"] == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))  # room for the message
        else:
            with Path(os.environ["FILLER"]).open("wb", buffering=0) as filler:
                try:
                    while filler.write(bytes(4096)):
                        pass
                except OSError:
                    pass
    return bright(images)


def colour(images):
    return 60 * images.mean((2, 3))


bright.labels = flaky.labels = filling.labels = ("dark", "bright")
colour.labels = ("red", "green", "blue")
NUMBER = 3
"""


TREE = """
name: blots
domain: blots of paint
prompt: "a blot with {phrase}"
neutral: a blot
concepts:
  - name: shape
    exclusive: true
    absent: no shape
    children: [{name: round}, {name: square}, {name: torn}]
  - name: paint
    children: [{name: thick}, {name: thin}]
"""
HEAD = TREE.partition("concepts:")[0]


@dataclass(frozen=True)
class Home:
    """A user's folder: real tiny models, pictures, a corpus, and a module of classifiers."""

    folder: Path
    editor: Path
    judge: Path
    scorers: ModuleType

    def command(self, classifier: str = "scorers:bright", *flags: str, **options: object) -> list[str]:
        """A command that would work, with options changed or (None) left out."""
        given: dict[str, object] = {
            "images": self.folder / "pictures", "target": "bright", "corpus": self.folder / "tree.yaml",
            "editor": self.editor, "judge": f"clip:{self.judge}", "device": "cpu", "search": "exhaustive",
        }  # fmt: skip
        pairs = ((f"--{name}", str(value)) for name, value in (given | options).items() if value is not None)
        return ["explain", classifier, *chain.from_iterable(pairs), *flags]

    def explain(self, *words: str, **options: object) -> Result:
        """Run the command in this process."""
        return CliRunner().invoke(app, self.command(*words, **options))

    def start(self, *words: str, environment: dict[str, object] | None = None, **options: object) -> Any:
        """Start the command in a process of its own, in the user's folder, with the libraries loaded."""
        more = {name: str(value) for name, value in (environment or {}).items()}
        asked = self.command(*words, **options)
        process = ground.PROCESSES.Process(target=ground.command, args=(asked, str(self.folder), more))
        process.start()
        return process

    def said(self, process: Any) -> str:
        """What a process that has ended said on standard error."""
        return (self.folder / f"said-{process.pid}").read_text()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    editor, judge = folder / "editor", folder / "clip"
    tiny_pipeline_folder(editor, settings={"options": {"steps": 4, "skip": 0.0, "rows": 8}})
    tiny_clip_folder(judge)
    (folder / "scorers.py").write_text(SCORERS)
    (folder / "tree.yaml").write_text(TREE)
    (folder / "pictures").mkdir()
    for i in range(8):
        blot(i).save(folder / "pictures" / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield Home(folder, editor, judge, importlib.import_module("scorers"))
        sys.modules.pop("scorers")


@pytest.fixture(scope="module")
def finished(home: Home) -> Path:
    """An uninterrupted run of the plain command."""
    out = home.folder / "finished"
    done = home.explain("scorers:bright", "--accept-drift", out=out)
    assert done.exit_code == 0, done.output
    return out


def blot(seed: int, size: int = 16) -> Image.Image:
    """A picture of four random colours, large enough to be told apart after resizing."""
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST)


def refused(exit_code: int, stderr: str, *words: str) -> str:
    """Check that a command ended as a user's mistake does; returns the line."""
    assert exit_code == 2, stderr
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("diffexplain: ")
    assert [word for word in words if word not in lines[0]] == [], lines[0]
    return lines[0]


def mistaken(done: Result, *words: str) -> str:
    """`refused`, for a command that ran in this process."""
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert not done.stdout
    return refused(done.exit_code, done.stderr, *words)


def rows(run: Path) -> list[tuple[Any, ...]]:
    """What the store of a run holds."""
    if not (run / "effects.sqlite").exists():
        return []
    with closing(sqlite3.connect(f"file:{run / 'effects.sqlite'}?mode=ro", uri=True)) as database:
        return database.execute("SELECT * FROM effects ORDER BY rowid").fetchall()


def answer(run: Path) -> dict[str, Any]:
    """result.json, but for the time that it took."""
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    assert result["cost"].pop("seconds") > 0
    return result


def files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, but for the lock with its last holder and what reading a store leaves."""
    passing = {"lock", "effects.sqlite-shm", "effects.sqlite-wal"}
    found = [path for path in folder.rglob("*") if path.is_file() and path.name not in passing]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# -- what is asked for does not exist -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classifier", "words"),
    [
        ("pocket:nosuch", ["pocket:nosuch", "null"]),
        ("pocket:null:soon", ["pocket:null:soon", "whole number"]),
        ("nosuch", ["'nosuch'", "package.module:function"]),
        ("nosuch:score", ["nosuch:score"]),
        ("scorers:nosuch", ["scorers:nosuch"]),
        ("scorers:NUMBER", ["scorers:NUMBER", "int"]),
        ("timm:nosuch", ["nosuch"]),
        ("torn:score", ["torn:score", "ZeroDivisionError"]),
        ("mangled:score", ["mangled:score"]),
    ],
)
def test_no_such_classifier(home: Home, tmp_path: Path, classifier: str, words: list[str]) -> None:
    (home.folder / "torn.py").write_text("1 / 0")
    (home.folder / "mangled.py").write_text("def score(:")
    mistaken(home.explain(classifier, target=None, out=tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "brigth"}, ["'brigth'", "did you mean 'bright'", "dark, bright"]),
        ({"classifier": "scorers:colour", "target": None}, ["--target", "red, green, blue"]),
        ({"versus": "brght"}, ["'brght'", "did you mean 'bright'"]),
        ({"versus": "bright"}, ["'bright'", "two different"]),
        ({"corpus": "nosuch"}, ["nosuch", "avatars"]),
        ({"corpus": "."}, ["avatars"]),
        ({"images": "nosuch"}, ["'nosuch'", "does not exist"]),
        ({"editor": "nosuch"}, ["'nosuch'", "pocket"]),
        ({"editor": "./nosuch"}, ["'./nosuch'", "folder"]),
        ({"judge": "nosuch"}, ["'nosuch'", "clip:"]),
        ({"judge": "clip:./nosuch"}, ["clip:./nosuch"]),
        ({"segmenter": "nosuch"}, ["'nosuch'", "world:avatars"]),
        ({"device": "nosuch"}, ["nosuch", "cpu"]),
        ({"search": "nosuch"}, ["'nosuch'", "exhaustive"]),
        ({"direction": "sideways"}, ["sideways", "remove"]),
        ({"beam": 0}, ["beam 0"]),
        ({"seeds": 0}, ["seeds 0"]),
        ({"budget": 0}, ["budget 0"]),
        ({"strength": "nan"}, ["strength nan"]),
        ({"strength": 0}, ["strength 0"]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_no_such_thing(home: Home, tmp_path: Path, options: dict[str, Any], words: list[str]) -> None:
    asked = {"classifier": "scorers:bright", "out": tmp_path / "run", **options}
    mistaken(home.explain(asked.pop("classifier"), **asked), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("unet", None),
        ("model_index.json", None),
        ("diffexplain.json", "{"),
        ("diffexplain.json", "[]"),
        ("diffexplain.json", '{"options": {"stepz": 4}}'),
    ],
)
def test_damaged_editor_folder(home: Home, tmp_path: Path, part: str, text: str | None) -> None:
    broken = tmp_path / "editor"
    broken.mkdir()
    for path in home.editor.iterdir():
        if path.name != part:
            (broken / path.name).symlink_to(path)
    if text is not None:
        (broken / part).write_text(text)
    mistaken(home.explain(editor=broken, out=tmp_path / "run"), str(broken))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "program", [[sys.executable, "-m", "diffexplain"], ["diffexplain"]], ids=["-m", "script"]
)
def test_plain_mistake_in_a_process_of_its_own(home: Home, tmp_path: Path, program: list[str]) -> None:
    """It gets as far as the label, so the module beside the user was found."""
    script = Path(sys.executable).with_name("diffexplain")
    if program == ["diffexplain"]:
        if not script.exists():
            pytest.skip("the script is not installed here")
        program = [str(script)]
    words = home.command(target="brigth", out=tmp_path / "run")
    done = subprocess.run([*program, *words], cwd=home.folder, text=True, capture_output=True, check=False)
    refused(done.returncode, done.stderr, "'brigth'", "'bright'")
    assert not done.stdout
    assert not (tmp_path / "run").exists()


# -- the corpus -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "concepts: [{name: a, children: [{name: b}, {name: b}]}]", ["'a/b'", "2 times"]),
        (HEAD + "concepts: [&loop {name: a, children: [*loop]}]", ["'a'", "contains itself"]),
        (HEAD + "concepts: [{name: a, hidden_by: [a/b], children: [{name: b}]}]", ["hidden_by", "'a/b'"]),
        (HEAD + "concepts: [{name: a, colour: red}]", ["'a'", "'colour'", "phrase"]),
        (HEAD + "mood: calm\nconcepts: [{name: a}]", ["'mood'", "neutral"]),
        (HEAD + "name: again\nconcepts: [{name: a}]", ["'name'", "twice"]),
        (HEAD + "concepts: [{name: 5}]", ["'name'", "quotes"]),
        (HEAD + "concepts: []", ["'concepts'"]),
        (HEAD, ["'concepts'", "missing"]),
        ("concepts: [", ["line 1", "not valid YAML"]),
        ("", ["must be a mapping"]),
    ],
    ids=["duplicate path", "cycle", "hidden by itself", "unknown key", "unknown top key", "key twice",
         "number as name", "no concepts", "concepts missing", "not YAML", "empty"],
)  # fmt: skip
def test_malformed_corpus(home: Home, tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    mistaken(home.explain(corpus=file, out=tmp_path / "run"), str(file), *words)
    assert not (tmp_path / "run").exists()


# -- pictures -------------------------------------------------------------------------------------------


def test_empty_folder(home: Home, tmp_path: Path) -> None:
    mistaken(home.explain(images=tmp_path), str(tmp_path), "is empty")


def test_only_file_is_no_image(home: Home, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    for images in (tmp_path, tmp_path / "notes.txt"):
        mistaken(home.explain(images=images), "notes.txt", "not an image")


def test_files_that_are_no_image_are_skipped_with_their_name(home: Home, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    blot(0).save(images / "good.png")
    (images / "notes.txt").write_text("not a picture")
    (images / "torn.png").write_bytes((images / "good.png").read_bytes()[:60])
    (images / "bomb.png").write_bytes(bomb())
    done = home.explain("scorers:bright", "--accept-drift", images=images, out=tmp_path / "run", budget=1)
    assert done.exit_code == 0, done.stderr
    result = answer(tmp_path / "run")
    assert result["request"]["names"] == ["good.png"]
    for name in ("notes.txt: not an image", "torn.png: cannot be read", "bomb.png: cannot be read"):
        assert any(note.startswith(name) for note in result["notes"]), name
        assert name in " ".join(done.stdout.split())


def bomb() -> bytes:
    """A PNG whose header claims 30,000 × 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_odd_pictures_are_used(home: Home, tmp_path: Path) -> None:
    images, size = tmp_path / "images", editor_shape(home.editor).size
    assert size is not None
    images.mkdir()
    blot(0, size).save(images / "upright.png")
    turned = Image.Exif()
    turned[0x0112] = 3  # the orientation
    blot(0, size).rotate(180).save(images / "upside-down.png", exif=turned)
    blot(6).save(images / "turned.jpg", exif=turned)
    blot(1).convert("L").save(images / "grey.png")
    clear = blot(2).convert("RGBA")
    clear.putalpha(90)
    clear.save(images / "clear.png")
    blot(3).convert("CMYK").save(images / "cmyk.jpg")
    deep = np.random.default_rng(4).integers(0, 65536, (20, 20), dtype=np.uint16)
    Image.fromarray(deep).save(images / "deep.png")
    blot(5, 1).save(images / "one.png")
    Image.effect_noise((12_000, 9_000), 90).point(lambda v: 255 * (v > 128), "1").save(images / "huge.png")
    done = home.explain("scorers:bright", "--accept-drift", images=images, out=tmp_path / "run", budget=1)
    assert done.exit_code == 0, done.stderr
    result = answer(tmp_path / "run")
    used = sorted({path.name for path in images.iterdir()} - {"upside-down.png"})
    assert result["request"]["names"] == used
    expected = {
        "converted from grayscale to RGB": "grey.png", "converted from 16-bit to RGB": "deep.png",
        "converted from CMYK to RGB": "cmyk.jpg", "converted from black and white to RGB": "huge.png",
        "transparency put on white": "clear.png", "cropped to the centre square": "huge.png",
        "turned upright by EXIF": "turned.jpg",
        "the same picture twice, kept once": "upside-down.png = upright.png",
    }  # fmt: skip
    for what, name in expected.items():
        assert any(note.startswith(what) and name in note for note in result["notes"]), what


def test_pictures_that_the_editor_cannot_reconstruct(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = mistaken(home.explain(out=out, budget=1), "cannot reconstruct", "--accept-drift", str(home.editor))
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in line
    assert not rows(out)
    done = home.explain("scorers:bright", "--accept-drift", out=out, budget=1)
    assert done.exit_code == 0, done.stderr
    assert answer(out)["drift"]["pixels"] > 0.05


@pytest.mark.parametrize("search", ["race", "exhaustive"])
def test_budget_too_small_for_any_question(home: Home, tmp_path: Path, search: str) -> None:
    """Nothing can be measured, which is an answer and no crash."""
    out = tmp_path / "run"
    done = home.explain("scorers:bright", "--accept-drift", out=out, budget=1, search=search)
    assert done.exit_code == 0, done.stderr
    result = answer(out)
    assert result["cost"]["edits"] == len(rows(out)) <= 1
    assert any("budget of 1 edits" in note for note in result["notes"])
    assert not [c for c in result["concepts"] if c["status"] == "measured"]


# -- classifiers that fail ------------------------------------------------------------------------------


def _raise(images: torch.Tensor) -> torch.Tensor:
    raise ValueError("no such layer\nand a second line")


FAULTS: dict[str, tuple[Callable[[torch.Tensor], Any], list[str]]] = {
    "NaN": (lambda x: torch.full((len(x),), math.nan), ["NaN", "32 of 32"]),
    "infinity": (lambda x: torch.full((len(x), 2), math.inf), ["infinity", "32 of 32"]),
    "wrong columns": (lambda x: torch.zeros(len(x), 5), ["(32, 5)", "(32, 2)"]),
    "wrong rows": (lambda x: torch.zeros(3, 2), ["(3, 2)", "(32, 2)"]),
    "nothing": (lambda x: None, ["None"]),
    "raises": (_raise, ["ValueError", "no such layer"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_classifier_fails_at_once(
    home: Home, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, words = FAULTS[fault]
    monkeypatch.setattr(home.scorers, "healthy", 0)
    monkeypatch.setattr(home.scorers, "fault", function)
    out = tmp_path / "run"
    done = home.explain("scorers:flaky", "--accept-drift", out=out)
    mistaken(done, "scorers:flaky", *words)
    assert not rows(out)


@pytest.mark.parametrize("fault", ["NaN", "wrong columns", "raises"])
def test_classifier_fails_later_and_keeps_the_rows(
    home: Home, tmp_path: Path, fault: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, words = FAULTS[fault]
    out = tmp_path / "run"
    with monkeypatch.context() as broken:
        broken.setattr(home.scorers, "calls", count())
        broken.setattr(home.scorers, "healthy", 5)  # reconstructions, originals, three batches
        broken.setattr(home.scorers, "fault", function)
        mistaken(home.explain("scorers:flaky", "--accept-drift", out=out), "scorers:flaky", *words)
    kept = rows(out)
    assert kept == rows(finished)[:12]
    assert not (out / "result.json").exists()
    done = home.explain("scorers:flaky", "--accept-drift", "--resume", out=out)
    assert done.exit_code == 0, done.stderr
    assert rows(out) == rows(finished)


# -- the run folder -------------------------------------------------------------------------------------


def test_out_is_a_file(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.write_text("mine")
    mistaken(home.explain("scorers:bright", "--accept-drift", out=out), str(out), "is a file")
    assert out.read_text() == "mine"


def test_out_holds_something_else(home: Home, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    mistaken(home.explain("scorers:bright", "--accept-drift", out=tmp_path), str(tmp_path), "holds no run")
    assert files(tmp_path) == {"thesis.tex": b"mine"}


@pytest.mark.parametrize("flag", [[], ["--resume"]])
@pytest.mark.parametrize(
    ("options", "words"),
    [({"target": "dark"}, ["target", "'bright'", "'dark'"]), ({"seeds": 2}, ["seeds", "1", "2"])],
    ids=["target", "seeds"],
)
def test_out_holds_another_run(
    home: Home, finished: Path, options: dict[str, Any], words: list[str], flag: list[str]
) -> None:
    before = files(finished)
    done = home.explain("scorers:bright", "--accept-drift", *flag, out=finished, **options)
    mistaken(done, str(finished), "another run", *words)
    assert files(finished) == before


def test_out_holds_this_run_already(home: Home, finished: Path) -> None:
    before = files(finished)
    mistaken(home.explain("scorers:bright", "--accept-drift", out=finished), str(finished), "--resume")
    assert files(finished) == before


def test_resuming_a_finished_run_changes_nothing(home: Home, finished: Path) -> None:
    before, stored = answer(finished), rows(finished)
    done = home.explain("scorers:bright", "--accept-drift", "--resume", out=finished)
    assert done.exit_code == 0, done.stderr
    assert (answer(finished), rows(finished)) == (before, stored)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path | None]:
    """A small disk of its own, or None where nothing may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["disk", "limit"])
def test_full_disk(home: Home, tmp_path: Path, finished: Path, disk: Path | None, kind: str) -> None:
    if kind == "disk" and disk is None:
        pytest.skip("no disk may be mounted here")
    out = (disk or tmp_path) / "run" if kind == "disk" else tmp_path / "run"
    filler = disk / "filler" if kind == "disk" and disk else "limit"
    options = {"out": out}
    full = {"FULL_FROM": 5, "FILLER": filler}  # calls: reconstructions, originals, then batches
    process = home.start("scorers:filling", "--accept-drift", environment=full, **options)
    process.join()
    refused(process.exitcode, home.said(process), "disk full", str(out), "free space", "--resume")
    assert rows(out) == rows(finished)[:12]
    if isinstance(filler, Path):
        filler.unlink()
    done = home.explain("scorers:filling", "--accept-drift", "--resume", **options)
    assert done.exit_code == 0, done.stderr
    assert rows(out) == rows(finished)


# -- stopped --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_run_goes_on_where_it_was(
    home: Home, tmp_path: Path, finished: Path, how: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = home.start("scorers:bright", "--accept-drift", environment={"SLEEP": 0.5}, out=out)
    try:
        until(lambda: len(rows(out)) >= 8, process)
        os.kill(process.pid, how)
        process.join()
    finally:
        process.kill()
    if how == signal.SIGINT:
        stderr = home.said(process)
        assert process.exitcode == 130
        assert stderr.splitlines()[-1].startswith("stopped; what is finished is kept in ")
        assert str(out) in stderr
        assert "Traceback" not in stderr
    kept = rows(out)
    assert 8 <= len(kept) < len(rows(finished))
    assert kept == rows(finished)[: len(kept)]
    assert not (out / "result.json").exists()

    mistaken(home.explain("scorers:bright", "--accept-drift", out=out), str(out), "--resume")
    assert rows(out) == kept

    done = home.explain("scorers:bright", "--accept-drift", "--resume", out=out)
    assert done.exit_code == 0, done.stderr
    assert answer(out) == answer(finished)
    assert rows(out) == rows(finished)
    assert {p.name for p in (out / "images").iterdir()} == {p.name for p in (finished / "images").iterdir()}


def until(true: Callable[[], bool], process: Any) -> None:
    """Wait until something is true of a process that runs."""
    while True:
        try:
            if true():
                return
        except sqlite3.OperationalError:  # the store is just being made
            pass
        assert process.is_alive()
        time.sleep(0.05)
