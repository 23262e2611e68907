"""A simulated population: what was planted is found, and where nothing was planted nothing is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.inter_rater import fleiss_kappa as peer

from diffexplain.study.analysis import Analysis, Finding, analysed, fleiss_kappa
from diffexplain.study.tallies import tallies
from tests.unit.study.population import Minds, answered, study


def analysis(readers: int, minds: Minds, seed: int = 0, mixed: bool = False) -> Analysis:
    of = study()
    return analysed(of, *tallies(of, *answered(of, readers, minds, seed)), mixed=mixed)


def finding(found: Analysis, test: str, ask: str, *methods: str) -> Finding:
    return next(
        f for f in found.findings if (f.test, f.ask) == (test, ask) and f.methods == (methods or f.methods)
    )


def test_planted_preferences_are_found() -> None:
    minds = Minds({"A": 0.75, "B": 0.4}, {"A": 0.7}, preference=0.4, shares=(6, 2, 1, 1, 1, 1, 1, 1))
    found = analysis(32, minds, mixed=True)
    right = {f.method: f for f in found.figures if f.ask == "attribute"}
    assert right["A"].low < 0.75 < right["A"].high
    assert right["B"].low < 0.4 < right["B"].high
    assert right["A"].chance == 0.25
    for test, ask in (
        ("exact binomial", "attribute"), ("χ² between methods", "attribute"), ("Wilcoxon", "attribute"),
        ("mixed model", "attribute"), ("χ² against equal shares", "share"), ("Wilcoxon", "quality"),
        ("mixed model", "quality"), ("Wilcoxon", "better"),
    ):  # fmt: skip
        assert finding(found, test, ask).q < 0.01, (test, ask)
    quality = finding(found, "mixed model", "quality", "A", "B")
    assert quality.low < 0.7 < quality.high
    assert finding(found, "Wilcoxon", "quality").difference == pytest.approx(quality.difference, abs=0.05)
    better = finding(found, "Wilcoxon", "better", "A", "B")
    assert better.low < 0.8 * 0.4 < better.high
    shares = {c.method: c.counts for c in found.counts}
    assert max(shares["A"], key=shares["A"].get) == "s0"  # type: ignore[arg-type]


def test_error_rate_is_kept_where_nothing_is_planted() -> None:
    """Readers and units differ (0.6 points each), methods do not: each test finds something 1 time in 20."""
    runs, alarms = 60, dict[tuple[str, str], list[bool]]()
    for seed in range(runs):
        for f in analysis(16, Minds(), seed).findings:
            alarms.setdefault((f.test, f.ask), []).append(f.p < 0.05)
    assert len(alarms) == 8
    for key, fired in alarms.items():  # 99.9 % of a rate of 0.05 lie below
        assert sum(fired) <= 0.05 * len(fired) + 3.3 * math.sqrt(0.05 * 0.95 * len(fired)), key


def test_mixed_model_keeps_its_error_rate() -> None:
    of = study(units=6, items=6, checks=0)
    fired = []
    for seed in range(30):
        people, rows = tallies(of, *answered(of, 8, Minds(), seed))
        found = analysed(of, people, [t for t in rows if t.ask == "quality"])
        fired += [f.p < 0.05 for f in found.findings if f.test == "mixed model"]
    assert len(fired) == 30
    assert sum(fired) <= 5  # more come 1 time in 300; the seeds are fixed


def test_the_careless_are_not_counted() -> None:
    found = analysis(40, Minds(careless=0.3), seed=2)
    assert 0 < found.people.inattentive < 40
    assert found.people.counted + found.people.inattentive == found.people.finished == 40
    assert {t.kind for t in found.rows} == {"attribute", "share", "rating", "side"}
    assert len({t.reader for t in found.rows}) == found.people.counted
    assert "attention check" in found.notes[0]


def test_nobody_counted_gives_no_figures() -> None:
    found = analysis(3, Minds(careless=1.0))
    assert found.figures == found.findings == ()
    assert found.as_dict()["people"]["seconds"] is None


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_kappa_is_the_peers_on_equal_raters(raters: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.multinomial(raters, [0.5, 0.3, 0.2], size=12)
    assert fleiss_kappa(table) == pytest.approx(peer(table), nan_ok=True)


def test_kappa_of_known_tables() -> None:
    assert fleiss_kappa([[3, 0], [0, 5], [2, 0]]) == pytest.approx(1.0)  # unequal raters, all agree
    assert fleiss_kappa([[1, 1], [1, 1]]) == pytest.approx(-1.0)
    assert math.isnan(fleiss_kappa([[4, 0], [3, 0]]))
    assert math.isnan(fleiss_kappa([[1, 0], [0, 1]]))  # one rater each
