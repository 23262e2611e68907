"""Activation maximisation against what its equations say, on networks whose optimum is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffexplain.baselines import (
    YOSINSKI,
    AttackOptions,
    DecoderOptions,
    NaturalOptions,
    PixelOptions,
    load_decoder,
    maximise,
)
from diffexplain.baselines.pixels import blurred, total_variation
from diffexplain.classifiers.modules import ModuleClassifier
from diffexplain.errors import EditorError, InputError
from diffexplain.targets import ClassObjective, choose_target, class_objective
from tests.tiny import tiny_pipeline, tiny_pipeline_folder

SIZE = 16


def red() -> ClassObjective:
    """One logit: how red the left half is."""
    layer = nn.Linear(3 * SIZE * SIZE, 1)
    weight = torch.zeros(3, SIZE, SIZE)
    weight[0, :, : SIZE // 2] = 0.05
    weight[1:, :, : SIZE // 2] = -0.05
    with torch.no_grad():
        layer.weight.copy_(weight.flatten())
        layer.bias.zero_()
    module = nn.Sequential(nn.Flatten(), layer)
    return class_objective(ModuleClassifier(module, ("other", "red")), "red")


def left_and_right(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    redness = images[:, 0] - images[:, 1:].mean(1)
    return redness[..., : SIZE // 2].mean(), redness[..., SIZE // 2 :].mean()


@pytest.mark.parametrize(
    "options",
    [
        PixelOptions(size=SIZE, steps=60, norm_percentile=0.0),
        PixelOptions(size=SIZE, steps=60, norm_percentile=0.0, contribution_percentile=20.0),
        NaturalOptions(size=SIZE, steps=60, jitter=0),
        AttackOptions(torch.full((2, 3, SIZE, SIZE), 0.5), steps=60, rate=0.5),
    ],
)
def test_ascent_finds_what_the_network_wants(options):
    images = maximise(red(), seeds=[1, 2], options=options)
    left, right = left_and_right(images)
    assert images.shape == (2, 3, SIZE, SIZE)
    assert 0 <= images.min() <= images.max() <= 1
    assert left > 0.3
    assert abs(right) < left / 2  # what blur and smoothness carry over the border


def test_a_picture_does_not_depend_on_its_batch():
    options = NaturalOptions(size=SIZE, steps=5)
    many = maximise(red(), seeds=[7, 8, 9], options=options, rows=2)
    torch.testing.assert_close(many[2:], maximise(red(), seeds=[9], options=options), rtol=0, atol=1e-5)


def test_no_seeds():
    with pytest.raises(InputError, match="seeds is empty"):
        maximise(red(), seeds=[], options=PixelOptions())


def test_yosinski_regularisers():
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.1
    gradient = torch.ones_like(x)
    plain = PixelOptions(size=4, blur=0.0, norm_percentile=0.0)
    torch.testing.assert_close(plain.regularised(x, gradient, 0), x)
    decayed = PixelOptions(size=4, blur=0.0, norm_percentile=0.0, decay=0.3).regularised(x, gradient, 0)
    torch.testing.assert_close(decayed, 0.7 * x)
    small = PixelOptions(size=4, blur=0.0, norm_percentile=50.0).regularised(x, gradient, 0)
    norms = x.norm(dim=1)
    gone = (small == 0).all(1)
    assert gone.sum() == 8
    assert norms[gone].max() < norms[~gone].min()
    useless = PixelOptions(size=4, blur=0.0, norm_percentile=0.0, contribution_percentile=50.0)
    dropped = (useless.regularised(x, gradient, 0) == 0).all(1)
    share = x.sum(1).abs()
    assert share[dropped].max() < share[~dropped].min()
    assert [o.decay for o in YOSINSKI] == [0.0, 0.3, 0.0001, 0.0]


def test_blur_waits_for_its_turn_and_keeps_the_mean():
    x = torch.zeros(1, 3, 9, 9)
    x[..., 4, 4] = 0.4
    options = PixelOptions(size=9, blur=1.0, blur_every=4, norm_percentile=0.0)
    assert torch.equal(options.regularised(x, x, 0), x)
    after = options.regularised(x, x, 3)
    assert after[0, 0, 4, 4] < 0.1
    torch.testing.assert_close(after.sum(), x.sum(), rtol=0.01, atol=0)
    torch.testing.assert_close(blurred(torch.full((1, 3, 9, 9), 0.3), 2.0), torch.full((1, 3, 9, 9), 0.3))


def test_total_variation_of_a_ramp_is_its_slope():
    ramp = (0.1 * torch.arange(8.0)).expand(1, 1, 8, 8).contiguous()
    expected = 0.01 * 7 / 8  # seven of eight columns have a right neighbour
    torch.testing.assert_close(total_variation(ramp), torch.tensor([expected]), rtol=1e-4, atol=0)


def test_attack_stays_within_its_radius():
    images = torch.full((1, 3, SIZE, SIZE), 0.5)
    made = maximise(red(), seeds=[0], options=AttackOptions(images, steps=30, rate=0.5, radius=1.0))
    assert (made - images).norm() == pytest.approx(1.0, abs=1e-3)


def test_attack_takes_the_steepest_way():
    """On a linear network, k steps of length r add k·r along the weight."""
    images = torch.full((1, 3, SIZE, SIZE), 0.5)
    objective = red()
    made = maximise(objective, seeds=[0], options=AttackOptions(images, steps=4, rate=0.25))
    gain = objective.score(made) - objective.score(images)
    length = 0.05 * (3 * SIZE * SIZE / 2) ** 0.5
    assert gain.item() == pytest.approx(length, rel=1e-3)


def test_decoder_raises_the_score_within_its_bound():
    vae = tiny_pipeline(size=SIZE).vae.requires_grad_(False)
    options = DecoderOptions(vae, size=SIZE, steps=5, bound=2.0)
    objective = red()
    start = options.picture(options.start([3, 4])).detach()
    made = maximise(objective, seeds=[3, 4], options=options)
    assert (objective.score(made) > objective.score(start)).all()
    far = options.regularised(torch.full((1, 4, 8, 8), 9.0), torch.zeros(1, 4, 8, 8), 0)
    assert far.max() == 2.0


def test_load_decoder(tmp_path):
    vae = load_decoder(tiny_pipeline_folder(tmp_path / "pipeline"))
    assert not any(p.requires_grad for p in vae.parameters())
    pipeline = tiny_pipeline()
    assert load_decoder(pipeline) is pipeline.vae
    with pytest.raises(EditorError, match=r"decoder .* cannot be loaded"):
        load_decoder(tmp_path / "nothing")


def test_a_torchvision_network_takes_part():
    """AlexNet, as the first experiments had; its weights would come from a safetensors file."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    network = ModuleClassifier(alexnet(weights=None, num_classes=3), ("a", "b", "c"), size=(64, 64))
    objective = ClassObjective(choose_target(network, "b"))
    options = PixelOptions(size=64, steps=3, norm_percentile=0.0)
    made = maximise(objective, seeds=[0], options=options)
    begun = maximise(objective, seeds=[0], options=PixelOptions(size=64, steps=0))
    assert objective.score(made) > objective.score(begun)
    assert F.mse_loss(made, begun) > 0
