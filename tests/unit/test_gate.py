"""What an edit must keep, what else moved, and what of an effect that explains."""

from __future__ import annotations

import json
from math import inf, nan

import numpy as np
import pytest

from diffexplain.gate import (
    FEWEST,
    PRESENT,
    calibrate,
    entanglement,
    happened,
    partial_effects,
    passed,
    readings,
)
from diffexplain.records import GateLimits
from tests.unit.test_ranking import row, rows

LIMITS = GateLimits(presence=0.5, gain=0.25, outside=0.03, others=0.5)


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, True),
        ({"presence_after": 0.45}, False),
        ({"presence_before": 0.3, "presence_after": 0.5}, False),  # it was nearly there
        ({"outside": 0.04}, False),
        ({"outside": nan}, True),  # a whole-image concept is not judged there
        ({"others": json.dumps({"car": 0.2})}, True),
        ({"others": json.dumps({"car": -0.7})}, False),
        ({"presence_before": nan, "presence_after": nan}, False),
        ({"direction": "remove", "presence_before": 0.9, "presence_after": 0.1}, True),
        ({"direction": "remove", "presence_before": 0.9, "presence_after": 0.6}, False),
    ],
)
def test_an_edit_passes_when_it_happened_stayed_and_left_the_rest(changes: dict[str, object], passes: bool):
    assert passed(row("ball", 1.0, **changes), LIMITS) == passes  # type: ignore[arg-type]


def test_happening_is_not_locality():
    assert happened(row("ball", 1.0, outside=0.5), LIMITS)
    assert not passed(row("ball", 1.0, outside=0.5), LIMITS)


def test_limits_follow_the_judge_and_the_editor():
    sure = rows("ball", [1.0] * 30, presence_before=0.0, presence_after=0.9, outside=0.01)
    shy = rows("ball", [1.0] * 30, presence_before=0.2, presence_after=0.6, outside=0.01)
    assert calibrate(sure).presence == pytest.approx(0.45)
    assert calibrate(shy).presence == pytest.approx(0.4)
    assert calibrate(sure).gain == pytest.approx(0.225)
    spread = [row("ball", 1.0, f"i{k}", outside=0.01 + 0.001 * (k % 5)) for k in range(30)]
    limit = calibrate(spread).outside
    assert 0.014 < limit < 0.03
    assert calibrate(sure[: FEWEST - 1]) == GateLimits(PRESENT, 0.0, inf, 0.5)
    unjudged = rows("ball", [1.0] * 30, outside=nan)
    assert calibrate(unjudged).outside == inf


def test_removals_are_calibrated_the_other_way_round():
    gone = rows("ball", [1.0] * 30, direction="remove", presence_before=0.9, presence_after=0.1)
    limits = calibrate(gone)
    assert limits.presence == pytest.approx(0.5)
    assert all(passed(r, limits) for r in gone)


def test_the_matrix_says_what_moved_with_what():
    given = rows("ball", [1.0, 2.0], others=json.dumps({"car": 0.4, "elsewhere": 0.9}))
    given += rows("car", [3.0, 3.0]) + rows(
        "car", [0.0], direction="remove", presence_before=0.9, presence_after=0.1
    )
    given += rows("doll", [9.0], stage="race")
    found = entanglement(readings(given))
    assert found is not None
    assert found.questions == ("add ball", "add car", "remove car")
    assert found.concepts == ("ball", "car")  # only what was asked can be told apart
    assert np.array(found.change) == pytest.approx(np.array([[0.8, 0.4], [0.0, 0.8], [0.0, -0.8]]))
    assert entanglement(readings([])) is None
    assert partial_effects(readings([])) == {}


def test_the_partial_effect_takes_off_what_came_along():
    """The ball has no effect of its own: it brings the car, which has."""
    rng = np.random.default_rng(0)
    given = []
    for k in range(40):
        car, along = rng.uniform(0.6, 1), rng.uniform(0.2, 0.6)
        given.append(
            row("car", 3 * car + rng.normal(0, 0.1), f"i{k}", presence_before=0.0, presence_after=car)
        )
        given.append(
            row("ball", 3 * along + rng.normal(0, 0.1), f"i{k}", presence_before=0.0,
                presence_after=rng.uniform(0.6, 1), others=json.dumps({"car": along}))
        )  # fmt: skip
    partial = partial_effects(readings(given))
    assert partial["ball", "add"] == pytest.approx(0, abs=0.15)
    assert partial["car", "add"] == pytest.approx(2.4, abs=0.15)
