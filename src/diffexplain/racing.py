"""What the effect of each leaf may be, from its own edits and those of its relatives. Numbers only.

Effects run in families: where one leaf moves a classifier, its siblings often do. Every node of the tree has
a mean m and a variance v of the effects of the leaves under it: empirical Bayes (Morris 1983). They start
from the parent's, which count as `PRIOR` leaves, and move to what the edited leaves under the node show. A
leaf that was not edited is a draw from its family, by Student's t with two degrees of freedom, since few
leaves move a classifier and those by much. One that was edited is shrunk towards its family (James & Stein
1961), less the further out it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from math import erfc, fsum, inf, sqrt

from diffexplain.corpus import Corpus

PRIOR = 2.0  # leaves that the parent's mean and variance count for


@dataclass(frozen=True, slots=True)
class Seen:
    """What the race has seen of a leaf."""

    mean: float  # Δ, log-odds
    squares: float  # Σ (Δ − mean)²
    edits: int

    @classmethod
    def of(cls, changes: Sequence[float]) -> Seen:
        """The same to the last bit in whatever order the changes came."""
        mean = fsum(changes) / len(changes)
        return cls(mean, fsum((x - mean) ** 2 for x in changes), len(changes))


@dataclass(frozen=True, slots=True)
class Family:
    """The leaves under a node: mean and variance of their effects."""

    mean: float
    variance: float


@dataclass(frozen=True, slots=True)
class Belief:
    """What the effect of a leaf may be: normal if it was edited, Student's t if only relatives were."""

    mean: float
    spread: float
    edited: bool

    def beyond(self, bar: float) -> float:
        """Probability that |effect| is at least `bar`."""
        if bar <= 0 or self.spread == 0:
            return float(abs(self.mean) >= bar)
        tail = _normal if self.edited else _student
        return tail((bar - self.mean) / self.spread) + tail((bar + self.mean) / self.spread)


def _normal(x: float) -> float:
    """P(X > x), standard normal."""
    return erfc(x / sqrt(2)) / 2


def _student(x: float) -> float:
    """P(X > x), Student's t with two degrees of freedom."""
    return (1 - x / sqrt(x * x + 2)) / 2


def noise(seen: Iterable[Seen]) -> float:
    """Standard deviation of Δ within leaves, pooled; inf while no leaf was edited twice."""
    several = [s for s in seen if s.edits > 1]
    freedom = sum(s.edits - 1 for s in several)
    return sqrt(fsum(s.squares for s in several) / freedom) if freedom else inf


def beliefs(
    corpus: Corpus, leaves: Iterable[str], seen: Mapping[str, Seen], *, sigma: float, scale: float
) -> list[Belief]:
    """What the effect of each leaf may be, given the noise of one edit and a scale of effects before any."""
    if sigma == inf:
        return [Belief(seen[x].mean if x in seen else 0.0, inf, x in seen) for x in leaves]
    kin = families(corpus, seen, sigma=sigma, scale=scale)
    return [_belief(kin[_parent(corpus, leaf)], seen.get(leaf), sigma) for leaf in leaves]


def _belief(family: Family, seen: Seen | None, sigma: float) -> Belief:
    """A leaf's own mean shrunk to its family's, whose variance its distance widens (EM for Student's t)."""
    if seen is None:
        return Belief(family.mean, sqrt(family.variance), False)
    error, distance = sigma**2 / seen.edits, seen.mean - family.mean
    variance = (2 * family.variance + max(0.0, distance**2 - error)) / 3
    kept = variance / (variance + error) if error else 1.0
    return Belief(family.mean + kept * distance, sqrt(kept * error), True)


def families(
    corpus: Corpus, seen: Mapping[str, Seen], *, sigma: float, scale: float
) -> dict[str | None, Family]:
    """Node -> mean and variance of the effects of the leaves under it; None: of all leaves."""
    totals: dict[str | None, list[float]] = {}
    for leaf, mine in seen.items():
        row = (1.0, mine.mean, mine.mean**2, sigma**2 / mine.edits)
        node = _parent(corpus, leaf)
        while True:
            totals[node] = [a + b for a, b in zip(totals.get(node, [0.0] * 4), row, strict=True)]
            if node is None:
                break
            node = _parent(corpus, node)
    n, _, squares, error = totals.get(None, [0.0] * 4)
    top = Family(0.0, (PRIOR * scale**2 + max(0.0, squares - error)) / (PRIOR + n))
    kin: dict[str | None, Family] = {None: top}
    for c in corpus.walk():
        if c.children:
            above = kin[_parent(corpus, c.path)]
            kin[c.path] = _moved(above, *totals[c.path]) if c.path in totals else above
    return kin


def _moved(above: Family, n: float, total: float, squares: float, error: float) -> Family:
    """The parent's family, moved by what `n` edited leaves show: Σ means, Σ means², Σ noise variances."""
    mean = (PRIOR * above.mean + total) / (PRIOR + n)
    shown = squares - 2 * mean * total + n * mean**2 - error  # Σ (means − mean)² beyond the noise
    variance = PRIOR * (above.variance + (above.mean - mean) ** 2) + max(0.0, shown)
    return Family(mean, variance / (PRIOR + n))


def doubts(found: Sequence[Belief], beam: int, delta: float) -> list[float]:
    """Probability, for each leaf, that it is on the wrong side of the beam's edge, by more than δ / 2.

    In the beam are the `beam` edited leaves with the largest |mean|.
    """
    if len(found) <= beam:
        return [0.0] * len(found)
    ranked = sorted((i for i, b in enumerate(found) if b.edited), key=lambda i: -abs(found[i].mean))
    inside = set(ranked[:beam])
    edge = [abs(found[i].mean) for i in ranked[beam - 1 : beam + 1]] + [0.0, 0.0]
    rise, fall = max(edge[0], delta) + delta / 2, edge[1] - delta / 2
    return [1 - b.beyond(fall) if i in inside else b.beyond(rise) for i, b in enumerate(found)]


def in_turns(corpus: Corpus, paths: Iterable[str]) -> list[str]:
    """The leaves under these nodes, each node's in turn: the first few lie all over the tree."""
    lists = [in_turns(corpus, corpus[p].children) if corpus[p].children else [p] for p in paths]
    return [leaf for leaf in chain.from_iterable(zip_longest(*lists)) if leaf is not None]


def _parent(corpus: Corpus, path: str) -> str | None:
    """The node above; None above the roots, also of a part of a tree."""
    above = corpus[path].parent
    return above if above in corpus else None
