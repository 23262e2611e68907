"""Audit and mitigation against planted shortcuts: biased members of the zoo against their balanced twins.

What a member leans on is its true effect by exact re-rendering, never its recipe: of `TRUTH` avatars, for
many effects lie near the margin, where the 200 of `pocket/zoo.yaml` cannot tell. Edits are made once and
scored by every member. The full run uses the half of the zoo that is kept for final figures; `--quick` uses
the other one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

import diffexplain as dx
from benchmarks import harness
from diffexplain import api, pocket
from diffexplain.api.auditing import kept_inputs, kept_pairs
from diffexplain.auditing import Attribute, attribute_gaps, attributes, fairness_gaps, read_attribute
from diffexplain.classifiers import checked_logits, load_classifier
from diffexplain.classifiers.null import NullClassifier
from diffexplain.corpus import load_corpus
from diffexplain.counterfactuals import Counterfactuals, Rebuilt
from diffexplain.editors import load_editor
from diffexplain.judges import load_judge
from diffexplain.shares import confusion, corrected_shares, counted
from diffexplain.statistics import exact_interval
from diffexplain.targets import Target, choose_target
from diffexplain.worlds import avatars as world

SEED, DEVELOPMENT_SEED = 1_200_000, 550_000  # avatars of the full run and of the quick one
AUDITED = (
    "facial hair", "facewear", "headwear", "clothing/colour", "skin tone", "background/colour",
    "background/pattern", "sticker",
)  # fmt: skip
EDITED = 1_000  # avatars whose edits are made; of 256 even exact effects err by 0.06 log-odds
EDITOR = "pocket-turbo"  # four steps an edit; it hardly does worse than `pocket` (`benchmarks.pocket`)
TRUTH = 2_000  # avatars rendered again for the true effects
READ = ("skin tone", "background/colour", "headwear", "clothing/colour")
SLOTS = {path: slot for path, (slot, _) in world.LEAVES.items()}

bar = partial(track, console=Console(stderr=True))


class Member(NamedTuple):
    """A member of the zoo and what is known of it."""

    name: str
    stated: Mapping[str, Any]

    def target(self) -> Target:
        """The cause's label."""
        return choose_target(load_classifier(f"pocket:zoo/{self.name}"), self.stated["target"])

    def effect(self, leaf: str) -> float:
        """The true one, as the zoo states it."""
        return float(self.stated["effects"][leaf][0])


class Truth(NamedTuple):
    """A true effect and its standard error."""

    value: float
    error: float


def biased(held_out: bool) -> list[tuple[Member, Member]]:
    """Biased members of one half with their twins."""
    found = {name: Member(name, m) for name, m in pocket.zoo()["members"].items()}
    return [
        (m, found[m.stated["twin"]])
        for m in found.values()
        if m.stated["held_out"] == held_out and m.stated["twin"] in found
    ]


def measure(quick: bool) -> Mapping[str, Any]:
    """All figures of audit and mitigation."""
    return {**audit_figures(quick), **coverage_figures(quick), **mitigation_figures(quick)}


def audit_figures(quick: bool) -> Mapping[str, Any]:
    """Counterfactual edits: which attributes matter to the biased one beyond its twin, pooled over pairs."""
    return audited(biased(held_out=not quick), *edits(quick), audited_by(quick), truths(quick))


def audited_by(quick: bool) -> tuple[str, ...]:
    """The attributes whose edits are made."""
    return AUDITED[-2:] if quick else AUDITED


@lru_cache(maxsize=2)
def edits(quick: bool) -> tuple[list[Counterfactuals], Rebuilt]:
    """Every value of the attributes put into avatars, and these, once for all members and parts."""
    corpus, seed = load_corpus("avatars"), DEVELOPMENT_SEED if quick else SEED
    images = world.render(world.sample(12 if quick else EDITED, seed), load_editor(EDITOR).size)
    with tempfile.TemporaryDirectory() as folder:
        dx.explain(
            NullClassifier(), images, corpus=corpus.restrict(audited_by(quick)), editor=EDITOR,
            method="exhaustive", joint_steps=1, directions=("add",), out=Path(folder) / "edits",
        )  # fmt: skip
        given = kept_inputs(Path(folder) / "edits")
        assert given is not None
        return list(kept_pairs(Path(folder) / "edits").values()), given


@lru_cache(maxsize=2)
def truths(quick: bool) -> Mapping[str, Mapping[str, Truth]]:
    """Member -> leaf of the audited attributes -> its true effect, on avatars of no other use."""
    members = [m for pair in biased(held_out=not quick) for m in pair]
    avatars = world.sample(60 if quick else TRUTH, (DEVELOPMENT_SEED if quick else SEED) + 10_000)
    targets = {m.name: m.target() for m in members}
    before = scores(targets, world.render(avatars, 64))
    found: dict[str, dict[str, Truth]] = {m.name: {} for m in members}
    leaves = [x for x in world.LEAVES if x.startswith(tuple(f"{a}/" for a in audited_by(quick)))]
    for leaf in bar(leaves, description="true effects"):
        rows = [i for i, a in enumerate(avatars) if world.eligible(a, leaf)]
        after = scores(targets, world.render([world.do(avatars[i], leaf) for i in rows], 64))
        for name, score in after.items():
            change = score - before[name][rows]
            found[name][leaf] = Truth(float(change.mean()), float(change.std(ddof=1) / len(rows) ** 0.5))
    return found


def scores(targets: Mapping[str, Target], images: torch.Tensor) -> dict[str, np.ndarray]:
    """Name -> log-odds of pictures, (N,)."""
    return {
        name: np.concatenate([target.score(images[i : i + 200]).double().numpy()
                              for i in range(0, len(images), 200)])
        for name, target in targets.items()
    }  # fmt: skip


def audited(
    members: Sequence[tuple[Member, Member]],
    pairs: Sequence[Counterfactuals],
    given: Rebuilt,
    names: Sequence[str],
    truth: Mapping[str, Mapping[str, Truth]],
) -> Mapping[str, Any]:
    """Found: an attribute whose gap beyond the twin's is sure (q < 0.05 in its audit) and large."""
    margin, wanted = float(pocket.zoo()["margin"]), attributes(load_corpus("avatars"), names)
    rows: list[tuple[str, str, float, float]] = []  # pair, attribute, p, true difference
    said: list[bool] = []
    for one, twin in bar(members, description="audit"):
        cause = attribute_of(wanted, one.stated["cause"])
        gaps = fairness_gaps(one.target(), pairs, wanted, twin=twin.target(), rebuilt=given)
        for gap in attribute_gaps(gaps):
            if gap.attribute != cause:
                rows.append(
                    (
                        one.name,
                        gap.attribute,
                        gap.p,
                        largest(truth[one.name], truth[twin.name], gap.attribute),
                    )
                )
                said.append(gap.matters(margin))
    found = np.array(said)
    real = np.array([abs(r[3]) > margin for r in rows])
    return {
        **rate("audit_power", int((found & real).sum()), int(real.sum())),
        **rate("audit_false_discovery", int((found & ~real).sum()), int(found.sum())),
        "audit_pairs": len(rows),
        "audit_missed": listed(rows, real & ~found),
        "audit_false": listed(rows, found & ~real),
    }


def listed(rows: Sequence[tuple[str, str, float, float]], chosen: np.ndarray) -> list[str]:
    """Some of the pairs, with their true difference."""
    return [f"{r[0]} {r[1]} {r[3]:+.2f}" for r, c in zip(rows, chosen, strict=True) if c]


def attribute_of(wanted: Sequence[Attribute], concept: str) -> str:
    """The attribute that a concept belongs to; empty when it is none of these."""
    return next((a.name for a in wanted if f"{concept}/".startswith(f"{a.name}/")), "")


def largest(one: Mapping[str, Truth], twin: Mapping[str, Truth], attribute: str) -> float:
    """The true difference of the effects of the attribute's leaves that is largest."""
    leaves = [leaf for leaf in one if leaf.startswith(f"{attribute}/")]
    return max((one[leaf].value - twin[leaf].value for leaf in leaves), key=abs)


def rate(name: str, k: int, n: int) -> dict[str, Any]:
    """A share with its exact interval."""
    return {
        name: k / n if n else float("nan"),
        f"{name}_interval": list(exact_interval(k, n)),
        f"{name}_n": n,
    }


def coverage_figures(quick: bool) -> Mapping[str, Any]:
    """How often the corrected shares' intervals hold the truth.

    Real readings of the pocket CLIP on blurred, noisy avatars, drawn by true value: a calibration set of 40
    a value, and 100 pictures whose true shares are drawn anew (uniform over the simplex) each time.
    """
    repetitions, n = (200, 1_000) if quick else (2_000, 3_000)
    corpus, judge = load_corpus("avatars"), load_judge("pocket")
    avatars = world.sample(n, (DEVELOPMENT_SEED if quick else SEED) + 1)
    images = spoilt(world.render(avatars, load_editor("pocket").size))
    rng, covered, wide, plain = np.random.default_rng(0), [], [], []
    accuracies = {}
    per_attribute = repetitions // len(READ)
    for attribute in attributes(corpus, READ):
        read = read_attribute(judge, corpus, attribute, images)
        true = np.array([true_value(a, attribute) for a in avatars])
        groups = [read[true == k] for k in range(len(attribute.values))]
        accuracies[attribute.name] = float(np.mean([(g == k).mean() for k, g in enumerate(groups)]))
        for _ in bar(range(per_attribute), description=attribute.name):
            shares = rng.dirichlet(np.ones(len(groups)))
            labelled = [rng.choice(g, 40) for g in groups]
            table = confusion(
                np.concatenate(labelled), np.repeat(np.arange(len(groups)), 40), attribute.values
            )
            sizes = rng.multinomial(100, shares)
            audited = np.concatenate([rng.choice(g, size) for g, size in zip(groups, sizes, strict=True)])
            counts = counted(audited, len(groups))
            found = corrected_shares(counts, table)
            low, high = np.array([s.low for s in found]), np.array([s.high for s in found])
            covered.append((low <= shares) & (shares <= high))
            wide.append((high - low).mean())
            raw = corrected_shares(counts, np.eye(len(groups)) * 1e9)
            plain.append([s.low <= x <= s.high for s, x in zip(raw, shares, strict=True)])
    inside = np.concatenate(covered)
    return {
        "audit_coverage": float(inside.mean()),
        "audit_coverage_by_attribute": {
            name: float(np.concatenate(covered[i * per_attribute : (i + 1) * per_attribute]).mean())
            for i, name in enumerate(READ)
        },
        "audit_coverage_uncorrected": float(np.concatenate(plain).mean()),
        "audit_coverage_repetitions": per_attribute * len(READ),
        "audit_interval_width": float(np.mean(wide)),
        "audit_reader_accuracy": accuracies,
    }


def spoilt(images: torch.Tensor) -> torch.Tensor:
    """Pictures that a reader errs on: a quarter of the side, and noise."""
    small = torch.nn.functional.interpolate(images, scale_factor=0.25, mode="area")
    large = torch.nn.functional.interpolate(small, images.shape[-2:], mode="bilinear")
    noise = torch.randn(large.shape, generator=torch.Generator().manual_seed(0))
    return (large + 0.1 * noise).clamp(0, 1)


def true_value(avatar: world.Avatar, attribute: Attribute) -> int:
    """Index of the attribute's value; -1 where it cannot be seen."""
    leaves = {
        c.path: attribute.values.index(c.path.removeprefix(f"{attribute.name}/")) for c in attribute.leaves
    }
    slot = world.LEAVES[attribute.leaves[0].path][0]
    if not world.applicable(avatar, slot):
        return -1
    name = getattr(avatar, slot)
    return next((i for path, i in leaves.items() if world.LEAVES[path] == (slot, name)), 0)


def mitigation_figures(quick: bool) -> Mapping[str, Any]:
    """Shortcuts of biased members, true effect and balanced test accuracy before and after, by method."""
    methods = ("all", "last-layer", "damp")
    margin, seed = float(pocket.zoo()["margin"]), (DEVELOPMENT_SEED if quick else SEED) + 2
    leaning = [m for m, _ in biased(held_out=not quick) if abs(mean_effect(m)) > margin]
    if quick:
        leaning = leaning[:1]
    test = world.sample(400 if quick else 2_000, seed)
    pictures = world.render(test, 64)
    ratios: dict[str, list[float]] = {m: [] for m in methods}
    losses: dict[str, list[float]] = {m: [] for m in methods}
    details = {}
    for member in bar(leaning, description="mitigation"):
        before = effect_and_accuracy(member.target(), member, test, pictures)
        for method, target in mitigated(member, methods, 24 if quick else 96, seed + 1):
            after = effect_and_accuracy(target, member, test, pictures)
            ratios[method].append(abs(after[0]) / abs(before[0]))
            losses[method].append(100 * (before[1] - after[1]))
            details[f"{member.name} {method}"] = [round(x, 4) for x in (*before, *after)]
    return {
        "mitigation_effect_ratio": average(ratios["all"]),
        "mitigation_accuracy_loss": average(losses["all"]),
        "mitigation_effect_ratio_worst": max(ratios["all"], default=float("nan")),
        "mitigation_accuracy_loss_worst": max(losses["all"], default=float("nan")),
        "mitigation_members": len(leaning),
        "mitigation_by_method": {
            m: {"effect_ratio": average(ratios[m]), "accuracy_loss": average(losses[m])} for m in methods
        },
        "mitigation_by_member": details,  # effect and balanced accuracy before, then after
    }


def mitigated(member: Member, methods: Sequence[str], n: int, seed: int) -> Iterator[tuple[str, Target]]:
    """The member after each method, learnt from pictures of its own biased world, rightly labelled."""
    stated = member.stated
    avatars = world.sample(20 * n, seed, {(stated["cause"], stated["shortcut"]): stated["strength"]})
    labels = load_classifier(f"pocket:zoo/{member.name}").labels
    images = {}
    for k, label in enumerate(labels):
        chosen = [a for a in avatars if world.present(a, stated["cause"]) == bool(k)][: n // 2]
        images[label] = world.render(chosen, 64)
    with tempfile.TemporaryDirectory() as folder:
        for i, method in enumerate(methods):
            answer = api.mitigate(
                f"pocket:zoo/{member.name}", images, shortcuts=[stated["shortcut"]], method=method,
                target=stated["target"], editor=EDITOR, out=folder, resume=i > 0,
            )  # fmt: skip
            yield method, choose_target(answer.classifier, stated["target"])


def effect_and_accuracy(
    target: Target, member: Member, test: Sequence[world.Avatar], pictures: torch.Tensor
) -> tuple[float, float]:
    """The shortcut's true effect by re-rendering (mean over its leaves), and balanced accuracy."""
    effect, _ = world.true_effect(target.score, test[:300], member.stated["shortcut"])
    y = np.array([world.present(a, member.stated["cause"]) for a in test])
    right = (checked_logits(target.classifier, pictures)[:, 0].numpy() > 0) == y
    return effect, float((right[y].mean() + right[~y].mean()) / 2)


def mean_effect(member: Member) -> float:
    """The shortcut's stated true effect, mean over its leaves."""
    return float(np.mean([member.effect(leaf) for leaf in world.leaves(member.stated["shortcut"])]))


def average(values: Sequence[float]) -> float:
    """Mean; nan of nothing."""
    return float(np.mean(values)) if values else float("nan")


if __name__ == "__main__":
    harness.run("audit", __doc__ or "", measure)
