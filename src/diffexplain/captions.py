"""What is said of a picture, and how an edit says it otherwise.

The source prompt of a picture names what the judge sees in it, one clause a concept; the prompt of an edit
is the same caption with one clause exchanged, added or left out. So everything else is asked to stay, as
edit-friendly inversion with a source and a target prompt intends (Huberman-Spiegelglas, Kulikov & Michaeli,
CVPR 2024, section 4); DiffEx and LEDITS++ start from an empty prompt.

An edit may uncover what no picture can tell: glasses in place of sunglasses show eyes. Left unsaid, these
would be what the diffusion model likes best, and its taste would be read as the concept's effect. So it is
said, as another picture of the run shows it (a hot deck: Andridge & Little 2010).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from diffexplain.corpus import Concept, Corpus
from diffexplain.records import Direction

SAID = 0.5  # presence from which a concept is named
MOST = 16  # clauses of a caption, the surest: a CLIP text encoder reads 77 tokens


class Covered(NamedTuple):
    """A slot that a picture does not show: what hides it there, and a clause of a picture that shows it."""

    by: tuple[str, ...]
    clause: str = ""  # empty: none does


@dataclass(frozen=True, slots=True)
class Caption:
    """The clauses of one picture, in the order of the corpus; keys are slots, or paths outside any slot."""

    corpus: Corpus
    clauses: Mapping[str, str]
    covered: Mapping[str, Covered] = field(default_factory=dict)  # slots that it hides

    @property
    def text(self) -> str:
        """The source prompt; the domain's neutral one where nothing is known."""
        return self._worded(self.clauses, "")

    def edited(self, path: str, direction: Direction) -> tuple[str, float]:
        """The prompt of an edit and its sign: +1 towards that prompt, -1 away from it.

        Away only where a concept is to go that the caption does not name.
        """
        concept = self.corpus[path]
        key = concept.slot or path
        gone = {key, *(c for c in self.clauses if direction == "add" and _displaces(self.corpus, concept, c))}
        rest = {k: v for k, v in self.clauses.items() if k not in gone}
        shown = dict(self._uncovered(concept, direction))
        if direction == "add":
            said = {**self._placed(rest, key, concept.phrase), **shown}
            return self._worded(said, concept.own_prompt), 1.0
        if concept.slot and concept.absent:
            return self._worded({**self._placed(rest, key, concept.absent), **shown}, ""), 1.0
        if key in self.clauses:
            return self._worded({**rest, **shown}, ""), 1.0
        return self._worded(self._placed(rest, key, concept.phrase), concept.own_prompt), -1.0

    def _uncovered(self, edited: Concept, direction: Direction) -> Iterator[tuple[str, str]]:
        """Slot and clause of what can be seen once that edit is made, and could not before."""
        for slot, (by, clause) in self.covered.items():
            if all(_goes(self.corpus[h], edited, direction) for h in by):
                yield slot, clause

    def _placed(self, rest: Mapping[str, str], key: str, clause: str) -> dict[str, str]:
        """The clauses with one more: where its key stood, else at the end."""
        if key in self.clauses:
            return {k: clause if k == key else rest[k] for k in self.clauses if k == key or k in rest}
        return {**rest, key: clause}

    def _worded(self, clauses: Mapping[str, str], own: str) -> str:
        said = ", ".join(dict.fromkeys(c for c in clauses.values() if c))
        if own:  # a concept with a whole prompt of its own takes the template's place
            return f"{own}, {said}" if said else own
        return self.corpus.prompt.replace("{phrase}", said) if said else self.corpus.neutral


def read_captions(corpus: Corpus, presence: Mapping[str, np.ndarray]) -> tuple[Caption, ...]:
    """The captions of N pictures from concept -> (N,) presence in [0, 1], as `effects.presence` gives it.

    What they hide is not known yet: `filled` borrows it, of all pictures together.
    """
    n = len(next(iter(presence.values())))
    nodes = (*corpus.walk(), *corpus.outside.values())
    sure: dict[str, tuple[np.ndarray, list[str]]] = {}  # key -> how sure (N,), clause of each picture
    hidden: dict[str, np.ndarray] = {}  # slot -> which of what may hide it does (what, N)
    for concept in nodes:
        if concept.slot == concept.path:
            there = np.array([presence[h] >= SAID for h in concept.hidden_by], dtype=bool).reshape(-1, n)
            hidden[concept.path] = there
            sure[concept.path] = _slot(corpus, concept, presence, np.asarray(there.any(0)))
        elif concept.slot is None and concept.is_leaf and concept.phrase:
            sure[concept.path] = (presence[concept.path], [concept.phrase] * n)
    captions = []
    for i in range(n):
        known = [k for k, (share, clause) in sure.items() if clause[i] and share[i] >= SAID]
        surest = set(sorted(known, key=lambda k: -sure[k][0][i])[:MOST])
        covered = {
            slot: Covered(tuple(h for h, yes in zip(corpus[slot].hidden_by, there[:, i], strict=True) if yes))
            for slot, there in hidden.items()
            if there[:, i].any()
        }
        captions.append(Caption(corpus, {k: sure[k][1][i] for k in known if k in surest}, covered))
    return tuple(captions)


def filled(captions: Sequence[Caption]) -> tuple[Caption, ...]:
    """The captions of a run's pictures with what they hide borrowed from those that show it, at random.

    Slots that the same things hide come from one picture, since they go together. Lenders are chosen evenly
    over all, in the order of what they show: the borrowed values are spread as the shown ones.
    """
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = {}  # by slots, and what hides them
    for i, caption in enumerate(captions):
        for by in dict.fromkeys(c.by for c in caption.covered.values()):
            slots = tuple(s for s, c in caption.covered.items() if c.by == by)
            groups.setdefault((slots, by), []).append(i)
    rng, covered = np.random.default_rng(0), [dict(c.covered) for c in captions]
    for (slots, by), rows in groups.items():
        lenders = sorted([c.clauses.get(s, "") for s in slots] for c in captions if _shows(c, slots))
        places = (np.arange(len(rows)) + 0.5) * len(lenders) / len(rows)
        for i, place in zip(rng.permutation(rows), places.astype(int), strict=True):
            lent = lenders[place] if lenders else [""] * len(slots)
            covered[i] |= {s: Covered(by, clause) for s, clause in zip(slots, lent, strict=True)}
    return tuple(replace(c, covered=x) for c, x in zip(captions, covered, strict=True))


def _shows(caption: Caption, slots: Sequence[str]) -> bool:
    """Whether nothing but these slots themselves hides one of them: shut eyes have no colour."""
    hiding = [h for s in slots if s in caption.covered for h in caption.covered[s].by]
    return all(caption.corpus[h].slot in slots for h in hiding)


def _slot(
    corpus: Corpus, slot: Concept, presence: Mapping[str, np.ndarray], hidden: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """The likeliest leaf of a slot, or its absence, in each picture; nothing where it is hidden (N,)."""
    members = corpus.slot_leaves(slot.path)
    shares = np.stack([presence[m.path] for m in members] + [np.zeros(len(hidden))])
    if slot.absent:
        shares[-1] = 1 - shares[:-1].sum(0)
    shares[:, hidden] = 0.0
    words = [*(m.phrase for m in members), slot.absent or ""]
    return shares.max(0), [words[k] for k in shares.argmax(0)]


def _goes(hiding: Concept, edited: Concept, direction: Direction) -> bool:
    """Whether something that hides is no longer there after an edit."""
    own = edited.path == hiding.path or edited.path.startswith(hiding.path + "/")
    instead = edited.slot is not None and hiding.slot == edited.slot
    if direction == "remove":
        return own or instead
    return (instead or hiding.path in edited.replaces) and not own


def _displaces(corpus: Corpus, added: Concept, key: str) -> bool:
    """Whether what a clause says can no longer be seen once a concept is there."""
    path, over = added.path, corpus[key]
    hides = any(path == h or path.startswith(h + "/") for h in over.hidden_by)
    return (
        hides or key in added.replaces or (over.slot == key and bool(set(over.leaves) & set(added.replaces)))
    )
