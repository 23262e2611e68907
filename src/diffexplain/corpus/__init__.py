"""The corpus: a tree of concepts of any depth, read from YAML and checked once.

A path such as `facial hair/beard/long` is a concept's identity everywhere. Concepts under an
`exclusive` node (a slot) exclude each other; `absent` says what a slot looks like when it is empty.
"""

from diffexplain.corpus.changes import difference, findings, kept, merged, pruned
from diffexplain.corpus.document import MAX_BYTES, MAX_DEPTH, MAX_NODES, Document, Node, schema, written
from diffexplain.corpus.editing import added, removed, renamed, rephrased
from diffexplain.corpus.files import available, load_corpus, load_document, parse_corpus
from diffexplain.corpus.growing import MAX_SLOT, grow
from diffexplain.corpus.tree import Concept, Corpus, tree_text

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_NODES",
    "MAX_SLOT",
    "Concept",
    "Corpus",
    "Document",
    "Node",
    "added",
    "available",
    "difference",
    "findings",
    "grow",
    "kept",
    "load_corpus",
    "load_document",
    "merged",
    "parse_corpus",
    "pruned",
    "removed",
    "renamed",
    "rephrased",
    "schema",
    "tree_text",
    "written",
]
