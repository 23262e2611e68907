"""The one image convention: float32, N×3×H×W, RGB in [0, 1]; files, arrays and 8-bit PNGs come in here."""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from diffexplain.errors import ImageError

MAX_PIXELS = 200_000_000  # a file that claims more is not decoded
#: what is opened: no format that needs another program (EPS) or has no signature (TGA).
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

Item = tuple[str, Path | Image.Image]  # with its name
_GAP = 3  # a big picture is box-averaged down to 3 times its final size before the final filter
_BAND = 4_000_000  # pixels converted at a time
_CURE = "give PNG or JPEG pictures"
_MODES = {"1": "black and white", "L": "grayscale", "P": "palette", "I": "16-bit", "F": "floating point"}


@dataclass(frozen=True)
class Pictures:
    """Pictures ready for use, and what happened to the files on the way."""

    pixels: torch.Tensor  # (N, 3, H, W), each value k/255
    names: tuple[str, ...]
    hashes: tuple[str, ...]  # of the 8-bit pixels as resized: a picture's identity, see picture_hash
    skipped: tuple[str, ...]  # one line a file: name and reason
    notes: tuple[str, ...]  # what was resized, cropped, converted or left out

    def __len__(self) -> int:
        return len(self.names)

    def some(self, which: Sequence[int]) -> Pictures:
        """Those at these places, with nothing said of them."""
        names, hashes = ([x[i] for i in which] for x in (self.names, self.hashes))
        return Pictures(self.pixels[list(which)], tuple(names), tuple(hashes), (), ())


def pictures(source: object, *, size: int | None = None) -> Pictures:
    """Pictures from anything: a path or paths (load_images), Pictures, or what as_images takes.

    What is no file is named image-0001 and so on; a list may differ in size. Raises ImageError as those do.
    """
    if isinstance(source, Pictures):
        if size is None or source.pixels.shape[-2:] == (size, size):
            return source
        made = _gathered(zip(source.names, map(_to_pil, source.pixels), strict=True), "Pictures", size)
        return replace(made, skipped=source.skipped, notes=source.notes + made.notes)
    parts = source if isinstance(source, list | tuple) and source else [source]
    paths = [part for part in parts if isinstance(part, str | Path)]
    if len(paths) == len(parts):
        return load_images(paths, size=size)
    images = (i for p in parts for i in ([p] if isinstance(p, Image.Image) else map(_to_pil, as_images(p))))
    return _gathered(((f"image-{n:04d}", i) for n, i in enumerate(images, start=1)), "images", size)


def load_images(
    folder_or_files: str | Path | Sequence[str | Path], *, size: int | None = None, limit: int | None = None
) -> Pictures:
    """Read a folder's pictures in natural name order (not its subfolders), one file, or files as listed.

    Each becomes its centre square, resized to `size` (None: the first one's short edge, to a multiple of 8);
    at most `limit`, each content once. What cannot be read is skipped with its name, hidden files silently.
    Raises ImageError when a path does not exist or nothing can be read.
    """
    given = [folder_or_files] if isinstance(folder_or_files, str | os.PathLike) else list(folder_or_files)
    files, root = _listed(given)
    return _gathered(files, _few([repr(str(path)) for path in given]), size, limit, root)


def as_images(x: object) -> torch.Tensor:
    """Check and convert to float32 images in [0, 1], (N, 3, H, W).

    Takes a float tensor (N, 3, H, W) or (3, H, W) in [0, 1], uint8 numpy (N, H, W, 3) or (H, W, 3), a PIL
    image, or a list of these that agree in size. Raises ImageError that names what came and the cure.
    """
    if isinstance(x, list | tuple) and x:
        parts = [as_images(part) for part in x]
        if len(sizes := sorted({f"{part.shape[3]}×{part.shape[2]}" for part in parts})) > 1:
            raise ImageError(f"images differ in size ({_few(sizes)}): resize them to one size")
        return torch.cat(parts)
    if isinstance(x, Image.Image):
        with _opened(x) as picture:
            x = np.array(_rgb(picture))
    wanted = "a float tensor (N, 3, H, W) in [0, 1], a uint8 array (N, H, W, 3) or PIL images"
    if not isinstance(x, torch.Tensor | np.ndarray):
        raise ImageError(f"images must be {wanted}, got {_printable(repr(x)[:60])}: files go to load_images")
    got = f"images are a {type(x).__name__} of {x.dtype} {tuple(x.shape)}"
    if x.ndim not in (3, 4) or x.shape[-1 if isinstance(x, np.ndarray) else -3] != 3 or 0 in x.shape:
        raise ImageError(f"{got}, not {wanted}: put the three RGB channels where the 3 stands")
    if not (x.dtype == np.uint8 if isinstance(x, np.ndarray) else x.is_floating_point()):
        raise ImageError(f"{got}, not {wanted}: change its dtype, and its range with it")
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(np.array(x)).movedim(-1, -3).float().div(255)
    low, high = (float(value) for value in x.detach().float().aminmax())
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # nan is neither
        scale = "x / 255" if high > 2 else "(x + 1) / 2" if low < 0 else "x.clamp(0, 1)"
        cure = f"use {scale}" if np.isfinite((low, high)).all() else "find out what made them"
        raise ImageError(f"{got} with values from {low:.3g} to {high:.3g}, not in [0, 1]: {cure}")
    return (x if x.ndim == 4 else x.unsqueeze(0)).float().clamp(0, 1)


def to_8bit(images: torch.Tensor) -> torch.Tensor:
    """Round images in [0, 1] to uint8, same shape; uint8 passes. Raises ImageError for NaN."""
    if images.dtype == torch.uint8:
        return images
    if images.isnan().any():
        raise ImageError("pictures hold NaN: a model overflowed, run it in float32")
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8)


def rounded(images: torch.Tensor) -> torch.Tensor:
    """The pictures that are stored and scored: images rounded to 8 bits, float32 in [0, 1]."""
    return to_8bit(images).float() / torch.tensor(255.0, device=images.device)  # CUDA: plain 255 is inexact


def picture_hash(image: torch.Tensor) -> str:
    """Content hash of one picture (3, H, W), float or uint8: 32 hex characters, blake2b of its 8 bits."""
    pixels = np.asarray(_to_pil(image))  # (H, W, 3)
    return hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest()


def hashes(images: torch.Tensor) -> tuple[str, ...]:
    """picture_hash of each of images (N, 3, H, W)."""
    return tuple(picture_hash(image) for image in to_8bit(images))


def encode_png(image: torch.Tensor) -> bytes:
    """One picture (3, H, W) as an 8-bit PNG; lossless but for the rounding."""
    buffer = io.BytesIO()
    _to_pil(image).save(buffer, "PNG")
    return buffer.getvalue()


def decode_png(data: bytes) -> torch.Tensor:
    """The picture in a PNG: float32 in [0, 1], (3, H, W). Raises ImageError when it is none."""
    with _opened(io.BytesIO(data)) as picture:
        return as_images(picture)[0]


def _gathered(
    items: Iterable[Item], where: str, size: int | None, limit: int | None = None, root: Path | None = None
) -> Pictures:
    """Every item made ready, each content once; what cannot be read is skipped. Raises ImageError if all."""
    for option, value in (("size", size), ("limit", limit)):
        if value is not None and (type(value) is not int or value < 1):
            raise ImageError(f"{option} must be a whole number of 1 or more, got {value!r}")
    found: dict[str, tuple[str, torch.Tensor]] = {}  # hash -> name, uint8 (3, size, size)
    notes: dict[str, list[str]] = {}  # what happened -> to which
    skipped: list[str] = []
    for name, item in items:
        if len(found) == limit:
            break
        try:
            with _opened(_inside(item, root) if isinstance(item, Path) else item) as picture:
                pixels, happened = _ready(picture, size)
        except ImageError as error:
            skipped.append(f"{name}: {error}")
            continue
        size, digest = pixels.shape[-1], picture_hash(pixels)
        if digest in found:
            happened, name = ["the same picture twice, kept once"], f"{name} = {found[digest][0]}"
        found.setdefault(digest, (name, pixels))
        for what in happened:
            notes.setdefault(what, []).append(name)
    if not found:
        raise ImageError(f"no picture could be read in {where} ({_few(skipped, '; ')}): {_CURE}")
    names, kept = zip(*found.values(), strict=True)
    lines = tuple(f"{what}: {_few(which)}" for what, which in notes.items())
    return Pictures(torch.stack(kept).float().div_(255), names, tuple(found), tuple(skipped), lines)


def _ready(picture: Image.Image, size: int | None) -> tuple[torch.Tensor, list[str]]:
    """A picture as uint8 (3, size, size), and what that took."""
    side = size or max(8, 8 * round(min(picture.size) / 8))
    picture.draft(None, (_GAP * side, _GAP * side))  # a big JPEG is decoded small at once
    kind = _MODES.get(picture.mode[0], picture.mode)
    picture.load()
    edge, turn = min(picture.size), 1
    with suppress(Exception):  # damaged EXIF data
        turn = picture.getexif().get(ExifTags.Base.Orientation, 1)
    happened = {
        f"size not given, {side} taken from": size is None,
        "cropped to the centre square": picture.width != picture.height,
        f"{'enlarged' if edge < side else 'resized'} to {side}×{side}": edge != side,
        f"converted from {kind} to RGB": kind not in ("RGB", "RGBA"),
        "transparency put on white": picture.has_transparency_data,
        "turned upright by EXIF": turn in range(2, 9),
        "first frame used": getattr(picture, "is_animated", False),
    }
    small = _square(picture, side)
    small.getexif()[ExifTags.Base.Orientation] = turn
    pixels = np.array(ImageOps.exif_transpose(small))  # (side, side, 3)
    return torch.from_numpy(pixels).permute(2, 0, 1), [what for what, true in happened.items() if true]


def _listed(given: Sequence[str | Path]) -> tuple[list[tuple[str, Path]], Path | None]:
    """Files as (name to show, path), and the folder that links must stay in."""
    paths, root = [Path(path) for path in given], None
    try:
        if missing := [g for g, path in zip(given, paths, strict=True) if not (str(g) and path.exists())]:
            raise ImageError(f"image folder or file {str(missing[0])!r} does not exist: {_CURE}")
        if len(paths) == 1 and paths[0].is_dir():
            root = paths[0]
            paths = sorted((path for path in root.iterdir() if path.name[0] != "."), key=_natural)
    except OSError as error:
        raise ImageError(f"image folder {str(given[0])!r} cannot be read: {error.strerror}") from error
    if not paths:
        raise ImageError(f"image folder {str(root or given)!r} is empty: {_CURE}")
    unique = len({path.name for path in paths}) == len(paths)
    return [(_printable(path.name if unique else str(path)), path) for path in paths], root


def _natural(path: Path) -> tuple[object, ...]:  # sorts 2 before 10
    parts = re.findall(r"(\D*)(\d*)", path.name.casefold())
    return [(text, int(digits or 0)) for text, digits in parts], path.name


@contextmanager
def _opened(source: Path | io.BytesIO | Image.Image) -> Iterator[Image.Image]:
    """Open under our pixel limit, without PIL's warnings. Raises ImageError for any failure inside."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # PIL warns above its limit, raises above twice that
            if isinstance(source, Image.Image):
                yield ImageOps.exif_transpose(source)  # a copy: the picture is not ours to change
            else:
                with Image.open(source, formats=FORMATS) as picture:
                    yield picture
        except UnidentifiedImageError as error:
            raise ImageError("not an image") from error
        except Exception as error:  # PIL's decoders raise anything on damaged files
            reason = getattr(error, "strerror", None) or str(error) or repr(error)
            raise ImageError(f"cannot be read: {_printable(reason)}") from error
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _inside(path: Path, root: Path | None) -> Path:
    """The path itself. Raises ImageError unless it is a file of a kind we read, and no link out of `root`."""
    if root is not None and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise ImageError("a link that points outside the folder: copy the picture into it")
    if not path.is_file():  # a pipe would block
        raise ImageError("a folder: folders inside are not searched" if path.is_dir() else "not a plain file")
    if (kind := path.suffix[1:].upper()) in ("SVG", "SVGZ", "HEIC", "HEIF"):
        raise ImageError(f"{kind} is not supported: convert to PNG")
    return path


def _square(picture: Image.Image, size: int) -> Image.Image:
    """The centre square in RGB at size×size; converted in bands, so that a huge picture is never copied."""
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    factor = max(1, edge // (_GAP * size))
    rows = factor * max(1, _BAND // (edge * factor))
    small = Image.new("RGB", (-(-edge // factor), -(-edge // factor)))
    for y in range(0, edge, rows):
        band = picture.crop((left, top + y, left + edge, top + min(y + rows, edge)))
        small.paste(_rgb(band).reduce(factor), (0, y // factor))
    exact = (0, 0, edge / factor, edge / factor)  # the last reduced pixel may be a part
    return small.resize((size, size), Image.Resampling.LANCZOS, box=exact)


def _rgb(picture: Image.Image) -> Image.Image:
    """Any mode as RGB, transparency on white; pixel by pixel. Raises ValueError for unknown modes."""
    if picture.mode[0] in "IF":  # PIL would clip
        top = 1 if picture.mode == "F" else 65535
        values = np.asarray(picture).astype(np.float64)  # (H, W)
        if not (values.min() >= 0 and values.max() <= top):
            raise ValueError(f"values outside 0 to {top}")
        grey = np.rint(values * (255 / top)).astype(np.uint8)
        grey[values == picture.info.get("transparency", -1)] = 255
        picture = Image.fromarray(grey)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    above = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")


def _to_pil(image: torch.Tensor) -> Image.Image:
    if image.ndim != 3 or image.shape[0] != 3:
        raise ImageError(f"one picture must have shape (3, H, W), got {tuple(image.shape)}: pass images[i]")
    return Image.fromarray(np.ascontiguousarray(to_8bit(image).permute(1, 2, 0).cpu().numpy()))


def _few(names: Sequence[str], separator: str = ", ") -> str:
    return separator.join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _printable(text: str) -> str:  # one line, no control characters, no bytes that are not text
    return "".join(c if c.isprintable() else "�" for c in text)
