from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffexplain.corpus import grow
from diffexplain.mining.drafting import (
    Draft,
    Dropped,
    Kind,
    Term,
    balanced,
    distinct,
    document,
    plain,
    tidied,
    without,
)

HEAD = dict(name="n", domain="d", prompt="a bird with {phrase}", neutral="a bird", sources=["me"])


def kind(path: str, *phrases: str, exclusive: bool = False, absent: str = "") -> Kind:
    group, name = path.split("/")
    return Kind(group, name, tuple(Term(p, p) for p in phrases), exclusive, absent)


def terms(draft: Draft) -> dict[str, list[str]]:
    return {k.path: [t.name for t in k.terms] for k in draft}


def test_words_are_made_plain() -> None:
    assert plain("  Red / Orange,  BEAK. ") == "red orange beak"
    assert plain("wing\u0000_bar + tail: “x” {y}") == "wing bar tail x y"
    assert plain("Ångström") == "ångström"


@given(st.text())
def test_plain_words_fit_in_a_path(text: str) -> None:
    assert plain(plain(text)) == plain(text)
    assert not set(plain(text)) & set("/+{},:\n")


def test_tidying_joins_kinds_of_one_name_and_keeps_each_term_once() -> None:
    draft = (
        kind("Beak/Colour", "A Red Beak", "a red beak", "red beaks", "", exclusive=True),
        kind("beak/colour ", "a black beak", "one that is described at very much greater length"),
        kind("tail/colour", "the red beak", "a red tail"),
    )
    tidy, dropped = tidied(draft)
    assert terms(tidy) == {"beak/colour": ["a red beak", "a black beak"], "tail/colour": ["a red tail"]}
    assert tidy[0].exclusive is False  # one of the two said otherwise
    assert [d.why.split(",")[0] for d in dropped] == [
        "is there twice",
        "is there twice",
        "it has no words",
        "longer than 6 words",
        "is there twice",
    ]


def test_two_values_of_one_name_are_one() -> None:
    tidy, dropped = tidied([Kind("a", "b", (Term("x", "a red x"), Term("X", "a blue x")))])
    assert terms(tidy) == {"a/b": ["x"]}
    assert dropped == (Dropped("a/b/x", "is there twice"),)


def test_near_duplicates_go_by_the_angle_of_their_vectors_within_a_group() -> None:
    angles = {"a": 0.0, "b": 0.1, "c": 0.4, "d": 0.0}

    def embed(phrases: object) -> np.ndarray:
        return np.array([[np.cos(angles[p]), np.sin(angles[p])] for p in phrases])  # type: ignore[attr-defined]

    draft = (kind("g/k", "a", "b"), kind("g/l", "c"), kind("h/k", "d"), kind("h/l"))
    left, dropped = distinct(draft, embed, similarity=float(np.cos(0.2)))
    assert terms(left) == {"g/k": ["a"], "g/l": ["c"], "h/k": ["d"], "h/l": []}
    assert dropped == (Dropped("g/k/b", "says the same as 'a'"),)


def test_what_has_a_reason_goes() -> None:
    left, dropped = without((kind("g/k", "a", "b"),), {"g/k/b": "ugly"})
    assert terms(left) == {"g/k": ["a"]}
    assert dropped == (Dropped("g/k/b", "ugly"),)


def test_balancing_leaves_no_kind_or_group_alone_unless_it_can_be_missing() -> None:
    draft = (
        kind("head/colour", "red", "blue"),
        kind("head/size", "big"),
        kind("head/shape", "flat"),
        kind("head/empty"),
        kind("crest/kind", "a crest", absent="no crest"),
        kind("tail/length", "long"),
    )
    left, dropped = balanced(draft, width=25)
    assert terms(left) == {
        "head/colour": ["red", "blue"],
        "head/other": ["big", "flat"],
        "other/crest": ["a crest"],
        "other/tail": ["long"],
    }
    assert not dropped
    assert next(k for k in left if k.path == "other/crest").absent == "no crest"


def test_too_wide_a_kind_keeps_what_varies_most_in_its_order() -> None:
    wide = Kind(
        "g", "k", tuple(Term(n, n, s) for n, s in zip("abcd", (1.0, 3.0, float("nan"), 2.0), strict=True))
    )
    left, dropped = balanced((wide, kind("g/l", "x", "y")), width=2)
    assert terms(left)["g/k"] == ["b", "d"]
    assert {d.path for d in dropped} == {"g/k/a", "g/k/c"}


def test_terms_of_one_name_that_meet_in_the_rest_are_told_apart() -> None:
    draft = (
        Kind("head", "crown", (Term("red", "a red crown"),)),
        Kind("head", "nape", (Term("red", "a red nape"),)),
    )
    left, _ = balanced(draft, width=9)
    assert terms(left) == {"head/other": ["red", "a red nape"]}


def test_a_draft_becomes_a_corpus_of_three_levels() -> None:
    draft = (
        kind("head/colour", "a red head", "a blue head", exclusive=True),
        kind("head/crest", "a tall crest", absent="no crest"),
        kind("marks/other", "a spot", "a stripe"),
    )
    corpus = grow(document(draft, **HEAD))  # type: ignore[arg-type]
    assert [c.path for c in corpus.leaves()] == [
        "head/colour/a red head",
        "head/colour/a blue head",
        "head/crest/a tall crest",
        "marks/other/a spot",
        "marks/other/a stripe",
    ]
    assert corpus["head/colour"].directions == ("add",)
    assert corpus["head/crest/a tall crest"].directions == ("add", "remove")
    assert corpus["marks/other/a spot"].slot is None
    assert corpus.sources == ("me",)


words = st.text("abcdefg hij", max_size=6)
kinds = st.builds(
    Kind,
    words,
    words,
    st.lists(st.builds(Term, words, words), max_size=5).map(tuple),
    st.booleans(),
    st.sampled_from(["", "no a"]),
)


@given(st.lists(kinds, max_size=6))
def test_any_draft_becomes_a_valid_corpus_or_nothing(draft: list[Kind]) -> None:
    tidy, dropped = tidied(draft)
    left, wide = balanced(tidy, width=3)
    assert sum(len(k.terms) for k in draft) == sum(len(k.terms) for k in left) + len(dropped) + len(wide)
    if left:
        leaves = grow(document(left, **HEAD)).leaves()  # type: ignore[arg-type]
        assert {leaf.depth for leaf in leaves} == {2}
        assert len({leaf.prompt for leaf in leaves}) == len(leaves)
