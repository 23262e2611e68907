"""The part of the validity benchmark that needs pictures: networks of chance, and the gate."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn
from torch.nn import functional as F

from benchmarks.oracle import Oracle, edit_readings
from benchmarks.truth import rerendered
from diffexplain.classifiers import load_classifier
from diffexplain.classifiers.modules import ModuleClassifier
from diffexplain.classifiers.null import NullClassifier
from diffexplain.corpus import load_corpus
from diffexplain.editors import load_editor
from diffexplain.effects import Subject, Tools, draw, prepare, read
from diffexplain.gate import calibrate, passed
from diffexplain.images import pictures
from diffexplain.judges import load_judge, load_segmenter
from diffexplain.records import Ask, Effect, Question
from diffexplain.targets import Target, choose_target
from diffexplain.worlds import avatars as world

SEED = 5_000_000  # avatars of no other use
WEAK = (0.125, 0.25, 0.375)  # strengths of edits weakened on purpose
UNCHANGED = 0.99  # share of the other visible attributes that the oracle must read as before


def bench() -> Tools:
    """The bundled editor, judge and regions."""
    aim = choose_target(NullClassifier(), None)
    regions = load_segmenter("world:avatars")
    return Tools(aim, load_editor("pocket"), load_judge("pocket"), regions, load_corpus("avatars"))


# -- networks of chance --------------------------------------------------------------------------------------


def network_figures(quick: bool) -> dict[str, Any]:
    """Networks that learnt nothing do respond to pictures: their estimates must agree with re-rendering.

    And randomising the top layers of a planted classifier must change the ranking.
    """
    people, leaves = (8, 6) if quick else (32, 16)
    tools = bench()
    drawn = world.sample(people, SEED)
    subject = prepare(tools, pictures(world.render(drawn, 64)), 1)
    chosen = list(world.LEAVES)[:: len(world.LEAVES) // leaves][:leaves]
    before, after = _edits(tools, subject, chosen)
    truth = {leaf: rerendered(leaf, 40 if quick else 200, 64) for leaf in after}
    hired = load_classifier("pocket:hired")._module  # type: ignore[attr-defined]
    aims = {
        "random": _aim(_random(hired, everything=True)),
        "shuffled": _aim(_shuffled(hired, 200 if quick else 1500)),
    }
    plain, top = _aim(hired), _aim(_random(hired, everything=False))

    def estimates(aim: Target) -> np.ndarray:
        return np.array([float((aim.score(after[x]) - aim.score(before[x])).mean()) for x in after])

    def truths(aim: Target) -> np.ndarray:
        return np.array([float((aim.score(b) - aim.score(a)).mean()) for a, b in truth.values()])

    agreement = {
        f"{k}_network_agreement": float(pearsonr(estimates(a), truths(a))[0]) for k, a in aims.items()
    }
    same = spearmanr(np.abs(estimates(plain)), np.abs(estimates(top)))[0]
    return {**agreement, "randomised_top_rank_correlation": float(same)}


def _edits(tools: Tools, subject: Subject, leaves: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Leaf -> reconstructions and edits of its eligible pictures."""
    before, after = {}, {}
    for leaf in leaves:
        rows = [i for i in range(len(subject.images)) if subject.eligible(tools.corpus, i, 0, leaf, "add")]
        if rows:
            asks = [Ask(i, 0, Question.single(leaf), (leaf,), "report") for i in rows]
            before[leaf], after[leaf] = subject.reconstructions[rows], draw(tools, subject, asks)()
    return before, after


def _aim(module: nn.Module) -> Target:
    half = (0.5, 0.5, 0.5)
    return choose_target(ModuleClassifier(module, ("no", "yes"), size=64, mean=half, std=half), "yes")


def _random(module: nn.Module, *, everything: bool) -> nn.Module:
    """A copy, all weights or the last quarter of the layers drawn anew (Adebayo et al. 2018)."""
    made = deepcopy(module)
    layers = [m for m in made.modules() if hasattr(m, "reset_parameters")]
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        for layer in layers if everything else layers[-max(1, len(layers) // 4) :]:
            layer.reset_parameters()  # type: ignore[operator]
    return made.eval()


def _shuffled(module: nn.Module, n: int) -> nn.Module:
    """A network of this kind trained from chance on labels that have nothing to do with the pictures."""
    made = _random(module, everything=True).train().requires_grad_(True)
    x = 2 * world.render(world.sample(n, SEED + 1), 64) - 1
    labels = torch.from_numpy(np.random.default_rng(SEED).integers(2, size=n)).float()
    best = torch.optim.AdamW(made.parameters(), 2e-3)
    for epoch in range(4):
        for rows in torch.randperm(n, generator=torch.Generator().manual_seed(epoch)).split(50):
            loss = F.binary_cross_entropy_with_logits(made(x[rows]).flatten(), labels[rows])
            best.zero_grad()
            loss.backward()
            best.step()
    return made.eval().requires_grad_(False)


# -- the gate ------------------------------------------------------------------------------------------------


def gate_figures(quick: bool) -> dict[str, Any]:
    """The gate against the oracle, on as many edits that failed, weakened on purpose, as took.

    The gate is calibrated on the edits of full strength alone, as a run's are; another half of the avatars
    is judged.
    """
    tools, people = bench(), 40 if quick else 300
    drawn = world.sample(people, SEED + 2)
    subject = prepare(tools, pictures(world.render(drawn, 64)), 1)
    rows, took = weakened(tools, subject, drawn)
    half = set(subject.images[: people // 2])
    limits = calibrate([r for r in rows if r.strength == 1 and r.image in half])
    asked = [(passed(r, limits), t) for r, t in zip(rows, took, strict=True) if r.image not in half]
    good, bad = [p for p, t in asked if t], [p for p, t in asked if not t]
    n = min(len(good), len(bad))
    rng = np.random.default_rng(SEED)
    right, wrong = rng.permutation(good)[:n], rng.permutation(bad)[:n]
    failed, happened = float(1 - np.mean(wrong)), float(np.mean(right))
    return {
        "gate_balanced_accuracy": (failed + happened) / 2,
        "gate_failed_recall": failed,
        "gate_happened_recall": happened,
        "gate_edits": 2 * n,
    }


def weakened(
    tools: Tools, subject: Subject, drawn: Sequence[world.Avatar]
) -> tuple[list[Effect], list[bool]]:
    """A leaf added to each avatar at full strength and weakly: rows, and whether the oracle sees it done."""
    rng = np.random.default_rng(SEED)
    asks: list[Ask] = []
    for i, avatar in enumerate(drawn):
        fitting = [
            x
            for x in world.LEAVES
            if world.eligible(avatar, x) and subject.eligible(tools.corpus, i, 0, x, "add")
        ]
        leaf = fitting[int(rng.integers(len(fitting)))]
        weak = float(rng.choice(WEAK))
        asks += [Ask(i, 0, Question.single(leaf), (leaf,), "report", w) for w in (1.0, weak)]
    made = draw(tools, subject, asks)()
    rows, _ = read(tools, subject, asks, made, 0)
    happened, unchanged = edit_readings(
        Oracle(), [drawn[a.image] for a in asks], [a.edited_as[0] for a in asks], made
    )
    return rows, [bool(h and u >= UNCHANGED) for h, u in zip(happened, unchanged, strict=True)]
