"""The report's words: the answer's two sentences and how numbers are written."""

from __future__ import annotations

from math import inf, nan

from diffexplain.records import Result
from diffexplain.report.rows import rows
from diffexplain.report.wording import answer, chance, duration, interval, percent, points, signed
from tests import factories
from tests.factories import concept_result


def sentences(result: Result) -> list[str]:
    return ["".join(part.text for part in s).replace("\xa0", " ") for s in answer(result, rows(result))]


def test_answer_cites_the_strongest_effect_its_interval_and_the_other_way() -> None:
    found = [
        concept_result("facewear/glasses", effect=1.0, q=0.01),
        concept_result("clothing/blazer", effect=-2.0, half=0.5, q=0.0001, images=12),
        concept_result("hat", "remove", effect=-1.5, q=0.02),
        concept_result("beard", effect=0.1, q=0.7),
    ]
    first, second = sentences(factories.result(found))
    assert first == (
        "Adding clothing/blazer moves pocket:hired most: −2.00 log-odds away from hired, or −33 pp in "
        "probability (95 % interval −2.50 to −1.50, q <0.001, 12 images)."
    )
    assert second == (
        "Next comes removing hat (−1.50, −1.80 to −1.20); strongest the other way is adding "
        "facewear/glasses (+1.00, +0.70 to +1.30); 3 of the 4 measured questions show an effect at q < 0.05."
    )


def test_answer_with_one_discovery() -> None:
    first, second = sentences(factories.result([concept_result("hat", effect=1.0, q=0.01, images=1)]))
    assert "1 image)" in first
    assert second == "It is the only effect at q < 0.05 among 1 measured question."


def test_answer_without_discovery_claims_none() -> None:
    first, second = sentences(factories.result([concept_result("hat", effect=0.1, q=0.4)]))
    assert first.startswith("Nothing here moves pocket:hired detectably")
    assert "adding hat at +0.10 log-odds (95 % interval −0.20 to +0.40, q = 0.400" in second


def test_answer_when_nothing_was_measured() -> None:
    concepts = [concept_result("hat", status="ruled out"), concept_result("bag", status="not eligible")]
    first, second = sentences(factories.result(concepts))
    assert "no question out of 2 was measured" in first
    assert second.startswith("1 ruled out early, 1 without an eligible image")
    assert sentences(factories.result())[0] == "Nothing was asked, so there is no answer."


def test_numbers_that_are_missing_or_infinite() -> None:
    assert [f(nan) for f in (signed, percent, points, chance, duration)] == ["–"] * 5
    assert interval(-inf, inf) == "−∞ to +∞"
    assert interval(nan, 1.0) == "–"
    assert [signed(x) for x in (-0.001, 0.0, 1.5, -1.5)] == ["0.00", "0.00", "+1.50", "−1.50"]
    assert [points(x) for x in (0.341, 0.004, -0.0996)] == ["+34\xa0pp", "+0.4\xa0pp", "−10\xa0pp"]
    assert [chance(x) for x in (0.0, 0.0123, 1.0)] == ["<0.001", "0.012", "1.000"]
    assert [duration(s) for s in (2.34, 96.4, 125, 7380)] == [
        "2.3\xa0s", "96\xa0s", "2\xa0min 5\xa0s", "2\xa0h 3\xa0min",
    ]  # fmt: skip
