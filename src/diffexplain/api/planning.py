"""What a run would cost, and what it takes to be as sure as wanted, before it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

from diffexplain.corpus import Corpus, load_corpus
from diffexplain.editors import EditorShape, editor_shape
from diffexplain.errors import InputError
from diffexplain.pilot import Need, needs
from diffexplain.planning import PICTURE_BYTES, speed
from diffexplain.store import read_request, read_rows
from diffexplain.synthesis.openings import most_drawn
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.synthesis.words import FINALISTS
from diffexplain.targets import units_of


def needed(pilot: str | Path, width: float) -> list[Need]:
    """How many pictures and seeds each question's 95 % interval takes to be `width` log-odds wide.

    `pilot`: the folder of a run of `explain`; the questions that need most come first. Raises RunError when
    it is none, InputError for a width that is not above 0.
    """
    request = read_request(pilot)
    return needs(read_rows(pilot), width, images=len(request.images))


@dataclass(frozen=True, slots=True)
class SynthesisPlan:
    """What a synthesis would cost; a gradient counts as two evaluations of the UNet more."""

    targets: int
    iterations: int  # at most, of all targets and restarts
    pictures: int  # kept
    evaluations: int  # of the UNet, at most
    seconds: float  # nan while the editor's files are not here
    bytes: int


def foresee_synthesis(
    targets: Sequence[str | int] = (),
    *,
    units: Sequence[str] = (),
    editor: Any = "pocket-turbo",
    editor_options: Mapping[str, Any] | None = None,
    options: SynthesisOptions | Mapping[str, Any] | None = None,
    corpus: str | Path | Corpus | None = None,
    held_out: int = 32,
    hard: bool = True,
    methods: Sequence[str] = (),
) -> SynthesisPlan:
    """What `synthesize` with these options would cost at most; loads no model."""
    shape = editor_shape(editor, **(editor_options or {}))
    chosen = chosen_options(options, shape.text, shape.word, corpus)
    asked = [units_of(u) for u in units]
    n = len(targets) + sum(u.top or len(u.channels) for u in asked) or 1
    iterations = n * chosen.restarts * chosen.steps
    pictures = n * held_out * (chosen.restarts + 3 + len(methods))
    drawn = n * held_out * (chosen.restarts + 3)
    read = FINALISTS + 2 * chosen.tokens + 1  # prompts in real words that are read on the whole pool
    worded = n * (3 * max(1, chosen.steps) * chosen.restarts * chosen.seeds + read * chosen.pool)
    compared = 2 * n * chosen.restarts * chosen.pool  # what is kept, and what it set out from
    drawn += most_drawn(chosen, n) + 3 * iterations * chosen.seeds + compared + (worded if hard else 0)
    return synthesis_plan(shape, n, iterations, pictures, shape.steps * drawn)


def synthesis_plan(
    shape: EditorShape, targets: int, iterations: int, pictures: int, evaluations: int
) -> SynthesisPlan:
    """The counts, with seconds and bytes."""
    known = shape.operations and shape.size
    return SynthesisPlan(
        targets=targets,
        iterations=iterations,
        pictures=pictures,
        evaluations=evaluations,
        seconds=evaluations * shape.operations / speed() if known else nan,
        bytes=int(pictures * (shape.size or 512) ** 2 * PICTURE_BYTES),
    )


def chosen_options(
    given: SynthesisOptions | Mapping[str, Any] | None,
    text: str,
    word: str,
    corpus: str | Path | Corpus | None = None,
) -> SynthesisOptions:
    """Those given, over the text and word that a generator states, and the phrases of a corpus.

    Raises InputError for an unknown one.
    """
    told = load_corpus(corpus).phrases if corpus is not None else ()
    if isinstance(given, SynthesisOptions):
        return replace(given, phrases=given.phrases + told)
    stated = {"text": text, "word": word, "phrases": told, **(given or {})}
    try:
        return SynthesisOptions(**stated)
    except TypeError as error:
        known = ", ".join(SynthesisOptions.__slots__)
        raise InputError(f"option {', '.join(stated)}: {error}; known are {known}") from error
