from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from diffexplain.mining.answers import Unusable, read_answer


class Item(BaseModel):
    name: str
    values: list[str] = []


class Items(BaseModel):
    items: list[Item]


WHOLE = {"items": [{"name": "a", "values": ["x", "y"]}, {"name": "b", "values": ["z"]}]}
TEXT = json.dumps(WHOLE)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"```json\n{TEXT}\n```",
        f"Sure! Here it is:\n{TEXT}\nAnything else?",
        f'<think>maybe {{"items": 1}}?</think>{TEXT}',
        TEXT.replace('["z"]', '["z",]').replace("}]}", "},]}"),
        json.dumps(WHOLE, indent=2),
        "{} " + TEXT,
    ],
    ids=["plain", "fenced", "chatty", "thinking", "loose commas", "indented", "an empty one first"],
)
def test_the_object_is_found(text: str) -> None:
    value, whole = read_answer(text, Items)
    assert value.model_dump() == WHOLE
    assert whole


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON object"),
        ("I cannot see any pictures.", "no JSON object"),
        ("{{{{", "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ('{"items": 3}', "items: Input should be a valid list"),
        ('{"things": []}', "items: Field required"),
        ('{"items": [{"name": 3}]}', "items.0.name: Input should be a valid string"),
        ("<think>endless", "no JSON object"),
        ("{" * 100_000, "no JSON object"),
        ('{"a":' * 3000 + "1" + "}" * 3000, ""),
    ],
)
def test_what_has_none_says_why(text: str, why: str) -> None:
    with pytest.raises(Unusable) as caught:
        read_answer(text, Items)
    assert why in str(caught.value)


@settings(deadline=None)
@given(st.integers(0, len(TEXT)))
def test_what_breaks_off_is_cut_back_to_whole_entries(cut: int) -> None:
    """Wherever it breaks off, what is read is a beginning of the whole, never something else."""
    try:
        value, whole = read_answer(TEXT[:cut], Items)
    except Unusable:
        assert cut <= len('{"items": [')
        return
    assert whole == (cut == len(TEXT))
    there = [(i.name, v) for i in value.items for v in i.values]
    assert there == [("a", "x"), ("a", "y"), ("b", "z")][: len(there)]
    assert [i.name for i in value.items] == ["a", "b"][: len(value.items)]


def test_quotes_and_brackets_in_text_do_not_count() -> None:
    text = '{"items": [{"name": "a } ] \\" , {", "values": []}, {"name": "b'
    value, whole = read_answer(text, Items)
    assert [i.name for i in value.items] == ['a } ] " , {']
    assert not whole


def test_a_long_answer_that_breaks_off_is_read_in_little_time() -> None:
    text = '{"items": [' + ", ".join('{"name": "n", "values": ["x"]}' for _ in range(20_000))
    value, whole = read_answer(text, Items)
    assert len(value.items) == 20_000
    assert not whole
