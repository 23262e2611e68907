"""What a reader must know before believing the verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffexplain.records.spurious import Calibration, Shortcut, UnitVerdict
from diffexplain.spurious.removal import Removal
from diffexplain.statistics import FEWEST


def notes(
    words: str,
    calibration: Calibration,
    removal: Removal | None,
    verdicts: Sequence[UnitVerdict],
    shortcuts: Sequence[Shortcut] | None,
) -> Iterator[str]:
    """One line for each thing that limits this run; `shortcuts` is None where none were looked for."""
    if calibration.threshold != calibration.threshold:
        yield (
            f"neutral pictures show {words!r} as often as those that ask for it, so presence decides nothing "
            "here; give a --neutral prompt that leaves it out"
        )
    if removal is None:
        yield "the segmenter says whether the object is there, not where: nothing was drawn over"
    elif len(removal) < FEWEST:
        yield (
            f"only {len(removal)} pictures could be drawn without {words!r} ({removal.asked} show it), and "
            f"{FEWEST} are needed: interventions decide nothing here; give more --images"
        )
    if missed := [v.unit for v in verdicts if not v.reached]:
        yield (
            f"{', '.join(missed)}: not reached, the pictures excite no more than neutral ones, or less than "
            "those of the plain prompt: no verdict; more --option steps or candidates may help"
        )
    against = [v for v in verdicts if v.agree is False]
    if beside := [v.unit for v in against if v.verdict == "spurious"]:
        yield (
            f"{', '.join(beside)}: the pictures show {words!r}, but interventions find that other things "
            "move the unit more: look at what else they share"
        )
    if without := [v.unit for v in against if v.verdict == "undecided"]:
        yield (
            f"{', '.join(without)}: moved by {words!r}, yet excited most by pictures without it: no verdict"
        )
    if shortcuts is not None and not shortcuts:
        yield "no concept of the run is a shortcut by more than the margin"
