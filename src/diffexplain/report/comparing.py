"""The page that shows two runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

from diffexplain.report import frame, wording
from diffexplain.report.album import Album
from diffexplain.report.axis import Axis
from diffexplain.report.contrast import Change, Contrast
from diffexplain.report.rows import ALPHA

PICTURED = 24  # changes with pictures


def write_comparison(
    compared: Contrast, first: Callable[[str], bytes], second: Callable[[str], bytes], path: Path
) -> Path:
    """Write a comparison as one self-contained HTML file. Raises RunError when it cannot be written.

    `first(hash)` and `second(hash)` give the pictures of the two runs.
    """
    return frame.write(comparison_page(compared, first, second), path)


def comparison_page(compared: Contrast, first: Callable[[str], bytes], second: Callable[[str], bytes]) -> str:
    """The page as text."""
    mine = {h for c in compared.changes for e in c.examples[:1] for h in (e.reconstruction, e.edited)}
    album = Album(lambda name: first(name) if name in mine else second(name))
    changes = compared.changes
    a, b = labels(compared)
    effects = chain.from_iterable((c.first, c.second, c.difference) for c in changes)
    shared = Axis.over(effects, chain.from_iterable((c.low, c.high) for c in changes))
    names = {
        **dict(zip(compared.second.images, compared.second.names, strict=False)),
        **dict(zip(compared.first.images, compared.first.names, strict=False)),
    }
    return frame.render(
        "compare.html.j2",
        album,
        names=names,
        title=f"{a} and {b}",
        compared=compared,
        labels=(a, b),
        answer=answer(changes, a, b),
        axis=shared,
        alpha=ALPHA,
        pictured=PICTURED,
    )


def labels(compared: Contrast) -> tuple[str, str]:
    """What the two runs are called: by the first part of their requests that differs."""
    if not compared.differing:
        return "first run", "second run"
    name, a, b = compared.differing[0]
    return (a, b) if name == "classifier" else (f"{name} {a}", f"{name} {b}")


def answer(changes: Sequence[Change], first: str, second: str) -> str:
    """Two sentences from the rows alone."""
    found = [c for c in changes if c.found]
    share = f"{len(found)} of {len(changes)} effects differ between {first} and {second} at q < {ALPHA}."
    if not found:
        return f"{share} Differences too small for these images to show are not excluded."
    top = found[0]
    act = "removing" if top.direction == "remove" else "adding"
    return (
        f"{share} Most changed is {act} {top.concept}: from {wording.signed(top.first)} to "
        f"{wording.signed(top.second)} log-odds, a difference of {wording.signed(top.difference)} "
        f"(95 % interval {wording.interval(top.low, top.high)})."
    )
