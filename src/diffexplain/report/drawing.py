"""What every figure is drawn with: fonts, colours, framed pictures, plain text; how one gets to disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffexplain.errors import InputError, MissingExtra, RunError
from diffexplain.report import regions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("pdf", "svg", "png")
FONTS: Any = {
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "svg.fonttype": "path",
    "svg.hashsalt": "diffexplain",  # the same figure gives the same bytes
    "font.size": 7,
    "font.family": "sans-serif",
    "axes.linewidth": 0.6,
}
TWO_COLUMNS = 7.16  # inches of a paper's width
ORIGINAL, EDITED, UP, DOWN, QUIET = "#d01f2e", "#000000", "#0a5cad", "#a84300", "#5a6069"


@contextmanager
def matplotlib_drawing() -> Iterator[None]:
    """Our fonts, for what is drawn inside. Raises MissingExtra without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra("matplotlib", "figures") from None
    with matplotlib.rc_context(FONTS):
        yield


def save_figure(drawn: Figure, path: Path) -> Path:
    """Write a figure as PDF, SVG or PNG, by its file's ending. Raises InputError and RunError."""
    form = path.suffix.removeprefix(".")
    if form not in FORMATS:
        raise InputError(f"figure format {form!r}: choose {', '.join(FORMATS)}")
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}[form]
    try:
        with matplotlib_drawing():
            drawn.savefig(path, format=form, dpi=300, bbox_inches="tight", pad_inches=0.04, metadata=undated)
    except OSError as problem:
        raise RunError(f"figure {str(path)!r} cannot be written: {problem.strerror}") from problem
    return path


def blank(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def picture(axes: Axes, shown: Any, frame: str, badge: str, before: Any = None) -> None:
    """A framed picture with its badge; with the picture before, an inset of a small change."""
    axes.imshow(shown, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(frame)
    axes.spines[:].set_linewidth(1.6)
    plate = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
    put_text(axes, 0.025, 0.975, badge, transform=axes.transAxes, ha="left", va="top", size=6, weight="bold",
          color="black", bbox=plate, zorder=5)  # fmt: skip
    part = regions.magnify(regions.changed(before, shown)) if before is not None else None
    if part:
        inset = axes.inset_axes((0.56, 0.02, 0.42, 0.42))
        inset.imshow(shown[part.y : part.y + part.height, part.x : part.x + part.width])
        inset.set_xticks([])
        inset.set_yticks([])
        inset.spines[:].set_color("white")


def put_text(place: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Text as it is, on a figure or axes."""
    place.text(x, y, text, parse_math=False, **style)  # "$" in a label is no formula


def shortened(text: str, most: int) -> str:
    """The end of a long label, where a concept's own name stands."""
    return text if len(text) <= most else "…" + text[1 - most :]
