"""What is said of a picture, and how an edit says it otherwise.

The source prompt of a picture names what the judge sees in it, one clause a concept; the prompt of an edit
is the same caption with one clause exchanged, added or left out. So everything else is asked to stay, as
edit-friendly inversion with a source and a target prompt intends (Huberman-Spiegelglas, Kulikov & Michaeli,
CVPR 2024, section 4); DiffEx and LEDITS++ start from an empty prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from diffexplain.corpus import Concept, Corpus
from diffexplain.records import Direction

SAID = 0.5  # presence from which a concept is named
MOST = 16  # clauses of a caption, the surest: a CLIP text encoder reads 77 tokens


@dataclass(frozen=True, slots=True)
class Caption:
    """The clauses of one picture, in the order of the corpus; keys are slots, or paths outside any slot."""

    corpus: Corpus
    clauses: Mapping[str, str]

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
        if direction == "add":
            return self._worded(self._placed(rest, key, concept.phrase), concept.own_prompt), 1.0
        if concept.slot and concept.absent:
            return self._worded(self._placed(rest, key, concept.absent), ""), 1.0
        if key in self.clauses:
            return self._worded(rest, ""), 1.0
        return self._worded(self._placed(rest, key, concept.phrase), concept.own_prompt), -1.0

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
    """The captions of N pictures from concept -> (N,) presence in [0, 1], as `effects.presence` gives it."""
    n = len(next(iter(presence.values())))
    nodes = (*corpus.walk(), *corpus.outside.values())
    sure: dict[str, tuple[np.ndarray, list[str]]] = {}  # key -> how sure (N,), clause of each picture
    for concept in nodes:
        if concept.slot == concept.path:
            sure[concept.path] = _slot(corpus, concept, presence, n)
        elif concept.slot is None and concept.is_leaf and concept.phrase:
            sure[concept.path] = (presence[concept.path], [concept.phrase] * n)
    captions = []
    for i in range(n):
        known = [k for k, (share, clause) in sure.items() if clause[i] and share[i] >= SAID]
        surest = set(sorted(known, key=lambda k: -sure[k][0][i])[:MOST])
        captions.append(Caption(corpus, {k: sure[k][1][i] for k in known if k in surest}))
    return tuple(captions)


def _slot(
    corpus: Corpus, slot: Concept, presence: Mapping[str, np.ndarray], n: int
) -> tuple[np.ndarray, list[str]]:
    """The likeliest leaf of a slot, or its absence, in each picture; nothing where it is hidden."""
    members = corpus.slot_leaves(slot.path)
    shares = np.stack([presence[m.path] for m in members] + [np.zeros(n)])
    hidden = np.zeros(n, dtype=bool)
    for hiding in slot.hidden_by:
        hidden |= presence[hiding] >= SAID
    if slot.absent:
        shares[-1] = 1 - shares[:-1].sum(0)
    shares[:, hidden] = 0.0
    words = [*(m.phrase for m in members), slot.absent or ""]
    return shares.max(0), [words[k] for k in shares.argmax(0)]


def _displaces(corpus: Corpus, added: Concept, key: str) -> bool:
    """Whether what a clause says can no longer be seen once a concept is there."""
    path, over = added.path, corpus[key]
    hides = any(path == h or path.startswith(h + "/") for h in over.hidden_by)
    return (
        hides or key in added.replaces or (over.slot == key and bool(set(over.leaves) & set(added.replaces)))
    )
