"""Two corpora compared, joined or cut, as documents: what a file states stays stated."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from diffexplain.corpus.document import Document, Node
from diffexplain.corpus.tree import Corpus
from diffexplain.errors import CorpusError

LONG = 60  # words of a prompt: a CLIP text encoder reads 77 tokens, about 4 tokens to 3 words
_HEAD = ("name", "domain", "prompt", "neutral")


def difference(old: Document, new: Document) -> tuple[str, ...]:
    """What changed, a line each: `- path`, `+ path`, `~ path: key: old → new`. Order does not count."""
    there, here = dict(flat(old.concepts)), dict(flat(new.concepts))
    lines = [line for key in _HEAD if (line := _changed(key, getattr(old, key), getattr(new, key)))]
    lines += [f"- {path}" for path in there if path not in here]
    lines += [f"+ {path}" for path in here if path not in there]
    for path in (path for path in here if path in there):
        before, after = _own(there[path]), _own(here[path])
        changes = (_changed(key, before[key], after[key]) for key in before)
        lines += [f"~ {path}: {change}" for change in changes if change]
    return tuple(lines)


def merged(first: Document, *others: Document) -> tuple[Document, tuple[str, ...]]:
    """The first with what the others have more; and a line for each statement that gave way to it.

    Its head, order and statements win. Concepts are the same where their paths are.
    """
    concepts, sources, gave_way = first.concepts, list(first.sources), list[str]()
    for other in others:
        concepts = _joined(concepts, other.concepts, "", gave_way)
        sources += [source for source in other.sources if source not in sources]
    return first.model_copy(update={"concepts": concepts, "sources": sources}), tuple(gave_way)


def pruned(document: Document, paths: Iterable[str]) -> Document:
    """Without the subtrees at these paths, nodes that lose all they had, and what named them.

    Raises CorpusError for a path that is not there, or when nothing is left.
    """
    gone = _known(document, paths)
    return _cut(document, {p for p, _ in flat(document.concepts) if _at_or_under(p, gone)})


def kept(document: Document, paths: Iterable[str]) -> Document:
    """Just the subtrees at these paths, with the nodes above them.

    Raises CorpusError for a path that is not there, or when nothing is left.
    """
    chosen = _known(document, paths)
    above = {p[:i] for p in chosen for i, c in enumerate(p) if c == "/"}
    stay = {p for p, _ in flat(document.concepts) if p in above or _at_or_under(p, chosen)}
    return _cut(document, {p for p, _ in flat(document.concepts)} - stay)


def findings(corpus: Corpus) -> tuple[str, ...]:
    """What is valid and yet probably a mistake, a line each."""
    lines = [
        f"{c.path!r} has a prompt of {n} words; a CLIP text encoder reads about {LONG}: shorten it"
        for c in corpus.walk()
        if (n := len(c.prompt.split())) > LONG
    ]
    said = Counter(c.prompt for c in corpus.leaves())
    lines += [
        f"{c.path!r} has the same prompt as another leaf, {c.prompt!r}: word it otherwise"
        for c in corpus.leaves()
        if said[c.prompt] > 1
    ]
    lines += [
        f"{c.path!r} is a slot with one leaf and no `absent`: nothing to choose from"
        for c in corpus.walk()
        if c.slot == c.path and len(c.leaves) < 2 and not c.absent
    ]
    return tuple(lines)


def flat(nodes: Iterable[Node], above: str = "") -> Iterator[tuple[str, Node]]:
    """Every node with its path, a parent before its children."""
    for node in nodes:
        path = f"{above}/{node.name}".lstrip("/")
        yield path, node
        yield from flat(node.children, path)


def _own(node: Node) -> dict[str, Any]:
    """What a node states itself."""
    return {key: getattr(node, key) for key in Node.model_fields if key not in ("name", "children")}


def _changed(key: str, old: object, new: object) -> str:
    return "" if old == new else f"{key}: {_shown(old)} → {_shown(new)}"


def _shown(value: object) -> str:
    return "nothing" if value in (None, []) else re.sub(r"\s+", " ", str(value))


def _joined(first: Sequence[Node], other: Sequence[Node], above: str, gave_way: list[str]) -> list[Node]:
    more = {node.name: node for node in other}
    found = []
    for node in first:
        twin = more.pop(node.name, None)
        found.append(node if twin is None else _one(node, twin, above, gave_way))
    return [*found, *more.values()]


def _one(node: Node, twin: Node, above: str, gave_way: list[str]) -> Node:
    """A node that both have: what it does not state is taken from its twin."""
    path = f"{above}/{node.name}".lstrip("/")
    mine, theirs, nothing = _own(node), _own(twin), _own(Node(name=node.name))
    filled = {key: theirs[key] for key in mine if mine[key] == nothing[key] != theirs[key]}
    gave_way += [
        f"{path}: {key}: {_shown(theirs[key])} gave way to {_shown(mine[key])}"
        for key in mine
        if nothing[key] != theirs[key] != mine[key] and key not in filled
    ]
    return node.model_copy(
        update={**filled, "children": _joined(node.children, twin.children, path, gave_way)}
    )


def _known(document: Document, paths: Iterable[str]) -> set[str]:
    there, asked = {path for path, _ in flat(document.concepts)}, list(paths)
    for path in asked:
        if path not in there:
            close = sorted(p for p in there if p.endswith(f"/{path}"))[:3]
            cure = f"did you mean {close}?" if close else "give a full path such as `corpus show` tells"
            raise CorpusError(f"corpus {document.name!r} has no concept {path!r}; {cure}")
    if not asked:
        raise CorpusError(f"corpus {document.name!r}: name at least one path to cut or keep")
    return set(asked)


def _at_or_under(path: str, roots: Collection[str]) -> bool:
    parts = path.split("/")
    return any("/".join(parts[:n]) in roots for n in range(1, len(parts) + 1))


def _cut(document: Document, gone: set[str]) -> Document:
    while True:  # a node that loses all it had goes too
        emptied = {
            path
            for path, node in flat(document.concepts)
            if path not in gone and node.children and all(f"{path}/{c.name}" in gone for c in node.children)
        }
        if not emptied:
            break
        gone = gone | emptied
    concepts = _without(document.concepts, gone, "")
    if not concepts:
        raise CorpusError(f"corpus {document.name!r}: nothing is left; cut less")
    return document.model_copy(update={"concepts": concepts})


def _without(nodes: Sequence[Node], gone: set[str], above: str) -> list[Node]:
    left = []
    for node in nodes:
        path = f"{above}/{node.name}".lstrip("/")
        if path not in gone:
            update = {
                "children": _without(node.children, gone, path),
                "hidden_by": [p for p in node.hidden_by if p not in gone],
                "replaces": [p for p in node.replaces if p not in gone],
            }
            left.append(node.model_copy(update=update))
    return left
