"""What the page tells of a run's checks: placebo, gate, second editor, entanglement."""

from __future__ import annotations

from dataclasses import replace
from math import nan

from diffexplain.records import Agreement, Entanglement, GateLimits, Interval, Placebo
from diffexplain.report.checks import checks, finer
from diffexplain.report.page import page
from tests import factories
from tests.factories import concept_result, effect
from tests.unit.report.test_report import picture, text_of

PLACEBO = Placebo(
    0.12, -0.2, 0.44, 0.4, 8, 0.02, 0.021, 0.1, 0.12, 1.5, (effect("r", "e", concept="placebo"),)
)


def test_a_run_without_checks_has_no_such_part() -> None:
    assert checks(factories.result([concept_result("hat", effect=1.0)])) == []
    assert finer(concept_result("hat", effect=1.0)) == []


def test_each_check_has_its_part() -> None:
    hat = replace(
        concept_result("hat", effect=1.0, q=0.01, examples=[effect("r", "e")]),
        beyond_placebo=Interval(0.9, 0.5, 1.3), partial=0.7, passed=0.25,
        effect_passed=1.4, second=Interval(0.8, 0.1, 1.5), second_q=0.04, supported=True, detectable=0.6,
    )  # fmt: skip
    result = replace(
        factories.result([hat], second="pocket-turbo"),
        placebo=PLACEBO,
        gate=GateLimits(0.5, 0.3, 0.02, 0.2),
        second=Agreement(1, nan, nan, 1.0),
        entanglement=Entanglement(("add hat", "add bag"), ("hair", "coat"), ((-0.4, 0.01), (0.0, nan))),
    )
    text = text_of(page(result, picture))
    assert "change the score by +0.12 log-odds (95 % interval −0.20 to +0.44, p 0.400, 8 images)" in text
    assert "It does not move the score detectably." in text
    assert "Fewer than half of the edits pass" in text
    assert "pocket-turbo made the edits again on the same pictures" in text
    assert "add hat hair −0.40" in text
    assert "add bag" not in text
    assert "over a placebo +0.90 (+0.50 to +1.30) · less what moved along +0.70" in text
    assert "25 % of the edits pass the gate, +1.40 over those" in text
    assert "q 0.040, both find it" in text


def test_a_placebo_that_moves_the_score_is_said_so() -> None:
    moving = replace(factories.result(), placebo=replace(PLACEBO, p=0.001))
    assert "It moves the score" in text_of(page(moving, picture))
