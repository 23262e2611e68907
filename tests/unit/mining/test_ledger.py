from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from diffexplain.errors import ModelError, RunError
from diffexplain.mining.endpoint import Answer, Message
from diffexplain.mining.ledger import Ledger, Usage

ASKED = [{"role": "user", "content": "how many?"}]


class Count(BaseModel):
    n: int


class Script:
    """A model that says these lines one after the other."""

    name = "script"

    def __init__(self, *lines: str) -> None:
        self.lines, self.heard = list(lines), list[Sequence[Message]]()

    def ask(self, messages: Sequence[Message], schema: Mapping[str, Any] | None = None) -> Answer:
        self.heard.append(list(messages))
        return Answer(self.lines.pop(0), 10, 2)


def test_an_answer_is_kept_and_not_asked_again(tmp_path: Path) -> None:
    told = list[tuple[str, Usage]]()
    ledger = Ledger(Script('{"n": 3}'), tmp_path / "run", told=lambda what, usage: told.append((what, usage)))
    assert ledger.ask(ASKED, Count, "first").n == 3
    assert ledger.usage == Usage(1, 0, 10, 2)
    again = Ledger(Script(), tmp_path / "run")  # it would fail if asked
    assert again.ask(ASKED, Count, "first").n == 3
    assert again.usage == Usage(1, 1, 0, 0)
    assert told == [("first", Usage(1, 0, 10, 2))]
    (file,) = (tmp_path / "run").iterdir()
    assert json.loads(file.read_text())["what"] == "first"


def test_an_unusable_answer_is_shown_with_what_is_wrong(tmp_path: Path) -> None:
    model = Script("dunno", '{"n": "many"}', '{"n": 2}')
    assert Ledger(model, tmp_path).ask(ASKED, Count, "x").n == 2
    assert model.heard[1][1] == {"role": "assistant", "content": "dunno"}
    assert "it holds no JSON object" in model.heard[1][2]["content"]
    assert "n: Input should be a valid integer" in model.heard[2][4]["content"]
    again = Ledger(Script(), tmp_path)
    assert again.ask(ASKED, Count, "x").n == 2
    assert again.usage == Usage(3, 3)


def test_given_up_says_what_came_back_and_the_next_time_asks_anew(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        Ledger(Script("no", "I am\na teapot", "still no"), tmp_path).ask(ASKED, Count, "group pass 1")
    assert "model script, group pass 1: no usable answer in 3 tries (it holds no JSON object)" in str(
        caught.value
    )
    assert "the last was 'still no'" in str(caught.value)
    assert len(list(tmp_path.glob("*.unusable"))) == 3
    assert Ledger(Script('{"n": 1}'), tmp_path).ask(ASKED, Count, "group pass 1").n == 1


def test_what_breaks_off_is_asked_again_unless_a_part_will_do(tmp_path: Path) -> None:
    class Counts(BaseModel):
        n: list[int]

    cut, whole = '{"n": [1, 2, 3', '{"n": [1]}'
    model = Script(cut, whole)
    assert Ledger(model, tmp_path / "a").ask(ASKED, Counts, "x").n == [1]
    assert "it breaks off before its end" in model.heard[1][2]["content"]
    assert Ledger(Script(cut), tmp_path / "b").ask_part(ASKED, Counts, "x") == (Counts(n=[1, 2]), False)
    with pytest.raises(ModelError, match="it breaks off before its end"):
        Ledger(Script(cut, cut, cut), tmp_path / "c").ask(ASKED, Counts, "x")


def test_a_damaged_file_counts_as_none_and_another_model_has_its_own(tmp_path: Path) -> None:
    Ledger(Script('{"n": 1}'), tmp_path).ask(ASKED, Count, "x")
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text()[:20])
    assert Ledger(Script('{"n": 2}'), tmp_path).ask(ASKED, Count, "x").n == 2
    other = Script('{"n": 5}')
    other.name = "other"
    assert Ledger(other, tmp_path).ask(ASKED, Count, "x").n == 5


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="choose another with --run"):
        Ledger(Script(), tmp_path / "file")


def test_cost_is_said_in_words() -> None:
    usage = Usage(12, 2, 1_000_000, 50_000)
    assert usage.said((2.5, 10)) == (
        "12 calls (2 of them kept from before), 1,000,000 tokens in, 50,000 out, $3.0000"
    )
    assert usage.said(None).endswith("price not given")
