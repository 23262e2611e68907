"""One change to one node of a corpus, as a person makes it in a tree; the whole is checked each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffexplain.corpus.changes import flat, pruned
from diffexplain.corpus.document import Document, Node, restated
from diffexplain.corpus.growing import grow
from diffexplain.errors import CorpusError

NEW = "new concept"


def renamed(document: Document, path: str, name: str) -> Document:
    """With another name at this path, also where other concepts name it. Raises CorpusError."""
    name = name.strip()
    old, new = f"{path}/", f"{path.rpartition('/')[0]}/{name}/".lstrip("/")

    def moved(paths: Sequence[str]) -> list[str]:
        return [(new + f"{p}/"[len(old) :]).rstrip("/") if f"{p}/".startswith(old) else p for p in paths]

    def follow(node: Node) -> Node:
        update = {
            "hidden_by": moved(node.hidden_by),
            "replaces": moved(node.replaces),
            "children": [follow(child) for child in node.children],
        }
        return node.model_copy(update=update)

    named = _at(document, path, lambda node: restated(node, name=name))
    return _whole(named.model_copy(update={"concepts": [follow(node) for node in named.concepts]}))


def rephrased(document: Document, path: str, phrase: str) -> Document:
    """With another phrase at this path; empty: as if it were not stated. Raises CorpusError."""
    return _whole(_at(document, path, lambda node: restated(node, phrase=phrase or None)))


def added(document: Document, above: str, name: str = NEW) -> tuple[Document, str]:
    """With one more leaf under a path ("": a root), and its path. Raises CorpusError."""
    there = {path for path, _ in flat(document.concepts)}
    free = next(
        n for k in range(1, len(there) + 2) if f"{above}/{(n := _counted(name, k))}".lstrip("/") not in there
    )
    leaf = Node(name=free)
    if above:
        grown = _at(document, above, lambda n: n.model_copy(update={"children": [*n.children, leaf]}))
    else:
        grown = document.model_copy(update={"concepts": [*document.concepts, leaf]})
    return _whole(grown), f"{above}/{free}".lstrip("/")


def removed(document: Document, path: str) -> Document:
    """Without the subtree at this path, and without what it leaves empty. Raises CorpusError."""
    return _whole(pruned(document, [path]))


def _counted(name: str, k: int) -> str:
    return name if k == 1 else f"{name} {k}"


def _at(document: Document, path: str, change: Callable[[Node], Node]) -> Document:
    """The document with one node changed. Raises CorpusError when it has none there."""

    def below(nodes: Sequence[Node], parts: Sequence[str]) -> list[Node]:
        if not any(node.name == parts[0] for node in nodes):
            raise CorpusError(f"corpus {document.name!r} has no concept {path!r}: look at the tree again")
        return [
            node if node.name != parts[0]
            else change(node) if len(parts) == 1
            else node.model_copy(update={"children": below(node.children, parts[1:])})
            for node in nodes
        ]  # fmt: skip

    return document.model_copy(update={"concepts": below(document.concepts, path.split("/"))})


def _whole(document: Document) -> Document:
    """The document, if its paths fit together."""
    grow(document)
    return document
