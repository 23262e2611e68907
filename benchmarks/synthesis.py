"""Prompts optimised through the pocket generator: classes, units, words, shortcuts, speed and memory.

Every class of every planted classifier, starting from a neutral word; figures on held-out seeds only. The
pocket text encoder knows captions that begin "a person with", so that is the fixed text and "person" the
neutral word; the plain prompt is "a picture of a {class}". Beside the encoder's words the phrases of the
corpus `avatars` are proposed (`--corpus avatars`): no classifier's own. Settings were chosen on the
classifiers that are not held out for final figures, and on other seeds; those for classes that fall short
(`THOROUGH`) on `cheerful/gloomy`, which is held out, and on other seeds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy.stats import fisher_exact

from benchmarks import harness, synthesis_cost
from benchmarks.oracle import Oracle
from diffexplain import pocket
from diffexplain.classifiers import load_classifier
from diffexplain.corpus import load_corpus
from diffexplain.editors.generator import Generator, load_generator
from diffexplain.images import rounded
from diffexplain.rows import choose_device
from diffexplain.synthesis import Optimum, SynthesisOptions, held_out_seeds, optimise
from diffexplain.synthesis.gallery import Gallery
from diffexplain.synthesis.words import hard_prompt, nearest_words
from diffexplain.targets import ClassObjective, Objective, UnitObjective, class_objective
from diffexplain.worlds import avatars as world

SEED = 1_000_000  # held-out avatars
SHOWN = 12_345  # names the held-out seeds; nothing was ever chosen on these
SHOWN_AGAIN = SHOWN + 2  # and those of classes optimised thoroughly, for the first ones chose the classes
MARGIN = 0.25  # log-odds from which a shortcut's true effect counts
BEATEN = 2.0  # log-odds by which a class has to beat its plain prompt
UNITS_OF = ("wintry", "layer4")  # whose last pooled layer is asked
SETTINGS = SynthesisOptions(text="a person with", word="person", restarts=1)
QUICK = replace(SETTINGS, steps=3, candidates=6, pool=4)
#: for classes that fall short: twenty times the pictures, far steps first, and no crops, which the bundled
#: classifiers were not trained on.
THOROUGH = {
    "steps": 240, "rate": 0.4, "anneal": True, "seeds": 8, "pool": 64, "cutouts": 0, "patience": 0,
}  # fmt: skip
#: class -> words of its one cause, where that is the presence of something.
CAUSES = {
    "bearded/bearded": ("beard",),
    "cheerful/cheerful": ("smile",),
    "eyewear/round": ("round",),
    "eyewear/thin": ("thin",),
    "eyewear/thick": ("thick",),
    "eyewear/classic": ("classic",),
    "eyewear/wayfarer": ("wayfarer",),
    "eyewear/eyepatch": ("eyepatch",),
}

bar = partial(track, console=Console(stderr=True))


@dataclass(frozen=True)
class Found:
    """A class, its best prompt over restarts, and held-out pictures by it and by the plain prompt."""

    classifier: str
    objective: ClassObjective
    optimum: Optimum
    images: torch.Tensor
    plain: torch.Tensor

    @property
    def name(self) -> str:
        """Classifier and label."""
        return f"{self.classifier}/{self.objective.name}"


def measure(quick: bool) -> Mapping[str, Any]:
    """All figures."""
    phrases = load_corpus("avatars").phrases
    options = replace(QUICK, phrases=phrases[:4]) if quick else replace(SETTINGS, phrases=phrases)
    shown = 4 if quick else 100
    names = ["bearded"] if quick else [n for n in pocket.classifiers() if n != "null"]
    generator = load_generator("pocket-turbo", device=choose_device())
    objectives = {
        f"{name}/{label}": class_objective(load_classifier(f"pocket:{name}"), label)
        for name in names
        for label in load_classifier(f"pocket:{name}").labels
    }
    started = time.monotonic()
    gallery = Gallery()
    optima = best(generator, list(objectives.values()), options, gallery)
    seconds = (time.monotonic() - started) / len(objectives)
    found = [
        shown_images(generator, name, objective, optimum, options, shown)
        for (name, objective), optimum in bar(
            list(zip(objectives.items(), optima, strict=True)), description="held-out pictures"
        )
    ]
    figures = said({**classes(found), "seconds_per_class": seconds})
    figures |= said(thorough(generator, found, figures["by_class"], options, gallery, quick))
    figures |= said(shortcuts(found, quick))
    figures |= said(words(generator, found, options, quick))
    made = {f.name: (f.objective, f.optimum.soft) for f in found}
    figures |= said(synthesis_cost.speed(generator, made, seconds, options, quick))
    taken = figures["iterations_published"]
    figures |= said(synthesis_cost.full_size(taken, options, len(objectives), quick))
    figures |= said(synthesis_cost.memory(quick))
    figures |= said(units(generator, options, gallery, quick))
    return figures | {
        "options": {"text": options.text, "word": options.word, "plain": "a picture of a {class}"},
        "corpus": "avatars",
    }


def said(figures: dict[str, Any]) -> dict[str, Any]:
    """A part's figures, told as soon as they are there: all parts take most of an hour."""
    print(json.dumps(figures), file=sys.stderr, flush=True)
    return figures


def best(
    generator: Generator,
    objectives: Sequence[Objective],
    options: SynthesisOptions,
    gallery: Gallery | None = None,
) -> list[Optimum]:
    """The restart of least loss on the optimisation's own seeds, of each objective."""
    found = optimise(generator, objectives, options, gallery=gallery)
    each = options.restarts
    return [
        min(found[i * each : (i + 1) * each], key=lambda optimum: optimum.best)
        for i in range(len(objectives))
    ]


def drawn(
    generator: Generator, optimum: Optimum, options: SynthesisOptions, seeds: list[int]
) -> torch.Tensor:
    """A prompt's pictures of 8 bits, one a seed."""
    with torch.no_grad():
        said = generator.states(optimum.soft[None], options.text).of([0] * len(seeds))
        return rounded(generator.images(said, seeds))


def shown_images(
    generator: Generator,
    name: str,
    objective: ClassObjective,
    optimum: Optimum,
    options: SynthesisOptions,
    n: int,
    key: int = SHOWN,
) -> Found:
    """Pictures of n held-out seeds, the same for both prompts."""
    seeds = held_out_seeds(n, key)
    plain = generator.images(generator.prompts([f"a picture of a {objective.name}"] * n), seeds)
    made = drawn(generator, optimum, options, seeds)
    return Found(name.split("/")[0], objective, optimum, made, rounded(plain))


# -- classes ------------------------------------------------------------------------------------------


def classes(found: Sequence[Found]) -> dict[str, Any]:
    """Log-odds against the plain prompt's, and the share of pictures put in the class.

    Beside it what random avatars reach: where `needed` lies beyond their 99th percentile, hardly any avatar
    there is would do. Of classes that miss it, `rendered`: what avatars made for the class reach on average.
    """
    by_class, scores = {}, {}
    avatars = world.render(world.sample(40 if len(found) < 3 else 2_000, SEED + 4), found[0].images.shape[-1])
    for f in found:
        natural = torch.cat([f.objective.score(x) for x in avatars.split(100)])
        by_class[f.name] = {
            **compared(f),
            "needed": float(f.objective.score(f.plain).mean()) + BEATEN,
            "99th_percentile": float(natural.quantile(0.99)),
        }
        if not by_class[f.name]["passed"]:
            by_class[f.name]["rendered"] = rendered(f.objective, 4 if len(found) < 3 else 40)
        scores[f.classifier] = min(by_class[f.name]["share"], scores.get(f.classifier, 1.0))
    return {
        "class_success": float(np.mean([c["passed"] for c in by_class.values()])),
        "margin_min": min(c["margin"] for c in by_class.values()),
        "activation_score_min": min(scores.values()),
        "activation_score": scores,
        "by_class": by_class,
    }


def compared(f: Found) -> dict[str, Any]:
    """By how much a class beats its plain prompt, and whether that is enough."""
    margin = float((f.objective.score(f.images) - f.objective.score(f.plain)).mean())
    share, plain = (hit(f.objective, images) for images in (f.images, f.plain))
    passed = margin >= BEATEN or min(share, plain) >= 0.99
    return {"margin": margin, "share": share, "plain_share": plain, "passed": passed}


def thorough(
    generator: Generator,
    found: Sequence[Found],
    by_class: Mapping[str, Mapping[str, Any]],
    options: SynthesisOptions,
    gallery: Gallery,
    quick: bool,
) -> dict[str, Any]:
    """Classes that fall short, optimised with twenty times the pictures and read on other held-out seeds."""
    long = options if quick else replace(options, **THOROUGH)
    short = [f for f in found if not by_class[f.name]["passed"]]
    started = time.monotonic()
    optima = best(generator, [f.objective for f in short], long, gallery) if short else []
    seconds = time.monotonic() - started
    again = {
        f.name: compared(
            shown_images(generator, f.classifier, f.objective, optimum, long, len(f.images), SHOWN_AGAIN)
        )
        for f, optimum in zip(short, optima, strict=True)
    }
    missed = [name for name, c in again.items() if not c["passed"]]
    return {
        "class_success_thorough": 1 - len(missed) / len(found),
        "thorough": again,
        "seconds_thorough": seconds / len(short) if short else 0.0,
    }


def rendered(objective: ClassObjective, n: int) -> float:
    """Mean log-odds of n avatars of which all wear what raises it most, one leaf after another, exactly."""

    def mean(avatars: Sequence[world.Avatar]) -> float:
        return float(objective.score(world.render(avatars, 64)).mean())

    made = world.sample(n, SEED + 5)
    best = mean(made)
    while True:
        tries = [[world.do(a, leaf) for a in made] for leaf in world.LEAVES]
        means = [mean(avatars) for avatars in tries]
        if max(means) < best + 0.01:
            return best
        best, made = max(means), tries[int(np.argmax(means))]


def hit(objective: ClassObjective, images: torch.Tensor) -> float:
    """Share of pictures whose class is the objective's."""
    target = objective.target
    logits = target.classifier.logits(images).detach()
    if logits.shape[1] == 1:
        return float((target.of_logits(logits) > 0).double().mean())
    return float((logits.argmax(1) == target.classifier.labels.index(target.label)).double().mean())


# -- units --------------------------------------------------------------------------------------------


def units(generator: Generator, options: SynthesisOptions, gallery: Gallery, quick: bool) -> dict[str, Any]:
    """How many units are excited more than by 99 of 100 random avatars."""
    random, n, held = (60, 2, 4) if quick else (2000, 32, 32)
    name, layer = UNITS_OF
    classifier = load_classifier(f"pocket:{name}")
    renders = world.render(world.sample(random, SEED + 2), generator.size)
    with torch.no_grad():
        active = torch.cat([classifier.activations(x, layer) for x in renders.split(100)])
    bars = torch.quantile(active, 0.99, dim=0)
    alive = [int(c) for c in (active.std(0) > 1e-3).nonzero()[:n, 0]]
    objectives = [UnitObjective(classifier, layer, c) for c in alive]
    optima = best(generator, objectives, options, gallery)
    seeds = held_out_seeds(held, SHOWN + 1)
    medians = [
        float(o.score(drawn(generator, x, options, seeds)).median())
        for o, x in zip(objectives, optima, strict=True)
    ]
    passed = [median > float(bars[c]) for median, c in zip(medians, alive, strict=True)]
    return {"unit_success": float(np.mean(passed)), "units": len(alive)}


# -- words --------------------------------------------------------------------------------------------


def words(
    generator: Generator, found: Sequence[Found], options: SynthesisOptions, quick: bool
) -> dict[str, Any]:
    """Whether a cause is among the five nearest words of all tokens together, or named by the hard prompt.

    The hard prompt is looked for where the nearest words do not name the cause.
    """
    soft, hard, read = [], [], {}
    for f in found:
        if f.name not in CAUSES:
            continue
        near = [w for token in nearest_words(generator, f.optimum.soft, 5) for w in token.words]
        nearest = list(dict.fromkeys(w.token for w in sorted(near, key=lambda w: w.distance)))[:5]
        soft.append(bool(set(nearest) & set(CAUSES[f.name])))
        start = f.optimum.soft
        said = "" if soft[-1] else hard_prompt(generator, f.objective, options, start=start).text
        hard.append(bool(set(said.replace(",", " ").split()) & set(CAUSES[f.name])))
        read[f.name] = {"nearest": nearest, "hard": said}
    either = np.array(soft) | np.array(hard)
    return {
        "word_recall": float(np.mean(either)),
        "soft_word_recall": float(np.mean(soft)),
        "words": read,
    }


# -- shortcuts ----------------------------------------------------------------------------------------


def shortcuts(found: Sequence[Found], quick: bool) -> dict[str, Any]:
    """Whether planted shortcuts with a true effect are read in the pictures more often than in plain ones."""
    oracle, by_shortcut = Oracle(), {}
    for f in found:
        for concept in planted(f):
            drawn_avatars = world.sample(40 if quick else 400, SEED + 3)
            effect, _ = world.true_effect(f.objective.score, drawn_avatars, concept)
            counts = [int(there(oracle, concept, images).sum()) for images in (f.images, f.plain)]
            n = len(f.images)
            p = fisher_exact([[c, n - c] for c in counts], alternative="greater").pvalue
            more = (counts[0] - counts[1]) / n
            by_shortcut[f"{f.name}: {concept}"] = {
                "effect": effect, "more_often": more, "p": float(p), "found": bool(more >= 0.2 and p < 0.01),
            }  # fmt: skip
    real = [s["found"] for s in by_shortcut.values() if s["effect"] > MARGIN]
    return {"shortcut_found": float(np.mean(real)) if real else None, "shortcuts": by_shortcut}


def planted(found: Found) -> list[str]:
    """The shortcuts that a class was taught."""
    config = json.loads((pocket.classifier_folder(found.classifier) / "config.json").read_text())
    if found.objective.name != config["target"]:
        return []
    first = [config["shortcut"][0]] if config["shortcut"] else []
    return [*first, *(effect for _, effect, _ in config["correlate"])]


def there(oracle: Oracle, concept: str, images: torch.Tensor) -> np.ndarray:
    """Whether any leaf under a concept is read in each picture (N,)."""
    read = oracle.read(images)
    return np.any([read[slot] == v for slot, v in map(world.LEAVES.get, world.leaves(concept))], axis=0)


if __name__ == "__main__":
    harness.run("synthesis", __doc__ or "", measure)
