"""The figure of a synthesis, after DiffExplainer's (Pennisi et al. 2025): what each target wants to see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from diffexplain.errors import RunError
from diffexplain.records import Sample, SynthesisResult, TargetResult
from diffexplain.report import regions, wording
from diffexplain.report.drawing import (
    EDITED,
    ORIGINAL,
    QUIET,
    TWO_COLUMNS,
    blank,
    matplotlib_drawing,
    picture,
    put_text,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 6  # pictures of a target, those of the highest scores
WORDS = 5  # nearest words told of a target
_TEXT, _CELL, _GAP, _HEAD = 1.9, 0.87, 0.03, 0.2  # inches: the column of text, a cell, around a cell, above


def unit_figure(result: SynthesisResult, stored: Callable[[str], bytes]) -> Figure:
    """A line a target: its words and activation, its strongest pictures; below them the real ones it had.

    `stored(hash)` gives a kept picture as PNG. Made pictures are framed black, real ones red. Raises RunError
    when the run kept no pictures, MissingExtra.
    """
    lines = [
        (target, samples, frame) for target in result.targets for samples, frame in _lines(target) if samples
    ]
    if not lines:
        raise RunError("figure units: the run kept no pictures to show")
    with matplotlib_drawing():
        high = _HEAD + _CELL * len(lines)
        drawn = blank(TWO_COLUMNS, high)
        for k, (target, samples, frame) in enumerate(lines):
            top = high - _HEAD - k * _CELL
            _tell(drawn, target, frame, top / high, 1 / high)
            for column, sample in enumerate(samples):
                left, side = _TEXT + column * _CELL, _CELL - 2 * _GAP
                at = (left + _GAP) / TWO_COLUMNS, (top - _CELL + _GAP) / high
                axes = drawn.add_axes((*at, side / TWO_COLUMNS, side / high))
                badge = wording.signed(sample.score)
                picture(axes, regions.pixels(stored, sample.picture), frame, badge)
        kind = "activation" if all(t.kind == "unit" for t in result.targets) else "score"
        put_text(drawn, 0, 1, f"{result.request.classifier}: {kind} in the badge", va="top", color=QUIET)
    return drawn


def _lines(target: TargetResult) -> list[tuple[Sequence[Sample], str]]:
    """The made pictures and the real ones, each from the highest score down."""
    real = next((c.examples for c in target.compared if c.origin == "real"), ())
    return [(_strongest(target.examples), EDITED), (_strongest(real), ORIGINAL)]


def _strongest(samples: Sequence[Sample]) -> Sequence[Sample]:
    return sorted(samples, key=lambda s: -s.score)[:ACROSS]


def _tell(drawn: Figure, target: TargetResult, frame: str, top: float, inch: float) -> None:
    """What stands to the left of a line of pictures; `inch` as a share of the figure's height."""

    def tell(below: float, text: str, **style: str | float) -> None:
        put_text(drawn, 0, top - below * inch, text, va="top", **style)

    if frame == ORIGINAL:
        tell(0.04, "real pictures that excite it", color=QUIET)
        return
    tell(0.04, shortened(target.target, 26), weight="bold", size=8)
    tell(0.20, f"{wording.signed(target.score)} ({wording.interval(target.low, target.high)})")
    if not target.reached:
        tell(0.33, "not reached: says nothing", color=ORIGINAL)
    else:
        tell(0.33, f"{wording.signed(target.gain)} over the plain prompt", color=QUIET)
    for k, line in enumerate(wrap(", ".join(words_of(target)), 34)[:2]):
        tell(0.48 + 0.12 * k, line, size=6, color=QUIET)


def words_of(target: TargetResult) -> list[str]:
    """The prompt in real words if there is one, else the nearest word of each learned token."""
    if target.hard_prompt:
        return [target.hard_prompt]
    near = target.restarts[target.chosen].words if target.restarts else ()
    return list(dict.fromkeys(w[0].token for w in near if w))[:WORDS]
