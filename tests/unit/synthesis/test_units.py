"""Which units carry a class: activation x weight where the head is linear, and the images they like."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffexplain.classifiers.base import Classifier
from diffexplain.classifiers.modules import CallableClassifier, ModuleClassifier
from diffexplain.errors import ClassifierError, InputError
from diffexplain.synthesis.units import carrying_units


class Small(nn.Module):
    """Convolution, average over places, linear head: a class's weights are its units'."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.head = nn.Linear(6, outputs)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=random)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


IMAGES = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def classifier(outputs: int) -> tuple[Classifier, Small]:
    module = Small(outputs)
    labels = "abc" if outputs > 1 else "ab"
    return ModuleClassifier(module, tuple(labels), name="it"), module


@pytest.mark.parametrize("label", ["a", "b"])
def test_behind_the_last_average_it_is_activation_times_weight(label: str) -> None:
    model, module = classifier(1)
    units = carrying_units(model, "body", IMAGES, label, 6)
    with torch.no_grad():
        active = module.body(IMAGES).mean((2, 3))
    sign = 1 if label == "b" else -1
    wanted = (active.mean(0) * module.head.weight[0] * sign).double()
    assert [u.channel for u in units] == wanted.argsort(descending=True).tolist()
    for unit in units:
        assert unit.contribution == pytest.approx(wanted[unit.channel].item(), rel=1e-4, abs=1e-6)
        assert unit.activation == pytest.approx(active[:, unit.channel].mean().item(), rel=1e-4)
        low = module.head.weight[0, unit.channel] * sign < 0
        order = active[:, unit.channel].argsort(descending=not low, stable=True)[:8]
        assert unit.exciting == tuple(order.tolist())
        assert unit.low == low
        assert unit.name == (f"body:low{unit.channel}" if low else f"body:{unit.channel}")


def test_one_class_against_another_is_the_difference_of_their_weights() -> None:
    model, module = classifier(3)
    units = carrying_units(model, "body.1", IMAGES, "a", 2, versus="c", exciting=3)
    with torch.no_grad():
        active = module.body(IMAGES).mean((0, 2, 3))
    wanted = active * (module.head.weight[0] - module.head.weight[2])
    assert [u.channel for u in units] == wanted.argsort(descending=True)[:2].tolist()
    assert [len(u.exciting) for u in units] == [3, 3]


def test_deeper_layers_are_ranked_by_their_gradient() -> None:
    model, module = classifier(1)
    units = {u.channel: u for u in carrying_units(model, "body.0", IMAGES, "b", 6)}
    with torch.no_grad():
        before = module.body[0](IMAGES)
        mean = (before * (before > 0)).mean((0, 2, 3)) * module.head.weight[0]  # through the ReLU
    for c, unit in units.items():
        assert unit.contribution == pytest.approx(mean[c].item(), rel=1e-4, abs=1e-6)


def test_no_hook_is_left() -> None:
    from torch.nn.modules import module

    carrying_units(classifier(1)[0], "body", IMAGES[:2], "a", 1)
    assert not module._global_forward_hooks


def test_bad_questions_say_what_there_is() -> None:
    model, _ = classifier(1)
    with pytest.raises(ClassifierError, match=r"layer 'boddy' is not in it; did you mean 'body'\?"):
        carrying_units(model, "boddy", IMAGES, "a", 1)
    with pytest.raises(ClassifierError, match=r"^target 'z' is not a label of it"):
        carrying_units(model, "body", IMAGES, "z", 1)
    with pytest.raises(InputError, match=r"^k is 0, and there are 40 images"):
        carrying_units(model, "body", IMAGES, "a", 0)
    scores = CallableClassifier(lambda x: x.mean((1, 2, 3)), None, name="scores")
    with pytest.raises(ClassifierError, match=r"^classifier 'scores' gives scores only, no gradients"):
        carrying_units(scores, "body", IMAGES, "yes", 1)
