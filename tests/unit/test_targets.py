"""Which number is explained: log-odds against probabilities, and which labels are taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, logit, softmax

from diffexplain.errors import ClassifierError
from diffexplain.targets import Target, choose_target

light = settings(max_examples=60, deadline=None)


@dataclass
class Fixed:
    """A classifier with these logits, whatever the picture."""

    labels: tuple[str, ...]
    values: torch.Tensor
    name: str = "it"

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.values[: len(images)]


def classifier(*labels: str) -> Fixed:
    return Fixed(labels, torch.zeros(32, len(labels)))


LOGITS = st.integers(2, 6).flatmap(lambda k: arrays(float, (3, k), elements=st.floats(-15, 15, width=32)))


@light
@given(z=LOGITS, data=st.data())
def test_the_score_is_the_log_odds_of_the_probability(z: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, z.shape[1] - 1))
    target = Target(classifier(*"abcdef"[: z.shape[1]]), "abcdef"[k])
    p, others = softmax(z, 1)[:, k], np.delete(softmax(z, 1), k, 1).sum(1)
    np.testing.assert_allclose(target.of_logits(torch.from_numpy(z)), np.log(p / others), atol=1e-6)


@light
@given(z=LOGITS, shift=st.floats(-50, 50))
def test_a_shift_of_all_logits_changes_nothing(z: np.ndarray, shift: float) -> None:
    for versus in (None, "b"):
        target = Target(classifier(*"abcdef"[: z.shape[1]]), "a", versus)
        plain, shifted = (target.of_logits(torch.from_numpy(x)) for x in (z, z + shift))
        torch.testing.assert_close(plain, shifted, atol=1e-9, rtol=0)


def test_extreme_logits_stay_finite() -> None:
    target = Target(classifier("a", "b", "c"), "a")
    scores = target.of_logits(torch.tensor([[1000.0, 0, 0], [-1000.0, 0, 0]], dtype=torch.float64))
    assert scores.tolist() == pytest.approx([1000 - np.log(2), -1000 - np.log(2)])


@light
@given(z=LOGITS)
def test_versus_is_the_log_odds_between_the_two(z: np.ndarray) -> None:
    model = classifier(*"abcdef"[: z.shape[1]])
    p = softmax(z, 1)
    forth = Target(model, "b", "a").of_logits(torch.from_numpy(z))
    np.testing.assert_allclose(forth, np.log(p[:, 1] / p[:, 0]), atol=1e-6)
    assert torch.equal(Target(model, "a", "b").of_logits(torch.from_numpy(z)), -forth)
    if z.shape[1] == 2:
        torch.testing.assert_close(Target(model, "b").of_logits(torch.from_numpy(z)), forth)


def test_one_output_speaks_for_the_second_label() -> None:
    model = Fixed(("no", "yes"), torch.tensor([[-2.0], [0.5]]))
    z, images = model.values[:, 0].numpy(), torch.zeros(2, 3, 4, 4)
    model.values = torch.cat([model.values, torch.zeros(30, 1)])
    yes = choose_target(model, "yes").score(images)
    assert yes.tolist() == pytest.approx(logit(expit(z)))
    assert choose_target(model, "no").score(images).tolist() == pytest.approx(logit(1 - expit(z)))
    assert torch.equal(choose_target(model, "yes", "no").score(images), yes)
    assert torch.equal(choose_target(model, "no", "yes").score(images), -yes)


def test_one_output_for_one_label_speaks_for_it() -> None:
    target = choose_target(classifier("cat"), "cat")
    assert target.of_logits(torch.tensor([[3.0]])).tolist() == [3]


def test_scores_are_doubles_one_for_each_image() -> None:
    model = Fixed(("a", "b", "c"), torch.randn(32, 3))
    scores = choose_target(model, "c").score(torch.zeros(5, 3, 4, 4))
    assert (scores.shape, scores.dtype) == ((5,), torch.float64)
    np.testing.assert_allclose(expit(scores.numpy()), softmax(model.values[:5].numpy(), 1)[:, 2], rtol=1e-6)


# -- labels -------------------------------------------------------------------------------------------


def test_a_label_is_found_by_name_or_index() -> None:
    model = classifier("cat", "dog", "owl")
    assert choose_target(model, "dog") == choose_target(model, 1) == Target(model, "dog")
    assert choose_target(model, "dog", "owl").versus == "owl"
    assert str(choose_target(model, "dog")) == "dog"
    assert str(choose_target(model, "dog", "owl")) == "dog against owl"


def test_the_target_may_be_left_out_for_two_labels() -> None:
    assert choose_target(classifier("no", "yes"), None).label == "yes"
    with pytest.raises(ClassifierError, match=r"^--target is missing; labels are cat, dog, owl$"):
        choose_target(classifier("cat", "dog", "owl"), None)


@pytest.mark.parametrize(
    ("label", "versus", "says"),
    [
        (
            "hird",
            None,
            "target 'hird' is not a label of it; did you mean 'hired'? labels are rejected",
        ),
        (
            "hired",
            "regected",
            "versus 'regected' is not a label of it; did you mean 'rejected'? labels",
        ),
        ("zebra", None, "target 'zebra' is not a label of it; labels are rejected, hired"),
        (2, None, "target 2 is not a label of it; labels are"),
        (-1, None, "target -1 is not a label of it; labels are"),
        ("hired", "hired", "target and versus are both 'hired'; name two different labels"),
        (1, "hired", "target and versus are both 'hired'; name two different labels"),
    ],
)
def test_a_wrong_label_says_what_there_is(label: str | int, versus: str | None, says: str) -> None:
    with pytest.raises(ClassifierError) as caught:
        choose_target(classifier("rejected", "hired"), label, versus)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_many_labels_are_cut_short() -> None:
    with pytest.raises(ClassifierError) as caught:
        choose_target(classifier(*(f"class{i:03d}" for i in range(1000))), "nothing")
    assert str(caught.value).endswith("class010, class011, … (1000 in all)")
    assert len(str(caught.value)) < 300
