"""Which rows stand behind a result, and which pictures a page shows of them."""

from __future__ import annotations

from dataclasses import replace
from math import nan
from typing import Any

import pytest

from diffexplain.records import ConceptResult, Effect
from diffexplain.report import Plate, Section, Table
from diffexplain.report import gallery as gallery_module
from diffexplain.report.album import Album
from diffexplain.report.evidence import evidence
from diffexplain.report.gallery import FEWEST, MOST, galleries
from diffexplain.report.page import page
from diffexplain.report.rows import rows
from diffexplain.statistics import mean_effect
from tests import factories
from tests.factories import concept_result, effect
from tests.unit.report.test_report import data_of, picture, text_of

SCRIPT = "<script>alert(1)</script>"


def shown(concepts: list[ConceptResult], effects: list[Effect]) -> dict[str, Any]:
    """The galleries of a small page."""
    result = factories.result(concepts)
    ranked = rows(result)
    data = galleries(ranked, evidence(result, effects), Album(picture), {"image00": "one.png"})
    galleries_shown: dict[str, Any] = data["galleries"]
    return galleries_shown


def test_evidence_gives_the_effects_again() -> None:
    result, effects, _ = factories.measured()
    found = evidence(result, effects)
    for c in result.concepts:
        behind = found[c.concept, c.direction]
        if c.status == "measured":
            means = mean_effect([e.change for e in behind.counted], [e.image for e in behind.counted])
            assert (means.mean, means.clusters) == (pytest.approx(c.effect), c.images)
            assert behind.by_image().keys() == {e.image for e in behind.counted}
        else:
            assert not behind.pictures


def test_an_inner_node_without_words_shows_its_leaves_but_no_inner_node_below() -> None:
    concepts = [
        concept_result("a", effect=1.0),
        concept_result("a/b", effect=1.0),
        concept_result("a/b/c", effect=1.0),
    ]
    effects = [effect("r", "e1", concept="a/b"), effect("r", "e2", concept="a/b/c")]
    found = evidence(factories.result(concepts), effects)
    assert [e.edited for e in found["a", "add"].counted] == ["e2"]
    assert [e.edited for e in found["a/b", "add"].counted] == ["e1"]


def test_race_rows_and_pictures_not_eligible_are_shown_but_not_counted() -> None:
    effects = [
        effect("r", "e1", after=0.5),
        replace(effect("r", "e2", image="image01", after=9.0), stage="race"),
        replace(effect("r", "e3", image="image02"), eligible=False),
    ]
    found = evidence(factories.result([concept_result("hat", effect=1.5)]), effects)["hat", "add"]
    assert found.by_image() == {"image00": 1.5}
    (gallery,) = shown([concept_result("hat", effect=1.5)], effects).values()
    assert [pair["apart"] for (pair,) in gallery["series"]] == [
        "",
        "from the search’s race, not counted",
        "picture not eligible, not counted",
    ]


def test_strengths_of_one_picture_stand_together_in_order() -> None:
    effects = [replace(effect("r", f"e{s}"), strength=s) for s in (2.0, 0.5, 1.0)]
    (gallery,) = shown([concept_result("hat", effect=1.0)], effects).values()
    assert [[pair["strength"] for pair in series] for series in gallery["series"]] == [[0.5, 1.0, 2.0]]


def test_other_strengths_slide_from_the_pair_that_counts() -> None:
    """Also where the run's own strength is not 1."""
    counts = replace(effect("r", "e"), strength=2.0)
    slid = [replace(effect("r", f"e{s}"), strength=s, stage="slide") for s in (1.0, 4.0)]
    (gallery,) = shown([concept_result("hat", effect=1.0)], [*slid, counts]).values()
    ((low, own, high),) = gallery["series"]
    assert [p["strength"] for p in (low, own, high)] == [1.0, 2.0, 4.0]
    assert "slid" not in own
    assert low["slid"]
    assert high["slid"]
    assert (own["apart"], low["apart"]) == ("", "at another strength, not counted")
    assert gallery_module.shown((slid[0], counts, slid[1])) is counts


def test_a_failed_edit_is_marked_and_an_unjudged_one_is_not() -> None:
    effects = [effect("r", "e1", presence=(0.1, 0.2)), effect("r", "e2", image="i2", presence=(nan, nan))]
    (gallery,) = shown([concept_result("hat", effect=1.0)], effects).values()
    assert sorted(pair["failed"] for (pair,) in gallery["series"]) == [False, True]


def test_strongest_pictures_first_in_the_effects_direction() -> None:
    effects = [effect("r", f"e{a}", image=f"i{a}", before=0.0, after=a) for a in (1.0, -3.0, -2.0)]
    (gallery,) = shown([concept_result("hat", effect=-1.3)], effects).values()
    assert [pair["change"] for (pair,) in gallery["series"]] == ["−3.00", "−2.00", "+1.00"]


def test_a_page_of_very_many_pictures_shows_some_of_each_concept() -> None:
    many = 500
    concepts = [concept_result(f"c{k}", effect=1.0) for k in range(many)]
    effects = [effect("r", "e", concept=f"c{k}", image=f"i{i}") for k in range(many) for i in range(16)]
    made = shown(concepts, effects)
    counts = {len(gallery["series"]) for gallery in made.values()}
    assert counts == {MOST // many}
    assert MOST // many >= FEWEST
    assert {gallery["all"] for gallery in made.values()} == {16}


def test_every_picture_of_a_run_is_on_its_page() -> None:
    result, effects, pictures = factories.measured()
    markup = page(result, pictures, effects=effects)
    made = data_of(markup)["galleries"]
    assert sum(len(gallery["series"]) for gallery in made.values()) == len(effects)
    assert len(markup) < 10_000_000


def test_sections_beside_are_text() -> None:
    part = Section(
        SCRIPT,
        (SCRIPT,),
        (Table(("method", SCRIPT), (("Grad-CAM", SCRIPT),), SCRIPT),),
        (Plate("a", SCRIPT, SCRIPT),),
    )
    markup = page(factories.result([concept_result("hat", effect=1.0)]), picture, beside=[part])
    assert SCRIPT not in markup
    assert text_of(markup).count(SCRIPT) == 7
    assert "Grad-CAM" in markup


def test_record_tells_methods_limits_and_citation() -> None:
    result, _, _ = factories.measured()
    text = text_of(page(result, picture_of_any))
    assert (
        "16 pictures (shown to the classifier as the editor reconstructs them) were edited with pocket"
        in text
    )
    assert "ruled out early by the race: a small effect there may have been missed" in text
    assert "@inproceedings{kazimi2025diffex" in text
    hashed = replace(result, request=replace(result.request, settings={"hashes": {"editor": "beef01"}}))
    assert "pocket (hash beef01)" in text_of(page(hashed, picture_of_any))


def picture_of_any(name: str) -> bytes:
    return picture("x")
