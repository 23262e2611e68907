from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from diffexplain.corpus import load_corpus
from diffexplain.errors import CorpusError, InputError
from diffexplain.judges import Judge, load_judge
from diffexplain.mining.grounding import phrase_vectors, placebo_spread, spread
from diffexplain.mining.words import head_noun, read_words, sorted_words
from diffexplain.worlds import avatars

TREE = load_corpus("avatars")


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge("pocket")


@pytest.fixture(scope="module")
def portraits() -> torch.Tensor:
    return avatars.render(avatars.sample(24, 4242), 64)


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_a_list_may_name_kind_and_group(tmp_path: Path) -> None:
    text = "# birds\nred beak\n\nbeak/hooked: a hooked beak\nwing/bar/two: two bars\n wing / bar / one\n"
    draft = read_words(write(tmp_path / "w.txt", text))
    found = {(k.group, k.name): [(t.name, t.phrase) for t in k.terms] for k in draft}
    assert found == {
        ("", ""): [("red beak", "red beak")],
        ("beak", "beak"): [("hooked", "a hooked beak")],
        ("wing", "bar"): [("two", "two bars"), ("one", "one")],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "0 candidates"),
        ("# only a remark\n", "0 candidates"),
        ("a/b/c/d\n", "line 1: 'a/b/c/d'; give `group/kind/word: phrase`"),
        ("fine\na//c\n", "line 2"),
        ("x\n" * 5001, "5,001 candidates; give 1 to 5,000"),
    ],
)
def test_a_wrong_list_says_where(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read_words(write(tmp_path / "w.txt", text))
    assert says in str(caught.value)


def test_no_list(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="No such file"):
        read_words(tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(CorpusError, match="is not UTF-8 text"):
        read_words(tmp_path / "b.txt")


@pytest.mark.parametrize(
    ("phrase", "noun"),
    [
        ("a red beak", "beak"),
        ("Stripes on the forehead", "stripes"),
        ("a beak with a knob", "beak"),
        ("hair", "hair"),
        ("in a hat", "hat"),
        ("", ""),
    ],
)
def test_a_phrase_has_a_head(phrase: str, noun: str) -> None:
    assert head_noun(phrase) == noun


def test_loose_words_are_sorted_by_their_noun_and_named_groups_are_left(tmp_path: Path) -> None:
    text = "a red beak\na hat\nwing/bar/two: two bars\na beak with a knob\n"
    draft = sorted_words(read_words(write(tmp_path / "w.txt", text)))
    assert {k.path: [t.name for t in k.terms] for k in draft} == {
        "wing/bar": ["two"],
        "beak/look": ["a red beak", "a beak with a knob"],
        "hat/look": ["a hat"],
    }


def test_vectors_are_of_unit_length_and_near_for_near_words(judge: Judge) -> None:
    vectors = phrase_vectors(judge, TREE.prompt, ["a beard", "beard", "a blue background"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.97 > 0.6 > vectors[0] @ vectors[2]


def test_another_judge_has_no_vectors() -> None:
    class Other:
        name = "other"

        def logits(self, images: object, prompts: object) -> torch.Tensor:
            return torch.zeros(2, 2)

    with pytest.raises(InputError, match=r"judge 'other': .* give clip:ORG/NAME"):
        phrase_vectors(Other(), "{phrase}", ["x"])


def test_spread_is_the_deviation_of_the_logit_over_neutral() -> None:
    table = {"n": [0.0, 1.0, 2.0], "same": [5.0, 6.0, 7.0], "varies": [1.0, 0.0, 5.0]}

    class Known:
        name = "known"

        def logits(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
            return torch.tensor([table[p] for p in prompts], dtype=torch.float64).T

    found = spread(Known(), torch.zeros(3, 3, 8, 8), ["same", "varies"], "n")
    assert np.allclose(found, [0.0, np.std([1, -1, 3], ddof=1)])


def test_clip_varies_over_what_differs_and_hardly_over_what_is_not_there(
    judge: Judge, portraits: torch.Tensor
) -> None:
    """The true attributes of avatars against words of other domains, by the placebos' level alone."""
    level = placebo_spread(judge, portraits, TREE.prompt, TREE.neutral)
    real = spread(judge, portraits, [c.prompt for c in TREE.leaves()], TREE.neutral)
    strange = [
        "wings", "a steering wheel", "a waterfall", "striped fur", "leafy branches", "cogwheels",
        "a wooden table", "a forked tail",
    ]  # fmt: skip
    foreign = spread(
        judge, portraits, [TREE.prompt.replace("{phrase}", word) for word in strange], TREE.neutral
    )
    assert (real > level).mean() > 0.75
    assert (foreign > level).mean() < 0.3
