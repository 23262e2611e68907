"""The concept tree: every concept with what it has from the nodes above it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from hashlib import blake2b
from typing import NoReturn

from diffexplain.errors import CorpusError
from diffexplain.records import Direction


@dataclass(frozen=True, slots=True)
class Concept:
    """One node of the tree, with everything it has from the nodes above it."""

    path: str
    name: str
    depth: int  # 0 at the top of the tree
    prompt: str  # full text; empty: an inner node without words, its leaves stand in
    phrase: str  # its clause in a caption; empty: it has none
    own_prompt: str  # the full text where it was stated whole
    parent: str | None
    children: tuple[str, ...]
    leaves: tuple[str, ...]  # at or under it
    directions: tuple[Direction, ...]  # of an inner node, unless stated: those of any of its leaves
    slot: str | None  # the nearest exclusive node, at or above it
    absent_prompt: str | None  # full text of that slot's absence
    absent: str | None  # the clause of it
    hidden_by: tuple[str, ...]  # it cannot be seen while one of these is there
    replaces: tuple[str, ...]  # what adding it necessarily takes away
    whole_image: bool  # locality is not judged
    protected: bool

    @property
    def is_leaf(self) -> bool:
        """Whether nothing is under it."""
        return not self.children


#: stands over the roots, since a node hands down what it has
_TOP = Concept("", "", -1, "", "", "", None, (), (), (), None, None, None, (), (), False, False)


@dataclass(frozen=True)
class Corpus:
    """The concept tree of a domain: `path in corpus`, `corpus[path]`; iterating gives the paths."""

    name: str
    domain: str
    prompt: str  # template of prompts, with {phrase} in it
    neutral: str  # generic prompt of the domain
    concepts: Mapping[str, Concept] = field(hash=False, repr=False)  # in document order
    roots: tuple[str, ...]
    #: what `restrict` left out: not asked about, but still looked up (it may hide what is asked)
    outside: Mapping[str, Concept] = field(default_factory=dict, hash=False, repr=False)
    #: where the concepts come from; not in the hash
    sources: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def hash(self) -> str:
        """blake2b of the content, order included."""
        tree = [astuple(c) for c in self.concepts.values()], sorted(map(astuple, self.outside.values()))
        content = json.dumps([self.name, self.domain, self.prompt, self.neutral, self.roots, tree])
        return blake2b(content.encode(), digest_size=16).hexdigest()

    def __getitem__(self, path: str) -> Concept:
        """The concept at a path. Raises CorpusError, with close matches."""
        return self.concepts.get(path) or self.outside.get(path) or self._unknown(path)

    def __contains__(self, path: object) -> bool:
        return path in self.concepts

    def __iter__(self) -> Iterator[str]:
        return iter(self.concepts)

    def __len__(self) -> int:
        return len(self.concepts)

    def walk(self) -> Iterator[Concept]:
        """Every concept, a parent before its children, in document order."""
        return iter(self.concepts.values())

    def leaves(self) -> tuple[Concept, ...]:
        """The concepts with nothing under them."""
        return tuple(c for c in self.walk() if c.is_leaf)

    @property
    def phrases(self) -> tuple[str, ...]:
        """What a person says of the leaves, then of the slots that are empty; once each."""
        said = [*(c.phrase for c in self.leaves()), *(c.absent for c in self.leaves())]
        return tuple(dict.fromkeys(p for p in said if p))

    def children(self, path: str) -> tuple[Concept, ...]:
        """The concepts right under a path. Raises CorpusError for an unknown path."""
        return tuple(self[p] for p in self[path].children)

    def slot_leaves(self, slot: str) -> tuple[Concept, ...]:
        """The leaves that exclude each other in a slot. Raises CorpusError if it is not one."""
        if self[slot].slot != slot:
            raise CorpusError(f"corpus {self.name!r}: {slot!r} is no slot; mark it `exclusive: true`")
        return tuple(self[p] for p in self[slot].leaves)

    def restrict(self, paths: str | Iterable[str]) -> Corpus:
        """Just the subtrees at these paths. Raises CorpusError for an unknown path, or no path."""
        chosen = {paths} if isinstance(paths, str) else set(paths)
        unknown = sorted(chosen.difference(self))
        if unknown or not chosen:
            self._unknown(unknown[0] if unknown else "")
        inside = {p: c for p, c in self.concepts.items() if not chosen.isdisjoint((p, *ancestors(p)))}
        roots = tuple(p for p in inside if chosen.isdisjoint(ancestors(p)))
        outside = {p: c for p, c in {**self.outside, **self.concepts}.items() if p not in inside}
        return replace(self, concepts=inside, roots=roots, outside=outside)

    def _unknown(self, path: str) -> NoReturn:
        close = [p for p in self if p.endswith(f"/{path}")] or get_close_matches(path, self)
        cure = f"did you mean {close[:3]}?" if close else f"its roots are {list(self.roots)}"
        raise CorpusError(f"corpus {self.name!r} has no concept {path!r}; {cure}")


def tree_text(corpus: Corpus) -> str:
    """The tree for people: one indented line a concept, with its directions and its prompt."""
    lines = [f"{corpus.name}: {corpus.domain}, {len(corpus)} concepts, {len(corpus.leaves())} leaves"]
    for concept in corpus.walk():
        indent = "  " * (1 + sum(path in corpus for path in ancestors(concept.path)))
        signs = "".join({"add": "+", "remove": "−"}[d] for d in concept.directions)
        signs += " one of" * (concept.slot == concept.path) + " protected" * concept.protected
        lines.append(f"{indent}{concept.name}  {signs}  {concept.prompt}".rstrip())
    return "\n".join(lines)


def ancestors(path: str) -> tuple[str, ...]:
    """The paths above a path, the nearest first."""
    parts = path.split("/")
    return tuple("/".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
