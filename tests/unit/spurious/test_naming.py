"""Shortcuts by where their edits fall and by what the user says; words for what pictures show."""

from __future__ import annotations

import pytest
import torch

from diffexplain.corpus import load_corpus
from diffexplain.errors import InputError
from diffexplain.judges import Segmenter, load_judge, load_segmenter
from diffexplain.records import Interval
from diffexplain.spurious import Moved, Object, contents, inside, irrelevant_among, shortcut
from diffexplain.worlds import avatars as world

SIDE = 20


def left(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """The object is the left half, in pictures that are not black."""
    masks = torch.zeros(len(images), SIDE, SIDE, dtype=torch.bool)
    masks[:, :, : SIDE // 2] = True
    return masks & (images.amax((1, 2, 3)) > 0)[:, None, None]


def nowhere() -> Segmenter:
    """Finds nothing."""
    found = load_segmenter(lambda images, prompts: torch.zeros(len(images), SIDE, SIDE, dtype=torch.bool))
    assert found is not None
    return found


def thing() -> Object:
    segmenter = load_segmenter(left)
    assert segmenter is not None
    return Object("left", "the left", segmenter)


def changed(columns: slice, n: int = 9) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    before = torch.full((n, 3, SIDE, SIDE), 0.2)
    after = before.clone()
    after[:, :, :, columns] = 0.9
    return [str(i) for i in range(n)], before, after


def test_the_share_inside_is_counted_in_pixels() -> None:
    within = inside(thing(), *changed(slice(0, 8)))
    across = inside(thing(), *changed(slice(6, 16)))
    beyond = inside(thing(), *changed(slice(12, 20)))
    assert within is not None
    assert (within.value, within.low, within.high) == (1, 1, 1)
    assert across is not None
    assert across.value == pytest.approx(0.5)  # four columns, and the border of one
    assert beyond is not None
    assert beyond.high == 0


def test_where_nothing_is_seen_nothing_is_said() -> None:
    names, before, _ = changed(slice(0, 8))
    assert inside(thing(), names, before, before) is None
    dark = torch.zeros_like(before)
    absent = inside(Object("none", "none", nowhere()), names, dark, before)
    assert absent is not None
    assert absent.high == 0  # there is no object for it to fall on
    assert inside(thing(), [], before[:0], before[:0]) is None


OUT, ON = Interval(0.1, 0.0, 0.3), Interval(0.4, 0.2, 0.6)


@pytest.mark.parametrize(
    ("effect", "q", "where", "irrelevant", "why"),
    [
        (2.0, 0.01, OUT, False, "outside the object"),
        (-2.0, 0.01, OUT, False, "outside the object"),
        (2.0, 0.01, OUT, True, "said not to matter"),
        (2.0, 0.01, ON, True, "said not to matter"),
        (2.0, 0.01, None, True, "said not to matter"),
        (2.0, 0.01, ON, False, None),  # its interval holds one half
        (2.0, 0.01, None, False, None),
        (2.0, 0.06, OUT, True, None),
        (0.4, 0.01, OUT, True, None),
        (2.0, float("nan"), OUT, True, None),
    ],
)
def test_a_shortcut_moves_the_class_and_should_not(
    effect: float, q: float, where: Interval | None, irrelevant: bool, why: str | None
) -> None:
    moved = Moved("background/colour/blue", "add", effect, effect - 0.1, effect + 0.1, q, 12)
    found = shortcut(moved, where, irrelevant, 0.5)
    assert (found.why if found else None) == why
    if found:
        assert (found.concept, found.effect, found.inside) == (moved.concept, effect, where)


def test_an_effect_that_pictures_which_show_it_do_not_bear_out_is_no_shortcut() -> None:
    moved = Moved("skin tone/dark", "add", 0.9, 0.8, 1.0, 0.001, 60)
    assert shortcut(moved, None, True, 0.5) is not None
    for value, named in ((0.6, True), (0.4, False), (-0.1, False)):
        both = Interval(value, value - 0.2, value + 0.2)
        assert (shortcut(moved._replace(back=0.1, in_all=both), None, True, 0.5) is not None) == named


def test_names_that_should_not_matter_are_paths_or_parts_of_them() -> None:
    known = ["background/colour/blue", "background/pattern/dots", "skin tone/pale", "hair/colour/red"]
    assert irrelevant_among(known, ["background"]) == set(known[:2])
    assert irrelevant_among(known, ["colour"]) == {known[0], known[3]}
    assert irrelevant_among(known, ["skin tone/pale", " background/colour "]) == {known[0], known[2]}
    assert irrelevant_among(known, []) == frozenset()
    with pytest.raises(InputError, match="irrelevant 'age': no concept of the run has that name"):
        irrelevant_among(known, ["age"])


def test_pictures_of_hats_are_said_to_show_hats() -> None:
    drawn = [a._replace(headwear="none") for a in world.sample(12, 550_000)]
    plain = world.render(drawn, 64)
    hats = world.render([a._replace(headwear="hat") for a in drawn], 64)
    found = contents(load_judge("pocket"), load_corpus("avatars"), hats, plain)
    assert found[0].concept == "headwear/hat"
    assert found[0].there > 0.9 > 0.1 > found[0].neutral
    assert found[0].q < 0.05
    assert 0.5 < found[0].low <= found[0].high <= 1.01
    assert contents(load_judge("pocket"), load_corpus("avatars"), plain, plain) == ()
