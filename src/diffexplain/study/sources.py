"""What a study takes from a finished run: edits by question, or sets of made pictures."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path

from PIL import Image

from diffexplain.errors import RunError
from diffexplain.records import JOIN, Effect, Looked, Result, Sample, SynthesisResult
from diffexplain.store import read_kind, read_picture, read_result, read_rows

LOSSLESS = 160  # pixels of the longer side up to which pictures are kept without loss
QUALITY = 92  # of WebP above that


@dataclass(frozen=True, slots=True)
class Source:
    """One run; `picture(hash)` gives a stored picture as PNG."""

    name: str
    picture: Callable[[str], bytes]

    def has(self, picture: str) -> bool:
        """Whether the run keeps the picture."""
        try:
            self.picture(picture)
        except (RunError, KeyError, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Edits(Source):
    """A run of `explain`: the rows that count, by (concept, direction)."""

    result: Result
    rows: dict[tuple[str, str], list[Effect]]
    concepts: tuple[str, ...]  # all that were asked about: where distractors come from

    @property
    def towards(self) -> tuple[str, str]:
        """The names of the two classes: the target, and what it stands against."""
        request = self.result.request
        labels = [str(label) for label in request.settings.get("labels", [])]
        others = [label for label in labels if label != request.target]
        other = request.versus or (others[0] if len(others) == 1 else f"not {request.target}")
        return request.target, other

    def strength(self, concept: str, direction: str) -> float:
        """Size of the effect that was found; 0 where none was measured."""
        effect = self._effect(concept, direction)
        return abs(effect) if isfinite(effect) else 0.0

    def moves(self, concept: str, direction: str) -> str:
        """The class that the change moves the decision to."""
        target, other = self.towards
        return other if self._effect(concept, direction) < 0 else target

    def _effect(self, concept: str, direction: str) -> float:
        found = [c.effect for c in self.result.concepts if (c.concept, c.direction) == (concept, direction)]
        return found[0] if found else float("nan")


@dataclass(frozen=True, slots=True)
class Sets(Source):
    """A run of `synthesize` or `spurious`: pictures made for each target or unit, and others beside them.

    `marked`: the others have a red area, where a segmenter found the class's object.
    """

    made: dict[str, list[str]]
    real: list[str]
    marked: bool = False


def read_source(folder: str | Path, name: str) -> Edits | Sets:
    """A finished run. Raises RunError when there is none."""
    kind, picture = read_kind(folder), partial(read_picture, folder)
    if kind == "synthesis":
        return sets(name, picture, read_result(folder), read_rows(folder))
    if kind == "explanation":
        return edits(name, picture, read_result(folder), read_rows(folder))
    if kind == "spurious":
        return marked_sets(name, picture, read_rows(folder))
    raise RunError(
        f"run {str(folder)!r} is of kind {kind!r}: give runs of `explain`, `synthesize` or `spurious`"
    )


def edits(name: str, picture: Callable[[str], bytes], result: Result, effects: list[Effect]) -> Edits:
    """The reported rows that could happen, of measured questions."""
    measured = {(c.concept, c.direction) for c in result.concepts if c.status == "measured"}
    rows: dict[tuple[str, str], list[Effect]] = {}
    for effect in effects:
        question = (effect.concept, effect.direction)
        if effect.eligible and effect.stage == "report" and question in measured:
            rows.setdefault(question, []).append(effect)
    concepts = tuple(sorted({c.concept for c in result.concepts if JOIN not in c.concept}))
    return Edits(name, picture, result, rows, concepts)


def sets(name: str, picture: Callable[[str], bytes], result: SynthesisResult, samples: list[Sample]) -> Sets:
    """The pictures of each target's chosen restart, and the real ones."""
    chosen = {t.target: t.chosen for t in result.targets}
    made: dict[str, list[str]] = {target: [] for target in chosen}
    real: dict[str, None] = {}
    for s in samples:
        if s.origin == "optimised" and s.target in made and s.restart == chosen[s.target]:
            made[s.target].append(s.picture)
        elif s.origin == "real":
            real[s.picture] = None
    return Sets(name, picture, {target: names for target, names in made.items() if names}, list(real))


def marked_sets(name: str, picture: Callable[[str], bytes], looked: list[Looked]) -> Sets:
    """Each unit's pictures, and pictures of the class with its object in red."""
    made: dict[str, dict[str, None]] = {}
    for row in looked:
        if row.look == "unit":
            made.setdefault(row.unit, {})[row.picture] = None
    red = dict.fromkeys(row.masked for row in looked if row.look == "base" and row.masked)
    return Sets(name, picture, {unit: list(names) for unit, names in made.items()}, list(red), True)


def encoded(png: bytes) -> bytes:
    """A stored picture as WebP: lossless where it is small."""
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGB")
    out = io.BytesIO()
    image.save(out, "WEBP", lossless=max(image.size) <= LOSSLESS, quality=QUALITY, method=4)
    return out.getvalue()
