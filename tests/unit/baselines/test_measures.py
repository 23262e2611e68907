"""The bundled measuring devices of the baselines' benchmark, on avatars of fresh seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffexplain import pocket
from diffexplain.baselines import NaturalOptions, maximise
from diffexplain.classifiers import checked_logits, load_classifier
from diffexplain.targets import choose_target, class_objective
from diffexplain.worlds import avatars as world


@pytest.fixture(scope="module")
def renders() -> torch.Tensor:
    return world.render(world.sample(24, seed=900_001))


def test_the_detector_tells_avatars_from_what_is_none(renders):
    detector = load_classifier(f"timm:{pocket.ROOT / 'detector'}")
    objective = class_objective(load_classifier("pocket:bearded"), "bearded")
    ascended = maximise(objective, seeds=[0, 1], options=NaturalOptions(steps=5))
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    upside_down = renders[:8].flip(2)
    assert (checked_logits(detector, renders) > 0).float().mean() >= 0.95
    for images in (ascended, noise, upside_down):
        assert (checked_logits(detector, images) < 0).float().mean() >= 0.95


@pytest.mark.parametrize("name", ["bearded", "cheerful"])
def test_a_twin_agrees_with_its_classifier_on_avatars(name, renders):
    first = load_classifier(f"pocket:{name}")
    second = load_classifier(f"timm:{pocket.ROOT / 'twins' / name}")
    assert first.labels == second.labels
    scores = [choose_target(c, first.labels[1]).score(renders).numpy() for c in (first, second)]
    assert np.corrcoef(*scores)[0, 1] > 0.8
