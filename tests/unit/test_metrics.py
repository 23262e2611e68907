"""Distances of pictures against torchmetrics and against answers known beforehand."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors.torch import save_file

from diffexplain.errors import EditorError, InputError
from diffexplain.metrics import (
    GOOD,
    ClipEyes,
    agreement,
    clip_eyes,
    clip_quality,
    distances,
    diversity,
    kernel_distance,
    perceptual_distance,
)
from tests.tiny import tiny_clip_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def eyes(folder) -> ClipEyes:
    return clip_eyes(f"clip:{folder}")


def pictures(n: int, seed: int, level: float = 0.5) -> torch.Tensor:
    noise = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return (level + 0.5 * (noise - 0.5)).clamp(0, 1)


def test_kernel_distance_equals_torchmetrics(eyes):
    from torchmetrics.image.kid import KernelInceptionDistance

    ours, real = pictures(12, 0, 0.7), pictures(12, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = KernelInceptionDistance(eyes, subsets=1, subset_size=12)
        theirs.update(real, real=True)
        theirs.update(ours, real=False)
        expected, _ = theirs.compute()
    assert kernel_distance(eyes(ours), eyes(real)) == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
    features, others = torch.randn(20, 8), torch.randn(20, 8) + 0.5
    from torchmetrics.image.kid import poly_mmd

    expected = float(poly_mmd(others.double(), features.double()))
    assert kernel_distance(features, others) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_unbiased():
    draw = torch.Generator().manual_seed(0)
    same = [
        kernel_distance(torch.randn(8, 4, generator=draw), torch.randn(8, 4, generator=draw))
        for _ in range(400)
    ]
    mean = sum(same) / len(same)
    spread = torch.tensor(same).std().item() / len(same) ** 0.5
    assert abs(mean) < 4 * spread
    assert min(same) < 0  # a biased one could not
    with pytest.raises(InputError, match="1 against 8 pictures"):
        kernel_distance(torch.randn(1, 4), torch.randn(8, 4))


def test_diversity_of_known_directions():
    same = [torch.tensor([[1.0, 0.0]]).expand(3, 4, 2)]
    assert diversity(same) == pytest.approx(0)
    axes = [torch.eye(3)[:, None].expand(3, 4, 3)]  # three pictures at right angles
    assert diversity(axes) == pytest.approx(2)
    assert distances(axes, axes).diagonal().abs().max() < 1e-6
    with pytest.raises(InputError, match="diversity needs two"):
        diversity([torch.ones(1, 4, 2)])


def test_more_varied_pictures_are_more_diverse(eyes):
    alike = pictures(1, 0).expand(4, -1, -1, -1) + 0.01 * pictures(4, 1)
    assert diversity(eyes.layers(alike.clamp(0, 1))) < 0.5 * diversity(eyes.layers(pictures(4, 2)))


def test_agreement_of_restarts():
    one = torch.tensor([[1.0, 0.2], [1.0, -0.2]])
    assert agreement([one, 2 * one]) == pytest.approx(1)
    assert agreement([one, one[:, [1, 0]]]) == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputError, match="agreement needs two"):
        agreement([one])


def test_eyes_look_in_calls_of_a_fixed_size(eyes):
    images = pictures(5, 3)
    torch.testing.assert_close(eyes(images)[3:4], eyes(images[3:4]))
    features = eyes(images)
    torch.testing.assert_close(features.norm(dim=1), torch.full((5,), features.shape[1] ** 0.5))
    assert all(layer.shape[:2] == (5, 4) for layer in eyes.layers(images))  # no class token
    with pytest.raises(EditorError, match="no CLIP 'vgg'"):
        clip_eyes("vgg")


def test_clip_quality_is_the_softmax_over_its_two_prompts(eyes, folder):
    """On a stand-in: a random CLIP; torchmetrics' constant scale of 100."""
    images = pictures(3, 4)
    found = clip_quality(images, clip=eyes)
    from diffexplain.judges import load_judge

    judge = load_judge(f"clip:{folder}")
    scale = float(judge._clip.model.logit_scale.exp())
    expected = (judge.logits(images, GOOD) / scale * 100).softmax(1)[:, 0]
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-3)
    semantic = clip_quality(images, clip=f"clip:{folder}", label="cat")
    pair = ("A photo of a cat.", "A photo of something else.")
    torch.testing.assert_close(semantic, clip_quality(images, clip=eyes, prompts=pair))
    assert ((semantic > 0) & (semantic < 1)).all()


@pytest.mark.parametrize(("net", "network"), [("alex", "alexnet"), ("squeeze", "squeezenet1_1")])
def test_perceptual_distance_takes_torchvision_weights(tmp_path, net, network):
    """On a stand-in: the network's weights are random, torchmetrics' linear layers are real."""
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, network)(weights=None)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "net.safetensors")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    near = (images + 0.02).clamp(0, 1)
    found = perceptual_distance(images, near, weights=tmp_path / "net.safetensors", net=net)
    far = perceptual_distance(images, 1 - images, weights=tmp_path / "net.safetensors", net=net)
    nothing = perceptual_distance(images, images, weights=tmp_path / "net.safetensors", net=net)
    assert nothing.abs().max() < 1e-6
    assert (found > 0).all()
    assert (found < far).all()


def test_perceptual_distance_bad_weights(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    images = torch.rand(1, 3, 64, 64)
    for file in (tmp_path / "wrong.safetensors", tmp_path / "none.safetensors"):
        with pytest.raises(InputError, match="do not fit LPIPS"):
            perceptual_distance(images, images, weights=file)
