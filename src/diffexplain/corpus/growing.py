"""From a document to its tree: what a node hands down, and what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import get_args

from diffexplain.corpus.document import Document, Node
from diffexplain.corpus.tree import Concept, Corpus, ancestors
from diffexplain.errors import CorpusError
from diffexplain.records import JOIN, Direction

MAX_SLOT = 1_000  # leaves that exclude each other: each of them names all the others
_DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
#: stands over the roots, since a node hands down what it has
_TOP = Concept("", "", -1, "", "", "", None, (), (), (), None, None, None, (), (), False, False)


def grow(document: Document) -> Corpus:
    """The tree of a document. Raises CorpusError for paths that do not fit together."""
    grown = [c for node in document.concepts for c in _grown(node, _TOP, document.prompt)]
    _check_paths(grown)
    roots = tuple(c.path for c in grown if c.parent is None)
    return Corpus(
        name=document.name,
        domain=document.domain,
        prompt=document.prompt,
        neutral=document.neutral,
        concepts={c.path: c for c in grown},
        roots=roots,
        sources=tuple(document.sources),
    )


def _grown(node: Node, above: Concept, template: str) -> list[Concept]:
    """The concept of a node, then those under it."""
    path = f"{above.path}/{node.name}".lstrip("/")
    if "/" in node.name or JOIN in f" {node.name} ":
        raise CorpusError(f"{path!r}: {node.name!r} has '/' or {JOIN!r} in it, which join paths; rename it")
    if node.absent and not node.exclusive:
        raise CorpusError(f"{path!r}, key 'absent': only a slot has it; add `exclusive: true`")
    phrase = node.phrase or ("" if node.children else node.name)
    absent = template.replace("{phrase}", node.absent) if node.absent else None
    stated = tuple(d for d in _DIRECTIONS if d in (node.directions or above.directions))
    concept = Concept(
        path=path,
        name=node.name,
        depth=above.depth + 1,
        prompt=node.prompt or (template.replace("{phrase}", phrase) if phrase else ""),
        phrase="" if node.prompt and not node.phrase else phrase,
        own_prompt=node.prompt or "",
        parent=above.path or None,
        children=tuple(f"{path}/{child.name}" for child in node.children),
        leaves=(),  # known below
        directions=stated,
        slot=path if node.exclusive else above.slot,
        absent_prompt=absent if node.exclusive else above.absent_prompt,
        absent=node.absent if node.exclusive else above.absent,
        hidden_by=_joined(above.hidden_by, node.hidden_by),
        replaces=_joined(above.replaces, node.replaces),
        whole_image=above.whole_image if node.whole_image is None else node.whole_image,
        protected=above.protected if node.protected is None else node.protected,
    )
    below = [c for child in node.children for c in _grown(child, concept, template)]
    possible = _DIRECTIONS if concept.absent_prompt or not concept.slot else _DIRECTIONS[:1]
    leaves = {c.path: c.directions for c in below if c.is_leaf} or {path: possible}
    if node.exclusive:  # its leaves replace each other, whatever slots lie between
        if len(leaves) > MAX_SLOT:
            raise CorpusError(f"{path!r} has {len(leaves):,} leaves; a slot may have {MAX_SLOT:,}; split it")
        below = [replace(c, replaces=_joined(c.replaces, leaves, c)) if c.is_leaf else c for c in below]
    offered = tuple(d for d in _DIRECTIONS if any(d in directions for directions in leaves.values()))
    return [replace(concept, leaves=tuple(leaves), directions=stated or offered), *below]


def _joined(paths: Iterable[str], more: Iterable[str], but: Concept = _TOP) -> tuple[str, ...]:
    """Each path once, but for one. Shares memory where nothing is added."""
    return tuple(p for p in dict.fromkeys((*paths, *more)) if p != but.path) if more else tuple(paths)


def _check_paths(concepts: Sequence[Concept]) -> None:
    """Every path is there once; what hides or is replaced is there, in another branch."""
    path, times = Counter(c.path for c in concepts).most_common(1)[0]
    if times > 1:
        raise CorpusError(f"{path!r} is there {times} times; rename one")
    known = {c.path: (c.path, *ancestors(c.path)) for c in concepts}
    for c in concepts:
        for path in (*c.hidden_by, *c.replaces):
            if path in known[c.path] or c.path in known.get(path, (c.path,)):
                where = f"{c.path!r}, key {'hidden_by' if path in c.hidden_by else 'replaces'!r}"
                raise CorpusError(f"{where}: {path!r} is no concept in another branch; give a full path")
