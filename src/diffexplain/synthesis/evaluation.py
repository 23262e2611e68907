"""Figures of optimised prompts, from pictures of seeds that the optimisation has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Literal

import numpy as np
import torch

from diffexplain.classifiers import checked_logits
from diffexplain.editors.generator import Generator
from diffexplain.images import picture_hash, rounded
from diffexplain.metrics import ClipEyes, agreement, diversity, kernel_distance
from diffexplain.records import Comparison, Origin, Restart, Sample, TargetResult, Word
from diffexplain.statistics import mean_effect, paired_difference
from diffexplain.synthesis.gallery import Gallery
from diffexplain.synthesis.optimisation import Optimum
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.targets import ClassObjective, Objective, Target

SHOWN = 12  # pictures of an origin that a result names
NEARLY_ALL = 0.99  # share in the class from which it counts as reached, whatever the plain prompt does
Figures = tuple[np.ndarray, np.ndarray]  # scores and hits, (N,) each


@dataclass(frozen=True, slots=True)
class Asked:
    """One target: what is optimised, its plain prompt, and who else reads the pictures."""

    objective: Objective
    kind: Literal["class", "unit", "direction", "difference"]
    plain: str
    second: Objective | None = None


@dataclass(frozen=True, slots=True)
class Optimised:
    """What the optimisation of one target gave, in tensors and in words."""

    optima: tuple[Optimum, ...]  # one a restart
    words: tuple[tuple[tuple[Word, ...], ...], ...]  # of each restart's learned tokens
    hard_prompt: str = ""
    caption: str = ""

    @property
    def chosen(self) -> int:
        """The restart of least loss on the optimisation's own seeds."""
        return min(range(len(self.optima)), key=lambda r: self.optima[r].best)


def pictures_of(
    generator: Generator,
    asked: Asked,
    found: Optimised,
    options: SynthesisOptions,
    seeds: Sequence[int],
    gallery: Gallery,
) -> dict[tuple[Origin, int], torch.Tensor]:
    """(origin, restart) -> pictures (seeds, 3, H, W) rounded to 8 bits; all prompts share their seeds."""
    n = len(seeds)
    made: dict[tuple[Origin, int], torch.Tensor] = {}
    for r, best in enumerate(found.optima):
        said = generator.states(best.soft[None].expand(n, -1, -1), options.text)
        if best.latent is None:
            made["optimised", r] = generator.images(said, seeds)
        else:
            latent = best.latent[None].expand(n, -1, -1, -1)
            with torch.no_grad():
                made["optimised", r] = generator.draw(said, seeds, mode="detached", latent=latent).cpu()
    made["plain", -1] = gallery.images(generator, [asked.plain] * n, seeds)
    made["random", -1] = gallery.images(generator, random_prompts(generator, options, n), seeds)
    if found.hard_prompt:
        made["hard", -1] = gallery.images(generator, [found.hard_prompt] * n, seeds)
    return {key: rounded(images) for key, images in made.items()}


def random_prompts(generator: Generator, options: SynthesisOptions, n: int) -> list[str]:
    """The fixed text and as many words at random as are learned."""
    words = generator.vocabulary[0]
    rng = np.random.default_rng((options.seed, 11))
    return [" ".join([options.text, *rng.choice(words, options.tokens)]) for _ in range(n)]


def samples(
    asked: Asked, made: Mapping[tuple[Origin, int], torch.Tensor], seeds: Sequence[int], batch: int
) -> tuple[list[Sample], dict[str, torch.Tensor]]:
    """A row for each picture, and the pictures by hash. Pictures must be rounded to 8 bits."""
    rows: list[Sample] = []
    kept: dict[str, torch.Tensor] = {}
    for (origin, restart), images in made.items():
        scores, hits = _read(asked.objective, images)
        seconds = np.full(len(images), nan) if asked.second is None else _read(asked.second, images)[0]
        names = [picture_hash(image) for image in images]
        kept.update(zip(names, images, strict=True))
        for seed, name, score, hit, second in zip(seeds, names, scores, hits, seconds, strict=False):
            rows.append(
                Sample(
                    asked.objective.name, origin, restart, seed, float(score), bool(hit), float(second),
                    name, batch,
                )
            )  # fmt: skip
    return rows, kept


def measured(
    asked: Asked,
    found: Optimised,
    rows: Sequence[Sample],
    picture: Callable[[str], torch.Tensor],
    eyes: ClipEyes,
    real: torch.Tensor | None,
) -> TargetResult:
    """The figures of one target from its rows; `real` pictures of the domain are what KID is against."""
    by_restart = {r: _of(rows, "optimised", r) for r in range(len(found.optima))}
    best = by_restart[found.chosen]
    by_seed = {str(s.seed): s.score for s in best}
    plain = {str(s.seed): s.score for s in _of(rows, "plain")}
    level = mean_effect([s.score for s in best], [str(s.seed) for s in best])
    gain = paired_difference(by_seed, plain)
    share = float(np.mean([s.hit for s in best]))
    images = torch.stack([picture(s.picture) for s in best])
    reference = eyes(real) if real is not None and len(real) > 1 else None
    origins = list(dict.fromkeys(s.origin for s in rows if s.origin != "optimised"))
    return TargetResult(
        target=asked.objective.name,
        kind=asked.kind,
        restarts=tuple(_restart(found, r, own) for r, own in by_restart.items()),
        chosen=found.chosen,
        score=level.mean,
        low=level.low,
        high=level.high,
        gain=gain.mean,
        gain_low=gain.low,
        gain_high=gain.high,
        reached=gain.low > 0 or share >= NEARLY_ALL,
        share=share,
        second=_mean([s.second for s in best]),
        diversity=diversity(eyes.layers(images)) if len(images) > 1 else nan,
        agreement=_agreement(by_restart, picture, eyes),
        kid=_distance(images, reference, eyes),
        hard_prompt=found.hard_prompt,
        caption=found.caption,
        examples=tuple(best[:SHOWN]),
        compared=tuple(_comparison(o, _of(rows, o), picture, eyes, reference) for o in origins),
    )


def _restart(found: Optimised, r: int, rows: Sequence[Sample]) -> Restart:
    best = found.optima[r]
    return Restart(best.curve, best.best, _mean([s.score for s in rows]), found.words[r], best.stopped)


def _agreement(
    by_restart: Mapping[int, Sequence[Sample]], picture: Callable[[str], torch.Tensor], eyes: ClipEyes
) -> float:
    if len(by_restart) < 2:
        return nan
    return agreement([eyes(torch.stack([picture(s.picture) for s in own])) for own in by_restart.values()])


def _comparison(
    origin: Origin,
    rows: Sequence[Sample],
    picture: Callable[[str], torch.Tensor],
    eyes: ClipEyes,
    reference: torch.Tensor | None,
) -> Comparison:
    images = torch.stack([picture(s.picture) for s in rows])
    return Comparison(
        origin=origin,
        score=_mean([s.score for s in rows]),
        share=float(np.mean([s.hit for s in rows])),
        second=_mean([s.second for s in rows]),
        kid=nan if origin == "real" else _distance(images, reference, eyes),
        examples=tuple(rows[:SHOWN]),
    )


def _distance(images: torch.Tensor, reference: torch.Tensor | None, eyes: ClipEyes) -> float:
    if reference is None or len(images) < 2:
        return nan
    return kernel_distance(eyes(images), reference)


def _of(rows: Sequence[Sample], origin: Origin, restart: int = -1) -> list[Sample]:
    return [s for s in rows if s.origin == origin and s.restart == restart]


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not isnan(v)]
    return float(np.mean(known)) if known else nan


def _read(objective: Objective, images: torch.Tensor) -> Figures:
    """Scores, and whether the classifier puts a picture in the class (never, for what is no class)."""
    if not isinstance(objective, ClassObjective):
        return objective.score(images).numpy(), np.zeros(len(images), dtype=bool)
    logits = checked_logits(objective.target.classifier, images)
    return objective.target.of_logits(logits).numpy(), _hits(objective.target, logits).numpy()


def _hits(target: Target, logits: torch.Tensor) -> torch.Tensor:
    if logits.shape[1] == 1:
        return target.of_logits(logits) > 0
    return logits.argmax(1) == target.classifier.labels.index(target.label)
