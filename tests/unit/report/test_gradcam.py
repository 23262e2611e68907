"""Grad-CAM: analytic maps, the library's own answer, crops, tokens, and a network left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffexplain.classifiers.modules import CallableClassifier, ModuleClassifier
from diffexplain.classifiers.preprocessing import Preprocessing
from diffexplain.errors import ClassifierError
from diffexplain.report.gradcam import attention, drawn_over, last_places, seen
from diffexplain.targets import Target

pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed: the baselines extra has it")


class Redness(nn.Module):
    """Logit of "red": the mean of the red channel, through a layer with places."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 2, 1, bias=False)
        self.look.weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 1]])[:, :, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        red, blue = self.look(x).mean((2, 3)).unbind(1)
        return torch.stack([blue, red], 1)


class Tokens(nn.Module):
    """A toy of a vision transformer: a class token that attends to patches after a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.norm1 = nn.LayerNorm(8)
        self.last = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)  # (N, 16, 8)
        tokens = self.norm1(torch.cat([patches.mean(1, keepdim=True), patches], 1))
        mixed = self.last(tokens + torch.softmax(tokens @ tokens.transpose(1, 2), -1) @ tokens)
        return self.head(mixed[:, 0])


def target(network: nn.Module, **options: object) -> Target:
    return Target(ModuleClassifier(network, ("blue", "red"), **options), "red")  # type: ignore[arg-type]


def squared(side: int = 16) -> torch.Tensor:
    """A dark picture with a red square."""
    images = torch.full((3, 3, side, side), 0.1)
    images[:, 0, 4:9, 6:12] = 0.9
    images[1, 2, 10:, :4] = 1.0  # blue speaks against red
    return images


def test_the_map_is_where_the_evidence_lies() -> None:
    images = squared()
    maps, layer = attention(target(Redness()), images)
    assert layer == "look"
    assert maps.shape == (3, 16, 16)
    # log-odds of two classes: red − blue, so α = (1, −1)/256 and the map is ReLU(red − blue)
    wanted = (images[:, 0] - images[:, 2]).relu()
    wanted = wanted - wanted.amin((1, 2), keepdim=True)
    torch.testing.assert_close(maps, wanted / wanted.amax((1, 2), keepdim=True), atol=1e-4, rtol=0)


def test_a_crop_is_mapped_back_to_where_it_was() -> None:
    images = torch.full((1, 3, 32, 32), 0.1)
    images[0, 0, 8:16, 20:26] = 0.9
    aim = target(Redness(), preprocessing=Preprocessing(size=12, resize=16))
    assert seen(aim, images) == (4, 4, 28, 28)
    maps, _ = attention(aim, images)
    assert maps[0, :4].max() == maps[0, :, 28:].max() == 0
    rows, columns = torch.where(maps[0] > 0.5)
    assert (rows.float().mean() - 11.5).abs() < 1.5
    assert (columns.float().mean() - 22.5).abs() < 1.5


def test_tokens_are_read_before_the_last_attention() -> None:
    aim = target(Tokens().requires_grad_(False))
    assert last_places(aim, squared()[:1]) == "norm1"
    maps, _ = attention(aim, squared())
    assert maps.shape == (3, 16, 16)
    assert maps.max() == pytest.approx(1, abs=1e-4)


def test_the_network_is_left_as_it_was() -> None:
    network = Redness().train()
    attention(target(network), squared())
    assert network.training
    assert network.look.training
    assert network.look.weight.grad is None
    assert not network.look._forward_hooks


def test_what_has_no_places_is_told() -> None:
    with pytest.raises(ClassifierError, match="Grad-CAM needs"):
        attention(
            Target(CallableClassifier(lambda x: x.mean((2, 3))[:, :2], ("a", "b"), name="f"), "b"), squared()
        )
    flat = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    with pytest.raises(ClassifierError, match="no layer with places"):
        attention(target(flat), squared())
    with pytest.raises(ClassifierError, match="'nowhere' is not in"):
        attention(target(Redness()), squared(), "nowhere")


def test_colour_lies_where_the_map_is_high() -> None:
    maps = torch.zeros(1, 16, 16)
    maps[0, :8] = 1.0
    drawn = drawn_over(squared()[:1], maps)
    assert drawn.shape == (1, 3, 16, 16)
    below = drawn[0, :, 8:]
    torch.testing.assert_close(below[0], below[2])  # grey
    assert (drawn[0, 0, :8] > drawn[0, 2, :8] + 0.2).all()  # yellow
