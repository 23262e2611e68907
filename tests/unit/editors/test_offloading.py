"""Parts take turns: each is on its device when it is called, and the one before has left it."""

import torch
from torch import nn

from diffexplain.editors.offloading import take_turns


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.was: list[str] = []

    def forward(self, other: "Part | None" = None) -> torch.Tensor:
        self.was += [self.weight.device.type, *([other.weight.device.type] if other else [])]
        return self.weight * 2


def test_one_part_at_a_time_is_on_the_device() -> None:
    one, two = Part(), Part()
    take_turns([one, two], torch.device("meta"))
    assert one.weight.device.type == two.weight.device.type == "cpu"
    one()
    assert one.was == ["meta"]
    assert two.weight.device.type == "cpu"
