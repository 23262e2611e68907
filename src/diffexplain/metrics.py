"""How good, how natural and how different pictures are, in the eyes of a CLIP; quality by torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from diffexplain import pocket
from diffexplain.errors import EditorError, InputError, MissingExtra
from diffexplain.judges.pretrained import Pretrained, pretrained
from diffexplain.rows import in_rows

ROWS = 32
GOOD = ("Good photo.", "Bad photo.")  # CLIP-IQA's pair (Wang et al. 2023)


class ClipEyes(nn.Module):
    """What a CLIP sees in pictures in [0, 1]: one vector a picture, or every layer's patches."""

    def __init__(self, clip: Pretrained) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Image features (N, D) of norm √D, so that the kernel of KID is (cos + 1)³."""
        with torch.no_grad():
            seen = in_rows(self._embedded, images, rows=ROWS)
        return seen * math.sqrt(seen.shape[1])

    def layers(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Hidden states of each layer, patches only, channels of unit length: (N, T, C) each."""

        def asked(x: torch.Tensor) -> torch.Tensor:
            vision = self.clip.model.vision_model
            found = vision(pixel_values=self.clip.pixels(x), output_hidden_states=True).hidden_states[1:]
            return torch.stack([F.normalize(h[:, 1:].float(), dim=-1).cpu() for h in found], dim=1)

        with torch.no_grad():
            return in_rows(asked, images, rows=ROWS).unbind(1)

    def _embedded(self, images: torch.Tensor) -> torch.Tensor:
        seen = _plain(self.clip.model.get_image_features(pixel_values=self.clip.pixels(images)))
        return F.normalize(seen.float(), dim=-1).cpu()


def clip_eyes(spec: str = "pocket", *, device: torch.device | None = None) -> ClipEyes:
    """The eyes of `pocket`, `clip:ORG/NAME` or `clip:FOLDER`. Raises EditorError when it cannot be loaded."""
    return ClipEyes(_clip(spec, device))


def _clip(spec: str, device: torch.device | None) -> Pretrained:
    from transformers import CLIPModel

    if spec != "pocket" and not spec.startswith("clip:"):
        raise EditorError(f"no CLIP {spec!r}; give pocket, clip:ORG/NAME or clip:FOLDER")
    source = str(pocket.ROOT / "clip") if spec == "pocket" else spec.removeprefix("clip:")
    return pretrained(CLIPModel, source, f"CLIP {spec!r}", device)


def _plain(output: Any) -> torch.Tensor:
    features: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return features


def kernel_distance(
    features: torch.Tensor, reference: torch.Tensor, *, degree: int = 3, coefficient: float = 1.0
) -> float:
    """KID (Bińkowski et al. 2018): unbiased MMD² with the kernel (x·y/D + c)^degree over all features.

    `features` (N, D) and `reference` (M, D), both at least two rows. 0 in expectation when they come from one
    distribution, so it may fall below. Raises InputError for fewer rows.
    """
    if min(len(features), len(reference)) < 2:
        raise InputError(f"{len(features)} against {len(reference)} pictures; a KID needs two of each")
    x, y = features.double(), reference.double()

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b.T / a.shape[1] + coefficient) ** degree

    def within(a: torch.Tensor) -> torch.Tensor:
        full = kernel(a, a)
        return (full.sum() - full.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def distances(layers: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> torch.Tensor:
    """Distance of every picture to every other: (N, M) in [0, 4].

    As LPIPS without learned weights: squared distance of unit channels, averaged over patches and layers.
    """
    pairs = [
        2 - 2 * torch.einsum("ntc,mtc->nm", a, b) / a.shape[1] for a, b in zip(layers, others, strict=True)
    ]
    return torch.stack(pairs).mean(0).clamp_min(0)


def diversity(layers: Sequence[torch.Tensor]) -> float:
    """Mean pairwise distance in CLIP's layers. Raises InputError for fewer than two pictures."""
    n = len(layers[0])
    if n < 2:
        raise InputError(f"{n} picture; diversity needs two")
    return float(distances(layers, layers).triu(1).sum() * 2 / (n * (n - 1)))


def agreement(restarts: Sequence[torch.Tensor]) -> float:
    """Restarts' agreement: mean pairwise cosine of their pictures' mean features, in [-1, 1].

    `restarts` holds each one's features (N, D). Raises InputError for fewer than two restarts.
    """
    if len(restarts) < 2:
        raise InputError(f"{len(restarts)} restart; agreement needs two")
    means = F.normalize(torch.stack([features.double().mean(0) for features in restarts]), dim=-1)
    cosines = means @ means.T
    return float(cosines.triu(1).sum() * 2 / (len(means) * (len(means) - 1)))


# -- quality, by torchmetrics ---------------------------------------------------------------------------


def clip_quality(
    images: torch.Tensor,
    *,
    clip: str | ClipEyes,
    label: str | None = None,
    prompts: tuple[str, str] | None = None,
) -> torch.Tensor:
    """CLIP-IQA (Wang et al. 2023) by torchmetrics: how much rather the first prompt than the second, (N,).

    With a `label`, semantic: "A photo of a {label}." against "A photo of something else.". `clip` as
    clip_eyes takes it, or eyes in hand; only one trained on photographs knows what a good one is. Raises
    MissingExtra without torchmetrics.
    """
    try:
        from torchmetrics.functional.multimodal import clip_image_quality_assessment
    except ImportError as error:
        raise MissingExtra("baselines", "torchmetrics") from error
    pair = prompts or ((f"A photo of a {label}.", "A photo of something else.") if label else GOOD)
    eyes = clip_eyes(clip) if isinstance(clip, str) else clip

    def asked(x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = clip_image_quality_assessment(
            x, model_name_or_path=lambda: _for_torchmetrics(eyes.clip), prompts=(pair,)
        )
        return answer.reshape(-1).cpu()

    return in_rows(asked, images, rows=ROWS)


def _for_torchmetrics(clip: Pretrained) -> tuple[Any, Any]:
    """Model and processor as torchmetrics calls them: plain tensors out, pictures in [0, 1] in."""

    def processor(text: Any = None, images: Any = None, **_: Any) -> Any:
        if text is not None:
            return clip.tokenizer(text, padding=True, truncation=True, return_tensors="pt")
        return {"pixel_values": clip.pixels(torch.stack(list(images)))}

    def said(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return _plain(
            clip.model.get_text_features(input_ids=ids.to(clip.device), attention_mask=mask.to(clip.device))
        )

    def seen(pixels: torch.Tensor) -> torch.Tensor:
        return _plain(clip.model.get_image_features(pixel_values=pixels.to(clip.device)))

    model = SimpleNamespace(get_text_features=said, get_image_features=seen)
    model.to = lambda device: model
    return model, processor


def perceptual_distance(
    images: torch.Tensor, others: torch.Tensor, *, weights: str | Path, net: str = "alex"
) -> torch.Tensor:
    """LPIPS (Zhang et al. 2018) by torchmetrics, pair by pair: (N,).

    `weights`: a safetensors file of torchvision's network (`alexnet`, `vgg16` or `squeezenet1_1` for `net`
    alex, vgg or squeeze); the linear layers come with torchmetrics. Raises InputError for a file that does
    not fit, MissingExtra without torchmetrics.
    """
    try:
        from torchmetrics.functional.image import lpips
    except ImportError as error:
        raise MissingExtra("baselines", "torchmetrics") from error
    model = lpips._NoTrainLpips(net=net, pnet_rand=True)  # the public face would download its network
    _fill(model.net, Path(weights))

    def asked(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        distance: torch.Tensor = model(x, y, normalize=True)
        return distance.reshape(-1)

    with torch.no_grad():
        return in_rows(asked, images, others, rows=ROWS)


def _fill(net: nn.Module, file: Path) -> None:
    """Put torchvision's weights into LPIPS's slices: `slice2.3.weight` is `features.3.weight`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(file)
        net.load_state_dict({name: stored[_torchvision_name(name)] for name in net.state_dict()})
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        line = (str(error).splitlines() or ["no message"])[0][:200]
        raise InputError(
            f"weights {str(file)!r} do not fit LPIPS ({line}); give torchvision's network as safetensors"
        ) from error


def _torchvision_name(name: str) -> str:
    return ".".join(["features", *name.split(".")[2 if name.startswith("slices.") else 1 :]])
