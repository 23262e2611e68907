"""The shortcuts among the concepts of an `explain` run, for `find_spurious`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

import torch

from diffexplain.api.answers import Explanation
from diffexplain.classifiers import Classifier
from diffexplain.corpus import Corpus, load_corpus
from diffexplain.counterfactuals import ENOUGH
from diffexplain.errors import CorpusError, InputError
from diffexplain.images import decode_png
from diffexplain.records import Interval, Result
from diffexplain.records.spurious import Shortcut
from diffexplain.report.finished import Finished
from diffexplain.spurious import Moved, Object, SpuriousOptions, inside, irrelevant_among, shortcut
from diffexplain.statistics import mean_effect
from diffexplain.targets import Target


def listed(names: str | Sequence[str]) -> list[str]:
    """Names given as a list, or comma-separated."""
    parts = names.split(",") if isinstance(names, str) else list(names)
    return [p.strip() for p in parts if p.strip()]


@dataclass(frozen=True, slots=True)
class Told:
    """A finished `explain` run, and the concepts that are said not to matter."""

    finished: Finished
    irrelevant: frozenset[str]

    @property
    def result(self) -> Result:
        """What the run found."""
        return self.finished.result


def explained(
    explanation: Explanation | str | Path | None,
    model: Classifier,
    aim: Target,
    irrelevant: str | Sequence[str],
) -> Told | None:
    """The run given, if any. Raises InputError: of another classifier or target, or a name unknown to it."""
    names = listed(irrelevant)
    if explanation is None:
        if names:
            raise InputError("irrelevant names concepts of an explain run: give it too (--run, explanation=)")
        return None
    done = explanation.finished if isinstance(explanation, Explanation) else Finished.read(explanation)
    if isinstance(explanation, Explanation) and explanation.folder is None:
        raise InputError("the explanation was kept in memory, without its pictures; give `explain` an out=")
    asked = done.result.request
    if (asked.classifier, asked.target) != (model.name, aim.label):
        raise InputError(
            f"the run explains {asked.target!r} of {asked.classifier}, not {aim.label!r} of {model.name}; "
            "give a run of the same classifier and target"
        )
    return Told(done, irrelevant_among((c.concept for c in done.result.concepts), names))


def shortcuts(told: Told, thing: Object, options: SpuriousOptions, tree: Corpus | None) -> Iterator[Shortcut]:
    """The explain run's concepts that move the class although they should not, the strongest first."""
    locates, corpus = getattr(thing.segmenter, "locates", True), _corpus_of(told.result, tree)
    for c in told.result.concepts:
        back = _back(told, corpus, c.concept, c.direction) if corpus else nan
        moved = Moved(c.concept, c.direction, c.effect, c.low, c.high, c.q, c.images, back)
        if c.status != "measured" or not moved.matters(options.margin):
            continue
        where = _inside(told, thing, moved) if locates else None
        if found := shortcut(moved, where, c.concept in told.irrelevant, options.margin):
            yield found


def _corpus_of(result: Result, tree: Corpus | None) -> Corpus | None:
    """The run's own corpus, where it is the one given or a bundled one."""
    request = result.request
    if tree is not None and tree.hash == request.corpus_hash:
        return tree
    try:
        bundled = load_corpus(request.corpus)
    except CorpusError:
        return None
    return bundled if bundled.hash == request.corpus_hash else None


def _back(told: Told, corpus: Corpus, concept: str, direction: str) -> float:
    """A concept's mean effect from pictures that show it already, by what replaces it; nan: unknown."""
    slot = corpus[concept].slot
    if direction != "add" or slot is None or not corpus[concept].is_leaf:
        return nan
    leaves = corpus.slot_leaves(slot)
    if leaves[0].absent_prompt:
        return nan  # it may be absent: what replaces it is another change
    kind = ("add", "report")
    added = [r for r in told.finished.effects if r.eligible and (r.direction, r.stage) == kind]
    without = {r.image for r in added if r.concept == concept}
    rivals = {leaf.path for leaf in leaves} - {concept}
    rows = [r for r in added if r.concept in rivals and r.image not in without]
    found = mean_effect([-r.change for r in rows], [r.image for r in rows])
    return found.mean if found.clusters >= ENOUGH else nan


def _inside(told: Told, thing: Object, moved: Moved) -> Interval | None:
    """Where the run's edits of a concept changed its pictures."""
    asked = (moved.concept, moved.direction, "report")
    rows = [r for r in told.finished.effects if (r.concept, r.direction, r.stage) == asked and r.eligible]
    if not rows:
        return None  # an inner node's effect is its leaves'
    before, after = (
        torch.stack([decode_png(told.finished.picture(n)) for n in names])
        for names in ([r.reconstruction for r in rows], [r.edited for r in rows])
    )
    return inside(thing, [r.image for r in rows], before, after)
