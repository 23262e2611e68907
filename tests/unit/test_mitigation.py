"""Damping and fine-tuning of networks small enough to know what they should become."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from diffexplain.classifiers import load_classifier
from diffexplain.classifiers.modules import ModuleClassifier
from diffexplain.counterfactuals import Counterfactuals
from diffexplain.errors import ClassifierError, InputError
from diffexplain.images import hashes
from diffexplain.mitigation import (
    Damped,
    Labelled,
    MitigationOptions,
    accuracy,
    fine_tuned,
    flagged_units,
    folded,
    last_linear,
    network,
    read_units,
    rewrapped,
    standing,
)
from diffexplain.targets import Target, choose_target

RED, BLUE = 0, 2


def colours(n: int, seed: int) -> torch.Tensor:
    """Plain pictures of random colours, (N, 3, 4, 4)."""
    shades = torch.rand(n, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    return (shades.expand(n, 3, 4, 4) * 255).round() / 255


def leaning() -> ModuleClassifier:
    """Says "red" for redness (8 log-odds a unit), and leans on blueness (6)."""
    layer = nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[8.0, 0.0, 6.0]]))
        layer.bias.fill_(-7.0)
    return ModuleClassifier(
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer), ("not red", "red"), name="leaning"
    )


def redness(n: int = 120, seed: int = 1) -> Labelled:
    images = colours(n, seed)
    return Labelled(images, hashes(images), (images[:, RED, 0, 0] > 0.5).long())


def bluer(data: Labelled) -> Counterfactuals:
    """Blue raised by 0.4 where there is room."""
    room = [i for i in range(len(data.names)) if data.images[i, BLUE].max() < 0.6]
    before = data.images[room]
    after = before.clone()
    after[:, BLUE] += 0.4
    return Counterfactuals(
        "blue", "add", tuple(data.names[i] for i in room), before, after, np.ones(len(room), dtype=bool)
    )


def test_the_units_are_what_the_last_layer_reads() -> None:
    data = redness(40)
    read = read_units(leaning(), data.images)
    assert torch.allclose(read, data.images.mean((2, 3)).double())


def test_the_unit_of_the_shortcut_is_flagged_and_damped() -> None:
    data = redness()
    target = choose_target(leaning(), "red")
    units, level = flagged_units(target, [bluer(data)], data)
    assert units == (BLUE,)
    made = Target(
        rewrapped(target.classifier, folded(network(target.classifier), units, level, 0.0), "damped"), "red"
    )
    before, after = standing(target, [bluer(data)], data), standing(made, [bluer(data)], data)
    assert before.gap == pytest.approx(6 * 0.4, abs=1e-4)
    assert after.gap == pytest.approx(0, abs=1e-6)
    assert after.accuracy > before.accuracy + 0.05


def test_for_the_other_label_the_same_unit_is_flagged() -> None:
    data = redness()
    units, _ = flagged_units(choose_target(leaning(), "not red"), [bluer(data)], data)
    assert units == (BLUE,)


def test_folding_equals_the_wrapper() -> None:
    images = colours(9, 5)
    model = leaning()
    level = torch.tensor([0.4, 0.5, 0.6])
    wrapped = Damped(copy.deepcopy(network(model)), "1", [1, 2], level[[1, 2]], keep=0.25)
    wanted = wrapped(images)
    assert torch.allclose(folded(network(model), [1, 2], level, 0.25)(images), wanted, atol=1e-5)
    assert not torch.allclose(network(model)(images), wanted, atol=1e-2)


def test_the_wrapper_damps_channels_of_any_layer_and_is_saved_whole() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    damped = Damped(copy.deepcopy(body), "0", [3], [0.7])
    x = colours(4, 6)
    with torch.no_grad():
        middle = body[0](x)
        middle[:, 3] = 0.7
        assert torch.allclose(damped(x), body[1:](middle), atol=1e-6)
        again = Damped(copy.deepcopy(body), "0", [0], [0.0])
        again.load_state_dict(damped.state_dict())
        assert torch.equal(again(x), damped(x))
    with pytest.raises(InputError, match="layer 'head' is not in the network; layers are 0, 1"):
        Damped(body, "head", [0], [0.0])


@pytest.mark.parametrize("method", ["last-layer", "all"])
def test_fine_tuning_unlearns_the_shortcut_and_leaves_the_original(method: str) -> None:
    data, kept = redness(), redness(120, seed=2)
    target = choose_target(leaning(), "red")
    untouched = copy.deepcopy(network(target.classifier).state_dict())
    options = MitigationOptions(method=method, steps=150, rate=0.1)  # type: ignore[arg-type]
    told: list[int] = []
    changed = fine_tuned(target, [bluer(data)], data, options, lambda done, total: told.append(done))
    made = Target(rewrapped(target.classifier, changed, "tuned"), "red")
    before, after = standing(target, [bluer(kept)], kept), standing(made, [bluer(kept)], kept)
    assert abs(after.gap) < 0.3 * before.gap
    assert after.accuracy >= before.accuracy
    assert told[-1] == 150
    for name, value in network(target.classifier).state_dict().items():
        assert torch.equal(value, untouched[name])
    assert all(p.requires_grad and p.grad is None for p in changed.parameters())


def test_only_the_last_layer_learns() -> None:
    torch.manual_seed(1)
    body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    target = choose_target(ModuleClassifier(body, ("not red", "red")), "red")
    data = redness(30)
    options = MitigationOptions(method="last-layer", steps=3)
    changed = fine_tuned(target, [bluer(data)], data, options)
    assert torch.equal(changed[0].weight, body[0].weight)  # type: ignore[index]
    assert not torch.equal(changed[3].weight, body[3].weight)  # type: ignore[index]


def test_removals_count_the_other_way_round() -> None:
    data = redness()
    p = bluer(data)
    back = Counterfactuals("blue", "remove", p.images, p.after, p.before, p.happened)
    target = choose_target(leaning(), "red")
    assert standing(target, [back], data).gap == pytest.approx(standing(target, [p], data).gap)


def test_accuracy_is_balanced_over_classes() -> None:
    images = torch.cat([torch.zeros(90, 3, 4, 4), torch.ones(10, 3, 4, 4)])
    data = Labelled(images, tuple(map(str, range(100))), torch.tensor([0] * 90 + [1] * 10))
    always = load_classifier(lambda x: -torch.ones(len(x)))
    mean, low, high = accuracy(always, data)
    assert mean == 0.5
    assert low < 0.5 < high


def test_what_cannot_be_mitigated_says_why() -> None:
    with pytest.raises(ClassifierError, match="gives scores only"):
        network(load_classifier("pocket:null"))
    with pytest.raises(ClassifierError, match="no linear layer"):
        last_linear(nn.Conv2d(3, 1, 1))
    with pytest.raises(InputError, match="mitigation method 'magic': choose damp, last-layer, all"):
        MitigationOptions(method="magic")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="keep 2"):
        MitigationOptions(keep=2)
    data, target = redness(20), choose_target(leaning(), "red")
    failed = bluer(data)
    failed.happened[:] = False
    with pytest.raises(InputError, match="no edit of the shortcut happened"):
        fine_tuned(target, [failed], data, MitigationOptions())
