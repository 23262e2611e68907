"""Which number is explained: log-odds against probabilities, labels, units, and what is optimised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, logit, softmax

from diffexplain.classifiers.modules import ModuleClassifier
from diffexplain.errors import ClassifierError
from diffexplain.targets import (
    ClassObjective,
    DifferenceObjective,
    DirectionObjective,
    Target,
    UnitObjective,
    UnitsAsked,
    choose_objective,
    choose_target,
    class_objective,
    units_of,
)

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


# -- objectives ---------------------------------------------------------------------------------------


class Network(torch.nn.Module):
    """A layer of four channels, and logits that are a linear function of their means."""

    def __init__(self, outputs: int, seed: int = 0) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 4, 1)
        self.head = torch.nn.Linear(4, outputs)
        random = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            weight.data = 3 * torch.randn(weight.shape, generator=random)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x).mean((2, 3)))


def network(*labels: str, outputs: int | None = None, seed: int = 0) -> ModuleClassifier:
    return ModuleClassifier(Network(outputs or len(labels), seed), labels, name="net")


IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_loss_of_a_class_is_its_cross_entropy_with_a_margin() -> None:
    model = network("a", "b", "c")
    logits = model.logits(IMAGES)
    for k, label in enumerate("abc"):
        held = logits - 4.0 * torch.nn.functional.one_hot(
            torch.tensor(k), 3
        )  # what the class must make up for
        wanted = torch.nn.functional.cross_entropy(held, torch.full((5,), k), reduction="none")
        torch.testing.assert_close(class_objective(model, label).loss(IMAGES), wanted, atol=1e-5, rtol=1e-5)
    held = logits[:, :2] - torch.tensor([4.0, 0.0])
    pair = torch.nn.functional.cross_entropy(held, torch.zeros(5).long(), reduction="none")
    objective = choose_objective(model, target="a", versus="b")
    torch.testing.assert_close(objective.loss(IMAGES), pair, atol=1e-5, rtol=1e-5)
    assert objective.name == "a against b"
    torch.testing.assert_close(
        objective.score(IMAGES), (logits[:, 0] - logits[:, 1]).double(), atol=1e-5, rtol=1e-5
    )


def test_one_output_is_a_binary_cross_entropy() -> None:
    model = network("no", "yes", outputs=1)
    z = model.logits(IMAGES)[:, 0]
    for label, wanted in (("yes", torch.ones(5)), ("no", torch.zeros(5))):
        binary = torch.nn.functional.binary_cross_entropy_with_logits(z, wanted, reduction="none")
        plain = ClassObjective(choose_target(model, label), margin=0.0)
        torch.testing.assert_close(plain.loss(IMAGES), binary)
        assert (class_objective(model, label).loss(IMAGES) > binary).all()


def test_units_and_directions_are_what_their_layer_says() -> None:
    model = network("a", "b")
    active = model.activations(IMAGES, "layer")
    unit = choose_objective(model, unit="layer:2")
    assert unit.name == "layer:2"
    torch.testing.assert_close(unit.loss(IMAGES), -active[:, 2])
    assert (unit.score(IMAGES).dtype, unit.score(IMAGES).requires_grad) == (torch.float64, False)
    torch.testing.assert_close(unit.score(IMAGES), active[:, 2].double().detach(), rtol=1e-5, atol=1e-6)
    vector = torch.tensor([1.0, -2.0, 0.5, 0.0])
    direction = DirectionObjective(model, "layer", vector, "smiling")
    assert direction.name == "smiling"
    torch.testing.assert_close(
        direction.score(IMAGES), (active.detach() @ vector).double(), atol=1e-5, rtol=1e-5
    )
    assert unit.key == direction.key  # one reading serves both


def test_a_difference_wants_the_one_and_not_the_other() -> None:
    one, other = network("a", "b"), network("a", "b", seed=1)
    objective = DifferenceObjective(one, other, "b")
    scores = [Target(model, "b").score(IMAGES) for model in (one, other)]
    torch.testing.assert_close(objective.score(IMAGES), scores[0] - scores[1])
    wanted = torch.nn.functional.softplus(-scores[0]) + torch.nn.functional.softplus(scores[1])
    torch.testing.assert_close(objective.loss(IMAGES).double(), wanted, atol=1e-5, rtol=1e-5)
    assert objective.name == "b by net, not by net"


def test_losses_have_gradients_to_the_pictures() -> None:
    model = network("a", "b")
    for objective in (
        class_objective(model, "a"),
        UnitObjective(model, "layer", 0),
        DirectionObjective(model, "layer", torch.ones(4), "all"),
        DifferenceObjective(model, network("a", "b", seed=1), "a"),
    ):
        images = IMAGES.clone().requires_grad_()
        loss = objective.loss(images)
        assert loss.shape == (5,)
        (gradient,) = torch.autograd.grad(loss.sum(), images)
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(objective.loss_of(objective.read(IMAGES)), loss)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("layer4:476", UnitsAsked("layer4", (476,))),
        ("a.b.0:1,22", UnitsAsked("a.b.0", (1, 22))),
        ("layer4:top5", UnitsAsked("layer4", top=5)),
        ("odd:name:3", UnitsAsked("odd:name", (3,))),
        ("layer4:low12", UnitsAsked("layer4", (12,), low=True)),
    ],
)
def test_units_are_read_as_they_are_written(spec: str, found: UnitsAsked) -> None:
    assert units_of(spec) == found


def test_a_unit_that_is_to_be_low_is_the_same_unit_turned_round() -> None:
    model = network("a", "b")
    high, low = choose_objective(model, unit="layer:1"), choose_objective(model, unit="layer:low1")
    torch.testing.assert_close(low.score(IMAGES), -high.score(IMAGES))
    assert (high.name, low.name) == ("layer:1", "layer:low1")
    assert units_of("layer:low1,3").names == ["layer:low1", "layer:low3"]


@pytest.mark.parametrize(
    "spec", ["layer4", "layer4:", ":3", "layer4:x", "layer4:top", "layer4:top0", "l:-1", "l:low", "l:lowtop1"]
)
def test_units_that_are_not_understood_are_refused(spec: str) -> None:
    with pytest.raises(ClassifierError, match=r"is not understood; give LAYER:NUMBER or LAYER:topK"):
        units_of(spec)


def test_unknown_layers_and_units_say_which_there_are() -> None:
    model = network("a", "b")
    with pytest.raises(ClassifierError, match=r"^layer 'layr' is not in net; .*layers are layer, head$"):
        choose_objective(model, unit="layr:1")
    with pytest.raises(ClassifierError, match=r"^unit layer:4 is not in net; .* 0 to 3; layers are layer"):
        choose_objective(model, unit="layer:4")
    with pytest.raises(ClassifierError, match=r"^vector of 'v' has shape \(3,\); .* of shape \(4,\)$"):
        DirectionObjective(model, "layer", torch.ones(3), "v")
    with pytest.raises(ClassifierError, match=r"^unit and target are both given"):
        choose_objective(model, unit="layer:1", target="a")


def test_scores_without_gradients_are_refused() -> None:
    with pytest.raises(ClassifierError, match=r"^classifier 'it' gives scores only, no gradients"):
        choose_objective(classifier("a", "b"), target="a")
    with pytest.raises(ClassifierError, match=r"^classifier 'it' gives scores only"):
        choose_objective(classifier("a", "b"), unit="layer:1")
    with pytest.raises(ClassifierError, match=r"^classifier 'it' gives scores only"):
        DifferenceObjective(network("a", "b"), classifier("a", "b"), "a")
