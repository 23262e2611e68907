"""The tree of the app: what a change does to the YAML, and that nothing in it is markup."""

from __future__ import annotations

import pytest

from diffexplain.corpus import load_document, written
from diffexplain.corpus.document import read_document
from diffexplain.errors import CorpusError
from diffexplain.web.branches import document_of, edited, tree_form

TEXT = """
name: pets
domain: pets
prompt: a photo of a pet, {phrase}
neutral: a photo of a pet
concepts:
  - {name: "<b>coat", phrase: '"><script>alert(1)</script>', exclusive: true}
  - {name: eyes, children: [{name: green}, {name: blue, prompt: a blue-eyed pet}]}
"""


def test_names_and_phrases_stay_text() -> None:
    form = str(tree_form(read_document(TEXT)))
    assert "<script>" not in form
    assert "<b>" not in form
    assert "&lt;b&gt;coat" in form
    assert form.count("<li ") == 4
    assert 'placeholder="a blue-eyed pet"' in form
    assert "4 concepts, 3 leaves" in form


@pytest.mark.parametrize(
    ("change", "there", "gone"),
    [
        ({"do": "rename", "at": "eyes/green", "text": "amber"}, "name: amber", "green"),
        ({"do": "rephrase", "at": "eyes/green", "text": "green eyes"}, "phrase: green eyes", "nothing"),
        ({"do": "add", "at": "eyes"}, "name: new concept", "nothing"),
        ({"do": "add", "at": ""}, "name: new concept", "nothing"),
        ({"do": "remove", "at": "eyes"}, "coat", "green"),
    ],
)
def test_a_change_is_made_in_the_yaml(change: dict[str, str], there: str, gone: str) -> None:
    text = edited(read_document(TEXT), change)
    assert there in text
    assert gone not in text
    assert written(read_document(text)) == text


@pytest.mark.parametrize(
    "change",
    [
        {"do": "burn", "at": "eyes"},
        {},
        {"do": "rename", "at": "eyes", "text": "a/b"},
        {"do": "rename", "at": "nose", "text": "b"},
        {"do": "rename", "at": "eyes", "text": ""},
        {"do": "rename", "at": 7, "text": ["x"]},
    ],
)
def test_a_wrong_change_is_refused_in_a_line(change: dict[str, object]) -> None:
    with pytest.raises(CorpusError) as error:
        edited(read_document(TEXT), change)
    assert "\n" not in str(error.value)


def test_the_tree_is_of_a_bundled_corpus_or_of_the_text() -> None:
    assert document_of("avatars", "") == load_document("avatars")
    assert document_of(None, TEXT).name == "pets"
    with pytest.raises(CorpusError, match="choose"):
        document_of("../../etc/passwd", "")
