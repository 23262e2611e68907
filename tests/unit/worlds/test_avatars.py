"""The avatars world: what it draws, hides, changes and says, and the truth it tells about a score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2_contingency

from diffexplain.worlds import avatars as world
from diffexplain.worlds.avatars import ATTRIBUTES, LEAVES, NONE, OPTIONAL, Avatar

SLOTS = Avatar._fields
SURE = 1 - 1e-7  # of an exact bound: never red by chance
PEOPLE = world.sample(24, seed=1)
STEP = 1.5 / 255  # less may be rounding

avatars = st.builds(Avatar, *(st.sampled_from(world.values(slot)) for slot in SLOTS))
pure = settings(max_examples=100, deadline=None)
drawn = settings(max_examples=15, deadline=None)


def changed(a: Avatar, b: Avatar, size: int = 64) -> torch.Tensor:
    """The pixels that differ: bool (size, size)."""
    before, after = world.render([a, b], size)
    return (after - before).abs().amax(0) > STEP


def eligible(concept: str, direction: world.Direction = "add", n: int = 2) -> list[Avatar]:
    return [a for a in PEOPLE if world.eligible(a, concept, direction)][:n]


def visible(avatar: Avatar) -> dict[str, str]:
    return {slot: getattr(avatar, slot) for slot in SLOTS if world.applicable(avatar, slot)}


# -- the attributes -----------------------------------------------------------------------------------


def test_the_tree_has_the_concepts_that_a_person_would_name() -> None:
    demanded = {
        "facial hair/beard": {"light", "medium", "long"},
        "facial hair/moustache": {"fancy", "big"},
        "facewear/glasses": {"round", "thin", "thick"},
        "facewear/sunglasses": {"classic", "wayfarer"},
        "facewear": {"eyepatch"},
        "headwear": {"hat", "hijab", "turban", "winter hat"},
        "background/pattern": {"stripes", "dots"},
        "sticker": {"red dot", "star"},
    }
    counts = {
        "hair/style": 10, "hair/colour": 5, "clothing/garment": 5, "clothing/colour": 5,
        "background/colour": 2,
        "expression/mouth": 2, "expression/eyes": 2, "expression/eyebrows": 2, "skin tone": 2,
    }  # fmt: skip
    under: dict[str, set[str]] = {}
    for leaf in LEAVES:
        parent, _, name = leaf.rpartition("/")
        under.setdefault(parent, set()).add(name)
    assert {parent: under[parent] for parent in demanded} == demanded
    assert all(len(under[parent]) >= least for parent, least in counts.items())
    assert set(under) == {*demanded, *counts}
    assert len(LEAVES) >= 45
    assert {leaf.count("/") for leaf in LEAVES} == {1, 2}  # the deepest are on the third level


def test_every_value_has_its_own_path_and_phrase() -> None:
    values = [v for slot in SLOTS for v in ATTRIBUTES[slot].values()]
    phrases = [v.phrase for v in values] + [absent for _, absent in OPTIONAL.values()]
    phrases += world.GENERAL.values()
    assert len(LEAVES) == len(values)
    assert len(set(phrases)) == len(phrases)
    assert not any("," in phrase for phrase in phrases)  # the comma joins clauses


def test_only_the_parts_that_a_person_can_lack_are_optional() -> None:
    assert set(OPTIONAL) == {"facial_hair", "facewear", "headwear", "pattern", "sticker"}
    for slot in SLOTS:
        assert (NONE in world.values(slot)) == (slot in OPTIONAL)


def test_leaves_of_a_path() -> None:
    assert world.leaves("facewear/glasses") == tuple(
        f"facewear/glasses/{k}" for k in ("round", "thin", "thick")
    )
    assert world.leaves("headwear/hat") == ("headwear/hat",)
    for path in ("head", "headwear/ha", "facewear/glasses/", ""):
        with pytest.raises(KeyError, match="no concept"):
            world.leaves(path)


# -- sampling -----------------------------------------------------------------------------------------


@pure
@given(n=st.integers(0, 20), seed=st.integers(0, 2**40))
def test_a_sample_is_decided_by_its_seed_alone(n: int, seed: int) -> None:
    one = world.sample(n, seed)
    assert world.sample(20, seed)[:n] == one
    assert len(one) == n
    assert world.sample(20, seed) != world.sample(20, seed + 1)


@pytest.fixture(scope="module")
def crowd() -> list[Avatar]:
    return world.sample(4000, seed=5)


@pytest.mark.parametrize("slot", SLOTS)
def test_marginals(crowd: list[Avatar], slot: str) -> None:
    absent = OPTIONAL[slot][0] if slot in OPTIONAL else 0.0
    for value in world.values(slot):
        p = absent if value == NONE else (1 - absent) / len(ATTRIBUTES[slot])
        low, high = binom.interval(SURE, len(crowd), p)
        assert low <= sum(getattr(a, slot) == value for a in crowd) <= high


def test_attributes_are_independent(crowd: list[Avatar]) -> None:
    codes = {slot: np.array([world.values(slot).index(getattr(a, slot)) for a in crowd]) for slot in SLOTS}
    for i, one in enumerate(SLOTS):
        for other in SLOTS[i + 1 :]:
            table = np.zeros((len(world.values(one)), len(world.values(other))))
            np.add.at(table, (codes[one], codes[other]), 1)
            assert chi2_contingency(table).pvalue > 1e-6, (one, other)


@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize(
    ("cause", "effect"),
    [
        ("expression/mouth/smile", "headwear/hat"),
        ("background/colour/blue", "facewear/glasses"),
        ("facial hair", "background/pattern"),
    ],
)
def test_a_confounder_agrees_as_often_as_stated(cause: str, effect: str, p: float) -> None:
    people = world.sample(1000, seed=3, correlate={(cause, effect): p})
    agree = sum(world.present(a, cause) == world.present(a, effect) for a in people)
    low, high = binom.interval(SURE, len(people), p) if 0 < p < 1 else (p * len(people),) * 2
    assert low <= agree <= high


def test_a_confounder_changes_no_more_than_it_must() -> None:
    kept = 0
    for seed in range(150):
        (before,) = world.sample(1, seed)
        (after,) = world.sample(1, seed, correlate={("expression/mouth/smile", "facewear/glasses"): 0.9})
        assert after._replace(facewear=before.facewear) == before
        if world.present(before, "facewear/glasses") == world.present(after, "facewear/glasses"):
            assert after == before  # no redraw of a value that fits
            kept += 1
    assert 20 < kept < 130


def test_two_confounders_are_planted_in_turn() -> None:
    pairs = {("expression/mouth/smile", "headwear/hat"): 1.0, ("headwear/hat", "sticker/star"): 1.0}
    for a in world.sample(100, seed=0, correlate=pairs):
        assert (a.mouth == "smile") == (a.headwear == "hat") == (a.sticker == "star")


@pure
@given(avatar=avatars, leaf=st.sampled_from(sorted(LEAVES)), wanted=st.booleans(), seed=st.integers(0, 99))
def test_force(avatar: Avatar, leaf: str, wanted: bool, seed: int) -> None:
    slot, name = LEAVES[leaf]
    forced = world.force(avatar, leaf, wanted, np.random.default_rng(seed))
    assert (getattr(forced, slot) == name) == wanted
    assert forced._replace(**{slot: getattr(avatar, slot)}) == avatar
    if (getattr(avatar, slot) == name) == wanted:
        assert forced == avatar


# -- drawing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64])
def test_pictures_are_images(size: int) -> None:
    pictures = world.render(PEOPLE[:4], size)
    assert pictures.shape == (4, 3, size, size)
    assert pictures.dtype == torch.float32
    assert 0 <= pictures.min() < 0.2
    assert 0.8 < pictures.max() <= 1
    assert torch.equal(pictures, (pictures * 255).round() / 255)  # whole 8-bit steps
    as_bytes = world.render_bytes(PEOPLE[:4], size)
    assert (as_bytes.shape, as_bytes.dtype) == ((4, size, size, 3), np.uint8)
    assert torch.equal(torch.from_numpy(as_bytes).permute(0, 3, 1, 2).float() / 255, pictures)


def test_no_avatars_make_no_pictures() -> None:
    assert world.render([], 32).shape == (0, 3, 32, 32)


def test_a_picture_depends_on_its_avatar_alone() -> None:
    pictures = world.render(PEOPLE[:4])
    for cached in (world._figure, world.backdrop, world.sticker, world._style):
        cached.cache_clear()
    assert torch.equal(world.render(PEOPLE[3::-1]).flip(0), pictures)
    assert len({p.numpy().tobytes() for p in pictures}) == 4


def test_sizes_show_the_same_picture() -> None:
    small = torch.nn.functional.avg_pool2d(world.render(PEOPLE[:4], 64), 2)
    assert (small - world.render(PEOPLE[:4], 32)).abs().mean() < 0.03
    assert (small - world.render(PEOPLE[3::-1], 32)).abs().mean() > 0.1


@pytest.mark.parametrize(
    ("hiding", "by", "hidden"),
    [
        ("headwear", ["hat", "hijab", "turban", "winter_hat"], "hair_style"),
        ("headwear", ["hat", "hijab", "turban", "winter_hat"], "hair_colour"),
        ("facewear", ["classic_sunglasses", "wayfarer_sunglasses"], "eyes"),
        ("headwear", ["hijab"], "garment"),
    ],
)
def test_what_is_hidden_never_changes_the_picture(hiding: str, by: list[str], hidden: str) -> None:
    (bare,) = world.sample(1, seed=2)
    bare = bare._replace(headwear=NONE, facewear=NONE)
    for value in world.values(hiding):
        avatar = bare._replace(**{hiding: value})
        pictures = world.render([avatar._replace(**{hidden: v}) for v in world.values(hidden)])
        different = len({p.numpy().tobytes() for p in pictures})
        assert different == (1 if value in by else len(pictures)), value
        assert world.applicable(avatar, hidden) == (value not in by)


# -- interventions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", LEAVES)
def test_adding_a_leaf_changes_just_that(leaf: str) -> None:
    slot, name = LEAVES[leaf]
    people = eligible(leaf)
    assert people
    for avatar in people:
        added = world.do(avatar, leaf)
        assert getattr(added, slot) == name
        assert added._replace(**{slot: getattr(avatar, slot)}) == avatar
        assert world.present(added, leaf)
        assert not world.eligible(added, leaf)
        difference = changed(avatar, added)
        assert difference.sum() >= 12
        assert not (difference & ~world.region(leaf)).any()


@pytest.mark.parametrize("leaf", [leaf for leaf, (slot, _) in LEAVES.items() if slot in OPTIONAL])
def test_removing_an_optional_leaf_changes_just_that(leaf: str) -> None:
    slot, _ = LEAVES[leaf]
    people = [world.do(a, leaf) for a in PEOPLE[:2]]
    for avatar in people:
        assert world.eligible(avatar, leaf, "remove")
        removed = world.do(avatar, leaf, "remove")
        assert removed == avatar._replace(**{slot: NONE})
        assert not world.eligible(removed, leaf, "remove")
        difference = changed(avatar, removed)
        assert difference.sum() >= 12
        assert not (difference & ~world.region(leaf)).any()


@pytest.mark.parametrize("leaf", [leaf for leaf, (slot, _) in LEAVES.items() if slot not in OPTIONAL])
def test_what_everyone_has_cannot_be_removed(leaf: str) -> None:
    assert not any(world.eligible(world.do(a, leaf), leaf, "remove") for a in PEOPLE)
    with pytest.raises(ValueError, match=r"cannot be removed; removable are .*facewear.*sticker") as caught:
        world.do(PEOPLE[0], leaf, "remove")
    assert repr(leaf) in str(caught.value)


@pytest.mark.parametrize("inner", ["facial hair", "facial hair/beard", "facewear/glasses", "headwear"])
def test_an_inner_node_can_be_removed_but_not_added(inner: str) -> None:
    slot, _ = LEAVES[world.leaves(inner)[0]]
    assert world.do(PEOPLE[0], inner, "remove") == PEOPLE[0]._replace(**{slot: NONE})
    with pytest.raises(ValueError, match=f"not a leaf; add one of {world.leaves(inner)[0]}"):
        world.do(PEOPLE[0], inner)


@pytest.mark.parametrize("direction", ["add", "remove"])
@pytest.mark.parametrize("inner", ["background", "hair", "expression", "clothing"])
def test_a_group_of_attributes_is_no_intervention(inner: str, direction: world.Direction) -> None:
    with pytest.raises(ValueError, match=repr(inner)):
        world.do(PEOPLE[0], inner, direction)


def test_an_unknown_concept_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="no concept 'tail'"):
        world.do(PEOPLE[0], "tail")


@pure
@given(avatar=avatars, leaf=st.sampled_from(sorted(LEAVES)))
def test_eligible_is_absent_and_visible_or_present(avatar: Avatar, leaf: str) -> None:
    slot, name = LEAVES[leaf]
    seen = visible(avatar).get(slot)
    assert world.present(avatar, leaf) == (seen == name)
    assert world.eligible(avatar, leaf) == (seen is not None and seen != name)
    assert world.eligible(avatar, leaf, "remove") == (slot in OPTIONAL and seen == name)


def test_who_is_eligible_by_hand() -> None:
    bare = PEOPLE[0]._replace(headwear=NONE, facewear=NONE, hair_style="afro", eyes="open", garment="hoodie")
    hat, shades = bare._replace(headwear="hat"), bare._replace(facewear="classic_sunglasses")
    assert world.eligible(bare, "hair/style/bob")
    assert not world.eligible(bare, "hair/style/afro")
    assert not world.eligible(hat, "hair/style/bob")  # it could not be seen
    assert not world.eligible(hat, "hair/style/afro")
    assert not world.eligible(shades, "expression/eyes/closed")
    assert not world.eligible(bare._replace(headwear="hijab"), "clothing/garment/blazer")
    assert world.eligible(hat, "headwear/turban")  # one replaces the other
    assert world.eligible(shades, "facewear/sunglasses", "remove")
    assert not world.eligible(shades, "facewear/sunglasses")
    assert not world.eligible(shades, "facewear/glasses", "remove")


# -- where --------------------------------------------------------------------------------------------


@drawn
@given(avatar=avatars, slot=st.sampled_from(SLOTS))
def test_a_mask_is_where_its_attribute_shows(avatar: Avatar, slot: str) -> None:
    owned = world.mask(avatar, slot)
    assert (owned.shape, owned.dtype) == ((64, 64), torch.bool)
    if not world.applicable(avatar, slot) or getattr(avatar, slot) == NONE:
        assert not owned.any()
        return
    assert owned.any()
    others = (NONE,) if slot in OPTIONAL else world.values(slot)
    each = torch.stack([changed(avatar, avatar._replace(**{slot: v})) for v in others])
    assert torch.equal(owned, each.any(0))
    path = next(iter(ATTRIBUTES[slot].values())).path
    assert torch.equal(world.mask(avatar, path), owned)
    assert not (owned & ~world.region(path)).any()


def test_a_mask_by_hand() -> None:
    avatar = PEOPLE[0]._replace(sticker="red_dot", headwear="hat")
    rows, columns = torch.nonzero(world.mask(avatar, "sticker"), as_tuple=True)
    assert {*rows.tolist(), *columns.tolist()} <= set(range(14))  # the top left corner
    assert world.mask(avatar, "sticker", 128).shape == (128, 128)
    assert not world.mask(avatar, "hair").any()
    assert world.mask(avatar, "headwear").sum() > 300
    with pytest.raises(KeyError, match="no concept 'tail'"):
        world.mask(avatar, "tail")


@pytest.mark.parametrize("slot", SLOTS)
def test_a_region_covers_every_change(slot: str) -> None:
    reach = world.region(next(iter(ATTRIBUTES[slot].values())).path)
    for avatar in world.sample(12, seed=77):
        pictures = world.render([avatar._replace(**{slot: v}) for v in world.values(slot)])
        touched = (pictures.amax(0) - pictures.amin(0)).amax(0) > STEP
        assert not (touched & ~reach).any()


def test_a_region_is_no_larger_than_it_must_be() -> None:
    assert world.region("sticker").float().mean() < 0.05
    assert world.region("expression/mouth").float().mean() < 0.05
    assert world.region("facewear").float().mean() < 0.15
    assert torch.equal(world.region("facewear"), world.region("facewear/glasses/round"))
    both = world.region("background/colour") | world.region("background/pattern")
    assert torch.equal(world.region("background"), both)
    assert world.region("sticker", 32).shape == (32, 32)
    world.region("sticker").zero_()
    assert world.region("sticker").any()  # nobody can change what is kept
    with pytest.raises(KeyError, match="no concept 'tail'"):
        world.region("tail")


# -- words --------------------------------------------------------------------------------------------

MEANING = {v.phrase: (slot, name) for slot in SLOTS for name, v in ATTRIBUTES[slot].items()}
MEANING |= {absent: (slot, NONE) for slot, (_, absent) in OPTIONAL.items()}
START = "a person with "


def clauses(caption: str) -> list[str]:
    assert caption.startswith(START)
    return caption.removeprefix(START).split(", ")


@pure
@given(avatar=avatars)
def test_a_full_caption_says_all_that_is_visible_and_no_more(avatar: Avatar) -> None:
    said = [MEANING[clause] for clause in clauses(world.caption(avatar))]
    assert said == list(visible(avatar).items())
    assert world.readings(avatar) == {slot: visible(avatar).get(slot) for slot in SLOTS}


@pure
@given(avatar=avatars, seed=st.integers(0, 2**32))
def test_a_random_caption_is_true(avatar: Avatar, seed: int) -> None:
    words = {word: path for path, word in world.GENERAL.items()}
    said = clauses(world.caption(avatar, np.random.default_rng(seed)))
    slots = [LEAVES[world.leaves(words[c])[0]][0] if c in words else MEANING[c][0] for c in said]
    assert len(set(slots)) == len(slots)  # nothing twice
    for clause, slot in zip(said, slots, strict=True):
        if clause in words:
            assert world.present(avatar, words[clause])
        else:
            assert visible(avatar)[slot] == MEANING[clause][1]
    assert world.caption(avatar, np.random.default_rng(seed)) == ", ".join([START + said[0], *said[1:]])


def test_captions_vary_in_order_length_and_wording() -> None:
    avatar = PEOPLE[0]._replace(headwear=NONE, facewear="round_glasses", facial_hair="light_beard")
    n, rng = 1000, np.random.default_rng(0)
    said = [clauses(world.caption(avatar, rng)) for _ in range(n)]
    assert {len(c) for c in said} == set(range(1, len(SLOTS) + 1))
    low, high = binom.interval(SURE, n, 0.4 + 0.6 / len(SLOTS))
    assert low <= sum(len(c) == len(SLOTS) for c in said) <= high
    for clause, place in [("a smile", 0), ("a smile", -1)]:
        smiling = [clauses(world.caption(avatar._replace(mouth="smile"), rng)) for _ in range(n)]
        assert sum(c[place] == clause for c in smiling) > n / len(SLOTS) / 2  # free order
    low, high = binom.interval(SURE, sum("glasses" in c or "round glasses" in c for c in said), 0.1)
    assert low <= sum("glasses" in c for c in said) <= high


def test_prompts_are_captions_of_one_clause() -> None:
    for leaf, (slot, name) in LEAVES.items():
        assert world.prompt(leaf) == START + ATTRIBUTES[slot][name].phrase
    assert world.prompt("facewear/glasses") == "a person with glasses"
    with pytest.raises(KeyError):
        world.prompt("hair")  # no word of its own


# -- truth --------------------------------------------------------------------------------------------


def reads_red_dot(images: torch.Tensor) -> torch.Tensor:
    """1 where the middle of the sticker has the dot's red, else 0."""
    red = torch.tensor([0xE0, 0x20, 0x2A]) / 255
    return ((images[:, :, 7, 7] - red).abs().amax(1) < 0.02).float()


def test_truth_of_a_score_that_reads_a_sticker() -> None:
    people = world.sample(40, seed=4)
    dot, star = "sticker/red dot", "sticker/star"
    no_star = [a for a in people if a.sticker != "star"]
    dots = sum(a.sticker == "red_dot" for a in no_star)
    assert 0 < dots < len(no_star) < len(people) - 1
    share = dots / len(no_star)
    error = math.sqrt(share * (1 - share) / (len(no_star) - 1))

    assert world.true_effect(reads_red_dot, people, dot) == (1, 0)
    assert world.true_effect(reads_red_dot, people, dot, "remove") == (-1, 0)
    assert world.true_effect(reads_red_dot, people, star) == pytest.approx((-share, error))
    assert world.true_effect(reads_red_dot, people, star, "remove") == (0, 0)
    assert world.true_effect(reads_red_dot, people, "expression/mouth/smile") == (0, 0)
    # an inner node: the mean over its leaves
    assert world.true_effect(reads_red_dot, people, "sticker") == pytest.approx(((1 - share) / 2, error / 2))
    assert world.true_effect(reads_red_dot, people, "sticker", "remove") == (-0.5, 0)


@pytest.mark.parametrize("name", ATTRIBUTES["background"])
def test_truth_of_a_score_that_is_a_colour_channel(name: str) -> None:
    blue = {k: int(v.draw[4:], 16) / 255 for k, v in ATTRIBUTES["background"].items()}
    plain = [a._replace(pattern=NONE, headwear="turban") for a in PEOPLE]
    others = [a for a in plain if a.background != name]
    changes = np.array([blue[name] - blue[a.background] for a in others])
    expected = changes.mean(), changes.std(ddof=1) / math.sqrt(len(changes))
    leaf = ATTRIBUTES["background"][name].path
    found = world.true_effect(lambda x: x[:, 2, :4, -4:].mean((1, 2)), plain, leaf, size=32)
    assert found == pytest.approx(expected, abs=1e-5)


def count_into(seen: list[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    def score(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return images.mean((1, 2, 3))

    return score


@pytest.mark.parametrize(
    ("concept", "direction"),
    [("hair/style/bob", "add"), ("expression/eyes/wide", "add"), ("headwear/hat", "remove")],
)
def test_truth_asks_about_the_eligible_only(concept: str, direction: world.Direction) -> None:
    seen: list[int] = []
    world.true_effect(count_into(seen), PEOPLE, concept, direction)
    fit = len([a for a in PEOPLE if world.eligible(a, concept, direction)])
    assert seen == [fit, fit]
    assert 0 < fit < len(PEOPLE)


@pytest.mark.parametrize(
    ("people", "concept", "direction"),
    [
        ([], "headwear/hat", "add"),
        ([a._replace(headwear="hat") for a in PEOPLE], "headwear/hat", "add"),
        ([a._replace(headwear="hat") for a in PEOPLE], "hair/style", "add"),
        ([a._replace(sticker=NONE) for a in PEOPLE], "sticker", "remove"),
        (PEOPLE, "skin tone/tan", "remove"),
    ],
)
def test_truth_is_nan_where_nobody_is_eligible(
    people: Sequence[Avatar], concept: str, direction: world.Direction
) -> None:
    assert all(map(math.isnan, world.true_effect(reads_red_dot, people, concept, direction)))


def test_one_avatar_has_an_effect_but_no_error() -> None:
    effect, error = world.true_effect(reads_red_dot, [PEOPLE[0]._replace(sticker=NONE)], "sticker/red dot")
    assert effect == 1
    assert math.isnan(error)
