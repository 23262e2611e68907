"""The strength slider: one picture inverted once, then one concept's edit at any strength."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffexplain.classifiers import load_classifier
from diffexplain.corpus import load_corpus
from diffexplain.editors import Edit, load_editor
from diffexplain.effects import Subject, Tools, prepare, probability, terms
from diffexplain.errors import InputError
from diffexplain.images import load_images, rounded
from diffexplain.judges import load_judge
from diffexplain.records import Ask
from diffexplain.records import Question as Asked
from diffexplain.store import read_request
from diffexplain.targets import choose_target

MOST = 3.0  # times the editor's own strength
ROWS = 2  # model rows a call: one edit is made at a time, and calls are padded


@dataclass(frozen=True, slots=True)
class Edited:
    """What the slider shows: pictures (H, W, 3) uint8, and the target's score and probability of each."""

    before: np.ndarray
    after: np.ndarray
    score_before: float
    score_after: float
    probability_before: float
    probability_after: float


@lru_cache(maxsize=2)
def _tools(folder: Path, corpus: str) -> Tools:
    request = read_request(folder)
    target = choose_target(load_classifier(request.classifier), request.target, request.versus)
    few: dict[str, Any] = {"rows": ROWS} if "rows" in request.settings.get("editor", {}) else {}
    editor = load_editor(request.editor, **few)
    return Tools(target, editor, load_judge(request.judge), None, load_corpus(corpus))


@lru_cache(maxsize=8)
def _subject(folder: Path, corpus: str, image: Path) -> Subject:
    tools = _tools(folder, corpus)
    return prepare(tools, load_images(image, size=tools.editor.size), 1)


@lru_cache(maxsize=256)
def edited(folder: Path, corpus: str, image: Path, concept: str, direction: str, strength: float) -> Edited:
    """One edit at a strength, 0 being the reconstruction; one made before comes back at once.

    Raises InputError for an unknown concept.
    """
    tools, subject = _tools(folder, corpus), _subject(folder, corpus, image)
    if concept not in tools.corpus or direction not in ("add", "remove"):
        raise InputError(f"concept {direction} {concept!r}: choose one of the run's")
    leaf = concept if tools.corpus[concept].prompt else tools.corpus[concept].leaves[0]
    ask = Ask(0, 0, Asked.single(concept, direction), (leaf,), "report")  # type: ignore[arg-type]
    edit = Edit(0, terms(subject.captions[0], ask, 1.0, tools.editor.captioned))
    drawn = rounded(tools.editor.edit(subject.inversion, [edit.at(min(max(strength, 0.0), MOST))]))
    scores = np.array([subject.scores[0], float(tools.target.score(drawn)[0])])
    before, after = probability(scores)
    return Edited(
        _shown(subject.reconstructions[0]), _shown(drawn[0]), float(scores[0]), float(scores[1]),
        float(before), float(after),
    )  # fmt: skip


def _shown(picture: object) -> np.ndarray:
    pixels = np.asarray(picture).transpose(1, 2, 0)  # (H, W, 3)
    return np.asarray(Image.fromarray((pixels * 255).round().astype(np.uint8)))
