"""From pictures in [0, 1] to what a network takes: the libraries' own (PIL) pipelines, differentiable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import functional as vision

from diffexplain.errors import ClassifierError

Interpolation = Literal["bicubic", "bilinear", "lanczos", "nearest"]
Prepare = Callable[[torch.Tensor], torch.Tensor]
Ours = TypeVar("Ours", bound=Prepare)
TOLERANCE = 1 / 255  # mean, in pixel values, between ours and a library's own


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, crop, scale, normalise: (x·scale − mean) / std, all differentiable.

    `size` is what the network takes (None: pictures as they come). Without `resize` they are resized straight
    to it; with it the short side (`fit="longest"`: the long one) becomes `resize` first, or both become
    (height, width), and the centre is cropped or padded with `fill` to `size`. Antialiased, as PIL does it.
    Raises ClassifierError for a value that cannot be.
    """

    size: int | tuple[int, int] | None = None
    resize: int | tuple[int, int] | None = None
    fit: Literal["shortest", "longest"] = "shortest"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 1.0  # 255 for networks that take 0 to 255
    channels: Literal["RGB", "BGR"] = "RGB"
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("size", "resize"):
            value = getattr(self, name)
            sides = () if value is None else (value,) if isinstance(value, int) else tuple(value)
            if value is not None and (len(sides) not in (1, 2) or min(sides) < 1):
                raise ClassifierError(f"{name} {value!r}: give a side in pixels, or a height and a width")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != 3:
                raise ClassifierError(f"{name} {getattr(self, name)!r}: give three numbers, for R, G and B")
        if not (min(self.std) > 0 and self.scale > 0):
            raise ClassifierError(f"std {self.std!r}, scale {self.scale!r}: give numbers above 0")
        if self.interpolation not in get_args(Interpolation):
            known = ", ".join(get_args(Interpolation))
            raise ClassifierError(f"interpolation {self.interpolation!r}: choose {known}")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (N, 3, H, W) in [0, 1] as the network wants them."""
        x = images
        if self.resize is not None:
            x = resized(x, self._sides(x), self.interpolation)
            if self.size is not None and tuple(x.shape[-2:]) != _pair(self.size):
                fill = _column(self.fill, x)
                x = vision.center_crop(x - fill, list(_pair(self.size))) + fill  # pads with 0
        elif self.size is not None:
            x = resized(x, _pair(self.size), self.interpolation)
        if self.channels == "BGR":
            x = x.flip(1)
        return (x * self.scale - _column(self.mean, x)) / _column(self.std, x)

    def _sides(self, x: torch.Tensor) -> tuple[int, int]:
        """Height and width after the first resize; rounded as torchvision and timm do."""
        if not isinstance(self.resize, int):
            return _pair(self.resize or 1)
        height, width = x.shape[-2:]
        if self.fit == "longest":
            ratio = max(height, width) / self.resize
            return round(height / ratio), round(width / ratio)
        short, long = sorted((height, width))
        other = int(self.resize * long / short)
        return (self.resize, other) if height <= width else (other, self.resize)

    def __str__(self) -> str:
        first = f"{self.fit} side to {self.resize}" if isinstance(self.resize, int) else self.resize
        steps = [f"resize ({self.interpolation}): {first}", f"centre of {self.size}"]
        size = steps if self.resize else [f"resize ({self.interpolation}): {self.size}"] if self.size else []
        norm = [
            f"x·{self.scale:g}" if self.scale != 1 else "x",
            f"mean {_few(self.mean)}",
            f"std {_few(self.std)}",
        ]
        return "; ".join([*size, *(["BGR"] if self.channels == "BGR" else []), *norm])


def resized(x: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Antialiased resize as PIL's, in [0, 1]. Raises ClassifierError for a filter that this torch lacks."""
    if tuple(x.shape[-2:]) == size:
        return x
    if interpolation == "nearest":
        return F.interpolate(x, size, mode="nearest-exact")
    at = x.cpu() if interpolation == "lanczos" else x  # torch has that filter on the CPU only
    try:
        return F.interpolate(at, size, mode=interpolation, antialias=True).clamp(0, 1).to(x.device)
    except NotImplementedError as error:
        raise ClassifierError(
            f"interpolation {interpolation!r} needs a newer torch; choose bicubic"
        ) from error


# -- what the libraries say ----------------------------------------------------------------------------


def from_timm(config: dict[str, Any]) -> Preprocessing:
    """The evaluation transform of timm for a pretrained_cfg. Raises ClassifierError where ours differs."""
    from timm.data import create_transform, resolve_data_config

    found = resolve_data_config({}, pretrained_cfg=config)
    size = _pair(tuple(found["input_size"][-2:]))
    whole = tuple(floor(side / found["crop_pct"]) for side in size)
    mode = found["crop_mode"]
    made = Preprocessing(
        size=size,
        resize=whole[0] if mode != "squash" and whole[0] == whole[1] else _pair(whole),
        fit="longest" if mode == "border" else "shortest",
        interpolation=found["interpolation"],
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        fill=tuple(round(255 * m) / 255 for m in found["mean"]) if mode == "border" else (0.0, 0.0, 0.0),
    )
    transform = create_transform(**found, is_training=False)
    return agreeing(made, lambda picture: transform(picture), "timm's transform")


def from_torchvision(preset: Any) -> Preprocessing:
    """The ImageClassification preset of torchvision, as Weights.transforms() gives it."""
    made = Preprocessing(
        size=preset.crop_size[0],
        resize=preset.resize_size[0],
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )
    return agreeing(made, preset, "torchvision's transforms")


def from_open_clip(config: dict[str, Any], transform: Any) -> Preprocessing:
    """The evaluation transform of open_clip, from a visual tower's preprocess_cfg."""
    size = _pair(config["size"] if isinstance(config["size"], int) else tuple(config["size"]))
    squash = config["resize_mode"] == "squash"
    made = Preprocessing(
        size=size,
        resize=None if squash else size[0],
        fit="longest" if config["resize_mode"] == "longest" else "shortest",
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        fill=(config["fill_color"] / 255,) * 3,
    )
    return agreeing(made, transform, "open_clip's transform")


def from_processor(processor: Any) -> Prepare:
    """A transformers image processor: by its numbers, or, where these do not tell all, itself."""
    theirs = lambda picture: processor(images=picture, return_tensors="pt")["pixel_values"][0]  # noqa: E731
    where = f"the {type(processor).__name__}"
    try:
        return agreeing(_by_numbers(processor), theirs, where)
    except (ClassifierError, KeyError, TypeError):
        pass

    def itself(images: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = processor(images=list(images * 255), return_tensors="pt")["pixel_values"]
        return made

    return agreeing(itself, theirs, where, std=getattr(processor, "image_std", None))


def _by_numbers(processor: Any) -> Preprocessing:
    said = processor.to_dict()
    size, crop = said.get("size") or {}, said.get("crop_size") or {}
    crops = bool(said.get("do_center_crop"))
    end: Any = (crop["height"], crop["width"]) if crops else None
    resize: Any = size.get("shortest_edge") or ((size["height"], size["width"]) if size else None)
    if not said.get("do_resize"):
        resize = None
    if not crops and not isinstance(resize, int):
        end, resize = resize, None
    normalises = said.get("do_normalize")
    return Preprocessing(
        size=end,
        resize=resize,
        interpolation=Image.Resampling(said.get("resample", 3)).name.lower(),  # type: ignore[arg-type]
        mean=tuple(said["image_mean"]) if normalises else (0.0, 0.0, 0.0),
        std=tuple(said["image_std"]) if normalises else (1.0, 1.0, 1.0),
        scale=255 * said["rescale_factor"] if said.get("do_rescale") else 255.0,
        channels="BGR" if said.get("do_flip_channel_order") else "RGB",
    )


# -- whether ours is theirs ----------------------------------------------------------------------------


def agreeing(ours: Ours, theirs: Callable[[Image.Image], torch.Tensor], where: str, std: Any = None) -> Ours:
    """Our preprocessing, if on a trial picture it is what the library makes of it, within 1/255 on average.

    Raises ClassifierError when it is not, so that no network is asked through a guess.
    """
    pixels = trial_picture()
    expected = theirs(Image.fromarray(pixels))
    found = ours(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)[0]
    unit = getattr(ours, "std", std) or (1.0, 1.0, 1.0)
    scale = getattr(ours, "scale", 1.0)
    off = (
        (found - expected).abs() * torch.tensor(unit).view(3, 1, 1) / scale
        if found.shape == expected.shape
        else None
    )
    if off is None or not float(off.mean()) <= TOLERANCE:
        said = "another shape" if off is None else f"{float(off.mean()) * 255:.1f}/255 on average"
        raise ClassifierError(
            f"{where} cannot be done as it is: ours differs by {said}; load the network yourself and give "
            "dx.ModuleClassifier(network, labels, preprocessing=FUNCTION)"
        )
    return ours


def trial_picture(height: int = 301, width: int = 427, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture like a photo: noise of amplitude 1/f, in each colour its own, with hard-edged shapes."""
    draw = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])  # (H, W/2 + 1)
    spectrum = np.fft.rfft2(draw.standard_normal((3, height, width))) / np.maximum(f, 1 / max(height, width))
    noise = np.fft.irfft2(spectrum, (height, width)).transpose(1, 2, 0)  # (H, W, 3)
    picture = 0.45 + 0.18 * noise / noise.std() + np.array([0.08, 0.0, -0.05])
    y, x = np.mgrid[:height, :width] / min(height, width)
    picture[np.hypot(y - 0.4, x - 0.6) < 0.2] = (0.85, 0.3, 0.1)
    picture[(abs(y - 0.7) < 0.1) & (abs(x - 0.9) < 0.25)] = (0.05, 0.1, 0.35)
    return np.asarray((picture.clip(0, 1) * 255).round().astype(np.uint8))


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))


def _column(values: tuple[float, ...], x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, device=x.device, dtype=x.dtype).view(1, 3, 1, 1)


def _few(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else ", ".join(f"{v:.3f}" for v in values)
