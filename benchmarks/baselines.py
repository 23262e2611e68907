"""Optimised prompts against activation maximisation: natural pictures that convince another network too?

For every class with a second, independently trained classifier (`pocket/twins`): pictures by the optimised
prompt on held-out seeds, by the plain prompt, by activation maximisation in pixels (the four settings of
Yosinski et al., and Mahendran & Vedaldi's), through the pocket decoder (Nguyen et al.), and by feature attack
from avatars without the class. Read are the kernel distance in CLIP's features to fresh renders, the share
that a small detector takes for avatars, and the log-odds of both classifiers. Where pixels have several
settings, each figure is the best of any. Means over classes; KID of renders to renders stands beside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from diffexplain import pocket
from diffexplain.baselines import (
    YOSINSKI,
    Ascent,
    AttackOptions,
    DecoderOptions,
    NaturalOptions,
    load_decoder,
    maximise,
)
from diffexplain.classifiers import Classifier, checked_logits, load_classifier
from diffexplain.editors.generator import Generator, load_generator
from diffexplain.images import rounded
from diffexplain.metrics import ClipEyes, clip_eyes, kernel_distance
from diffexplain.synthesis import SynthesisOptions, held_out_seeds, optimise
from diffexplain.targets import ClassObjective, Target, choose_target, class_objective
from diffexplain.worlds import avatars as world

SEED = 1_000_000  # held-out avatars
ATTACK_STEPS = 100  # of the paper's 1,000, for time


def measure(quick: bool) -> Mapping[str, Any]:
    """All figures."""
    n, steps, fresh = (4, 10, 40) if quick else (16, 100, 300)
    generator, eyes = load_generator("pocket-turbo"), clip_eyes("pocket")
    detector = load_classifier(f"timm:{pocket.ROOT / 'detector'}")
    renders = world.render(world.sample(fresh, SEED), generator.size)
    seen = eyes(renders)
    by_class: dict[str, dict[str, dict[str, float]]] = {}
    for folder in sorted((pocket.ROOT / "twins").iterdir()):
        classifier, label = load_classifier(f"pocket:{folder.name}"), _config(folder.name)["target"]
        objective, twin = class_objective(classifier, label), load_classifier(f"timm:{folder}")
        second = choose_target(twin, label)
        made = pictures(generator, objective, n, steps, quick)
        by_class[folder.name] = {
            name: figures(eyes, seen, detector, objective, second, images) for name, images in made.items()
        }
    again = eyes(world.render(world.sample(n, SEED + 1), generator.size))
    return {
        **summary(by_class),
        "kid_renders": kernel_distance(again, seen),
        "avatar_share_renders": avatar_share(detector, renders),
        "pictures": n,
        "by_class": by_class,
    }


def pictures(
    generator: Generator, objective: ClassObjective, n: int, steps: int, quick: bool
) -> dict[str, torch.Tensor]:
    """Method -> its pictures (n, 3, H, W) of 8 bits."""
    size, seeds = generator.size, held_out_seeds(n, 0)
    options = SynthesisOptions(steps=4, restarts=1) if quick else SynthesisOptions()
    best = min(optimise(generator, [objective], options), key=lambda optimum: optimum.best)
    soft = best.soft.expand(n, -1, -1)
    plain = generator.prompts([f"{options.text} {objective.target.label}"] * n)
    others = world.sample(4 * n, SEED + 2)
    renders = world.render(others, size)
    without = renders[objective.score(renders) < 0][:n]
    ways: dict[str, Ascent] = {
        **{f"pixels_{i + 1}": replace(o, size=size, steps=steps) for i, o in enumerate(YOSINSKI)},
        "pixels_natural": NaturalOptions(size=size, steps=steps),
        "decoder": DecoderOptions(load_decoder("pocket"), size=size, steps=steps),
        "attack": AttackOptions(without, steps=min(steps, ATTACK_STEPS)),
    }
    made = {
        "synthesis": generator.images(generator.states(soft, options.text), seeds),
        "plain": generator.images(plain, seeds),
        **{name: maximise(objective, seeds=list(range(n)), options=way) for name, way in ways.items()},
    }
    return {name: rounded(images) for name, images in made.items()}


def figures(
    eyes: ClipEyes,
    seen: torch.Tensor,
    detector: Classifier,
    objective: ClassObjective,
    second: Target,
    images: torch.Tensor,
) -> dict[str, float]:
    """What is read from one method's pictures of one class."""
    return {
        "kid": kernel_distance(eyes(images), seen),
        "avatar_share": avatar_share(detector, images),
        "score": float(objective.score(images).mean()),
        "second_score": float(second.score(images).mean()),
        "second_share": float((second.score(images) > 0).double().mean()),
    }


def avatar_share(detector: Classifier, images: torch.Tensor) -> float:
    """Share of the pictures that the detector takes for avatars."""
    return float((checked_logits(detector, images)[:, 0] > 0).double().mean())


def summary(by_class: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Means over classes; of the ways in pixels, each figure the best."""
    methods = list(next(iter(by_class.values())))
    mean = {m: {k: _mean(by_class, m, k) for k in next(iter(by_class.values()))[m]} for m in methods}
    pixels = [m for m in methods if m.startswith("pixels")]
    best = {k: (min if k == "kid" else max)(mean[m][k] for m in pixels) for k in mean[pixels[0]]}
    shown = {m: mean[m] for m in methods if m not in pixels} | {"pixels": best}
    return {f"{key}_{method}": value for method, own in shown.items() for key, value in own.items()}


def _mean(by_class: Mapping[str, Mapping[str, Mapping[str, float]]], method: str, key: str) -> float:
    return float(np.mean([own[method][key] for own in by_class.values()]))


def _config(name: str) -> dict[str, Any]:
    text = (pocket.classifier_folder(name) / "config.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    harness.run("baselines", __doc__ or "", measure)


if __name__ == "__main__":
    main()
