"""Estimated effects against true ones: held-out avatars, every leaf added, exact re-rendering as truth.

Edits are made once and scored by every planted classifier. The headline figures are means over the
classifiers held out for final figures; the others are listed under `by_classifier` too. The default
search and the runs on `pocket:null` go through the whole procedure (`dx.explain`), with edits replayed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy.stats import pearsonr, spearmanr

import diffexplain as dx
from benchmarks import harness
from diffexplain import pocket
from diffexplain.classifiers import load_classifier
from diffexplain.classifiers.null import NullClassifier
from diffexplain.corpus import load_corpus
from diffexplain.editors import Edit, Editor, Inversion, Term, load_editor
from diffexplain.effects import Tools, prepare, presence, terms
from diffexplain.images import Pictures, hashes, pictures, rounded
from diffexplain.judges import Judge, load_judge
from diffexplain.records import Ask, Question
from diffexplain.targets import Target, choose_target
from diffexplain.worlds import avatars as world

SEED = 1_000_000  # held-out avatars; nothing is ever chosen on these
MARGIN = 0.25  # log-odds below which a true effect counts as none
CLEAR = 0.5  # log-odds above which a sign must be right
NULL_IMAGES = 16  # pictures of one null run

bar = partial(track, console=Console(stderr=True))


@dataclass
class Replay:
    """An editor that makes an edit once and remembers it, and a judge and regions that do the same."""

    editor: Editor
    known: dict[tuple[str, tuple[Term, ...]], torch.Tensor] = field(default_factory=dict)
    inverted: dict[str, Inversion] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name, self.size, self.rows = self.editor.name, self.editor.size, self.editor.rows
        self.default_judge = self.editor.default_judge
        self.captioned, self.default_segmenter = self.editor.captioned, None

    def settings(self) -> dict[str, Any]:
        """Those of the real editor."""
        return self.editor.settings()

    def evaluations(self, edit: Edit) -> int:
        """Those of the real editor."""
        return self.editor.evaluations(edit)

    def invert(
        self, images: torch.Tensor, seeds: Sequence[int], prompts: Sequence[str] | None = None
    ) -> Inversion:
        """Rows that stand for the pictures; the real inversions are kept aside."""
        said = tuple(prompts) if prompts is not None else ("",) * len(images)
        keys = [f"{h}:{s}:{p}" for h, s, p in zip(hashes(images), seeds, said, strict=True)]
        new = [i for i, key in enumerate(keys) if key not in self.inverted]
        if new:
            made = self.editor.invert(images[new], [seeds[i] for i in new], [said[i] for i in new])
            for row, i in enumerate(new):
                self.inverted[keys[i]] = made.select([row])
        rows = []
        for key in keys:
            if key not in self.names:
                self.names.append(key)
            rows.append(self.names.index(key))
        return Inversion({"name": torch.tensor(rows)}, said, tuple(seeds), (self.size, self.size))

    def edit(self, inversion: Inversion, edits: Sequence[Edit]) -> torch.Tensor:
        """Looked up; what is not known yet is made by the real editor."""
        owners = [self.names[int(inversion["name"][e.row])] for e in edits]
        keys = [(owner, e.terms) for owner, e in zip(owners, edits, strict=True)]
        new = list(dict.fromkeys(k for k in keys if k not in self.known))
        if new:
            inversions = Inversion.joined([self.inverted[owner] for owner, _ in new])
            made = self.editor.edit(inversions, [Edit(i, t) for i, (_, t) in enumerate(new)])
            self.known.update(zip(new, rounded(made), strict=True))
        return torch.stack([self.known[k] for k in keys])

    def reconstruct(self, inversion: Inversion) -> torch.Tensor:
        """An edit without terms."""
        return self.edit(inversion, [Edit(i) for i in range(len(inversion))])


@dataclass
class RememberingJudge:
    """A judge that looks at a picture once."""

    judge: Judge
    seen: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.judge.name

    def logits(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """(N, P), looked up by the picture's hash; the prompts are always the corpus's."""
        keys = hashes(images)
        new = [i for i, key in enumerate(keys) if key not in self.seen]
        if new:
            for i, row in zip(new, self.judge.logits(images[new], prompts), strict=True):
                self.seen[keys[i]] = row
        return torch.stack([self.seen[key] for key in keys])


def measure(quick: bool) -> Mapping[str, Any]:
    """All figures."""
    edited, truthful, null_runs = (12, 40, 20) if quick else (96, 600, 100)
    corpus = load_corpus("avatars")
    leaves = [c.path for c in corpus.leaves()]
    replay, judge = Replay(load_editor("pocket")), RememberingJudge(load_judge("pocket"))
    given = pictures(world.render(world.sample(edited, SEED), replay.size))
    table = estimate_pictures(replay, judge, given, leaves)
    truth_pairs = {leaf: rerendered(leaf, truthful, replay.size) for leaf in bar(leaves, description="truth")}
    by_classifier: dict[str, dict[str, Any]] = {}
    for name in bar([n for n in pocket.classifiers() if n != "null"], description="classifiers"):
        config = json.loads((pocket.classifier_folder(name) / "config.json").read_text())
        target = choose_target(load_classifier(f"pocket:{name}"), config["target"])
        rows = effects(target, table, truth_pairs)
        figures = agreement(rows)
        answer = dx.explain(
            target.classifier, given, target=target.label, editor=replay, judge=judge,
            directions=("add",), joint_steps=1,
        )  # fmt: skip
        found = [c.concept for c in answer.concepts if c.status == "measured" and c.concept in leaves]
        figures["search_top5_recall"] = recall(rows, found)
        figures["search_top5_effect_share"] = effect_share(rows, found)
        figures["search_edits"] = answer.result.cost.edits
        by_classifier[name] = {"held_out": config["held_out"], **figures}
        show(name, rows)
    final = [f for f in by_classifier.values() if f["held_out"]]
    discoveries = [null_run(key, given, replay, judge) for key in bar(range(null_runs), description="null")]
    return {
        "pearson_mean": mean(final, "pearson"),
        "pearson_min": min(f["pearson"] for f in final),
        "pearson_without_top": mean(final, "pearson_without_top"),
        "spearman_mean": mean(final, "spearman"),
        "slope_mean": mean(final, "slope"),
        "sign_agreement": mean(final, "sign_agreement"),
        "top5_recall": mean(final, "top5_recall"),
        "top5_effect_share": mean(final, "top5_effect_share"),
        "null_leaf_agreement": mean(final, "null_leaf_agreement"),
        "search_top5_effect_share": mean(final, "search_top5_effect_share"),
        "search_top5_recall": mean(final, "search_top5_recall"),
        "null_run_rate": float(np.mean(discoveries)),
        "null_runs": null_runs,
        "images": edited,
        "edit_success": float(np.mean(np.concatenate([s for *_, s in table.values() if len(s)]))),
        "by_classifier": by_classifier,
    }


Table = dict[str, tuple[torch.Tensor, torch.Tensor, np.ndarray]]


def estimate_pictures(replay: Replay, judge: RememberingJudge, given: Pictures, leaves: list[str]) -> Table:
    """Leaf -> (reconstructions, edits, happened) over the images that the method finds eligible."""
    corpus = load_corpus("avatars")
    target = choose_target(NullClassifier(), None)
    subject = prepare(Tools(target, replay, judge, None, corpus), given, 1)
    worded = [c.path for c in corpus.walk() if c.prompt]  # leaves, and inner nodes that the searches ask
    wanted = {
        path: [i for i in range(len(given)) if subject.eligible(corpus, i, 0, path, "add")] for path in worded
    }

    def adding(path: str) -> list[Edit]:
        return [
            Edit(i, terms(subject.captions[i], Ask(i, 0, Question.single(path), (path,), "report"), 1.0))
            for i in wanted[path]
        ]

    edits = [edit for path in worded for edit in adding(path)]
    size = replay.rows // 2
    for start in bar(range(0, len(edits), size), description="edits"):
        replay.edit(subject.inversion, edits[start : start + size])
    table: Table = {}
    for leaf in leaves:
        rows = wanted[leaf]
        if not rows:
            continue
        made = replay.edit(subject.inversion, adding(leaf))
        there = presence(judge, corpus, made)[leaf] >= 0.5
        table[leaf] = (subject.reconstructions[rows], made, there)
    return table


def rerendered(leaf: str, n: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fresh eligible avatars before and after `do(leaf)`."""
    chosen = [a for a in world.sample(n, SEED + 1) if world.eligible(a, leaf)]
    return world.render(chosen, size), world.render([world.do(a, leaf) for a in chosen], size)


@dataclass(frozen=True)
class Row:
    """One leaf: what was estimated and what is true."""

    leaf: str
    estimate: float
    truth: float
    error: float  # standard error of the truth


def effects(
    target: Target, table: Table, truth_pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
) -> list[Row]:
    """Estimated and true mean Δ log-odds of every leaf."""
    rows = []
    for leaf, (before, after, _) in table.items():
        estimate = (target.score(after) - target.score(before)).mean().item()
        first, second = truth_pairs[leaf]
        change = target.score(second) - target.score(first)
        rows.append(Row(leaf, estimate, change.mean().item(), change.std().item() / len(change) ** 0.5))
    return rows


def agreement(rows: Sequence[Row]) -> dict[str, Any]:
    """How well estimates agree with truths over leaves."""
    estimate, truth = np.array([r.estimate for r in rows]), np.array([r.truth for r in rows])
    rest = np.argsort(-np.abs(truth))[1:]
    clear = np.array([abs(r.truth) > 2 * r.error for r in rows])
    large, small = np.abs(truth) > CLEAR, np.abs(truth) < MARGIN
    ranked = [rows[i].leaf for i in np.argsort(-np.abs(estimate))]
    return {
        "pearson": float(pearsonr(estimate, truth)[0]),
        "pearson_without_top": float(pearsonr(estimate[rest], truth[rest])[0]),
        "spearman": float(spearmanr(estimate[clear], truth[clear])[0]),
        "slope": float(np.polyfit(truth, estimate, 1)[0]),
        "sign_agreement": share(np.sign(estimate[large]) == np.sign(truth[large])),
        "null_leaf_agreement": share(np.abs(estimate[small]) < MARGIN),
        "top5_recall": recall(rows, ranked),
        "top5_effect_share": effect_share(rows, ranked),
        "leaves": len(rows),
    }


def recall(rows: Sequence[Row], ranked: Sequence[str], n: int = 5) -> float:
    """Share of the n truly strongest leaves among the first n found."""
    best = {r.leaf for r in sorted(rows, key=lambda r: -abs(r.truth))[:n]}
    return len(best & set(ranked[:n])) / n


def effect_share(rows: Sequence[Row], ranked: Sequence[str], n: int = 5) -> float:
    """Sum of the true |effects| of the first n found over that of the n strongest; 1: only ties differ."""
    strengths = {r.leaf: abs(r.truth) for r in rows}
    best = sorted(strengths.values(), reverse=True)[:n]
    return sum(strengths.get(leaf, 0.0) for leaf in ranked[:n]) / sum(best)


def null_run(key: int, given: Pictures, replay: Replay, judge: RememberingJudge) -> bool:
    """Whether the whole procedure claims a discovery where no concept can have an effect."""
    chosen = np.sort(
        np.random.default_rng(key).choice(len(given), min(NULL_IMAGES, len(given)), replace=False)
    )
    some = Pictures(
        pixels=given.pixels[chosen],
        names=tuple(given.names[i] for i in chosen),
        hashes=tuple(given.hashes[i] for i in chosen),
        skipped=(),
        notes=(),
    )
    answer = dx.explain(
        NullClassifier(key + 1), some, editor=replay, judge=judge, directions=("add",), joint_steps=1
    )
    return any(c.q < 0.05 for c in answer.concepts if c.status == "measured")


def share(flags: np.ndarray) -> float:
    """Mean of booleans; nan where there is none."""
    return float(np.mean(flags)) if len(flags) else float("nan")


def mean(figures: Sequence[Mapping[str, Any]], key: str) -> float:
    """Mean over classifiers."""
    return float(np.nanmean([f[key] for f in figures]))


def show(name: str, rows: Sequence[Row]) -> None:
    """The strongest leaves of a classifier, for people."""
    console = Console(width=100)
    console.print(f"[bold]{name}[/bold]: estimated / true effect")
    for r in sorted(rows, key=lambda r: -abs(r.truth))[:8]:
        console.print(f"  {r.leaf:<32} {r.estimate:+6.2f}  {r.truth:+6.2f} ± {r.error:.2f}")


if __name__ == "__main__":
    harness.run("truth", __doc__ or "", measure)
