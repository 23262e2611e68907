"""Presence by a yes/no question, over a real HTTP server on loopback."""

from __future__ import annotations

import pytest
import torch

from diffexplain.errors import EditorError, ModelError
from diffexplain.spurious import load_finder
from tests.unit.mining.chat_server import completion, serving

PICTURES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_yes_marks_all_of_a_picture_and_each_is_asked_once() -> None:
    answers = ["Yes.", "no", "**Yes**, it is"]
    with serving(lambda request, n: completion(answers[n])) as chat:
        segmenter = load_finder(f"endpoint:seer@{chat.url}")
        found = segmenter.regions(PICTURES, ["padlock"] * 3, ["padlock"] * 3)
        again = segmenter.regions(PICTURES, ["padlock"] * 3, ["padlock"] * 3)
    assert found.shape == (3, 16, 16)
    assert found.float().mean((1, 2)).tolist() == [1, 0, 1]
    assert torch.equal(found, again)
    assert len(chat.requests) == 3
    text, image = chat.requests[0]["messages"][0]["content"]
    assert "padlock" in text["text"]
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert (segmenter.bare, segmenter.locates) == (True, False)  # type: ignore[attr-defined]


def test_another_answer_is_an_error_of_one_line() -> None:
    with serving(lambda request, n: completion("Perhaps")) as chat:
        segmenter = load_finder(f"endpoint:seer@{chat.url}")
        with pytest.raises(ModelError, match="answered 'Perhaps', neither yes nor no"):
            segmenter.regions(PICTURES[:1], ["x"], ["x"])


@pytest.mark.parametrize("spec", ["none", "world:avatars"])
def test_who_cannot_say_whether_is_refused(spec: str) -> None:
    with pytest.raises(EditorError, match="cannot say whether an object is there"):
        load_finder(spec)
