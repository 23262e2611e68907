"""For whom does a classifier answer differently: attribute counts, and counterfactual fairness.

Two lines of evidence. Counts (DiffExplainer, Pennisi et al. 2025): which attribute values the pictures
that maximise a class show, against plain-prompt pictures or a balanced twin's. Counterfactuals (Kusner
et al. 2017): what the answer does when the attribute of a real picture, and nothing else, is changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from diffexplain.corpus import Concept, Corpus
from diffexplain.counterfactuals import Counterfactuals, Rebuilt, gap
from diffexplain.effects import PRESENT, presence
from diffexplain.errors import InputError
from diffexplain.images import rounded
from diffexplain.judges import Judge
from diffexplain.layout import Slot, told
from diffexplain.records.audit import AttributeGap, AttributeShares, FairnessGap, Reading, Reference
from diffexplain.shares import Counts, confusion, corrected_shares, counted, difference
from diffexplain.statistics import benjamini_hochberg, benjamini_yekutieli
from diffexplain.targets import Target

FEWEST = 50  # pictures a class below which an audit of counts says that it is weak
ABSENT = "none"

Readings = NDArray[np.int64]


@dataclass(frozen=True)
class Attribute:
    """A slot of the corpus: values that exclude each other, its absence first where it has one."""

    name: str
    leaves: tuple[Concept, ...]
    values: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        below = tuple(c.path.removeprefix(f"{self.name}/") for c in self.leaves)
        empty = (ABSENT,) if self.leaves[0].absent_prompt else ()
        object.__setattr__(self, "values", (*empty, *below))

    @property
    def prompts(self) -> tuple[str, ...]:
        """One a value."""
        empty = self.leaves[0].absent_prompt
        return (*((empty,) if empty else ()), *(c.prompt for c in self.leaves))


def attributes(corpus: Corpus, names: Sequence[str]) -> tuple[Attribute, ...]:
    """The corpus's slots of these names: a path, or its last part where that is one slot's alone.

    Raises InputError for a name that the reader does not know, listing those it knows.
    """
    slots = list(dict.fromkeys(c.slot for c in corpus.walk() if c.slot))
    if not names:
        raise InputError(f"no attribute given; corpus {corpus.name!r} has {', '.join(slots)}")
    found = []
    for name in dict.fromkeys(names):
        wanted = _plain(name.strip())
        matching = [s for s in slots if _plain(s) == wanted]
        matching = matching or [s for s in slots if _plain(s).endswith(f"/{wanted}")]
        if len(matching) != 1:
            why = "is several" if matching else "is unknown to the reader"
            raise InputError(
                f"attribute {name!r} {why}; corpus {corpus.name!r} has {', '.join(matching or slots)}"
            )
        found.append(Attribute(matching[0], corpus.slot_leaves(matching[0])))
    return tuple(found)


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ")


def read_attribute(judge: Judge, corpus: Corpus, attribute: Attribute, images: torch.Tensor) -> Readings:
    """Index of the value that the judge reads in each picture (N,), zero-shot; -1 where it is hidden."""
    images = rounded(images)
    found = judge.logits(images, list(attribute.prompts)).argmax(1).numpy().astype(np.int64)
    hiding = {h for c in attribute.leaves for h in c.hidden_by}
    if hiding:
        seen = presence(judge, corpus, images)
        hidden = np.any([seen[h] >= PRESENT for h in hiding], axis=0)
        found[hidden] = -1
    return np.asarray(found)


def calibrated(
    judge: Judge,
    corpus: Corpus,
    wanted: Sequence[Attribute],
    images: torch.Tensor,
    labels: Mapping[str, Sequence[str | None]],
) -> tuple[Reading, ...]:
    """How the judge reads labelled pictures: one confusion matrix an attribute.

    `labels`: attribute name -> the true value of each picture, None where it cannot be seen.
    Raises InputError for a missing attribute or an unknown value, and for fewer than 10 of a value.
    """
    found = []
    for attribute in wanted:
        stated = labels.get(attribute.name)
        if stated is None:
            raise InputError(
                f"the labelled pictures do not say {attribute.name!r}; they say {', '.join(labels)}"
            )
        unknown = sorted({v for v in stated if v is not None}.difference(attribute.values))
        if unknown:
            raise InputError(
                f"label {unknown[0]!r} is no value of {attribute.name!r}; "
                f"values are {', '.join(attribute.values)}"
            )
        true = [-1 if v is None else attribute.values.index(v) for v in stated]
        table = confusion(read_attribute(judge, corpus, attribute, images), true, attribute.values)
        right = float((table.diagonal() / table.sum(1)).mean())
        rows = tuple(tuple(map(int, row)) for row in table)
        found.append(Reading(attribute.name, attribute.values, rows, right))
    return tuple(found)


def attribute_shares(
    judge: Judge,
    corpus: Corpus,
    wanted: Sequence[Attribute],
    images: Mapping[str, torch.Tensor],
    references: Mapping[Reference, Mapping[str, torch.Tensor]],
    readings: Sequence[Reading] = (),
) -> tuple[AttributeShares, ...]:
    """Attribute counts in the pictures of each class against references', tested over classes × attributes.

    `images`: label -> pictures that maximise the class; `references`: "plain" and "twin" -> the same for
    plain prompts and for the balanced twin. Shares are corrected where a reading of the attribute is
    given. Raises InputError when a reference lacks a class, or nothing can be counted.
    """
    matrices = {r.attribute: np.array(r.confusion) for r in readings}
    rows = []
    for attribute in wanted:
        matrix = matrices.get(attribute.name, np.eye(len(attribute.values), dtype=np.int64) * 10**9)

        def count(pictures: torch.Tensor, attribute: Attribute = attribute) -> Counts:
            return counted(read_attribute(judge, corpus, attribute, pictures), len(attribute.values))

        counts = {label: count(pictures) for label, pictures in images.items()}
        for against, others in references.items():
            if missing := sorted(set(images).difference(others)):
                raise InputError(f"the {against} reference has no pictures of class {missing[0]!r}")
            for label, mine in counts.items():
                rows.append(_row(label, attribute, against, mine, count(others[label]), matrix))
    qs = benjamini_hochberg([r.p for r in rows])
    return tuple(replace(r, q=float(q)) for r, q in zip(rows, qs, strict=True))


def _row(
    label: str, attribute: Attribute, against: Reference, mine: Counts, theirs: Counts, matrix: Counts
) -> AttributeShares:
    shares, others = corrected_shares(mine, matrix), corrected_shares(theirs, matrix)
    tested = difference(mine, theirs)
    return AttributeShares(
        label=label,
        attribute=attribute.name,
        values=attribute.values,
        against=against,
        counts=tuple(map(int, mine)),
        shares=tuple(s.value for s in shares),
        low=tuple(s.low for s in shares),
        high=tuple(s.high for s in shares),
        reference_counts=tuple(map(int, theirs)),
        reference_shares=tuple(s.value for s in others),
        effect_size=tested.effect_size,
        p=tested.p,
        q=float("nan"),
    )


def fairness_gaps(
    target: Target,
    pairs: Sequence[Counterfactuals],
    wanted: Sequence[Attribute],
    *,
    twin: Target | None = None,
    rebuilt: Rebuilt | None = None,
) -> tuple[FairnessGap, ...]:
    """What each edit of the attributes does to a target's answer, largest first; less the twin's, if given.

    `rebuilt`: the pictures that were edited, which tell what reconstruction takes from a value. p is of
    "there is no gap"; q is corrected for all edits under any dependence, for they share pictures.
    """
    of_leaf = {c.path: a for a in wanted for c in a.leaves}
    measured = [(p, gap(target, p, twin)) for p in pairs if p.concept in of_leaf and len(p)]
    added = {p.concept: found.changes for p, found in measured if p.direction == "add"}
    slots = [Slot(tuple(c.path for c in a.leaves), bool(a.leaves[0].absent_prompt)) for a in wanted]
    in_all = told(added, slots, rebuilt.lost(target, twin) if rebuilt else None)
    rows = []
    for pair, found in measured:
        e, whole = found.change, in_all.get(pair.concept) if pair.direction == "add" else None
        rows.append(
            FairnessGap(
                concept=pair.concept,
                direction=pair.direction,
                attribute=of_leaf[pair.concept].name,
                images=e.clusters,
                gap=e.mean,
                low=e.low,
                high=e.high,
                p=e.p,
                q=float("nan"),
                flip_rate=found.flip_rate,
                flip_low=found.flip_low,
                flip_high=found.flip_high,
                success_rate=found.happened,
                back=whole.had if whole else math.nan,
                lost=whole.lost if whole else math.nan,
                in_all=whole.in_all if whole else None,
            )
        )
    qs = benjamini_yekutieli([r.p for r in rows])
    tested = [replace(r, q=float(q)) for r, q in zip(rows, qs, strict=True)]
    return tuple(sorted(tested, key=lambda r: (-abs(r.gap), r.concept, r.direction)))


def attribute_gaps(gaps: Sequence[FairnessGap]) -> tuple[AttributeGap, ...]:
    """One row an attribute: its largest gap, and Simes' p (1986) of "no edit does anything"."""
    rows = []
    for name in dict.fromkeys(g.attribute for g in gaps):
        mine = [g for g in gaps if g.attribute == name]
        best = max(mine, key=lambda g: (abs(g.told), abs(g.gap), -g.p))
        p = np.sort([g.p for g in mine])
        simes = float(min(1.0, (len(p) * p / np.arange(1, len(p) + 1)).min()))
        rows.append(
            AttributeGap(
                name,
                best.concept,
                best.direction,
                best.gap,
                best.low,
                best.high,
                simes,
                math.nan,
                best.back,
                best.lost,
                best.in_all,
            )
        )
    qs = benjamini_yekutieli([r.p for r in rows])
    tested = [replace(r, q=float(q)) for r, q in zip(rows, qs, strict=True)]
    return tuple(sorted(tested, key=lambda r: (r.p, -abs(r.gap), r.attribute)))
