"""A tree in the making: groups, their kinds, the terms of each; cleaned step by step, then a corpus."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffexplain.corpus import Document, Node

LONGEST_NAME, LONGEST_PHRASE = 6, 14  # words
REST = "other"  # where a kind or group goes that would stand alone
_ARTICLE = re.compile(r"^(a|an|the|some)\s+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Embed = Callable[[Sequence[str]], np.ndarray]  # phrases -> (P, D) unit vectors


@dataclass(frozen=True, slots=True)
class Term:
    """A leaf in the making."""

    name: str
    phrase: str
    spread: float = float("nan")  # how far CLIP's reading of it varies over the pictures


@dataclass(frozen=True, slots=True)
class Kind:
    """What can differ in a group, and the ways it can look."""

    group: str
    name: str
    terms: tuple[Term, ...] = ()
    exclusive: bool = False
    absent: str = ""

    @property
    def path(self) -> str:
        """Group and kind, as they stand in a path."""
        return f"{self.group}/{self.name}"


Draft = tuple[Kind, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A term that did not get in, and why."""

    path: str
    why: str


def plain(text: str) -> str:
    """Lower-case words that fit in a path and a caption: no slash, plus, comma, quote or full stop."""
    line = _CONTROL.sub(" ", text.casefold()).replace("_", " ")
    return " ".join(re.sub(r"[/+,;:\"“”`*{}\[\].]", " ", line).split())


def tidied(draft: Iterable[Kind]) -> tuple[Draft, tuple[Dropped, ...]]:
    """Plain words; kinds of one name joined; a term once in the tree; nothing empty or endless."""
    kinds: dict[str, Kind] = {}
    seen: set[str] = set()
    dropped: list[Dropped] = []
    for given in draft:
        kind = replace(
            given,
            group=plain(given.group) or REST,
            name=plain(given.name) or REST,
            absent=plain(given.absent),
        )
        there = kinds.setdefault(kind.path, replace(kind, terms=()))
        terms = [replace(t, name=plain(t.name), phrase=plain(t.phrase) or plain(t.name)) for t in given.terms]
        fresh: list[Term] = []
        for term in terms:
            if why := _unfit(term, seen, [*there.terms, *fresh]):
                dropped.append(Dropped(f"{kind.path}/{term.name}", why))
            else:
                seen.add(_core(term.phrase))
                fresh.append(term)
        kinds[kind.path] = replace(
            there,
            terms=(*there.terms, *fresh),
            exclusive=there.exclusive and kind.exclusive,
            absent=there.absent or kind.absent,
        )
    return tuple(kinds.values()), tuple(dropped)


def distinct(draft: Draft, embed: Embed, similarity: float) -> tuple[Draft, tuple[Dropped, ...]]:
    """Of terms of one group whose phrases lie closer than a cosine, the first."""
    kept, dropped = [], list[Dropped]()
    earlier: dict[str, list[tuple[np.ndarray, str]]] = {}
    for kind in draft:
        vectors = embed([term.phrase for term in kind.terms]) if kind.terms else np.zeros((0, 1))
        before, terms = earlier.setdefault(kind.group, []), []
        for term, vector in zip(kind.terms, vectors, strict=True):
            twin = next((phrase for other, phrase in before if float(other @ vector) >= similarity), None)
            if twin is None:
                terms.append(term)
                before.append((vector, term.phrase))
            else:
                dropped.append(Dropped(f"{kind.path}/{term.name}", f"says the same as {twin!r}"))
        kept.append(replace(kind, terms=tuple(terms)))
    return tuple(kept), tuple(dropped)


def without(draft: Draft, reasons: Mapping[str, str]) -> tuple[Draft, tuple[Dropped, ...]]:
    """The draft but for the terms with a reason to go, by path."""
    kinds = [
        replace(k, terms=tuple(t for t in k.terms if f"{k.path}/{t.name}" not in reasons)) for k in draft
    ]
    return tuple(kinds), tuple(Dropped(path, why) for path, why in reasons.items())


def balanced(draft: Draft, width: int) -> tuple[Draft, tuple[Dropped, ...]]:
    """Every leaf on the third level, no kind or group that stands alone, none wider than `width`.

    A kind of one term goes to its group's rest, unless the term can be missing; a group of one term goes
    to the rest of the tree. Of too wide a kind stay the terms that vary most, in their order.
    """
    narrow, dropped = [], list[Dropped]()
    for kind in draft:
        best = sorted(kind.terms, key=lambda t: -np.nan_to_num(t.spread))[:width]
        narrow.append(replace(kind, terms=tuple(t for t in kind.terms if t in best)))
        dropped += [
            Dropped(f"{kind.path}/{t.name}", f"more than {width} in one kind")
            for t in kind.terms
            if t not in best
        ]
    lonely = [k for k in narrow if len(k.terms) == 1 and not k.absent]
    folded = _folded(narrow, [Kind(k.group, REST, k.terms) for k in lonely], lonely)
    counts: dict[str, int] = {}
    for kind in folded:
        counts[kind.group] = counts.get(kind.group, 0) + len(kind.terms)
    small = [k for k in folded if counts[k.group] == 1]
    return _folded(folded, [replace(k, group=REST, name=k.group) for k in small], small), tuple(dropped)


def document(
    draft: Draft, *, name: str, domain: str, prompt: str, neutral: str, sources: Sequence[str]
) -> Document:
    """The draft as a corpus: groups, kinds, leaves."""
    groups: dict[str, list[Node]] = {}
    for kind in draft:
        leaves = [Node(name=t.name, phrase=t.phrase) for t in kind.terms]
        slot = kind.exclusive or bool(kind.absent)
        node = Node(name=kind.name, exclusive=slot, absent=kind.absent or None, children=leaves)
        groups.setdefault(kind.group, []).append(node)
    concepts = [Node(name=group, children=kinds) for group, kinds in groups.items()]
    return Document(
        name=name, domain=domain, prompt=prompt, neutral=neutral, sources=list(sources), concepts=concepts
    )


def _folded(draft: Sequence[Kind], moved: Sequence[Kind], gone: Sequence[Kind]) -> Draft:
    """The kinds that stay, then those moved, joined where they have one path; empty ones out."""
    joined: dict[str, Kind] = {}
    for kind in [*(k for k in draft if k not in gone), *moved]:
        there = joined.get(kind.path)
        joined[kind.path] = replace(there, terms=_named_apart(there, kind)) if there else kind
    return tuple(kind for kind in joined.values() if kind.terms)


def _named_apart(there: Kind, more: Kind) -> tuple[Term, ...]:
    """The terms of both; one whose name is taken goes by its phrase."""
    names = {term.name for term in there.terms}
    return (*there.terms, *(replace(t, name=t.phrase) if t.name in names else t for t in more.terms))


def _unfit(term: Term, seen: set[str], siblings: Sequence[Term]) -> str:
    """Why a term cannot be in the tree; empty if it can."""
    if not term.name:
        return "it has no words"
    if len(term.name.split()) > LONGEST_NAME or len(term.phrase.split()) > LONGEST_PHRASE:
        return f"longer than {LONGEST_NAME} words, its phrase than {LONGEST_PHRASE}"
    if _core(term.phrase) in seen or term.name in {t.name for t in siblings}:
        return "is there twice"
    return ""


def _core(phrase: str) -> str:
    """A phrase without article and plural, to find the same one again."""
    words = _ARTICLE.sub("", phrase).replace("-", " ").split()
    return " ".join(w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words)
