"""The shortcuts among the concepts of an `explain` run, for `find_spurious`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diffexplain import layout
from diffexplain.api.answers import Explanation
from diffexplain.classifiers import Classifier
from diffexplain.corpus import Corpus, load_corpus
from diffexplain.counterfactuals import by_image, rebuilt
from diffexplain.errors import CorpusError, InputError
from diffexplain.images import decode_png
from diffexplain.records import Effect, Interval, Result
from diffexplain.records.spurious import Shortcut
from diffexplain.report.finished import Finished
from diffexplain.spurious import Moved, Object, SpuriousOptions, inside, irrelevant_among, shortcut
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


def shortcuts(
    told: Told, aim: Target, thing: Object, options: SpuriousOptions, tree: Corpus | None
) -> Iterator[Shortcut]:
    """The explain run's concepts that move the class although they should not, the strongest first."""
    locates, corpus = getattr(thing.segmenter, "locates", True), _corpus_of(told.result, tree)
    in_all = _in_all(told.finished, aim, corpus) if corpus else {}
    for c in told.result.concepts:
        moved = Moved(c.concept, c.direction, c.effect, c.low, c.high, c.q, c.images)
        if c.direction == "add" and (found := in_all.get(c.concept)):
            moved = moved._replace(back=found.had, lost=found.lost, in_all=found.in_all)
        if c.status != "measured" or not moved.matters(options.margin):
            continue
        where = _inside(told, thing, moved) if locates else None
        if named := shortcut(moved, where, c.concept in told.irrelevant, options.margin):
            yield named


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


def _in_all(result: Finished, aim: Target, corpus: Corpus) -> Mapping[str, layout.Told]:
    """The run's additions, by all that its pictures tell of them."""
    added: dict[str, list[Effect]] = {}
    for row in result.effects:
        if row.eligible and (row.direction, row.stage) == ("add", "report"):
            added.setdefault(row.concept, []).append(row)
    changes = {c: by_image(np.array([r.change for r in x]), [r.image for r in x]) for c, x in added.items()}
    of_slot = {c.slot: corpus.slot_leaves(c.slot) for c in corpus.leaves() if c.slot}
    slots = [layout.Slot(tuple(c.path for c in x), bool(x[0].absent_prompt)) for x in of_slot.values()]
    pictures = rebuilt(result.effects, result.picture)
    return layout.told(changes, slots, pictures.lost(aim) if pictures else None)


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
