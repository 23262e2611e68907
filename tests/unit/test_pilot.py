"""How many pictures and seeds a wanted interval needs."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from scipy import stats

from diffexplain.errors import InputError
from diffexplain.pilot import Spread, needs, spreads
from diffexplain.records import Effect
from tests.unit.test_ranking import row


def pilot(images: int, seeds: int, between: float, within: float, salt: int = 0) -> list[Effect]:
    rng = np.random.default_rng(salt)
    true = rng.normal(1, between, images)
    return [
        row("ball", float(true[i] + rng.normal(0, within)), f"i{i}", seed=s)
        for i in range(images)
        for s in range(seeds)
    ]


def test_variance_components_are_found():
    (found,) = spreads(pilot(4000, 3, 0.7, 0.4))
    assert found.between == pytest.approx(0.7, rel=0.05)
    assert found.within == pytest.approx(0.4, rel=0.05)
    (single,) = spreads(pilot(4000, 1, 0.7, 0.4))
    assert single.between == pytest.approx(np.hypot(0.7, 0.4), rel=0.05)
    assert isnan(single.within)


def test_the_width_is_students():
    x = np.array([1.0, 2.0, 4.0, 3.0, 5.0])
    (found,) = spreads([row("ball", v, f"i{k}") for k, v in enumerate(x)])
    low, high = stats.ttest_1samp(x, 0).confidence_interval()
    assert found.width(5) == pytest.approx(high - low)
    assert found.width(1) == np.inf


@pytest.mark.parametrize("width", [2.0, 0.5, 0.1])
def test_so_many_pictures_and_no_fewer(width: float):
    spread = Spread("ball", "add", 8, 0.6, 0.3)
    for seeds in (1, 4):
        n = spread.needed(width, seeds)
        assert spread.width(n, seeds) <= width
        assert n == 2 or spread.width(n - 1, seeds) > width
    assert spread.needed(width, 4) <= spread.needed(width, 1)


def test_the_plan_keeps_its_promise():
    """Intervals from as many pictures as planned are as wide as wanted, on average."""
    (need,) = needs(pilot(400, 2, 0.7, 0.4), 0.6, images=400)
    n = need.images[1]
    made = []
    for salt in range(200):
        x = np.array([r.change for r in pilot(n, 1, 0.7, 0.4, salt + 1)])
        made.append(2 * stats.t.ppf(0.975, n - 1) * x.std(ddof=1) / np.sqrt(n))
    assert np.mean(made) == pytest.approx(0.6, rel=0.06)


def test_pictures_that_do_not_count_are_given_too():
    given = pilot(50, 1, 0.7, 0.0)
    assert needs(given, 0.3, images=100)[0].images[1] == pytest.approx(
        2 * needs(given, 0.3, images=50)[0].images[1], abs=1
    )


def test_only_the_report_counts_and_what_cannot_be_planned_is_refused():
    raced = [row("ball", 1.0, f"i{k}", stage="race") for k in range(5)]
    with pytest.raises(InputError, match="pilot has no question"):
        needs(raced, 0.5, images=5)
    with pytest.raises(InputError, match="width 0"):
        needs(pilot(5, 1, 1, 0), 0, images=5)
