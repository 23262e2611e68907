"""Whatever comes in from outside, only our errors come out, and nothing is written where it should not be.

`benchmarks/faults.py` tries the same properties on many more cases.
"""

from __future__ import annotations

import io
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from diffexplain.classifiers import checked_logits, load_classifier
from diffexplain.classifiers.labels import label_names
from diffexplain.cli import app
from diffexplain.cli.console import settings as settings_of
from diffexplain.cli.console import slug
from diffexplain.corpus import parse_corpus
from diffexplain.editors import editor_shape
from diffexplain.errors import DiffexplainError
from diffexplain.images import decode_png, load_images
from diffexplain.store import Run, read_request, read_result, read_rows
from tests import factories

EXAMPLES = 40

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

# -- corpora ---------------------------------------------------------------------------------------------

HOSTILE = (
    "{phrase}", "{0.__class__}", "{{7*7}}", "{% raw %}", "%s", "${HOME}", "<b>", "a/b", "a + b", "",
    "\x1b[31m", "!!python/object/apply:os.getcwd []", "&a", "*a", "<<", "null", "1e3", "2020-01-01",
)  # fmt: skip
WORDS = st.sampled_from(HOSTILE) | st.text(max_size=12)
NODES = st.recursive(
    st.fixed_dictionaries({"name": WORDS}, optional={"phrase": WORDS, "prompt": WORDS, "absent": WORDS}),
    lambda inner: st.fixed_dictionaries(
        {"name": WORDS, "children": st.lists(inner, max_size=3)},
        optional={
            "exclusive": st.booleans(), "absent": WORDS, "hidden_by": st.lists(WORDS, max_size=2),
            "replaces": st.lists(WORDS, max_size=2), "protected": JSON, "colour": JSON,
            "directions": st.lists(st.sampled_from(["add", "remove", "x"])),
        },
    ),
    max_leaves=6,
)  # fmt: skip
DOCUMENTS = st.fixed_dictionaries(
    {"name": WORDS, "domain": WORDS, "neutral": WORDS, "concepts": st.lists(NODES, max_size=3)},
    optional={"prompt": st.just("a {phrase}") | WORDS, "sources": JSON},
)


@st.composite
def corpora(draw: Any) -> str:
    """YAML near a corpus, or none at all, with a piece of text put somewhere into it."""
    content = draw(DOCUMENTS | JSON)
    text = yaml.safe_dump(content, allow_unicode=True) if draw(st.booleans()) else json.dumps(content)
    at, put = draw(st.integers(0, len(text))), draw(st.just("") | WORDS)
    return text[:at] + put + text[at:]


def a_corpus(text: str) -> None:
    corpus = parse_corpus(text)
    assert len(corpus.hash) == 32
    for concept in corpus.walk():
        assert all(isinstance(t, str) for t in (concept.prompt, concept.phrase, concept.path))
        assert concept.prompt.isprintable()


# -- what is typed ---------------------------------------------------------------------------------------

OPTIONS = {
    "--search": ["race", "exhaustive", "x"], "--beam": ["0", "8", "x", "99999999999999999999"],
    "--budget": ["-1", "3", "nan"], "--seeds": ["2", "0", "1e3"], "--direction": ["add", "remove", ""],
    "--editor": ["pocket", "pocket-turbo", "", "flow:", "turbo:pocket", "+x", "ledits:./no"],
    "--screen": ["pocket-turbo", "nothing"], "--corpus": ["avatars", "", "..", "/dev/null", "\x00"],
    "--editor-option": ["steps=4", "steps=x", "=", "a", "rows=-1", "steps=[1]", "x=1"],
    "--on": ["here", "ray:", "moon"], "--images": [".", "", "/dev/null", "\x00", "no"],
}  # fmt: skip
COMMANDS = st.lists(
    st.sampled_from(sorted(OPTIONS)).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(OPTIONS[name]) | st.text(max_size=6))
    ),
    max_size=4,
)


def a_command(pairs: list[tuple[str, str]]) -> None:
    words = [word for pair in [("--images", str(pictures())), *pairs] for word in pair]
    done = CliRunner().invoke(app, ["explain", "pocket:hired", *words, "--dry-run"])
    assert done.exit_code in (0, 2), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.stderr.replace("\n", "").isprintable()


@cache
def pictures() -> Path:
    folder = Path(tempfile.mkdtemp())
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def a_setting(text: str) -> None:
    found = settings_of([text])
    assert len(found) == 1


def a_slug(text: str) -> None:
    runs = Path("runs").resolve()
    assert (runs / slug(text)).resolve().is_relative_to(runs)


def labels(content: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.json"
        file.write_text(json.dumps(content))
        found = label_names(str(file))
    assert found
    assert all(isinstance(name, str) and name for name in found)


def an_editor_folder(content: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "diffexplain.json").write_text(json.dumps(content))
        (Path(folder) / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
        editor_shape(folder)


EDITORS = JSON | st.fixed_dictionaries(
    {},
    optional={
        "options": JSON | st.dictionaries(st.sampled_from(["steps", "rows", "mask", "skip", "x"]), JSON),
        "method": JSON | st.sampled_from(["ledits", "flow"]), "judge": JSON, "segmenter": JSON, "size": JSON,
    },
)  # fmt: skip

# -- pictures --------------------------------------------------------------------------------------------


@cache
def encoded(kind: str) -> bytes:
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


@st.composite
def damaged(draw: Any) -> bytes:
    """A picture file with some bytes changed, cut off or put in."""
    data = bytearray(
        encoded(draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO"])))
    )
    for at, value in draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8)):
        data[at % len(data)] = value
    cut = draw(st.none() | st.integers(0, len(data)))
    return bytes(data[:cut]) + draw(st.binary(max_size=20))


def a_picture(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.png").write_bytes(data)
        found = load_images(folder, size=16)
    assert found.pixels.shape == (1, 3, 16, 16)
    assert 0 <= float(found.pixels.min()) <= float(found.pixels.max()) <= 1


def a_png(data: bytes) -> None:
    assert decode_png(data).shape[0] == 3


# -- servers ---------------------------------------------------------------------------------------------


class _Says(BaseHTTPRequestHandler):
    said: tuple[int, bytes] = (200, b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.said
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@cache
def address() -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Says)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/v2/models/x/infer"


NUMBERS = st.lists(st.lists(st.floats(), min_size=2, max_size=2), max_size=3)
BODIES = st.one_of(
    st.builds(lambda j: json.dumps(j).encode(), JSON),
    st.builds(lambda j: json.dumps({"scores": j}).encode(), NUMBERS | JSON),
    st.builds(lambda j: json.dumps({"outputs": [{"data": j}]}).encode(), NUMBERS | JSON),
    st.builds(lambda j: json.dumps([{"label": "a", "score": j}, {"label": "b", "score": 1}]).encode(), JSON),
    st.binary(max_size=30),
)
ANSWERS = st.tuples(
    st.sampled_from(["diffexplain", "kserve", "huggingface"]),
    st.sampled_from([200, 204, 302, 404, 500]) | st.just(200),
    BODIES,
)


def an_answer(answer: tuple[str, int, bytes]) -> None:
    profile, _Says.said = answer[0], answer[1:]
    more = {"input": "x", "size": 8} if profile == "kserve" else {}
    model = load_classifier(address(), labels="a,b", profile=profile, retries=0, timeout=5.0, **more)
    found = checked_logits(model, torch.zeros(1, 3, 8, 8))
    assert found.shape == (1, 2)
    assert bool(torch.isfinite(found).all())


# -- run folders -----------------------------------------------------------------------------------------


@cache
def finished() -> dict[str, bytes]:
    """The files of a small run."""
    with tempfile.TemporaryDirectory() as folder:
        with Run.open(folder, factories.request()) as run:
            run.append(0, [], {})
            run.write_result(factories.result())
        return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file()}


@st.composite
def run_folders(draw: Any) -> dict[str, bytes]:
    """A run with some bytes of its files changed or cut off, or other JSON in their place."""
    files = dict(finished())
    for name in draw(st.sets(st.sampled_from(sorted(files)), min_size=1)):
        data = bytearray(files[name])
        for at, value in draw(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8)):
            if data:
                data[at % len(data)] = value
        files[name] = bytes(data[: draw(st.none() | st.integers(0, len(data)))])
        if name.endswith(".json") and draw(st.booleans()):
            content = json.loads(finished()[name])
            content[draw(st.sampled_from(sorted(content)))] = draw(JSON)
            files[name] = json.dumps(content).encode()
    return files


def a_run_folder(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        for read in (read_request, read_result, read_rows, _opened):
            with ours():
                read(folder)


def _opened(folder: str) -> None:
    Run.open(folder, factories.request(), resume=True).close()


# -- trying them -----------------------------------------------------------------------------------------

PROPERTIES: dict[str, tuple[Callable[[Any], None], st.SearchStrategy[Any]]] = {
    "corpora": (a_corpus, corpora()),
    "commands": (a_command, COMMANDS),
    "settings": (a_setting, st.text(max_size=20)),
    "slugs": (a_slug, st.text(max_size=40) | st.sampled_from(["..", "../..", "/etc/passwd", ".-."])),
    "labels": (labels, JSON),
    "editor folders": (an_editor_folder, EDITORS),
    "pictures": (a_picture, damaged()),
    "stored pictures": (a_png, damaged()),
    "server answers": (an_answer, ANSWERS),
    "run folders": (a_run_folder, run_folders()),
}


@contextmanager
def ours() -> Iterator[None]:
    """Errors made on purpose pass, each of one line."""
    try:
        yield
    except DiffexplainError as error:
        said = str(error)
    else:
        return
    assert said
    assert "\n" not in said


def tried(name: str, examples: int) -> tuple[int, BaseException | None]:
    """How many cases of a property were tried, and the first that failed."""
    check, strategy = PROPERTIES[name]
    count = 0

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, print_blob=False,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(strategy)
    def property_of(case: Any) -> None:
        nonlocal count
        count += 1
        with ours():
            check(case)

    try:
        property_of()
    except BaseException as error:
        return count, error
    return count, None


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", PROPERTIES)
def test_whatever_comes_in_only_our_errors_come_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    count, error = tried(name, EXAMPLES)
    assert error is None, f"{name}, case {count}: {error!r}"
    assert count >= EXAMPLES / 2
    assert not list(tmp_path.iterdir())
