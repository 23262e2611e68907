"""Mining without a model that speaks: from a word list, what CLIP sees differ over the pictures."""

from __future__ import annotations

import re
from pathlib import Path

from diffexplain.errors import CorpusError
from diffexplain.mining.drafting import Draft, Kind, Term, plain

MOST = 5_000  # words of a list
UNSORTED = ""  # the group of words without one, until they are sorted
LOOK = "look"  # the kind of words that are sorted by their noun
_PREPOSITION = re.compile(
    r"\s(about|above|across|against|along|among|around|at|behind|below|beneath|beside|between|by|for|from|in|"
    r"inside|into|near|of|off|on|onto|over|past|that|through|to|towards|under|upon|which|with|without)\s"
)


def read_words(file: Path) -> Draft:
    """Candidates from a text file: a line each, `word`, `kind/word` or `group/kind/word`.

    `: phrase` after it says how a prompt puts it; lines that begin with # are passed over.
    Raises CorpusError.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise CorpusError(f"words {file}: {why}; give a text file, one candidate a line") from None
    kinds: dict[tuple[str, str], list[Term]] = {}
    for number, line in enumerate(lines, start=1):
        path, _, phrase = (part.strip() for part in line.partition(":"))
        if not path or path.startswith("#"):
            continue
        parts = [part.strip() for part in path.split("/")]
        if len(parts) > 3 or not all(map(plain, parts)):
            raise CorpusError(f"words {file}, line {number}: {line[:60]!r}; give `group/kind/word: phrase`")
        group, kind = (parts[0], parts[-2]) if len(parts) > 1 else (UNSORTED, UNSORTED)
        kinds.setdefault((group, kind), []).append(Term(parts[-1], phrase or parts[-1]))
    count = sum(map(len, kinds.values()))
    if not 1 <= count <= MOST:
        raise CorpusError(f"words {file}: {count:,} candidates; give 1 to {MOST:,}, one a line")
    return tuple(Kind(group, kind, tuple(terms)) for (group, kind), terms in kinds.items())


def sorted_words(draft: Draft) -> Draft:
    """Words without a group, sorted by head noun: `a red beak` and `a beak with a knob` go to `beak`."""
    kinds: dict[str, list[Term]] = {}
    for term in (term for kind in draft if kind.group == UNSORTED for term in kind.terms):
        kinds.setdefault(head_noun(term.phrase), []).append(term)
    made = (Kind(noun, LOOK, tuple(terms)) for noun, terms in kinds.items())
    return (*(kind for kind in draft if kind.group != UNSORTED), *made)


def head_noun(phrase: str) -> str:
    """The last word before a preposition: what an English noun phrase is about."""
    words = _PREPOSITION.split(plain(phrase))[0].split()
    return words[-1] if words else UNSORTED
