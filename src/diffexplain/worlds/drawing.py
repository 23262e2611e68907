"""What the avatars world draws itself: backgrounds, patterns, stickers; and SVG to pixels."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image


def rasterise(svg: str, size: int) -> Image.Image:
    """Draw an SVG as an RGBA picture of `size` x `size` pixels."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


@lru_cache(maxsize=256)
def backdrop(colour: str, pattern: str, size: int) -> Image.Image:
    """A background of a colour (hexadecimal) with a pattern: none, stripes or dots."""
    tile = {
        "none": "",
        "stripes": '<path d="M0 0h8v32h-8z" fill="#000" fill-opacity=".22"/>',
        "dots": '<circle cx="12" cy="12" r="7" fill="#000" fill-opacity=".22"/>',
    }[pattern]
    side = {"stripes": 20, "dots": 26}.get(pattern, 32)
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 244 244"><defs>'
        f'<pattern id="p" width="{side}" height="{side}" patternUnits="userSpaceOnUse">{tile}</pattern>'
        f'</defs><rect width="244" height="244" fill="#{colour}"/>'
        '<rect width="244" height="244" fill="url(#p)"/></svg>'
    )
    return rasterise(svg, size)


@lru_cache(maxsize=16)
def sticker(kind: str, size: int) -> Image.Image:
    """A sticker in the top left corner: red_dot or star; transparent elsewhere."""
    shape = {
        "red_dot": '<circle cx="26" cy="26" r="20" fill="#e0202a" stroke="#fff" stroke-width="4"/>',
        "star": '<path d="M26 2l7 16 18 2-13 12 4 18-16-9-16 9 4-18L1 20l18-2z" fill="#ffc400" '
        'stroke="#7a4b00" stroke-width="3"/>',
    }[kind]
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 244 244">{shape}</svg>'
    return rasterise(svg, size)
