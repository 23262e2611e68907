"""What is checked of a request before it costs anything, and of the editor before it is believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from diffexplain.editors import Editor, EditorShape
from diffexplain.editors.loading import FITTING
from diffexplain.errors import EditorError, InputError
from diffexplain.images import Pictures, rounded
from diffexplain.search import MINIMUM, SearchOptions, split

#: mean absolute pixel change by inversion alone above which an editor does not fit the pictures.
DRIFT_LIMIT = 0.05
MOST_SLIDES = 8


def search_options(
    method: str,
    beam: int,
    budget: int | None,
    directions: Sequence[str],
    joint_steps: int,
    *,
    screened: bool = False,
) -> SearchOptions:
    """Check what was asked of the search. Raises InputError."""
    if method not in ("race", "exhaustive"):
        raise InputError(f"search method {method!r}: choose race or exhaustive")
    if budget is not None and budget < 1:
        raise InputError(f"budget {budget}: give a positive number of edits")
    unknown = [d for d in directions if d not in ("add", "remove")]
    if unknown or not directions:
        raise InputError(f"direction {', '.join(unknown) or '(none)'}: choose add, remove or both")
    options = SearchOptions(
        method=method,  # type: ignore[arg-type]
        beam=beam,
        budget=budget,
        directions=tuple(directions),  # type: ignore[arg-type]
        joint_steps=joint_steps,
    )
    return options.screened() if screened else options


def check_screen(
    screen: EditorShape | Editor, editor: EditorShape | Editor, given: Pictures, options: SearchOptions
) -> None:
    """Raises InputError unless there is a race to screen in, and both editors take the same pictures."""
    race, _ = split(given.hashes, options.method)
    if not race:
        raise InputError(
            f"screen {screen.name!r}: only the race is screened; search by race and give at least "
            f"{MINIMUM} images, here are {len(given)}"
        )
    if screen.size and editor.size and screen.size != editor.size:
        raise InputError(
            f"screen {screen.name!r} makes pictures of {screen.size} pixels and the editor {editor.name!r} "
            f"of {editor.size}: choose two of one size"
        )


def check_counts(**counts: int) -> None:
    """Raises InputError naming what is below 1."""
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} {value}: give a whole number of at least 1")


def check_slides(slides: Sequence[float]) -> None:
    """Raises InputError unless these are a few other strengths than the run's own."""
    if any(not (math.isfinite(s) and s > 0) or s == 1 for s in slides) or len(set(slides)) < len(slides):
        told = ", ".join(f"{s:g}" for s in slides)
        raise InputError(f"slide {told}: give different numbers above 0 and other than 1, the run's own")
    if len(slides) > MOST_SLIDES:
        raise InputError(f"slide: {len(slides)} strengths; give at most {MOST_SLIDES}")


def check_drift(editor: str, given: Pictures, reconstructions: Any, seeds: int, accept: bool) -> None:
    """Raises EditorError where inversion alone changes the pictures beyond DRIFT_LIMIT, unless accepted."""
    originals = rounded(given.pixels).repeat_interleave(seeds, dim=0)
    drift = float((reconstructions - originals).abs().mean())
    if drift > DRIFT_LIMIT and not accept:
        raise EditorError(
            f"editor {editor!r} cannot reconstruct these pictures: without any edit they change by "
            f"{drift:.3f} on average (limit {DRIFT_LIMIT}); use an editor that fits ({FITTING}), "
            "or --accept-drift to go on"
        )


def check_second(second: Editor, editor: Editor) -> None:
    """Raises InputError unless a second editor takes the same pictures."""
    if second.size != editor.size:
        raise InputError(
            f"second editor {second.name!r} makes pictures of {second.size} pixels and {editor.name!r} of "
            f"{editor.size}: choose two of one size"
        )
