"""Prompts optimised through the pocket generator: classes, units, words, shortcuts, speed and memory.

Every class of every planted classifier, starting from a neutral word; figures on held-out seeds only. The
pocket text encoder knows captions that begin "a person with", so that is the fixed text and "person" the
neutral word; the plain prompt is "a picture of a {class}". Beside the encoder's words the phrases of the
corpus `avatars` are proposed (`--corpus avatars`): no classifier's own. Settings were chosen on the
classifiers that are not held out for final figures, and on other seeds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy.stats import fisher_exact

from benchmarks import harness
from benchmarks.oracle import Oracle
from diffexplain import pocket
from diffexplain.classifiers import load_classifier
from diffexplain.corpus import load_corpus
from diffexplain.editors.generator import MODES, Generator, load_generator
from diffexplain.editors.latents import Said
from diffexplain.images import rounded
from diffexplain.rows import choose_device
from diffexplain.synthesis import Optimum, SynthesisOptions, held_out_seeds, optimise
from diffexplain.synthesis.gallery import Gallery
from diffexplain.synthesis.words import hard_prompt, nearest_words
from diffexplain.targets import ClassObjective, Objective, UnitObjective, class_objective
from diffexplain.worlds import avatars as world

SEED = 1_000_000  # held-out avatars
SHOWN = 12_345  # names the held-out seeds; nothing was ever chosen on these
MARGIN = 0.25  # log-odds from which a shortcut's true effect counts
BEATEN = 2.0  # log-odds by which a class has to beat its plain prompt
UNITS_OF = ("wintry", "layer4")  # whose last pooled layer is asked
SETTINGS = SynthesisOptions(text="a person with", word="person", steps=16, restarts=1)
QUICK = replace(SETTINGS, steps=3, candidates=6, exchanges=1, pool=4)
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
    phrases = tuple(c.phrase for c in load_corpus("avatars").leaves())
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
    figures |= said(shortcuts(found, quick))
    figures |= said(words(generator, found, options, quick))
    figures |= said(speed(generator, options, quick))
    figures |= said({"peak_gb": {mode: peak(mode, 2 if quick else 16) for mode in MODES}})
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
) -> Found:
    """Pictures of n held-out seeds, the same for both prompts."""
    seeds = held_out_seeds(n, SHOWN)
    plain = generator.images(generator.prompts([f"a picture of a {objective.name}"] * n), seeds)
    made = drawn(generator, optimum, options, seeds)
    return Found(name.split("/")[0], objective, optimum, made, rounded(plain))


# -- classes ------------------------------------------------------------------------------------------


def classes(found: Sequence[Found]) -> dict[str, Any]:
    """Log-odds against the plain prompt's, and the share of pictures put in the class.

    Beside it what random avatars reach: where `needed` lies beyond their 99th percentile, hardly any avatar
    there is would do.
    """
    by_class, scores = {}, {}
    avatars = world.render(world.sample(40 if len(found) < 3 else 2_000, SEED + 4), found[0].images.shape[-1])
    for f in found:
        natural = torch.cat([f.objective.score(x) for x in avatars.split(100)])
        margin = float((f.objective.score(f.images) - f.objective.score(f.plain)).mean())
        share, plain = (hit(f.objective, images) for images in (f.images, f.plain))
        passed = margin >= BEATEN or min(share, plain) >= 0.99
        by_class[f.name] = {
            "margin": margin, "share": share, "plain_share": plain, "passed": passed,
            "needed": float(f.objective.score(f.plain).mean()) + BEATEN,
            "99th_percentile": float(natural.quantile(0.99)),
        }  # fmt: skip
        scores[f.classifier] = min(share, scores.get(f.classifier, 1.0))
    return {
        "class_success": float(np.mean([c["passed"] for c in by_class.values()])),
        "margin_min": min(c["margin"] for c in by_class.values()),
        "activation_score_min": min(scores.values()),
        "activation_score": scores,
        "by_class": by_class,
    }


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
        said = "" if soft[-1] else hard_prompt(generator, f.objective, options).text
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


# -- speed and memory ---------------------------------------------------------------------------------


def speed(generator: Generator, options: SynthesisOptions, quick: bool) -> dict[str, Any]:
    """Time to the same held-out log-odds by the published scheme, over ours; a bound where it never came."""
    limit, every = (2, 1) if quick else (200, 10)
    names = ["bearded"] if quick else ["bearded", "hired", "rebel"]
    objectives = [class_objective(load_classifier(f"pocket:{n}"), None) for n in names]
    seeds = held_out_seeds(4 if quick else 16, SHOWN + 2)
    started = time.monotonic()
    optima = best(generator, objectives, options)
    ours = (time.monotonic() - started) / len(objectives)
    levels = [
        float(o.score(drawn(generator, x, options, seeds)).mean())
        for o, x in zip(objectives, optima, strict=True)
    ]
    theirs = [
        published(o, level, options, seeds, limit, every)
        for o, level in bar(list(zip(objectives, levels, strict=True)), description="published scheme")
    ]
    return {
        "ratio_speed": float(np.mean([seconds for seconds, _ in theirs])) / ours,
        "ratio_speed_is_a_bound": not all(reached for _, reached in theirs),
        "seconds_ours": ours,
        "seconds_published": float(np.mean([seconds for seconds, _ in theirs])),
        "held_out_log_odds": levels,
    }


def published(
    objective: ClassObjective,
    level: float,
    options: SynthesisOptions,
    seeds: list[int],
    limit: int,
    every: int,
) -> tuple[float, bool]:
    """Seconds until held-out pictures reach a level, and whether they did within `limit` iterations.

    As DEXTER's code: one picture at a time, both branches at guidance 1, the UNet's input detached, gradients
    also of weights that stay as they are; AdamW, at a rate ten times less than its 0.1, for embeddings are
    small. What is read to stop is not counted.
    """
    generator = load_generator("pocket-turbo", device=choose_device())
    model = generator.model
    weights = [w for part in (model._unet, model._vae, model._texts[0][1]) for w in part.parameters()]
    for weight in weights:
        weight.requires_grad_(True)
    word = generator.embedding(options.word)
    soft = word[torch.zeros(options.tokens, dtype=torch.long)].clone().to(generator.device).requires_grad_()
    adam, spent = torch.optim.AdamW([soft], lr=0.01), 0.0
    empty = generator.prompts([""])
    for i in range(1, limit + 1):
        started = time.monotonic()
        image = both_branches(generator, generator.states(soft[None], options.text), empty, 2 * i)
        objective.loss(image).sum().backward()
        adam.step()
        adam.zero_grad()
        for weight in weights:
            weight.grad = None
        spent += time.monotonic() - started
        if i % every == 0:
            with torch.no_grad():
                said = generator.states(soft[None], options.text).of([0] * len(seeds))
                if float(objective.score(rounded(generator.images(said, seeds))).mean()) >= level:
                    return spent, True
    return spent, False


def parts(said: Said) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a conditioning holds."""
    return said.states, said.pooled, said.tokens


def both_branches(generator: Generator, said: Said, empty: Said, seed: int) -> torch.Tensor:
    """A picture (1, 3, H, W) whose every step asks the conditional and the unconditional branch."""
    model, path = generator.model, generator.path
    pair = Said(*(torch.cat(x) for x in zip(parts(empty), parts(said), strict=True)))
    x = generator.noises([seed])[:, 0]
    for i, time_ in enumerate(path.times):
        without, with_ = model.asked(x.detach().expand(2, -1, -1, -1), time_, pair)[:, None]
        clean = path.clean(x, without + 1.0 * (with_ - without), i)
        kept = float(path.sigma[i + 1] / path.sigma[i])
        last = i + 1 == len(path)
        x = clean if last else kept * x + (float(path.alpha[i + 1]) - kept * float(path.alpha[i])) * clean
    return model.decoded(x)


def peak(mode: str, rows: int) -> float:
    """Memory in GB that pictures with a gradient take on top of the model, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as one:
        return one.submit(_peak, mode, rows).result()


def _peak(mode: Any, rows: int) -> float:
    device = choose_device()
    model = load_generator("pocket-turbo", device=device)
    soft = model.embedding("person")[None].expand(rows, -1, -1).clone().requires_grad_()
    model.images(model.prompts(["a person"]), [0])
    before = _memory(device, start=True)
    images = model.draw(model.states(soft, "a person with"), range(rows), mode=mode)
    torch.autograd.grad(images.sum(), soft)
    return (_memory(device) - before) / 2**30


def _memory(device: torch.device, *, start: bool = False) -> float:
    """The most bytes held since the start that was marked; those held now, where it is marked."""
    if device.type == "cuda":
        if start:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if start:
        Path("/proc/self/clear_refs").write_text("5")  # what was held while loading does not count
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line.split()[1] for line in status if line.startswith("VmHWM")))


if __name__ == "__main__":
    harness.run("synthesis", __doc__ or "", measure)
