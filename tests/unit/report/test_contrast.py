"""Two runs side by side: paired and unpaired differences, corrections, what a reader is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from diffexplain.errors import InputError
from diffexplain.records import Effect
from diffexplain.report.comparing import comparison_page
from diffexplain.report.contrast import contrast, difference
from diffexplain.report.finished import Finished
from diffexplain.report.notebook import contrast_fragment, fragment
from tests import factories
from tests.factories import concept_result, effect
from tests.unit.report.test_report import picture, text_of

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'


def finished(changes: dict[str, float], concept: str = "hat", **asked: object) -> Finished:
    """A run of one question with these changes by image."""
    rows: list[Effect] = [
        effect("r", "e", concept=concept, image=i, before=0.0, after=c) for i, c in changes.items()
    ]
    found = concept_result(concept, effect=float(np.mean(list(changes.values()))), q=0.01)
    return Finished(factories.result([found], **asked), tuple(rows), picture)  # type: ignore[arg-type]


def test_shared_images_are_paired() -> None:
    first = {f"i{k}": float(k) for k in range(6)}
    second = {f"i{k}": k + 2.0 + 0.1 * (-1) ** k for k in range(6)} | {"other": 100.0}
    (change,) = contrast(finished(first), finished(second)).changes
    assert (change.paired, change.images) == (True, 6)
    assert change.difference == pytest.approx(2.0)
    assert change.low < 2.0 < change.high < 2.2
    assert change.q == pytest.approx(stats.ttest_rel([second[i] for i in first], list(first.values())).pvalue)
    assert change.examples[0].image == change.examples[1].image


def test_other_images_are_not_and_welch_tells() -> None:
    a, b = [1.0, 2.0, 4.0, 3.0], [5.0, 9.0, 6.0]
    found, paired = difference({f"a{k}": x for k, x in enumerate(a)}, {f"b{k}": x for k, x in enumerate(b)})
    known = stats.ttest_ind(b, a, equal_var=False)
    assert not paired
    assert found.mean == pytest.approx(np.mean(b) - np.mean(a))
    assert found.p == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval()))


def test_one_image_shows_nothing() -> None:
    found, paired = difference({"a": 1.0}, {"b": 4.0})
    assert (found.mean, found.p, paired) == (3.0, 1.0, False)
    assert np.isnan([found.low, found.high]).all()


def test_a_run_does_not_differ_from_itself() -> None:
    result, rows, pictures = factories.measured()
    run = Finished(result, tuple(rows), pictures)
    found = contrast(run, run)
    assert all((c.difference, c.q) == (0.0, 1.0) for c in found.changes)
    assert found.differing == found.first_only == found.second_only == ()
    assert "Both runs were asked the same" in text_of(comparison_page(found, pictures, pictures))


def test_runs_without_a_common_question_are_refused() -> None:
    with pytest.raises(InputError, match="measured no question in common"):
        contrast(finished({"a": 1.0}, "hat"), finished({"a": 1.0}, "bag"))


def test_what_was_asked_differently_is_told() -> None:
    found = contrast(
        finished({"a": 1.0, "b": 2.0}, images=("a", "b"), versus=None),
        finished({"a": 1.0, "b": 2.0}, images=("a", "c"), versus=SCRIPT),
    )
    assert found.differing == (("versus", "none", SCRIPT), ("images", "2, 1 shared", "2, 1 shared"))


def test_user_text_stays_text() -> None:
    changes = {"a": 1.0, "b": 2.0}
    run = finished(changes, IMAGE, classifier=SCRIPT, target=IMAGE, notes=(SCRIPT,))
    found = contrast(run, finished(changes, IMAGE, classifier=IMAGE))
    for markup in (comparison_page(found, picture, picture), contrast_fragment(found), fragment(run)):
        assert SCRIPT not in markup
        assert "<img src=x" not in markup
        assert IMAGE in text_of(markup)


def test_a_notebook_gets_pictures_and_no_script() -> None:
    result, rows, pictures = factories.measured()
    shown = fragment(Finished(result, tuple(rows), pictures))
    assert "<script" not in shown
    assert 20 < shown.count("data:image/webp") < 80
    assert len(shown) < 400_000
    assert "undecided" in shown


def test_a_difference_is_that_of_the_second_run() -> None:
    first = finished({"a": 1.0, "b": 1.5, "c": 1.2})
    second = Finished(
        first.result, tuple(replace(e, score_after=e.score_after + 1) for e in first.effects), picture
    )
    assert contrast(first, second).changes[0].difference == pytest.approx(1.0)
    assert contrast(second, first).changes[0].difference == pytest.approx(-1.0)
