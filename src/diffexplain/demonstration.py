"""The bundled example: sixteen avatars, a classifier with a planted shortcut, and its true effects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffexplain.images import encode_png
from diffexplain.records import ConceptResult
from diffexplain.targets import Target
from diffexplain.worlds import avatars

CLASSIFIER, TARGET = "pocket:hired", "hired"
PORTRAITS, SEED = 16, 900_000
BEAM = 6  # for two cores and a minute
TRUTH_AVATARS = 48


def portraits(folder: Path) -> Path:
    """Write the sixteen avatars as PNG files; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(avatars.render(avatars.sample(PORTRAITS, SEED), 64)):
        (folder / f"avatar-{i + 1:02d}.png").write_bytes(encode_png(picture))
    return folder


def truth(target: Target, results: Sequence[ConceptResult]) -> dict[str, float]:
    """True effects of the measured concepts by exact re-rendering: "direction concept" -> log-odds."""
    drawn = avatars.sample(TRUTH_AVATARS, SEED + 1)
    known = {}
    for result in results:
        if result.status == "measured":
            effect, _ = avatars.true_effect(target.score, drawn, result.concept, result.direction)  # type: ignore[arg-type]
            known[f"{result.direction} {result.concept}"] = effect
    return known
