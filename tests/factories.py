"""Finished runs made of random numbers and really rendered avatars, for tests of what shows a run."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import nan
from typing import Any

import numpy as np
from PIL import Image

from diffexplain.records import ConceptResult, Cost, Drift, Effect, JointPath, Request, Result
from diffexplain.worlds import avatars

STRONG = {
    "facewear/glasses/round": 2.6,
    "facewear/glasses/thick": 1.9,
    "facewear/glasses/thin": 1.4,
    "clothing/garment/blazer": 2.2,
    "expression/mouth/smile": 1.5,
    "background/colour/blue": 1.2,
    "expression/mouth/sad": -1.1,
    "facewear/eyepatch": -1.7,
    "clothing/garment/hoodie": -0.8,
    "sticker/star": 0.4,
}
REMOVED = ("facewear/glasses", "facial hair/beard", "headwear", "sticker")
RULED_OUT = ("hair/style/bob", "hair/style/bun", "skin tone/tan", "clothing/colour/green", "hair/colour/red")
NOT_ELIGIBLE = ("expression/eyes/open", "hair/style/mullet")


@dataclass
class Pictures:
    """A run's pictures by content hash; call it as the report does."""

    stored: dict[str, bytes] = field(default_factory=dict)

    def __call__(self, name: str) -> bytes:
        return self.stored[name]

    def keep(self, pixels: np.ndarray) -> str:
        """Store one uint8 picture (H, W, 3) as PNG and return its hash."""
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG", compress_level=1)
        name = hashlib.sha256(out.getvalue()).hexdigest()
        self.stored[name] = out.getvalue()
        return name


def run(seed: int = 0, images: int = 16, size: int = 64, truth: bool = True) -> tuple[Result, Pictures]:
    """A realistic finished run over every leaf of the avatars corpus, and its pictures."""
    result, _, pictures = measured(seed, images, size, truth)
    return result, pictures


@lru_cache(maxsize=4)
def measured(
    seed: int = 0, images: int = 16, size: int = 64, truth: bool = True
) -> tuple[Result, list[Effect], Pictures]:
    """The same with its rows."""
    maker = _Maker(seed, images, size)
    concepts = [maker.concept(leaf, "add") for leaf in avatars.LEAVES]
    concepts += [maker.concept(path, "remove") for path in REMOVED]
    concepts.sort(key=lambda c: (c.status != "measured", -abs(c.effect) if c.effect == c.effect else 0))
    true = {f"{d} {c}": maker.weight(c, d) for c, d in maker.asked} if truth else None
    notes = ("The pictures are renders of a world: truth is known here.",) if truth else ()
    result = Result(
        maker.request(), -0.31, tuple(concepts), maker.joint(), Drift(0.011, 0.09, -0.02),
        Cost(len(concepts) * 24, images, len(concepts) * 24 * 31, 96.4), notes, true,
    )  # fmt: skip
    return result, maker.rows, maker.pictures


class _Maker:
    def __init__(self, seed: int, images: int, size: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.size = size
        self.people = avatars.sample(images, seed)
        self.pictures = Pictures()
        self.asked: list[tuple[str, str]] = []
        self.rows: list[Effect] = []
        self.hashes = [self.shoot(person) for person in self.people]
        self.base = self.rng.normal(-0.3, 1.2, images)

    def shoot(self, person: avatars.Avatar) -> str:
        """Render a person with a little of an editor's noise."""
        clean = avatars.render_bytes([person], self.size)[0].astype(float)
        noisy = clean + self.rng.normal(0, 2, clean.shape)
        return self.pictures.keep(noisy.clip(0, 255).astype(np.uint8))

    def weight(self, concept: str, direction: str) -> float:
        """The true effect that this world plants."""
        found = [STRONG.get(leaf, 0.0) for leaf in avatars.leaves(concept)]
        mean = float(np.mean(found))
        return -mean if direction == "remove" else mean

    def concept(self, concept: str, direction: str) -> ConceptResult:
        """One question's result, from simulated rows."""
        self.asked.append((concept, direction))
        if concept in NOT_ELIGIBLE:
            return concept_result(concept, direction, status="not eligible", images=0, edits=0)
        if concept in RULED_OUT:
            return concept_result(concept, direction, status="ruled out", race=self.rng.normal(0, 0.1))
        fit = [i for i, p in enumerate(self.people) if avatars.eligible(p, concept, direction)]  # type: ignore[arg-type]
        if len(fit) < 2:
            return concept_result(concept, direction, status="not eligible", images=0, edits=0)
        effects = [self.effect(i, concept, direction) for i in fit]
        self.rows += effects
        return _summary(concept, direction, effects, self.rng)

    def effect(self, i: int, concept: str, direction: str) -> Effect:
        """One simulated edit of image `i`."""
        before = float(self.base[i])
        after = before + 0.9 * self.weight(concept, direction) + self.rng.normal(0, 0.45)
        edited = self.shoot(avatars.do(self.people[i], concept, direction))  # type: ignore[arg-type]
        present = (0.94, 0.05) if direction == "remove" else (0.04, float(self.rng.uniform(0.4, 1)))
        return effect(
            self.hashes[i], edited, concept=concept, direction=direction, before=before, after=after,
            presence=present, image=f"image{i:02d}",
        )  # fmt: skip

    def joint(self) -> JointPath:
        """The three strongest concepts asked at once."""
        asked = ("facewear/glasses/round", "clothing/garment/blazer", "expression/mouth/smile")
        effects = []
        for i in range(3):
            person = self.people[i]
            for concept in asked:
                person = avatars.do(person, concept)
            before = float(self.base[i])
            effects.append(effect(self.hashes[i], self.shoot(person), concept=" + ".join(asked),
                                  direction="add + add + add", before=before, after=before + 4.9,
                                  image=f"image{i:02d}"))  # fmt: skip
        steps = tuple("+" + concept for concept in asked)
        return JointPath(steps, asked, ("add",) * 3, 4.93, 4.31, 5.55, 0.00004, 5, 0.8, tuple(effects))

    def request(self) -> Request:
        """What this run says it was asked."""
        names = tuple(f"avatar_{i:02d}.png" for i in range(len(self.people)))
        return request(images=tuple(f"image{i:02d}" for i in range(len(self.people))), names=names)


def request(**changes: Any) -> Request:
    """A request to explain `pocket:hired`, with changes."""
    given: dict[str, Any] = {
        "classifier": "pocket:hired", "target": "hired", "versus": None, "corpus": "avatars",
        "corpus_hash": "5d1f0c9be2a4", "editor": "pocket", "judge": "pocket", "segmenter": "pocket",
        "images": ("image00",), "names": ("avatar_00.png",), "seeds": 1, "budget": 2000,
        "search": {"beam": 8, "delta": 0.2, "race": {"images": 6, "rounds": 3}},
        "settings": {"guidance": 5.0, "skip": 0.2, "steps": 30, "versions": {"torch": "2.15.0"}},
    }  # fmt: skip
    return Request(**(given | changes))


def effect(reconstruction: str, edited: str, *, concept: str = "hat", direction: str = "add",
           before: float = -1.0, after: float = 1.0, presence: tuple[float, float] = (0.05, 0.9),
           image: str = "image00") -> Effect:  # fmt: skip
    """One effect row; probabilities follow from the scores."""
    return Effect(
        image=image, seed=0, concept=concept, direction=direction, edited_as=concept, strength=1.0,
        stage="report", eligible=True, score_before=before, score_after=after,
        probability_before=_sigmoid(before), probability_after=_sigmoid(after),
        presence_before=presence[0], presence_after=presence[1], outside=0.01,
        reconstruction=reconstruction, edited=edited, evaluations=31, batch=0,
    )  # fmt: skip


def concept_result(concept: str, direction: str = "add", *, status: Any = "measured", effect: float = nan,
                   half: float = 0.3, q: float = nan, success: float = nan, images: int = 10, edits: int = 24,
                   race: float = nan, examples: Sequence[Effect] = ()) -> ConceptResult:  # fmt: skip
    """One question's result; an interval of ± `half`."""
    return ConceptResult(
        concept, direction, status, effect, effect - half, effect + half, effect / 6, q, q, 0.2 * abs(effect),
        0.8, success, 0.01, images, edits, race, tuple(examples),
    )  # fmt: skip


def result(concepts: Sequence[ConceptResult] = (), *, notes: tuple[str, ...] = (),
           joint: JointPath | None = None, truth: dict[str, float] | None = None,
           **asked: Any) -> Result:  # fmt: skip
    """A small result around these questions."""
    drift, cost = Drift(0.01, 0.1, 0.0), Cost(48, 16, 1488, 12.5)
    return Result(request(**asked), 0.2, tuple(concepts), joint, drift, cost, notes, truth)


def _summary(concept: str, direction: str, rows: list[Effect], rng: np.random.Generator) -> ConceptResult:
    changes = np.array([row.change for row in rows])
    mean, error = float(changes.mean()), float(changes.std(ddof=1) / np.sqrt(len(rows)))
    p = float(min(1.0, 2 * np.exp(-0.717 * abs(mean / error) - 0.416 * (mean / error) ** 2)))
    rows.sort(key=lambda row: -row.change * np.sign(mean))
    return ConceptResult(
        concept, direction, "measured", mean, mean - 2.2 * error, mean + 2.2 * error,
        float(np.mean([row.probability_change for row in rows])), p, min(1.0, 2 * p),
        float(np.mean([row.flipped for row in rows])), float(np.mean([row.gain for row in rows])),
        float(rng.choice([0.42, 0.8, 0.92, 1.0], p=[0.08, 0.32, 0.4, 0.2])), 0.012, len(rows), len(rows) + 8,
        mean + float(rng.normal(0, 0.3)), tuple(rows[:4]),
    )  # fmt: skip


def _sigmoid(score: float) -> float:
    return float(1 / (1 + np.exp(-score)))
