"""Shortcuts, from units to mitigation: the figures of all parts in one object.

A part is a function `(quick) -> figures`. Audit and mitigation are those of `benchmarks.audit`; as there, the
full run uses the half of the zoo that is kept for final figures, `--quick` the other one.

Units: a member's units that carry its class most. The object is its cause; a unit is core where the cause's
attribute makes more than 0.6 of its variance under re-rendering (Jansen's estimate of the total Sobol index,
1999, over avatars that show the cause in half), spurious below 0.4, else not scored. Shortcuts: pairs of a
member and a concept outside its cause's attribute, true where the effect by re-rendering exceeds the margin.
A concept that hides the cause (a hijab the garment) moves the class rightly and is no such pair. As a person
would who asks about a part of somebody, every call says that background, skin tone, stickers and the colour
of clothes should not matter. `_clear`: without the pairs whose truth lies within two standard errors of the
margin.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import diffexplain as dx
from benchmarks import audit, harness
from benchmarks.audit import Member, bar, rate
from benchmarks.salient_imagenet import auc, balanced, kappa
from diffexplain import pocket
from diffexplain.auditing import attributes, fairness_gaps
from diffexplain.baselines import AttackOptions, maximise
from diffexplain.classifiers import Classifier, load_classifier
from diffexplain.corpus import load_corpus
from diffexplain.counterfactuals import Counterfactuals, Rebuilt
from diffexplain.editors.generator import Generator, load_generator
from diffexplain.images import rounded
from diffexplain.judges import load_segmenter
from diffexplain.records import Interval
from diffexplain.records.spurious import UnitVerdict
from diffexplain.spurious import Moved, Object, inside, shortcut
from diffexplain.synthesis.gallery import Gallery
from diffexplain.synthesis.units import last_pooled
from diffexplain.targets import UnitObjective, choose_objective
from diffexplain.worlds import avatars as world

CORE, SPURIOUS = 0.6, 0.4  # shares of a unit's variance from which it is scored
IRRELEVANT = ("background", "skin tone", "sticker", "clothing/colour")  # to any of the zoo's classes


class Size(NamedTuple):
    """How much is measured."""

    units: int  # of each member
    pictures: int  # held-out ones of each unit
    images: int  # of the class, for the interventions
    truth: int  # avatars that variances are measured with
    steps: int  # of the feature attack
    synthesis: Mapping[str, Any]  # in place of what `find_spurious` does by itself


FULL = Size(5, 48, 24, 500, 200, {})
FEW = {"steps": 0, "tokens": 1, "candidates": 8, "pool": 4, "seeds": 4}
QUICK = Size(2, 12, 10, 100, 10, FEW)


class Row(NamedTuple):
    """A unit, what is true of it and what is said."""

    name: str
    truth: float  # the cause's share of its variance
    said: UnitVerdict
    plain: bool  # core by the pictures of the neutral prompt that excite it most
    attack: bool  # core by feature attacks on avatars without the cause


def units_figures(quick: bool) -> Mapping[str, Any]:
    """Core or spurious: the product's verdicts on the units of the members, and three simple rules'."""
    members = [m for pair in audit.biased(held_out=not quick) for m in pair]
    size, gallery = QUICK if quick else FULL, Gallery()
    return unit_figures([r for m in bar(members[: 2 if quick else None], description="units")
                         for r in unit_rows(m, size, gallery)])  # fmt: skip


def unit_rows(member: Member, size: Size, gallery: Gallery) -> list[Row]:
    """The units of one member; words' pictures are drawn once for all members."""
    cause, name = member.stated["cause"], f"pocket:zoo/{member.name}"
    classifier = load_classifier(name)
    layer = last_pooled(classifier)
    shares = variance_shares(classifier, layer, cause, size.truth)
    drawn = balanced_avatars(cause, 4 * size.images, audit.DEVELOPMENT_SEED + 7)
    images = world.render([a for a in drawn if world.present(a, cause)][: size.images], 64)
    words = words_of(cause)
    with tempfile.TemporaryDirectory() as folder:
        found = dx.find_spurious(
            name, member.stated["target"], object=words, top=size.units, images=images, layer=layer,
            hard=False, corpus="avatars", synthesis_options=size.synthesis, gallery=gallery,
            options={"pictures": size.pictures}, out=Path(folder) / "run",
        )  # fmt: skip
    simple = Simple(load_generator("pocket-turbo"), thing(words), found.result.calibration.area, size)
    without = world.render([a for a in drawn if not world.present(a, cause)][: size.pictures // 2], 64)
    rows = []
    for said in found.units:
        objective = choose_objective(classifier, unit=said.unit)
        assert isinstance(objective, UnitObjective)
        rows.append(
            Row(
                f"{member.name} {said.unit}",
                float(shares[objective.channel]),
                said,
                simple.by_neutral(objective),
                simple.by_attack(objective, without),
            )
        )
    return rows


def words_of(cause: str) -> str:
    """What a person calls it."""
    if cause in world.GENERAL:
        return world.GENERAL[cause]
    slot, name = world.LEAVES[cause]
    return world.ATTRIBUTES[slot][name].phrase


def thing(words: str) -> Object:
    """The object, and the segmenter that looks for it."""
    segmenter = load_segmenter("pocket")
    assert segmenter is not None
    return Object(words, f"a person with {words}", segmenter)


def balanced_avatars(cause: str, n: int, seed: int) -> list[world.Avatar]:
    """Avatars of which every second one shows the cause."""
    rng = np.random.default_rng(seed)
    return [world.force(a, cause, i % 2 == 0, rng) for i, a in enumerate(world.sample(n, seed))]


def variance_shares(classifier: Classifier, layer: str, cause: str, n: int) -> np.ndarray:
    """The share of each channel's variance that the cause's attribute makes, by re-rendering: (C,)."""
    slot = world.LEAVES[world.leaves(cause)[0]][0]
    ones = balanced_avatars(cause, n, audit.DEVELOPMENT_SEED + 8)
    others = balanced_avatars(cause, n, audit.DEVELOPMENT_SEED + 9)
    order = np.random.default_rng(0).permutation(n)
    mixed = [a._replace(**{slot: getattr(others[i], slot)}) for a, i in zip(ones, order, strict=True)]

    def read(avatars: Sequence[world.Avatar]) -> torch.Tensor:
        with torch.no_grad():
            parts = [classifier.activations(x, layer) for x in world.render(avatars, 64).split(100)]  # type: ignore[attr-defined]
        return torch.cat(parts).double()

    before, after = read(ones), read(mixed)
    return (0.5 * (before - after).square().mean(0) / before.var(0).clamp_min(1e-12)).numpy()


class Simple:
    """Rules without an optimised prompt, an interval or an intervention."""

    def __init__(self, generator: Generator, object_: Object, area: float, size: Size) -> None:
        self._thing, self._area, self._size = object_, area, size
        seeds = list(range(7, 7 + 4 * size.pictures))
        self._neutral = rounded(generator.images(generator.prompts(["a person with"] * len(seeds)), seeds))
        self._there = object_.areas(self._neutral) >= area

    def by_neutral(self, objective: UnitObjective) -> bool:
        """Whether most of the neutral prompt's pictures that excite the unit most show the object."""
        best = objective.score(self._neutral).argsort(descending=True)[: self._size.pictures // 4]
        return bool(self._there[best.numpy()].mean() > 0.5)

    def by_attack(self, objective: UnitObjective, images: torch.Tensor) -> bool:
        """Whether feature attacks on pictures without the object bring it (Engstrom et al. 2019)."""
        attack = AttackOptions(images, steps=self._size.steps)
        made = rounded(maximise(objective, seeds=range(len(images)), options=attack))
        return bool((self._thing.areas(made) >= self._area).mean() > 0.5)


def unit_figures(rows: Sequence[Row]) -> Mapping[str, Any]:
    """Agreement with the truth over scored units; what each line of evidence and each simple rule does."""
    scored = [r for r in rows if r.truth > CORE or r.truth < SPURIOUS]
    truth = np.array([r.truth < SPURIOUS for r in scored], dtype=bool)

    def of(verdicts: Sequence[str]) -> dict[str, float]:
        decided = np.array([v != "undecided" for v in verdicts], dtype=bool)
        said = np.array([v == "spurious" for v in verdicts], dtype=bool)
        t, s = truth[decided], said[decided]
        both = 0 < t.sum() < len(t)
        nan = float("nan")
        return {
            "balanced_accuracy": balanced(t, s) if both else nan,
            "kappa": kappa(t, s) if both else nan,
            "abstained": 1 - float(decided.mean()) if len(scored) else nan,
        }

    def rule(core: Callable[[Row], bool]) -> dict[str, float]:
        return of(["core" if core(r) else "spurious" for r in scored])

    ours = of([r.said.verdict for r in scored])
    score = np.array([-_score(r.said) for r in scored])
    return {
        "unit_balanced_accuracy": ours["balanced_accuracy"],
        "unit_abstained": ours["abstained"],
        "kappa": ours["kappa"],
        "auc": auc(truth, score) if 0 < truth.sum() < len(truth) else float("nan"),
        "units_core": int((~truth).sum()),
        "units_spurious": int(truth.sum()),
        "units_not_scored": len(rows) - len(scored),
        "unit_by_presence": of([r.said.by_presence for r in scored]),
        "unit_by_intervention": of([r.said.causal.verdict if r.said.causal else "undecided" for r in scored]),
        "baselines": {
            "always_core": rule(lambda r: True),
            "plain_prompt": rule(lambda r: r.plain),
            "feature_attack": rule(lambda r: r.attack),
        },
        "unit_by_unit": {
            r.name: [round(r.truth, 3), r.said.verdict, round(r.said.presence, 3),
                     round(r.said.causal.share.value, 3) if r.said.causal else None, r.said.reached]
            for r in rows
        },
    }  # fmt: skip


def _score(said: UnitVerdict) -> float:
    """How core a unit is: mean of both lines of evidence, each 0 to 1."""
    return (said.presence + said.causal.share.value) / 2 if said.causal else said.presence


# -- shortcuts ----------------------------------------------------------------------------------------


def shortcuts_figures(quick: bool) -> Mapping[str, Any]:
    """Concepts named shortcuts, over pairs of a member and a concept outside its cause's attribute."""
    members = [m for pair in audit.biased(held_out=not quick) for m in pair]
    return shortcut_figures(members, *audit.edits(quick), audit.truths(quick))


def shortcut_figures(
    members: Sequence[Member],
    pairs: Sequence[Counterfactuals],
    given: Rebuilt,
    truth: Mapping[str, Mapping[str, audit.Truth]],
) -> Mapping[str, Any]:
    """Recall over pairs above the margin, false discoveries among those named, with exact intervals.

    `shortcut_named_below`: of the pairs below the margin, how many are named.
    """
    margin = float(pocket.zoo()["margin"])
    rows: list[tuple[str, str, float, float]] = []  # member, concept, 1 if named, true effect
    errors: list[float] = []
    looked: dict[tuple[str, str], Interval | None] = {}
    for member in bar(members, description="shortcuts"):
        slot = world.LEAVES[world.leaves(member.stated["cause"])[0]][0]
        mine = [
            p
            for p in pairs
            if p.concept in world.LEAVES and audit.SLOTS[p.concept] != slot and not hides(p.concept, slot)
        ]
        named = named_by(member, mine, given, margin, looked)
        true = truth[member.name]
        rows += [(member.name, p.concept, float(p.concept in named), true[p.concept].value) for p in mine]
        errors += [true[p.concept].error for p in mine]
    clear = np.array([abs(abs(r[3]) - margin) > 2 * e for r, e in zip(rows, errors, strict=True)], dtype=bool)
    real = np.array([abs(r[3]) > margin for r in rows], dtype=bool)
    found = np.array([r[2] == 1 for r in rows], dtype=bool)
    return {
        **rate("shortcut_recall", int((found & real).sum()), int(real.sum())),
        **rate("shortcut_false_discovery", int((found & ~real).sum()), int(found.sum())),
        **rate("shortcut_named_below", int((found & ~real).sum()), int((~real).sum())),
        **rate("shortcut_recall_clear", int((found & real & clear).sum()), int((real & clear).sum())),
        **rate(
            "shortcut_false_discovery_clear", int((found & ~real & clear).sum()), int((found & clear).sum())
        ),
        "shortcut_pairs": len(rows),
        "shortcut_missed": audit.listed(rows, real & ~found),
        "shortcut_false": audit.listed(rows, found & ~real),
    }


def hides(concept: str, slot: str) -> bool:
    """Whether an attribute cannot be seen where the concept is."""
    return not any(world.applicable(world.do(a, concept), slot) for a in world.sample(20, 0))


def named_by(
    member: Member,
    pairs: Sequence[Counterfactuals],
    given: Rebuilt,
    margin: float,
    looked: dict[tuple[str, str], Interval | None],
) -> set[str]:
    """The concepts that are shortcuts of a member, as `find_spurious` names them.

    `looked`: where the edits of a concept fall on a cause, for members of one cause share it.
    """
    target, cause = member.target(), member.stated["cause"]
    words = words_of(cause)
    object_ = thing(words)
    wanted = attributes(load_corpus("avatars"), audit.AUDITED)
    named = set()
    for g in fairness_gaps(target, pairs, wanted, rebuilt=given):
        p = next(p for p in pairs if p.concept == g.concept)
        moved = Moved(g.concept, g.direction, g.gap, g.low, g.high, g.q, g.images, g.back, g.lost, g.in_all)
        if not moved.matters(margin):
            continue
        if (cause, p.concept) not in looked:
            looked[cause, p.concept] = inside(object_, p.images, p.before, p.after)
        irrelevant = p.concept.startswith(tuple(f"{x}/" for x in IRRELEVANT))
        if shortcut(moved, looked[cause, p.concept], irrelevant, margin):
            named.add(p.concept)
    return named


PARTS: tuple[Callable[[bool], Mapping[str, Any]], ...] = (
    units_figures,
    shortcuts_figures,
    audit.audit_figures,
    audit.coverage_figures,
    audit.mitigation_figures,
)


def measure(quick: bool) -> Mapping[str, Any]:
    """All parts' figures; two parts never share a key."""
    figures: dict[str, Any] = {}
    for part in PARTS:
        found = part(quick)
        if twice := sorted(set(found) & set(figures)):
            raise ValueError(f"two parts give {', '.join(twice)}")
        figures.update(found)
    return figures


if __name__ == "__main__":
    harness.run("spurious", __doc__ or "", measure)
