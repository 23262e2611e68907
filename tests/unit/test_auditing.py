"""Attribute counts and fairness gaps on rendered avatars, read by the pocket CLIP."""

import math
from functools import lru_cache

import numpy as np
import pytest
import torch

from diffexplain.auditing import (
    attribute_gaps,
    attribute_shares,
    attributes,
    calibrated,
    fairness_gaps,
    read_attribute,
)
from diffexplain.classifiers import load_classifier
from diffexplain.corpus import Corpus, load_corpus
from diffexplain.counterfactuals import Counterfactuals, Rebuilt
from diffexplain.errors import InputError
from diffexplain.judges import Judge, load_judge
from diffexplain.statistics import benjamini_yekutieli
from diffexplain.targets import Target, choose_target
from diffexplain.worlds import avatars as world


@lru_cache(maxsize=1)
def judge() -> Judge:
    return load_judge("pocket")


@lru_cache(maxsize=1)
def corpus() -> Corpus:
    return load_corpus("avatars")


@lru_cache(maxsize=4)
def people(n: int = 80, seed: int = 570_000) -> tuple[list[world.Avatar], torch.Tensor]:
    drawn = world.sample(n, seed)
    return drawn, world.render(drawn)


def dressed(skin: dict[str, int], seed: int) -> torch.Tensor:
    names = [name for name, n in skin.items() for _ in range(n)]
    drawn = world.sample(len(names), seed)
    return world.render([a._replace(skin=name) for a, name in zip(drawn, names, strict=True)])


def test_attributes_are_the_slots_of_the_corpus() -> None:
    skin, sticker, style = attributes(corpus(), ["skin-tone", "sticker", "style"])
    assert skin.name == "skin tone"
    assert skin.values == ("pale", "tan", "brown", "dark")
    assert sticker.values == ("none", "red dot", "star")
    assert style.name == "hair/style"
    assert len(skin.prompts) == 4


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["gender"], "attribute 'gender' is unknown to the reader; corpus 'avatars' has facial hair, "),
        (["colour"], "'colour' is several; corpus 'avatars' has hair/colour, clothing/colour"),
        ([], "no attribute given"),
    ],
)
def test_an_attribute_that_the_reader_does_not_know(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        attributes(corpus(), names)


def test_the_reader_reads_and_sees_what_is_hidden() -> None:
    drawn, images = people()
    skin, hair = attributes(corpus(), ["skin tone", "hair/colour"])
    read = read_attribute(judge(), corpus(), skin, images)
    assert np.mean([skin.values[r] == a.skin for r, a in zip(read, drawn, strict=True)]) > 0.9
    hidden = read_attribute(judge(), corpus(), hair, images) == -1
    assert np.mean(hidden == np.array([a.headwear != "none" for a in drawn])) > 0.9


def test_calibration_counts_and_names_what_is_wrong() -> None:
    drawn, images = people()
    skin = attributes(corpus(), ["skin tone"])
    labels = [a.skin for a in drawn]
    (reading,) = calibrated(judge(), corpus(), skin, images, {"skin tone": labels})
    assert np.sum(reading.confusion) == len(drawn)
    assert reading.accuracy > 0.9
    with pytest.raises(InputError, match="label 'green' is no value of 'skin tone'; values are pale"):
        calibrated(judge(), corpus(), skin, images, {"skin tone": ["green", *labels[1:]]})
    with pytest.raises(InputError, match="do not say 'skin tone'; they say age"):
        calibrated(judge(), corpus(), skin, images, {"age": labels})


def test_a_skewed_class_is_found_and_an_even_one_is_not() -> None:
    even = {"pale": 10, "tan": 10, "brown": 10, "dark": 10}
    skewed = {"pale": 34, "tan": 2, "brown": 2, "dark": 2}
    images = {"hired": dressed(skewed, 1), "rejected": dressed(even, 2)}
    plain = {"hired": dressed(even, 3), "rejected": dressed(even, 4)}
    skin = attributes(corpus(), ["skin tone"])
    drawn, labelled = people()
    readings = calibrated(judge(), corpus(), skin, labelled, {"skin tone": [a.skin for a in drawn]})
    rows = attribute_shares(judge(), corpus(), skin, images, {"plain": plain}, readings)
    hired, rejected = rows
    assert (hired.label, rejected.label) == ("hired", "rejected")
    assert hired.q < 0.01
    assert rejected.q > 0.2
    assert hired.effect_size > 0.4
    assert hired.low[0] < 0.85 < hired.high[0]
    assert sum(hired.counts) == 40
    with pytest.raises(InputError, match="twin reference has no pictures of class 'rejected'"):
        attribute_shares(judge(), corpus(), skin, images, {"twin": {"hired": plain["hired"]}})


def redness(weight: float) -> Target:
    def score(images: torch.Tensor) -> torch.Tensor:
        return weight * (images[:, 0].mean((1, 2)) - 0.5)

    return choose_target(load_classifier(score), None)


def rerendered(concept: str, n: int = 24) -> Counterfactuals:
    chosen = [a for a in world.sample(4 * n, 580_000) if world.eligible(a, concept)][:n]
    before, after = world.render(chosen), world.render([world.do(a, concept) for a in chosen])
    names = tuple(str(i) for i in range(len(chosen)))
    return Counterfactuals(concept, "add", names, before, after, np.ones(len(chosen), dtype=bool))


def test_gaps_margins_and_twins() -> None:
    """A classifier that sees redness only: a pink background matters, a star hardly."""
    pairs = [rerendered("background/colour/pink"), rerendered("sticker/star"), rerendered("headwear/hat")]
    wanted = attributes(corpus(), ["background/colour", "sticker"])
    found = fairness_gaps(redness(20), pairs, wanted)
    assert [g.concept for g in found] == ["background/colour/pink", "sticker/star"]
    pink, star = found
    assert pink.q < 0.001
    assert pink.low < pink.gap < pink.high
    assert pink.attribute == "background/colour"
    assert star.success_rate == 1
    matter = {a.attribute: a.matters(abs(star.gap) + 0.3) for a in attribute_gaps(found)}
    assert matter == {"background/colour": True, "sticker": False}
    assert all(a.matters(0) == (a.q < 0.05) for a in attribute_gaps(found))
    assert np.array([g.q for g in found]) == pytest.approx(benjamini_yekutieli([g.p for g in found]))
    alike = fairness_gaps(redness(20), pairs, wanted, twin=redness(20))
    assert all(g.gap == 0 and g.q == 1 for g in alike)


def test_an_editor_that_overdoes_a_value_is_found_out_by_pictures_that_show_it() -> None:
    """Dark skin is drawn with a mark that no real picture has; the classifier sees nothing but the mark."""
    wanted = attributes(corpus(), ["skin tone", "facewear"])
    drawn = world.sample(60, 575_000)
    pairs = []
    for leaf in [c.path for a in wanted for c in a.leaves]:
        rows = [i for i, a in enumerate(drawn) if not world.present(a, leaf)]
        before = world.render([drawn[i] for i in rows])
        after = world.render([world.do(drawn[i], leaf) for i in rows])
        after[:, :, :4, :4] = float(leaf == "skin tone/dark")
        before[:, :, :4, :4] = 0
        names = tuple(str(i) for i in rows)
        pairs.append(Counterfactuals(leaf, "add", names, before, after, np.ones(len(rows), dtype=bool)))
    target = choose_target(load_classifier(lambda x: 10 * x[:, :, :4, :4].mean((1, 2, 3))), None)
    gaps = fairness_gaps(target, pairs, wanted)
    dark = next(g for g in gaps if g.concept == "skin tone/dark")
    assert (dark.gap, dark.back) == pytest.approx((10, 0), abs=1e-6)
    assert dark.in_all is not None
    assert abs(dark.told) < 1e-3  # what pictures had is exact here, and the edits are far from it
    worn = [g for g in gaps if g.attribute == "facewear"]  # it may be absent: only the edits tell
    assert all(math.isnan(g.back) and g.in_all and g.in_all.value == pytest.approx(g.gap) for g in worn)
    skin = next(a for a in attribute_gaps(gaps) if a.attribute == "skin tone")
    assert not skin.matters(0.1)


def test_what_rebuilding_takes_is_given_back() -> None:
    """Rebuilding halves the red of pictures with a star alone; the classifier sees redness."""
    wanted = attributes(corpus(), ["facewear", "sticker"])
    drawn = world.sample(240, 576_000)
    seen = world.render(drawn)
    worn = torch.tensor([world.present(a, "sticker/star") for a in drawn])
    remade = torch.where(worn[:, None, None, None], seen * torch.tensor([0.5, 1, 1])[:, None, None], seen)
    names = [str(i) for i in range(len(drawn))]
    pairs = []
    for leaf in [c.path for a in wanted for c in a.leaves]:
        rows = [i for i, a in enumerate(drawn) if not world.present(a, leaf)]
        same = remade[rows]  # an edit that does nothing
        chosen = tuple(names[i] for i in rows)
        pairs.append(Counterfactuals(leaf, "add", chosen, same, same, np.ones(len(rows), dtype=bool)))
    given = Rebuilt(tuple(names), seen, remade)
    found = {g.concept: g for g in fairness_gaps(redness(20), pairs, wanted, rebuilt=given)}
    star = found.pop("sticker/star")
    assert star.gap == 0
    assert star.lost == pytest.approx(float(10 * seen[worn][:, 0].mean()), abs=0.3)
    assert star.told == pytest.approx(star.lost)
    assert all(abs(g.lost) < 0.3 for c, g in found.items() if c.startswith("facewear"))
    twin = fairness_gaps(redness(20), pairs, wanted, twin=redness(20), rebuilt=given)
    assert all(g.lost == 0 for g in twin)


def test_one_verdict_an_attribute() -> None:
    pairs = [rerendered(f"background/colour/{c}") for c in ("pink", "blue", "grey")]
    pairs.append(rerendered("sticker/star"))
    wanted = attributes(corpus(), ["background/colour", "sticker"])
    gaps = fairness_gaps(redness(20), pairs, wanted)
    first, second = attribute_gaps(gaps)
    assert first.attribute == "background/colour"
    assert first.matters(0.3)
    assert not second.matters(0.3)
    assert abs(first.gap) == max(abs(g.gap) for g in gaps)
    mine = sorted(g.p for g in gaps if g.attribute == first.attribute)
    assert first.p == pytest.approx(min(3 * mine[0], 1.5 * mine[1], mine[2]))
