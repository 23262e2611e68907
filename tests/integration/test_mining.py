"""Mining from the command line, against a real server on loopback that speaks the OpenAI protocol."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from diffexplain.cli import app
from diffexplain.corpus import Corpus, load_corpus, parse_corpus
from diffexplain.images import encode_png
from diffexplain.web.app import OWN, App
from diffexplain.web.jobs import Jobs
from diffexplain.worlds import avatars
from tests.unit.mining.chat_server import (
    Chat,
    Reply,
    completion,
    failing,
    knows,
    pictures_in,
    question,
    said,
    serving,
)

#: of these, what stays when the model's objections, doubles and what CLIP does not see are out.
TREE = {
    "head wear/hat": {"a hat", "a winter hat", "a turban"},
    "hair/colour": {"black hair", "red hair", "silver hair"},
    "hair/style": {"an afro", "a bun"},
    "face/beard": {"a light beard", "a long beard"},
    "face/other": {"round glasses"},
}
BEFORE_CLIP = {path: words for path, words in TREE.items() if path != "face/other"}
BEFORE_CLIP |= {"face/glasses": {"round glasses", "a hidden intention"}}


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portraits")
    for i, picture in enumerate(avatars.render(avatars.sample(12, 77), 64)):
        (folder / f"{i:02d}.png").write_bytes(encode_png(picture))
    return folder


def mine(portraits: Path, out: Path, chat: Chat, *more: str) -> Any:
    command = [
        "corpus", "mine", "--images", str(portraits), "--domain", "avatar portraits", "--out", str(out),
        "--model", f"openai:fixture@{chat.url}", "--judge", "pocket", "--prompt", "a person with {phrase}",
        "--neutral", "a person", "--device", "cpu", *more,
    ]  # fmt: skip
    return CliRunner().invoke(app, command)


def phrases(corpus: Corpus) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for leaf in corpus.leaves():
        found.setdefault(str(leaf.parent), set()).add(leaf.phrase)
    return found


@pytest.fixture(scope="module")
def fresh(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Chat, Any]:
    """A mining without any trouble: its file, what the server was asked, what was said."""
    out = tmp_path_factory.mktemp("fresh") / "people.yaml"
    with serving(knows) as chat:
        told = mine(portraits, out, chat, "--price", "2,8")
    assert told.exit_code == 0, told.output
    return out, chat, told


@pytest.fixture(scope="module")
def plain(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a mining without trouble and without CLIP, but for where the server was."""
    out = tmp_path_factory.mktemp("plain") / "people.yaml"
    with serving(knows) as chat:
        told = mine(portraits, out, chat, "--judge", "none")
    assert told.exit_code == 0, told.output
    assert phrases(load_corpus(out)) == BEFORE_CLIP
    return out.read_text().replace(chat.url, "")


def test_the_tree_is_what_the_model_knows_and_clip_sees(fresh: tuple[Path, Chat, Any]) -> None:
    out, chat, told = fresh
    corpus = load_corpus(out)
    assert phrases(corpus) == TREE
    assert {leaf.depth for leaf in corpus.leaves()} == {2}
    assert corpus["head wear/hat"].absent == "no headwear"
    assert corpus["head wear/hat/winter hat"].directions == ("add", "remove")
    assert corpus["hair/colour/red"].directions == ("add",)
    assert corpus.name == "people"
    assert corpus.sources == (f"mined from 12 pictures by openai:fixture@{chat.url}, judge pocket",)
    for drop in (
        "hair/style/an afro: is there twice",
        "face/beard/beards: is there twice",
        "hair/style/mood: the model says: not visible",
        "face/glasses/plan: CLIP reads it alike in all pictures",
    ):
        assert drop in told.stderr


def test_what_was_asked_and_what_it_cost(fresh: tuple[Path, Chat, Any]) -> None:
    out, chat, told = fresh
    assert [pictures_in(r) for r in chat.requests] == [8, 4, 0, 4]  # 12 samples, the kinds, the clean-up
    assert all("json_schema" in json.dumps(r["response_format"]) for r in chat.requests)
    assert re.search(r"expected: about \d+ calls, [\d,]+ tokens in, [\d,]+ out, \$", told.stderr)
    assert "used: 4 calls, 400 tokens in, 80 out, $0.0014" in told.stderr  # 100 and 20 a call
    assert f"corpus: {out}, 11 leaves, 4 terms dropped" in told.stdout
    folder = out.with_name("people.mining")
    about = json.loads((folder / "mined.json").read_text())
    assert len(about["pictures"]) == 12
    assert len(about["dropped"]) == 4
    assert len(list(folder.glob("*.json"))) == 1 + 4


def test_the_app_asks_the_model_that_its_starter_named(portraits: Path, tmp_path: Path) -> None:
    jobs, files = Jobs(tmp_path / "root"), sorted(map(str, portraits.iterdir()))
    try:
        with serving(knows) as chat:
            visited = App(jobs, miner=f"openai:fixture@{chat.url}")
            chosen, text, told = visited.mine(files, "avatar portraits", "", "pocket", "avatars", "")
        assert chosen == OWN, told
        assert {words for found in phrases(parse_corpus(text)).values() for words in found} <= {
            words for found in TREE.values() for words in found
        }
        assert "hair/style/mood: the model says: not visible" in told
        gone = visited.mine(files, "avatar portraits", "", "pocket", "avatars", "kept")  # no server any more
        assert gone[:2] == ("avatars", "kept")
        assert chat.url in gone[2]
    finally:
        jobs.close()


Wrong = Callable[[dict[str, Any]], Reply]


def cut(share: float) -> Wrong:
    def wrong(request: dict[str, Any]) -> Reply:
        text = json.dumps(said(question(request)))
        return completion(text[: int(len(text) * share)], finish="length")

    return wrong


TROUBLE: dict[str, Wrong] = {
    "truncated early": cut(0.3),
    "truncated midway": cut(0.6),
    "truncated late": cut(0.95),
    "prose": lambda request: completion("I see many fine pictures."),
    "another shape": lambda request: completion('{"groups": "hair"}'),
    "nothing": lambda request: completion(None),
    "429": lambda request: failing(429, "slow down", retry_after="0"),
    "500": lambda request: failing(500, "boom", retry_after="0"),
    "a broken body": lambda request: failing(200, '{"choices": [{"mes', retry_after="0"),
    "no schemas": lambda request: (
        failing(400, "response_format is not supported") if "response_format" in request else knows(request)
    ),
}


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
def test_after_trouble_the_tree_is_the_same(
    portraits: Path, tmp_path: Path, plain: str, trouble: Wrong
) -> None:
    """The first answer to every question is bad; the file comes out the same."""
    met: set[str] = set()

    def answer(request: dict[str, Any], n: int) -> Reply:
        asked = question(request)
        first, known = asked not in met, said(asked)
        met.add(asked)
        if first and known != {"drop": []}:
            return trouble(request)
        return knows(request)

    with serving(answer) as chat:
        told = mine(portraits, tmp_path / "people.yaml", chat, "--judge", "none")
    assert told.exit_code == 0, told.output
    assert len(chat.requests) > 4
    assert (tmp_path / "people.yaml").read_text().replace(chat.url, "") == plain


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (completion("I cannot help with faces."), "group pass 1: no usable answer in 3 tries"),
        (completion('{"subject": "a person", "groups": []}'), "named no groups; choose a stronger model"),
        (completion('{"subject": "a per', finish="length"), 'the last was \'{"subject": "a per\''),
        (failing(401, "who are you?"), "HTTP 401: 'who are you?'; set DIFFEXPLAIN_API_KEY"),
        (failing(200, '{"detail": "Not Found"}'), 'is no chat completion: \'{"detail": "Not Found"}\''),
    ],
)
def test_what_stays_bad_is_one_line_that_says_what_came_back(
    portraits: Path, tmp_path: Path, answer: Reply, says: str
) -> None:
    with serving(lambda request, n: answer) as chat:
        told = mine(portraits, tmp_path / "people.yaml", chat, "--judge", "none")
    assert told.exit_code == 2
    (line,) = [line for line in told.stderr.splitlines() if line.startswith("diffexplain: ")]
    assert says in line
    assert "Traceback" not in told.output
    assert not (tmp_path / "people.yaml").exists()


def test_nothing_that_clip_sees_is_an_error_that_names_examples(portraits: Path, tmp_path: Path) -> None:
    def answer(request: dict[str, Any], n: int) -> Reply:
        spoken = said(question(request))
        for kind in spoken.get("kinds", []):
            kind["values"] = [
                {"name": f"plan {kind['number']}", "phrase": f"a hidden intention {kind['number']}"}
            ]
        return completion(json.dumps(spoken))

    with serving(answer) as chat:
        told = mine(portraits, tmp_path / "people.yaml", chat)
    assert told.exit_code == 2
    assert "no term is left (head wear/hat/plan 1: CLIP reads it alike in all pictures" in told.stderr


def test_a_killed_mining_goes_on_without_asking_again(portraits: Path, tmp_path: Path, plain: str) -> None:
    child: list[subprocess.Popen[str]] = []
    seen: list[str] = []

    def answer(request: dict[str, Any], n: int) -> Reply:
        if n == 2 and child:  # the third question kills it
            os.kill(child.pop().pid, signal.SIGKILL)
            return failing(0)
        seen.append(question(request) + str(pictures_in(request)))
        return knows(request)

    out = tmp_path / "people.yaml"
    with serving(answer) as chat:
        command = [
            sys.executable, "-m", "diffexplain", "corpus", "mine", "--images", str(portraits),
            "--domain", "avatar portraits", "--out", str(out), "--model", f"openai:fixture@{chat.url}",
            "--judge", "none", "--prompt", "a person with {phrase}", "--neutral", "a person",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
        child.append(process)
        assert process.wait(timeout=240) == -signal.SIGKILL
        assert not out.exists()
        told = mine(portraits, out, chat, "--judge", "none")
    assert told.exit_code == 0, told.output
    assert len(seen) == len(set(seen)) == 4
    assert "4 calls (2 of them kept from before)" in told.stderr
    assert out.read_text().replace(chat.url, "") == plain


def test_a_key_is_never_written(portraits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFEXPLAIN_API_KEY", "sk-very-secret")
    with serving(knows) as chat:
        told = mine(portraits, tmp_path / "people.yaml", chat, "--judge", "none")
    assert chat.headers[0]["authorization"] == "Bearer sk-very-secret"
    assert told.exit_code == 0
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert len(files) > 3
    assert not any(b"sk-very" in f.read_bytes() for f in files)
    assert "sk-very" not in told.output


def test_words_alone_are_sifted_by_clip(portraits: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text(
        "# candidates\n"
        "face/beard/light: a light beard\nface/beard/long: a long beard\n"
        "face/beard/none: a hidden intention\n"
        "black hair\nred hair\nred hairs\nsilver hair\na waterfall\nleafy branches\n"
    )
    out = tmp_path / "people.yaml"
    command = [
        "corpus", "mine", "--images", str(portraits), "--domain", "avatar portraits", "--out", str(out),
        "--words", str(words), "--judge", "pocket", "--prompt", "a person with {phrase}", "--neutral",
        "a person", "--device", "cpu",
    ]  # fmt: skip
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    corpus = load_corpus(out)
    assert phrases(corpus) == {
        "face/beard": {"a light beard", "a long beard"},
        "hair/look": {"black hair", "red hair", "silver hair"},
    }
    assert "dropped waterfall/look/a waterfall: CLIP reads it alike" in told.stderr
    assert "dropped hairs/look/red hairs: is there twice" in told.stderr
    assert "used:" not in told.stderr
    assert corpus.sources == ("mined from 12 pictures and the words of words.txt, judge pocket",)


def test_a_dry_run_asks_nothing(portraits: Path, tmp_path: Path) -> None:
    with serving(knows) as chat:
        told = mine(portraits, tmp_path / "p.yaml", chat, "--dry-run", "--price", "1,2")
    assert told.exit_code == 0
    assert "expected: about" in told.stderr
    assert not chat.requests
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--model", "gpt"], "no model 'gpt'; give openai:MODEL"),
        (["--words", "w.txt"], "give either a model that sees or a list of words"),
        (["--images", "/no/such"], "/no/such"),
        (["--sample", "1"], "sample 1: give at least 2 pictures"),
        (["--domain", " "], "domain ' ': give a few words such as birds"),
        (["--prompt", "a person"], "prompt 'a person': put {phrase} where the concept goes"),
        (["--neutral", ""], "prompt and neutral: give both or none"),
        (["--price", "cheap"], "price 'cheap': give dollars"),
        (["--price", "-1,nan"], "price '-1,nan': give two numbers"),
        (["--judge", "none", "--model", "openai:m@ftp://x"], "base URL 'ftp://x': give one such as"),
        (["--out", __file__], "is there already; remove it or choose another"),
    ],
)
def test_a_wrong_command_is_one_line(portraits: Path, tmp_path: Path, more: list[str], says: str) -> None:
    with serving(knows) as chat:
        told = mine(portraits, tmp_path / "p.yaml", chat, *more)
        assert not chat.requests
    assert told.exit_code == 2
    (line,) = [line for line in told.stderr.splitlines() if line.startswith("diffexplain: ")]
    assert says in line


def test_a_bundled_domain_lends_its_wording(portraits: Path, tmp_path: Path) -> None:
    with serving(knows) as chat:
        for domain, name in (("faces", "f.yaml"), ("people", "g.yaml")):
            command = [
                "corpus", "mine", "--images", str(portraits), "--domain", domain, "--judge", "none",
                "--out", str(tmp_path / name), "--model", f"openai:fixture@{chat.url}",
                "--run", str(tmp_path / "kept"),
            ]  # fmt: skip
            told = CliRunner().invoke(app, command)
            assert told.exit_code == 0, told.output
    faces = load_corpus(tmp_path / "f.yaml")
    assert (faces.prompt, faces.neutral) == (load_corpus("faces").prompt, load_corpus("faces").neutral)
    assert load_corpus(tmp_path / "g.yaml").prompt == "a photo of a person with {phrase}"
    assert (tmp_path / "kept" / "mined.json").exists()
