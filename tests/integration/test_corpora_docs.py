"""The how-to pages on corpora, done as written: files saved, commands run, code executed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import diffexplain as dx
from diffexplain.cli import app
from diffexplain.corpus import available, load_corpus
from diffexplain.images import encode_png
from diffexplain.worlds import avatars
from tests.unit.mining.chat_server import knows, serving

DOCS = Path(__file__).parents[2] / "docs"
SERVER = "http://127.0.0.1:8000/v1"


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / "how-to" / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    return [line for block in blocks(page, "console") for line in block.splitlines()]


def run(line: str) -> Result:
    name, *words = shlex.split(line)
    assert name == "diffexplain"
    return CliRunner().invoke(app, words)


def test_own_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "how-to/own-corpus.md").read_text("utf-8")
    for text, name in zip(blocks("own-corpus.md", "yaml"), ("mugs.yaml", "feeders.yaml"), strict=True):
        assert f"`{name}`" in page
        (tmp_path / name).write_text(text, "utf-8")
    told = [run(line) for line in commands("own-corpus.md")]
    assert [t.exit_code for t in told] == [0] * 5 + [1]
    assert told[1].stdout.strip() == "mugs.yaml: valid, 9 concepts, 6 leaves, 3 levels, 0 protected"
    assert told[1].stdout.strip() in page
    assert "    round  +−  a photo of a mug with a round handle" in told[2].stdout
    assert "      white  +  a photo of a mug with white glaze" in told[2].stdout
    assert load_corpus("garden.yaml").name == "garden birds"
    assert "+ beak/beak shape" in told[5].stdout
    (code,) = blocks("own-corpus.md", "python")
    space: dict[str, object] = {}
    exec(code, space)
    part = space["part"]
    assert isinstance(part, dx.Corpus)
    assert part.roots == ("feeder", "beak")


def test_mining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With portraits for birds, a model on loopback, and the bundled CLIP in place of the large one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "birds").mkdir()
    for i, picture in enumerate(avatars.render(avatars.sample(8, 31), 64)):
        (tmp_path / "birds" / f"{i}.png").write_bytes(encode_png(picture))
    (words,) = blocks("mining.md", "text")
    (tmp_path / "words.txt").write_text(words, "utf-8")
    with serving(knows) as chat:
        for line in commands("mining.md"):
            judge = " --judge pocket" if " --words " in line else " --judge none"
            told = run(line.replace(SERVER, chat.url) + judge * (" mine " in line))
            assert told.exit_code == 0, told.output
    assert len(chat.requests) == 3  # the second command is a dry run
    assert load_corpus("mine.yaml").prompt == load_corpus("birds").prompt
    assert not (tmp_path / "mine2.yaml").exists()
    assert (tmp_path / "mine.mining").is_dir()


@pytest.mark.parametrize("page", ["how-to/own-corpus.md", "how-to/mining.md"])
def test_links_resolve(page: str) -> None:
    text = (DOCS / page).read_text("utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        assert ((DOCS / page).parent / link.partition("#")[0]).resolve().exists(), link


def test_every_option_of_mining_is_in_its_page_or_help() -> None:
    shown = CliRunner().invoke(app, ["corpus", "mine", "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    offered = set(re.findall(r"--[a-z][a-z-]*", shown.stdout))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", (DOCS / "how-to/mining.md").read_text("utf-8")))
    assert named <= offered, named - offered
    assert {"--images", "--domain", "--model", "--words", "--judge", "--price", "--run"} <= named


def test_the_table_of_bundled_corpora_is_right() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", (DOCS / "corpus.md").read_text("utf-8"), re.MULTILINE)
    assert {name: int(count) for name, count in rows} == {
        name: len(load_corpus(name).leaves()) for name in available()
    }
