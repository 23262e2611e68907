"""Grad-CAM (Selvaraju et al., ICCV 2017), by pytorch-grad-cam, on the pictures that a report shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from diffexplain.classifiers import white_box
from diffexplain.errors import ClassifierError, MissingExtra
from diffexplain.targets import Target

ROWS = 16  # pictures a call
#: black, purple, orange, pale yellow: as the report's map of differences.
RAMP = torch.tensor([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]) / 255
STRENGTH = 0.75  # of the colour where the evidence is strongest


def attention(target: Target, images: torch.Tensor, layer: str | None = None) -> tuple[torch.Tensor, str]:
    """Where the target's evidence lies: maps (N, H, W), each from 0 to its largest value 1; and the layer.

    α_k is the mean over places of ∂score/∂A_k, the map ReLU(Σ_k α_k·A_k) (equations 1, 2), the score being
    the target's log-odds. `layer`: by default the last one with places. Where the classifier crops a picture,
    the map is 0 outside. Raises ClassifierError for a black box or a layer without places, MissingExtra.
    """
    network = _network(target)
    chosen = layer or last_places(target, images[:1])
    if chosen not in dict(network.named_modules()):
        raise ClassifierError(f"layer {chosen!r} is not in {target.classifier.name}; see `diffexplain units`")
    scoring = _Scoring(target, network)
    left, top, right, bottom = seen(target, images[:1])
    maps = torch.zeros(len(images), *images.shape[-2:])  # (N, H, W)
    with _restored(network), _cam(scoring, network.get_submodule(chosen)) as cam:
        for start in range(0, len(images), ROWS):
            rows = images[start : start + ROWS]
            found = torch.from_numpy(cam(rows, [_first] * len(rows)))[:, None]  # (n, 1, H, W)
            part = F.interpolate(found, (bottom - top, right - left), mode="bilinear")
            maps[start : start + ROWS, top:bottom, left:right] = part[:, 0]
    return maps, chosen


def drawn_over(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, H, W) in grey with their maps (N, H, W) over them in colour."""
    grey = images.mean(1, keepdim=True).expand_as(images)
    at = maps.clamp(0, 0.9999) * (len(RAMP) - 1)
    low = at.long()
    colour = (RAMP[low] + (at - low)[..., None] * (RAMP[low + 1] - RAMP[low])).permute(0, 3, 1, 2)
    weight = STRENGTH * maps[:, None].sqrt()
    return ((1 - weight) * grey + weight * colour).clamp(0, 1)


def last_places(target: Target, image: torch.Tensor) -> str:
    """The last layer with channels at places, or a norm over tokens, that the score listens to at places."""
    network, found = _network(target), list[tuple[str, torch.Tensor]]()

    def keep(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and _placed(module, output):
                found.append((name, output))

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in network.named_modules() if name]
    try:
        with torch.enable_grad(), _restored(network):
            score = _Scoring(target, network)(image.clone().requires_grad_())
            live = [(name, out) for name, out in found if out.requires_grad]
            ends = [out for _, out in live]
            slopes = torch.autograd.grad(score.sum(), ends, allow_unused=True) if live else ()
    finally:
        for hook in hooks:
            hook.remove()
    for (name, _), slope in reversed(list(zip(live, slopes, strict=True))):
        if slope is not None and bool(_at_places(slope).abs().amax() > 0):
            return name
    raise ClassifierError(f"classifier {target.classifier.name!r} has no layer with places for Grad-CAM")


def seen(target: Target, image: torch.Tensor) -> tuple[int, int, int, int]:
    """The part of a picture that the network is given: left, top, right, bottom, in pixels.

    Read off pictures of coordinates that go through the classifier's own preprocessing.
    """
    high, wide = image.shape[-2:]
    prepare = getattr(target.classifier, "preprocessing", None)
    if prepare is None:
        return 0, 0, wide, high
    across = ((torch.arange(wide) + 0.5) / wide).view(1, 1, 1, wide).expand(1, 3, high, wide)
    down = ((torch.arange(high) + 0.5) / high).view(1, 1, high, 1).expand(1, 3, high, wide)
    with torch.no_grad():
        low, top = prepare(torch.zeros_like(image)).cpu(), prepare(torch.ones_like(image)).cpu()
        x, y = ((prepare(grid).cpu() - low) / (top - low) for grid in (across, down))  # (1, 3, h, w), 0 to 1
    if not bool(x.isfinite().all()):
        raise ClassifierError(
            f"classifier {target.classifier.name!r} pads pictures: its map would not lie on them"
        )
    (left, right), (above, below) = _ends(x[0, 0, 0]), _ends(y[0, 0, :, 0])
    return round(left * wide), round(above * high), round(right * wide), round(below * high)


def _ends(centres: torch.Tensor) -> tuple[float, float]:
    """Where a line of pixels begins and ends, from the two centres in its middle; 0 to 1."""
    n, k = len(centres), len(centres) // 2
    step = float(centres[k] - centres[k - 1]) if n > 1 else 1.0
    first = float(centres[k]) - (k + 0.5) * step
    return max(0.0, first), min(1.0, first + n * step)


class _Scoring(nn.Module):
    """Pictures -> the target's score (N, 1), through the network."""

    def __init__(self, target: Target, network: nn.Module) -> None:
        super().__init__()
        self.network, self._target = network, target

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """In the classifier's own words."""
        return self._target.of_logits(self._target.classifier.logits(images))[:, None]


def _network(target: Target) -> nn.Module:
    white_box(target.classifier, "Grad-CAM")
    network = getattr(target.classifier, "module", None)
    if not isinstance(network, nn.Module):
        raise ClassifierError(f"classifier {target.classifier.name!r}: Grad-CAM needs a torch network")
    return network


def _cam(scoring: nn.Module, layer: nn.Module) -> Any:
    try:
        from pytorch_grad_cam import GradCAM
    except ImportError:
        raise MissingExtra("grad-cam", "baselines") from None
    cam = GradCAM(scoring, [layer], reshape_transform=_as_places)
    cam.compute_input_gradient = True  # so that a frozen network has a graph
    return cam


def _first(output: torch.Tensor) -> torch.Tensor:
    return output[0]


def _placed(module: nn.Module, output: torch.Tensor) -> bool:
    """Whether a layer's output has places: (N, C, h, w), or tokens (N, T, C) of a norm."""
    if output.ndim == 4:
        return min(_as_places(output).shape[-2:]) > 1
    return output.ndim == 3 and "Norm" in type(module).__name__ and _side(output.shape[1]) > 1


def _at_places(output: torch.Tensor) -> torch.Tensor:
    """A token that stands for the whole picture left out."""
    return output[:, output.shape[1] - _side(output.shape[1]) ** 2 :] if output.ndim == 3 else output


def _as_places(output: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) from that, from (N, h, w, C), or from tokens (N, T, C), class tokens left out."""
    if output.ndim == 4:
        last = output.shape[1] == output.shape[2] != output.shape[3]  # as Swin has it
        return output.permute(0, 3, 1, 2) if last else output
    side = _side(output.shape[1])
    tokens = _at_places(output)
    return tokens.reshape(len(output), side, side, -1).permute(0, 3, 1, 2)


def _side(tokens: int) -> int:
    """Of the square that tokens make, up to five of which stand for the whole; 0 where they make none."""
    sides = (round((tokens - extra) ** 0.5) for extra in range(6) if tokens > extra)
    return next((s for s in sides if 0 <= tokens - s * s <= 5), 0)


@contextmanager
def _restored(network: nn.Module) -> Iterator[None]:
    """Modes as they were, and no gradients left behind."""
    modes = [(part, part.training) for part in network.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        network.zero_grad(set_to_none=True)
