"""What the page knows about each question: its result, place in the ranking, truth, and the tree.

A concept path "a/b/c" is its place in the tree, so the tree needs no corpus file. Inner nodes appear
even where nobody asked about them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite, nan

from diffexplain.records import ConceptResult, Result

#: a discovery is a measured question with q below this.
ALPHA = 0.05
#: below this share of edits that happened, an effect near zero says little.
FEW_SUCCEEDED = 0.5
_OPENED = 10  # the tree opens on this many of the strongest discoveries


@dataclass(frozen=True, slots=True)
class Row:
    """One question's result and what the page needs beside it."""

    number: int  # position in result.concepts; names the row's anchor
    result: ConceptResult
    truth: float = nan
    rank: int = 0  # 1 = largest |effect|; 0 = not measured

    @property
    def anchor(self) -> str:
        """The fragment that the answer and the ranking link to."""
        return f"row-{self.number}"

    @property
    def measured(self) -> bool:
        """Whether it has an effect to show."""
        return self.rank > 0

    @property
    def found(self) -> bool:
        """Whether it is a discovery."""
        return self.measured and self.result.q < ALPHA

    @property
    def doubtful(self) -> bool:
        """Whether most of its edits did not happen."""
        return self.measured and self.result.success_rate < FEW_SUCCEEDED

    @property
    def state(self) -> str:
        """Where the question stands, in a word or two; `doubtful` says whether its edits failed besides."""
        if self.measured:
            return "discovery" if self.found else "undecided"
        return "undecided" if self.result.status == "measured" else self.result.status

    @property
    def leads(self) -> str:
        """The path of the concept's parent with its slash, "" for a root."""
        return self.result.concept[: -len(self.name)]

    @property
    def name(self) -> str:
        """The last part of the concept path."""
        return self.result.concept.rpartition("/")[2]


def rows(result: Result) -> tuple[Row, ...]:
    """All questions, measured ones first by |effect|, then by what the race saw, then by name."""
    truth = result.truth or {}
    numbered = [(i, c, truth.get(f"{c.direction} {c.concept}", nan)) for i, c in enumerate(result.concepts)]
    numbered.sort(key=lambda entry: _order(entry[1]))
    return tuple(Row(i, c, t, k + 1 if _has_effect(c) else 0) for k, (i, c, t) in enumerate(numbered))


def _has_effect(concept: ConceptResult) -> bool:
    return concept.status == "measured" and isfinite(concept.effect)


def _order(concept: ConceptResult) -> tuple[int, float, str, str]:
    groups = {"measured": 1, "ruled out": 2, "not eligible": 3}
    if _has_effect(concept):
        return 0, -abs(concept.effect), concept.concept, concept.direction
    raced = abs(concept.race_effect) if isfinite(concept.race_effect) else 0.0
    return groups[concept.status], -raced, concept.concept, concept.direction


@dataclass(slots=True)
class Node:
    """One concept of the tree with its own questions (none where it was not asked about)."""

    path: str
    depth: int = 0
    rows: list[Row] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def below(self) -> list[Row]:
        """The questions strictly below, strongest first."""
        found = [row for child in self.children for row in (*child.rows, *child.below)]
        return sorted(found, key=lambda row: _order(row.result))

    @property
    def strongest(self) -> Row | None:
        """The strongest measured question below."""
        return next((row for row in self.below if row.measured), None)

    @property
    def found_below(self) -> int:
        """How many discoveries lie strictly below."""
        return sum(row.found for row in self.below)

    @property
    def opened(self) -> bool:
        """Whether the page starts with this node open: a leading discovery lies below."""
        return any(row.found and row.rank <= _OPENED for row in self.below)


def tree(questions: Iterable[Row]) -> list[Node]:
    """The roots of the concept tree, siblings sorted by their largest |effect|, own or below."""
    nodes: dict[str, Node] = {}
    for row in questions:
        _node(nodes, row.result.concept).rows.append(row)
    roots = [node for node in nodes.values() if node.depth == 0]
    _sort(roots)
    return roots


def _node(nodes: dict[str, Node], path: str) -> Node:
    if path not in nodes:
        parent, slash, _ = path.rpartition("/")
        nodes[path] = Node(path, path.count("/"))
        if slash:
            _node(nodes, parent).children.append(nodes[path])
    return nodes[path]


def _sort(siblings: list[Node]) -> None:
    for node in siblings:
        node.rows.sort(key=lambda row: _order(row.result))
        _sort(node.children)
    siblings.sort(key=_node_order)


def _node_order(node: Node) -> tuple[int, float, str]:
    strongest = min((*node.rows, *node.below), key=lambda row: _order(row.result))
    group, size, _, _ = _order(strongest.result)
    return group, size, node.path
