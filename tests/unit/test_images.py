"""Pictures from anything: every kind of file for real, hashes and PNGs by property."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from diffexplain import images
from diffexplain.errors import ImageError
from diffexplain.images import as_images, decode_png, encode_png, load_images, pictures

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def noise(side: int = 16, seed: int = 0) -> Image.Image:
    """A picture unlike any other."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def corners(width: int = 32, height: int = 32) -> Image.Image:
    """Red, its top left quarter green: its turn can be seen."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(GREEN, (0, 0, width // 2, height // 2))
    return picture


def colour(pixels: torch.Tensor, y: int, x: int) -> tuple[int, ...]:
    return tuple(images.to_8bit(pixels)[:, y, x].tolist())


def png_claiming(path: Path, width: int, height: int) -> None:
    """A PNG of a few bytes whose header claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


# -- a folder ---------------------------------------------------------------------------------------


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for number, name in enumerate(
        ["b10.png", "b9.png", "B1.png", "a2b3.png", "a2b20.png", "7.png", "²x.png"]
    ):
        noise(seed=number).save(tmp_path / name)
    loaded = load_images(tmp_path, size=16)
    assert loaded.names == ("7.png", "a2b3.png", "a2b20.png", "B1.png", "b9.png", "b10.png", "²x.png")
    assert loaded.pixels.shape == (7, 3, 16, 16)
    assert loaded.pixels.dtype == torch.float32
    assert len(loaded) == 7
    assert loaded.skipped == loaded.notes == ()


def test_pixels_and_hashes_are_those_of_the_file(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    loaded = load_images(str(tmp_path), size=16)
    expected = torch.from_numpy(np.array(noise())).permute(2, 0, 1)
    assert torch.equal(loaded.pixels[0], expected / 255)
    assert loaded.hashes == (images.picture_hash(expected),) == images.hashes(loaded.pixels)


def test_limit_counts_usable_pictures(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("no picture")
    for number in range(1, 5):
        noise(seed=number).save(tmp_path / f"{number}.png")
    loaded = load_images(tmp_path, size=16, limit=2)
    assert loaded.names == ("1.png", "2.png")
    assert len(loaded.skipped) == 1


@pytest.mark.parametrize("option", ["size", "limit"])
@pytest.mark.parametrize("value", [0, -8, 2.5, True, "64"])
def test_options_are_whole_numbers(tmp_path: Path, option: str, value: object) -> None:
    noise().save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=rf"^{option} must be a whole number of 1 or more, got "):
        load_images(tmp_path, **{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("edge", "size"), [(30, 32), (27, 24), (1, 8), (64, 64)])
def test_size_from_the_first_readable_picture(tmp_path: Path, edge: int, size: int) -> None:
    (tmp_path / "0.png").write_bytes(b"broken")
    noise(edge).resize((edge + 9, edge)).save(tmp_path / "1.png")
    noise(200).save(tmp_path / "2.png")
    loaded = load_images(tmp_path)
    assert loaded.pixels.shape == (2, 3, size, size)
    assert f"size not given, {size} taken from: 1.png" in loaded.notes


def test_duplicates_are_kept_once_and_noted(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    noise(seed=1).save(tmp_path / "b.png")
    noise().save(tmp_path / "c.bmp")
    loaded = load_images(tmp_path, size=16)
    assert loaded.names == ("a.png", "b.png")
    assert loaded.notes == ("the same picture twice, kept once: c.bmp = a.png",)


def test_notes_stay_brief(tmp_path: Path) -> None:
    for number in range(1, 7):
        noise(24, seed=number).save(tmp_path / f"{number}.png")
    assert load_images(tmp_path, size=16).notes == ("resized to 16×16: 1.png, 2.png, 3.png and 3 more",)


# -- what cannot be used ----------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with one good picture."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    noise().save(folder / "good.png")
    return folder


def only_good(folder: Path) -> tuple[str, ...]:
    """The skipped lines, the good picture having been read."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_images(folder, size=16)
    assert loaded.names == ("good.png",)
    assert all(line.isprintable() for line in loaded.skipped)
    return loaded.skipped


def test_not_an_image_is_skipped_hidden_files_silently(mixed: Path) -> None:
    (mixed / "notes.txt").write_text("hello")
    (mixed / "empty.png").touch()
    (mixed / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (mixed / "._good.png").write_bytes(b"\0\5\x16\7")
    assert only_good(mixed) == ("empty.png: not an image", "notes.txt: not an image")


@pytest.mark.parametrize("name", ["drawing.svg", "drawing.SVG"])
def test_svg_is_skipped_with_the_cure(mixed: Path, name: str) -> None:
    (mixed / name).write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    assert only_good(mixed) == (f"{name}: SVG is not supported: convert to PNG",)


def test_postscript_is_never_run(mixed: Path) -> None:
    (mixed / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    assert only_good(mixed) == ("page.png: not an image",)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif", "bmp"])
def test_truncated_is_skipped(mixed: Path, suffix: str) -> None:
    whole = mixed.parent / f"whole.{suffix}"
    noise(64).save(whole)
    (mixed / f"half.{suffix}").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (line,) = only_good(mixed)
    assert line.startswith(f"half.{suffix}: ")


def test_damaged_png_is_skipped(mixed: Path) -> None:
    data = bytearray(encode_png(as_images(noise(64))[0]))
    data[200] ^= 255
    (mixed / "damaged.png").write_bytes(data)
    (line,) = only_good(mixed)
    assert line.startswith("damaged.png: cannot be read: ")


def test_huge_is_skipped_by_its_header(mixed: Path) -> None:
    png_claiming(mixed / "bomb.png", 20_001, 10_000)
    before = Image.MAX_IMAGE_PIXELS
    (line,) = only_good(mixed)
    assert line.startswith("bomb.png: cannot be read: ")
    assert "exceeds limit of 200000000 pixels" in line
    assert before == Image.MAX_IMAGE_PIXELS


def test_limit_of_pixels_is_ours(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL's own is neither needed nor in the way."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert only_good(mixed) == ()
    monkeypatch.setattr(images, "MAX_PIXELS", 16 * 16 * 2)
    noise(24).save(mixed / "large.png")
    assert len(only_good(mixed)) == 1
    assert Image.MAX_IMAGE_PIXELS == 10


def test_links_out_of_the_folder_are_skipped(mixed: Path) -> None:
    noise(seed=5).save(mixed.parent / "secret.png")
    (mixed / "way out.png").symlink_to(mixed.parent / "secret.png")
    (mixed / "loop.png").symlink_to(mixed / "loop.png")
    (mixed / "nowhere.png").symlink_to(mixed / "missing.png")
    assert only_good(mixed) == (
        "loop.png: not a plain file",
        "nowhere.png: not a plain file",
        "way out.png: a link that points outside the folder: copy the picture into it",
    )


def test_links_inside_and_a_linked_folder_are_fine(mixed: Path) -> None:
    (mixed / "also.png").symlink_to("good.png")
    (mixed.parent / "door").symlink_to(mixed)
    loaded = load_images(mixed.parent / "door", size=16)
    assert loaded.names == ("also.png",)
    assert loaded.notes == ("the same picture twice, kept once: good.png = also.png",)


def test_folders_inside_and_pipes_are_skipped(mixed: Path) -> None:
    (mixed / "more").mkdir()
    os.mkfifo(mixed / "pipe.png")  # opening it would wait for ever
    assert only_good(mixed) == (
        "more: a folder: folders inside are not searched",
        "pipe.png: not a plain file",
    )


def test_names_are_made_printable(mixed: Path) -> None:
    (mixed / "a\n\x1b[2Jb.png").write_text("x")
    noise(seed=3).save(os.fsencode(mixed) + b"/z\xff.png", "PNG")
    loaded = load_images(mixed, size=16)
    assert loaded.skipped == ("a��[2Jb.png: not an image",)
    assert loaded.names == ("good.png", "z�.png")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^image folder or file '.*nothing' does not exist: give PNG or"):
        load_images(tmp_path / "nothing", size=16)


@pytest.mark.parametrize("path", ["", "x" * 5000, "a\0b"])
def test_impossible_paths(path: str) -> None:
    with pytest.raises(ImageError, match=r"does not exist|cannot be read"):
        load_images(path)
    with pytest.raises(ImageError, match=r"does not exist|cannot be read"):
        pictures(path)


@pytest.mark.parametrize("hidden", [(), (".DS_Store",)])
def test_empty_folder(tmp_path: Path, hidden: tuple[str, ...]) -> None:
    for name in hidden:
        (tmp_path / name).write_text("x")
    with pytest.raises(ImageError, match=r"^image folder '.*' is empty: give PNG or JPEG pictures$"):
        load_images(tmp_path)


def test_nothing_readable_names_the_folder_the_files_and_the_cure(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("x")
    with pytest.raises(ImageError) as error:
        load_images(tmp_path)
    assert str(error.value) == (
        f"no picture could be read in {str(tmp_path)!r} (0.txt: not an image; 1.txt: not an image; "
        "2.txt: not an image and 2 more): give PNG or JPEG pictures"
    )


def test_the_only_file_is_no_image(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("x")
    for source in (tmp_path, file, [file]):
        with pytest.raises(ImageError, match=r"notes\.txt: not an image\): give PNG or JPEG pictures$"):
            load_images(source)


# -- files as listed --------------------------------------------------------------------------------


def test_one_file_even_hidden_or_linked(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ".link.png").symlink_to(tmp_path / "a.png")
    assert load_images(tmp_path / "in" / ".link.png", size=16).names == (".link.png",)


def test_listed_files_keep_their_order_and_distinct_names(tmp_path: Path) -> None:
    for number, folder in enumerate("ba"):
        (tmp_path / folder).mkdir()
        noise(seed=number).save(tmp_path / folder / "1.png")
    files = [str(tmp_path / "b" / "1.png"), tmp_path / "a" / "1.png"]
    assert load_images(files, size=16).names == tuple(map(str, files))
    noise(seed=7).save(tmp_path / "0.png")
    assert load_images([files[0], tmp_path / "0.png"], size=16).names == ("1.png", "0.png")


def test_listed_files_must_exist(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"'.*gone\.png' does not exist"):
        load_images([tmp_path / "a.png", tmp_path / "gone.png"])
    with pytest.raises(ImageError, match="is empty"):
        load_images([])


# -- kinds of picture -------------------------------------------------------------------------------


def one(path: Path, size: int = 32) -> images.Pictures:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_images(path, size=size)


@pytest.mark.parametrize(("mode", "kind"), [("L", "grayscale"), ("1", "black and white")])
def test_grayscale(tmp_path: Path, mode: str, kind: str) -> None:
    corners().convert("L").point(lambda v: 255 if v > 100 else 0).convert(mode).save(tmp_path / "a.png")
    loaded = one(tmp_path)
    assert colour(loaded.pixels[0], 4, 4) == WHITE
    assert colour(loaded.pixels[0], 28, 28) == (0, 0, 0)
    assert loaded.notes == (f"converted from {kind} to RGB: a.png",)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparency_is_put_on_white(tmp_path: Path, suffix: str) -> None:
    picture = Image.new("RGBA", (32, 32), (*RED, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 16, 16))
    picture.paste((0, 0, 0, 51), (16, 16, 32, 32))
    picture.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    loaded = one(tmp_path)
    assert colour(loaded.pixels[0], 4, 4) == WHITE
    assert colour(loaded.pixels[0], 4, 28) == RED
    assert colour(loaded.pixels[0], 28, 28) == (204, 204, 204)
    assert loaded.notes == (f"transparency put on white: a.{suffix}",)


def test_grayscale_with_alpha(tmp_path: Path) -> None:
    Image.merge("LA", (Image.new("L", (32, 32), 0), Image.linear_gradient("L").resize((32, 32)))).save(
        tmp_path / "a.png"
    )
    loaded = one(tmp_path)
    assert colour(loaded.pixels[0], 0, 9)[0] > 245
    assert colour(loaded.pixels[0], 31, 9)[0] < 10


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_with_transparency(tmp_path: Path, suffix: str) -> None:
    picture = corners().quantize(2)
    picture.save(tmp_path / f"a.{suffix}", transparency=picture.getpixel((31, 31)))
    loaded = one(tmp_path)
    assert colour(loaded.pixels[0], 4, 4) == GREEN
    assert colour(loaded.pixels[0], 28, 28) == WHITE
    assert f"transparency put on white: a.{suffix}" in loaded.notes


def test_palette_with_graded_transparency(tmp_path: Path) -> None:
    picture = corners().quantize(2)
    alpha = bytearray(b"\xff\xff")
    alpha[picture.getpixel((31, 31))] = 51
    picture.save(tmp_path / "a.png", transparency=bytes(alpha))
    assert colour(one(tmp_path).pixels[0], 28, 28) == (255, 204, 204)


def test_rgb_with_a_transparent_colour(tmp_path: Path) -> None:
    corners().save(tmp_path / "a.png", transparency=RED)
    assert colour(one(tmp_path).pixels[0], 28, 28) == WHITE


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / f"a.{suffix}")
    loaded = one(tmp_path)
    assert colour(loaded.pixels[0], 9, 9) == pytest.approx(RED, abs=3)
    assert loaded.notes == (f"converted from CMYK to RGB: a.{suffix}",)


@pytest.mark.filterwarnings("ignore:Saving I mode images as PNG")
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [("png", "<u2"), ("png", "<i4"), ("tif", "<u2"), ("tif", ">u2"), ("tif", "<i4"), ("pgm", "<i4")],
)
def test_16_bit_is_scaled(tmp_path: Path, suffix: str, dtype: str) -> None:
    levels = np.linspace(0, 65535, 32 * 32).reshape(32, 32)
    Image.fromarray(levels.astype(dtype)).save(tmp_path / f"a.{suffix}")
    loaded = one(tmp_path)
    expected = torch.from_numpy(np.rint(levels.astype(np.uint16) / 257) / 255)
    assert torch.allclose(loaded.pixels[0, 0].double(), expected, atol=1e-6)
    assert torch.equal(loaded.pixels[0, 0], loaded.pixels[0, 2])
    assert loaded.notes == (f"converted from 16-bit to RGB: a.{suffix}",)


def test_16_bit_transparent_level_is_white(tmp_path: Path) -> None:
    levels = np.zeros((32, 32), np.uint16)
    levels[:16] = 7
    Image.fromarray(levels).save(tmp_path / "a.png", transparency=7)
    loaded = one(tmp_path)
    assert colour(loaded.pixels[0], 4, 4) == WHITE
    assert colour(loaded.pixels[0], 28, 4) == (0, 0, 0)


def test_floating_point_in_range_or_skipped(mixed: Path) -> None:
    Image.fromarray(np.full((32, 32), 0.6, np.float32)).save(mixed / "in.tif")
    Image.fromarray(np.full((32, 32), 60.0, np.float32)).save(mixed / "out.tif")
    Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(mixed / "nan.tif")
    Image.fromarray(np.full((32, 32), 70000, np.int32)).save(mixed / "wide.tif")
    loaded = load_images(mixed, size=32)
    assert loaded.names == ("good.png", "in.tif")
    assert colour(loaded.pixels[1], 9, 9) == (153, 153, 153)
    assert loaded.skipped == (
        "nan.tif: cannot be read: values outside 0 to 1",
        "out.tif: cannot be read: values outside 0 to 1",
        "wide.tif: cannot be read: values outside 0 to 65535",
    )


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, suffix: str, orientation: int) -> None:
    """Where green, stored top left, belongs (EXIF 2.3, table of orientations)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    corners().save(tmp_path / f"a.{suffix}", exif=exif)
    loaded = one(tmp_path)
    y, x = {1: (4, 4), 2: (4, 28), 3: (28, 28), 4: (28, 4), 5: (4, 4), 6: (4, 28), 7: (28, 28), 8: (28, 4)}[
        orientation
    ]
    assert colour(loaded.pixels[0], y, x) == pytest.approx(GREEN, abs=30)
    assert colour(loaded.pixels[0], 31 - y, x) == pytest.approx(RED, abs=30)
    if suffix != "tif":  # PIL turns these itself
        assert loaded.notes == ((f"turned upright by EXIF: a.{suffix}",) if orientation > 1 else ())


def test_exif_transposition_is_told_from_rotation(tmp_path: Path) -> None:
    """Orientations 1 and 5 leave the top left where it is; only 5 swaps the axes."""
    picture = Image.new("RGB", (32, 32), RED)
    picture.paste(GREEN, (0, 0, 32, 16))  # the top half
    exif = Image.Exif()
    exif[0x0112] = 5
    picture.save(tmp_path / "a.png", exif=exif)
    pixels = one(tmp_path).pixels[0]
    assert colour(pixels, 28, 4) == GREEN
    assert colour(pixels, 4, 28) == RED


@pytest.mark.parametrize("data", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path, data: bytes, suffix: str) -> None:
    corners().save(tmp_path / f"a.{suffix}", exif=data)
    assert colour(one(tmp_path).pixels[0], 4, 4) == pytest.approx(GREEN, abs=30)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_animated_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (32, 32), RED), corners(), Image.new("RGB", (32, 32), GREEN)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    loaded = one(tmp_path)
    assert len(loaded) == 1
    assert colour(loaded.pixels[0], 4, 4) == pytest.approx(RED, abs=3)
    assert f"first frame used: a.{suffix}" in loaded.notes


def test_one_by_one(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (10, 20, 30)).save(tmp_path / "a.png")
    loaded = one(tmp_path)
    assert set(zip(*images.to_8bit(loaded.pixels[0]).flatten(1).tolist(), strict=True)) == {(10, 20, 30)}
    assert loaded.notes == ("enlarged to 32×32: a.png",)


@pytest.mark.parametrize("shape", [(96, 32), (32, 96), (320, 96), (30000, 1), (1, 30000)])
def test_centre_square(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Red outside the centre square, green inside: nothing is squeezed, no side comes in."""
    width, height = shape
    edge = min(shape)
    picture = Image.new("RGB", shape, RED)
    left, top = (width - edge) // 2, (height - edge) // 2
    picture.paste(GREEN, (left, top, left + edge, top + edge))
    picture.save(tmp_path / "a.png")
    loaded = one(tmp_path)
    assert colour(loaded.pixels[0].mean((1, 2), keepdim=True), 0, 0) == GREEN
    assert "cropped to the centre square: a.png" in loaded.notes


@pytest.mark.parametrize("side", [32, 33, 50, 97, 500, 771])
def test_resizing_keeps_geometry(tmp_path: Path, side: int) -> None:
    """A ramp stays the same ramp, whatever was averaged on the way."""
    ramp = np.linspace(0, 255, side).round().astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp[:, None, None], (side, side, 3)).copy()).save(tmp_path / "a.png")
    column = one(tmp_path).pixels[0, 0, :, 7] * 255
    centres = ((torch.arange(32) + 0.5) * side / 32 - 0.5) * 255 / (side - 1)
    assert (column - centres)[2:-2].abs().max() < 1.5


def test_big_pictures_are_converted_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bands change nothing, and no more than a band is converted at a time."""
    picture = Image.effect_noise((501, 613), 90).convert("RGB").quantize(64)
    picture.save(tmp_path / "a.png", transparency=3)
    whole = one(tmp_path).pixels
    converted = []
    monkeypatch.setattr(images, "_BAND", 5000)
    rgb = images._rgb
    monkeypatch.setattr(images, "_rgb", lambda p: converted.append(p.width * p.height) or rgb(p))
    assert torch.equal(one(tmp_path).pixels, whole)
    assert max(converted) <= 5000 < sum(converted)


def test_big_jpeg_is_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.linear_gradient("L").resize((2000, 1600)).convert("RGB").save(tmp_path / "a.jpg")
    decoded = []
    square = images._square
    monkeypatch.setattr(images, "_square", lambda p, s: decoded.append(p.size) or square(p, s))
    loaded = one(tmp_path)
    assert decoded == [(250, 200)]
    column = loaded.pixels[0, 0, :, 7] * 255
    assert (column - (torch.arange(32) + 0.5) * 8).abs().max() < 3


# -- eight bits -------------------------------------------------------------------------------------

eight_bit = hnp.arrays(np.uint8, st.tuples(st.just(3), st.integers(1, 12), st.integers(1, 12)))


@settings(max_examples=60, deadline=None)
@given(eight_bit)
def test_png_round_trip_is_lossless(array: np.ndarray) -> None:
    picture = torch.from_numpy(array)
    for given_as in (picture, picture / 255, picture.double() / 255, picture.half() / 255):
        back = decode_png(encode_png(given_as))
        assert back.dtype == torch.float32
        assert torch.equal(images.to_8bit(back), picture)
        assert torch.equal(back, images.rounded(picture / 255))


@settings(max_examples=60, deadline=None)
@given(eight_bit, st.data())
def test_hash_follows_the_eight_bits_alone(array: np.ndarray, data: st.DataObject) -> None:
    picture = torch.from_numpy(array)
    digest = images.picture_hash(picture)
    wobble = torch.from_numpy(data.draw(hnp.arrays(np.float64, array.shape, elements=st.floats(-0.4, 0.4))))
    assert len(digest) == 32
    assert int(digest, 16) >= 0
    assert digest == images.picture_hash((picture + wobble) / 255)
    assert digest == images.picture_hash(picture.permute(1, 2, 0).contiguous().permute(2, 0, 1))
    assert digest == images.picture_hash(decode_png(encode_png(picture)))
    assert images.hashes(torch.stack([picture, 255 - picture])) == (
        digest,
        images.picture_hash(255 - picture),
    )
    changed = picture.clone()
    spot = tuple(data.draw(st.integers(0, n - 1)) for n in array.shape)
    changed[spot] ^= 1 << data.draw(st.integers(0, 7))
    assert digest != images.picture_hash(changed)


def test_hash_is_the_same_for_ever() -> None:
    """Stored runs are found again by it."""
    picture = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)
    assert images.picture_hash(picture) == "e1f889af93932a495336c8a33d124b9f"
    assert images.picture_hash(torch.zeros(3, 2, 8)) != images.picture_hash(torch.zeros(3, 8, 2))


def test_rounding() -> None:
    x = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 100.6 / 255, 1.0, 1.5]).expand(1, 3, 1, 7)
    assert images.to_8bit(x)[0, 0, 0].tolist() == [0, 0, 0, 1, 101, 255, 255]
    assert images.rounded(x).dtype == torch.float32
    assert torch.equal(images.rounded(x) * 255, images.to_8bit(x).float())
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(images.to_8bit(levels / 255), levels)
    assert torch.equal(images.to_8bit(levels), levels)
    with pytest.raises(ImageError, match="NaN"):
        images.to_8bit(torch.full((1, 3, 2, 2), torch.nan))


def test_gradients_do_not_hinder() -> None:
    assert len(encode_png(torch.rand(3, 4, 4, requires_grad=True))) > 60


@pytest.mark.parametrize("data", [b"", b"hello", encode_png(torch.rand(3, 64, 64))[:5000]])
def test_decoding_what_is_no_png(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"not an image|cannot be read"):
        decode_png(data)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (4, 4, 3), (1, 4, 4), (4, 4)])
def test_one_picture_only(shape: tuple[int, ...]) -> None:
    for function in (encode_png, images.picture_hash):
        with pytest.raises(ImageError, match=r"must have shape \(3, H, W\), got"):
            function(torch.rand(shape))


# -- tensors, arrays, PIL ---------------------------------------------------------------------------


def test_as_images_takes_each_kind_alike() -> None:
    array = np.array(noise())
    expected = (torch.from_numpy(array).permute(2, 0, 1) / 255).unsqueeze(0)
    fortran = np.asfortranarray(array)
    backwards = array[::-1].copy()[::-1]
    for x in (array, array[None], fortran, backwards, noise(), [noise()], (array,), expected, expected[0]):
        found = as_images(x)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
    assert as_images([noise(), expected, array[None]]).shape == (3, 3, 16, 16)
    assert as_images(expected.double()).dtype == torch.float32


def test_as_images_does_not_share_memory_with_arrays() -> None:
    array = np.zeros((4, 4, 3), np.uint8)
    found = as_images(array)
    array[:] = 255
    assert found.max() == 0


def test_as_images_forgives_the_last_bits() -> None:
    x = torch.rand(1, 3, 4, 4)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 1 + 1e-6, -1e-6
    assert as_images(x).aminmax() == (0, 1)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(1, 1, 4, 4), r"torch.float32 \(1, 1, 4, 4\), not a float tensor \(N, 3, H, W\)"),
        (torch.rand(2, 4, 4, 3), r"\(2, 4, 4, 3\), not a float tensor \(N, 3, H, W\)"),
        (torch.rand(4, 4), r"\(4, 4\), not"),
        (torch.rand(0, 3, 4, 4), r"\(0, 3, 4, 4\), not"),
        (torch.rand(1, 3, 0, 4), r"\(1, 3, 0, 4\), not"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"torch.uint8 .* change its dtype"),
        (torch.rand(1, 3, 4, 4) * 255, r"values from .* to 2.., not in \[0, 1\]: use x / 255"),
        (torch.linspace(-1, 1, 48).view(1, 3, 4, 4), r"from -1 to 1, not in \[0, 1\]: use \(x \+ 1\) / 2"),
        (torch.linspace(0, 1.2, 48).view(1, 3, 4, 4), r"from 0 to 1.2, .*: use x.clamp\(0, 1\)"),
        (torch.full((1, 3, 4, 4), torch.nan), "values from nan to nan.*: find out"),
        (torch.tensor([0.0, torch.inf, 0.5]).view(3, 1, 1), "values from 0 to inf.*: find out"),
        (np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\), not"),
        (np.zeros((3, 4, 4), np.uint8), r"uint8 \(3, 4, 4\), not .* array \(N, H, W, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \(4, 4, 4\), not"),
        (np.zeros((4, 4, 3)), r"float64 \(4, 4, 3\), not .*: change its dtype"),
        ([], r"images must be .*, got \[\]: files go to load_images"),
        ([noise(), noise(8)], r"images differ in size \(16×16, 8×8\): resize"),
        ("folder", "got 'folder': files go to load_images"),
        (None, "got None"),
        (3, "got 3"),
    ],
)
def test_as_images_names_what_came_and_the_cure(x: object, message: str) -> None:
    with pytest.raises(ImageError, match=message) as error:
        as_images(x)
    assert str(error.value).isprintable()


def test_as_images_one_nan_is_enough() -> None:
    x = torch.rand(2, 3, 4, 4)
    x[1, 2, 3, 3] = torch.nan
    with pytest.raises(ImageError, match="nan"):
        as_images(x)


# -- pictures from anything -------------------------------------------------------------------------


def test_pictures_from_paths(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    noise(seed=1).save(tmp_path / "b.png")
    for source in (tmp_path, str(tmp_path), [tmp_path / "a.png", str(tmp_path / "b.png")]):
        assert pictures(source, size=16).names == ("a.png", "b.png")


def test_pictures_from_memory() -> None:
    x = torch.rand(3, 3, 16, 16)
    made = pictures(x, size=16)
    assert made.names == ("image-0001", "image-0002", "image-0003")
    assert made.hashes == images.hashes(x)
    assert torch.equal(made.pixels, images.rounded(x))  # what is stored is what is scored
    assert made.skipped == made.notes == ()


def test_pictures_of_a_list_may_differ_in_size() -> None:
    parts = [noise(24), np.array(noise(16, seed=1)), torch.rand(2, 3, 8, 12), noise(24)]
    made = pictures(parts, size=16)
    assert made.pixels.shape == (4, 3, 16, 16)
    assert made.names == ("image-0001", "image-0002", "image-0003", "image-0004")
    assert "the same picture twice, kept once: image-0005 = image-0001" in made.notes
    assert pictures(parts).pixels.shape[-1] == 24


def test_pictures_leaves_a_lazy_pil_image_as_it_was(tmp_path: Path) -> None:
    noise(800).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as lazy:
        pictures([lazy], size=16)
        as_images(lazy)
        assert lazy.size == (800, 800)
        assert lazy.getpixel((3, 3)) is not None  # still open


def test_pil_images_are_turned_and_flattened(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    corners(32, 48).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as lazy:
        assert colour(as_images(lazy)[0], 4, 44) == GREEN
        assert as_images(lazy).shape == (1, 3, 32, 48)
        assert colour(pictures(lazy, size=32).pixels[0], 4, 28) == GREEN
    assert as_images(Image.new("RGBA", (4, 4))).min() == 1


def test_a_broken_pil_image(tmp_path: Path) -> None:
    noise(64).save(tmp_path / "a.png")
    lazy = Image.open(io.BytesIO((tmp_path / "a.png").read_bytes()[:3000]))
    with pytest.raises(ImageError, match="cannot be read"):
        as_images(lazy)
    assert pictures([noise(), lazy], size=16).skipped[0].startswith("image-0002: cannot be read: ")


def test_pictures_of_pictures(tmp_path: Path) -> None:
    noise(32).save(tmp_path / "a.png")
    (tmp_path / "b.txt").write_text("x")
    loaded = load_images(tmp_path, size=32)
    assert pictures(loaded) is pictures(loaded, size=32) is loaded
    smaller = pictures(loaded, size=16)
    assert smaller.pixels.shape == (1, 3, 16, 16)
    assert smaller.names == loaded.names
    assert smaller.hashes == images.hashes(smaller.pixels) != loaded.hashes
    assert smaller.skipped == loaded.skipped == ("b.txt: not an image",)
    assert smaller.notes == ("resized to 16×16: a.png",)


@pytest.mark.parametrize(
    "source", [[], (), None, 3, ["a.png", torch.rand(3, 4, 4)], [torch.rand(3, 4, 4), None]]
)
def test_pictures_of_nonsense(source: object) -> None:
    with pytest.raises(ImageError, match="images must be"):
        pictures(source, size=16)
