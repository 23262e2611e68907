"""The corpus as a tree that a visitor edits: its markup, and what a change in it does to the YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from diffexplain.corpus import (
    Corpus,
    Document,
    Node,
    added,
    available,
    grow,
    load_document,
    removed,
    renamed,
    rephrased,
    written,
)
from diffexplain.corpus.document import read_document
from diffexplain.errors import CorpusError

SCRIPT = files("diffexplain.web").joinpath("branches.js").read_text("utf-8")
STYLE = files("diffexplain.web").joinpath("branches.css").read_text("utf-8")
SIGNS = {"add": "+", "remove": "−"}
MOST = 100_000  # letters of a name or phrase; what is longer is refused by the corpus anyway

NODE = Markup(
    '<li data-path="{path}"><div>'
    '<button type="button" data-do="fold" aria-expanded="false" title="open or close"{leaf}>▸</button>'
    '<input data-do="rename" value="{name}" aria-label="name of {path}" size="{size}">'
    '<input data-do="rephrase" value="{phrase}" placeholder="{stands}" aria-label="phrase of {path}">'
    "<small>{about}</small>"
    '<button type="button" data-do="add" title="add a concept under {path}" aria-label="add under {path}">'
    "+</button>"
    '<button type="button" data-do="remove" title="remove {path}" aria-label="remove {path}">×</button>'
    "</div>{below}</li>"
)
WHOLE = Markup(
    '<p>{about}</p><ul>{nodes}</ul><p data-path=""><button type="button" data-do="add">'
    "+ another root</button></p>"
)


def document_of(corpus: str | None, text: str) -> Document:
    """The bundled corpus, or without its name the one in the text. Raises CorpusError."""
    if corpus is None:
        return read_document(text)
    if corpus not in available():
        raise CorpusError(f"corpus {corpus!r}: choose {', '.join(available())} or write your own")
    return load_document(corpus)


def tree_form(document: Document) -> Markup:
    """The tree as nested lists of fields and buttons. Raises CorpusError when it does not fit together."""
    tree = grow(document)
    about = f"{tree.name}: {tree.domain}, {len(tree)} concepts, {len(tree.leaves())} leaves"
    return WHOLE.format(about=about, nodes=_nodes(document.concepts, "", tree))


def edited(document: Document, change: Mapping[str, Any]) -> str:
    """The YAML after a change: `do` (rename, rephrase, add, remove), `at`, `text`. Raises CorpusError."""
    path, text = str(change.get("at", ""))[:MOST], str(change.get("text", ""))[:MOST]
    match change.get("do"):
        case "rename":
            made = renamed(document, path, text)
        case "rephrase":
            made = rephrased(document, path, text)
        case "add":
            made = added(document, path)[0]
        case "remove":
            made = removed(document, path)
        case other:
            raise CorpusError(f"change {str(other)[:40]!r}: rename, rephrase, add or remove")
    return written(made)


def _nodes(nodes: Iterable[Node], above: str, tree: Corpus) -> Markup:
    return Markup("").join(_node(node, f"{above}/{node.name}".lstrip("/"), tree) for node in nodes)


def _node(node: Node, path: str, tree: Corpus) -> Markup:
    concept = tree[path]
    below = Markup("<ul>{}</ul>").format(_nodes(node.children, path, tree)) if node.children else ""
    signs = "".join(SIGNS[d] for d in concept.directions)
    signs += " one of" * (concept.slot == path) + " protected" * concept.protected
    return NODE.format(
        path=path,
        name=node.name,
        size=max(8, min(28, len(node.name))),
        phrase=node.phrase or "",
        stands=node.prompt or ("its leaves stand in" if node.children else node.name),
        leaf="" if node.children else Markup(" disabled"),
        about=signs,
        below=below,
    )
