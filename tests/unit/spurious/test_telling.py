"""What a reader is told before the verdicts."""

from __future__ import annotations

from dataclasses import replace

from diffexplain.spurious.telling import notes
from tests import factories
from tests.unit.report.answers import spurious

RESULT = spurious(factories.Pictures())
UNIT = RESULT.units[1]


def told(**changes: object) -> list[str]:
    unit = replace(UNIT, unit="head:5", **changes)  # type: ignore[arg-type]
    return list(notes("a hat", RESULT.calibration, None, [UNIT, unit], None))[1:]


def test_pictures_with_the_object_that_prove_nothing_are_told_apart_from_pictures_without_it() -> None:
    assert told() == []
    (beside,) = told(verdict="spurious", agree=False)
    assert beside.startswith("head:5: the pictures show 'a hat', but interventions find that other things")
    (without,) = told(verdict="undecided", agree=False)
    assert without == "head:5: moved by 'a hat', yet excited most by pictures without it: no verdict"


def test_units_that_were_not_reached_are_named() -> None:
    (missed,) = told(reached=False, verdict="undecided", agree=None)
    assert missed.startswith("head:5: not reached")
