"""The how-to pages on classifiers do what they say: every block of each is run, in order, in one folder."""

from __future__ import annotations

import re
import shlex
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from diffexplain.cli import app
from diffexplain.images import encode_png
from diffexplain.worlds import avatars

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
CORPUS = """
name: small
domain: portraits of avatars
prompt: "an avatar{phrase}"
neutral: an avatar
concepts:
  - {name: background, children: [{name: blue, phrase: " on a blue background"}]}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with portraits and a corpus."""
    (tmp_path / "portraits").mkdir()
    for i, picture in enumerate(avatars.render(avatars.sample(4, seed=2), 64)):
        (tmp_path / "portraits" / f"{i}.png").write_bytes(encode_png(picture))
    (tmp_path / "corpus.yaml").write_text(CORPUS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def blocks(page: str) -> list[tuple[str, str | None, str]]:
    """Every fenced block: its language, the file it is to be kept in, its text."""
    found = re.findall(
        r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', (PAGES / page).read_text("utf-8"), re.M | re.S
    )
    return [(language, file or None, text) for language, file, text in found]


def run(page: str) -> str:
    """Keep the files, run the Python, type the commands; returns all that the commands said."""
    said, names = "", dict[str, Any]()
    torch.manual_seed(0)
    for language, file, text in blocks(page):
        if file:
            Path(file).write_text(text)
        elif language == "python":
            exec(compile(text, page, "exec"), names)
        else:
            for line in text.strip().splitlines():
                program, *words = shlex.split(line)
                assert program == "diffexplain"
                done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
                assert done.exit_code == 0, done.output
                said += done.stdout
    return said


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", ["torch-model.md", "hugging-face.md", "onnx.md"])
def test_a_page_runs(home: Path, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(page)
    assert "pictures a second" in said
    if page == "torch-model.md":
        assert "mynet:network: cold, warm" in said
        assert "warning: " not in said
        assert re.search(r"background/blue -?\d", capsys.readouterr().out)
    if page == "onnx.md":
        assert said.count("healthy, diseased") == 2
        assert "mean 0.485, 0.456, 0.406" in said.split("leaves-described")[1]
    sys.modules.pop("mynet", None)


def test_the_server_page_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _, file, text in blocks("http.md"):
        if file:
            Path(file).write_text(text)
    from serve import server  # type: ignore[import-not-found]

    http = server(port=0)
    monkeypatch.setattr(http.RequestHandlerClass, "log_message", lambda *a: None, raising=False)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        command = next(text for language, _, text in blocks("http.md") if language == "sh")
        words = shlex.split(command.replace(":8123/", f":{http.server_port}/"))[1:]
        done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
    assert done.exit_code == 0, done.output
    assert f"http://127.0.0.1:{http.server_port}/: cold, warm" in done.stdout
    assert "warning: " not in done.stdout
    assert any(Path("runs").iterdir())


@pytest.mark.parametrize("page", [p.name for p in sorted(PAGES.glob("*.md"))])
def test_links_of_a_page_resolve(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", (PAGES / page).read_text("utf-8")):
        assert re.match(r"[a-z]+:", link) or (PAGES / link.partition("#")[0]).is_file(), link
