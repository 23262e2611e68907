"""How many people: against scipy's exact test, and against simulated populations."""

import numpy as np
import pytest
from scipy.stats import binomtest

from diffexplain.errors import InputError
from diffexplain.study import people_needed
from diffexplain.study.analysis import analysed
from diffexplain.study.power import binomial_power
from diffexplain.study.tallies import tallies
from tests.unit.study.population import Minds, answered, study


def test_exact_power_is_the_share_of_outcomes_that_the_test_rejects() -> None:
    n, expected = 30, 0.7
    rejected = [k for k in range(n + 1) if binomtest(k, n, 0.5).pvalue < 0.05]  # symmetric: tails agree
    outcomes = np.random.default_rng(0).binomial(n, expected, 200_000)
    assert binomial_power(n, expected, 0.5) == pytest.approx(np.isin(outcomes, rejected).mean(), abs=0.005)


def test_one_answer_each_and_no_likeness_is_the_textbook_number() -> None:
    found = people_needed("accuracy", 0.6, chance=0.5, items=1, alike=0.0)
    assert 194 <= found.people <= 212  # (1.96 + 0.84)² · ¼ / 0.1² = 196, and exact tests need a little more
    assert found.power >= 0.8
    assert binomial_power(found.people - 1, 0.6, 0.5) < 0.8


def test_more_people_for_less() -> None:
    few = people_needed("preference", 0.8).people
    assert people_needed("preference", 0.65).people > few
    assert people_needed("preference", 0.8, alike=0.5).people > few
    assert people_needed("preference", 0.2).people == few  # the other way round
    assert people_needed("preference", 0.8, items=16, alike=0.0).people < few


def test_planned_power_is_reached_in_simulated_populations() -> None:
    """Ratings: a difference of 0.4 points, answers of spread 0.8 within readers and units."""
    minds, of = (
        Minds(rating={"A": 0.4}, reader_spread=0.6, unit_spread=0.6),
        study(units=6, items=6, checks=0),
    )
    spread = np.hypot(0.8, 0.6)  # of one answer: within, and between readers
    alike = 0.6**2 / spread**2
    planned = people_needed("rating", 0.4, items=6, spread=float(spread), alike=float(alike))
    found = []
    for seed in range(60):
        people, rows = tallies(of, *answered(of, planned.people, minds, seed))
        quality = analysed(of, people, [t for t in rows if t.ask == "quality"], mixed=False)
        found.append(next(f.p for f in quality.findings if f.test == "Wilcoxon") < 0.05)
    assert 0.62 <= np.mean(found) <= 0.97  # 0.8 ± 3.5 standard errors; ends of the scale cost a little


@pytest.mark.parametrize(
    ("kind", "expected", "more", "said"),
    [
        ("accuracy", 0.25, {}, "expected 0.25: give a accuracy other than 0.25"),
        ("preference", 1.2, {}, "expected 1.2"),
        ("speed", 0.5, {}, "choose accuracy, preference or rating"),
        ("rating", 0.5, {"items": 1}, "items 1"),
        ("rating", 0.5, {"alike": 1.0}, "alike 1"),
        ("accuracy", 0.6, {"power": 1.0}, "power 1"),
        ("accuracy", 0.2501, {}, "more than 100000 people"),
    ],
)
def test_wrong_plans_say_the_cure(kind: str, expected: float, more: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        people_needed(kind, expected, **more)  # type: ignore[arg-type]
