"""Mining by a model that sees: a group pass over sample pictures, an expansion pass, a clean-up.

The two passes are DiffEx's (Kazimi, Allada & Yanardag, CVPR 2025, section 3); the clean-up is ours: what
the model itself objects to goes, and what CLIP does not see differ from picture to picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from diffexplain.corpus import Corpus, Document, grow
from diffexplain.errors import CorpusError, ModelError
from diffexplain.judges import Judge
from diffexplain.mining.drafting import (
    Draft,
    Dropped,
    Kind,
    Term,
    balanced,
    distinct,
    document,
    tidied,
    without,
)
from diffexplain.mining.endpoint import image_part, letters
from diffexplain.mining.grounding import phrase_vectors, placebo_spread, spread
from diffexplain.mining.ledger import Ledger, Usage
from diffexplain.mining.questions import (
    Expanded,
    Expansion,
    Groups,
    Objections,
    groups_asked,
    objections_asked,
    values_asked,
)

IMAGE_TOKENS = 700  # of one sample picture, about; servers differ by a factor of three
_KINDS, _VALUES, _VALUE_TOKENS = 40, 10, 24  # what an answer holds, about, for the estimate


@dataclass(frozen=True, slots=True)
class MiningOptions:
    """How much is asked at once, and what is kept."""

    images_a_call: int = 8
    kinds_a_call: int = 6
    terms_a_call: int = 40
    images_checked: int = 4
    values: int = 12  # asked for in a kind
    width: int = 25  # kept in a kind
    similarity: float = 0.97  # cosine of phrases that say the same


@dataclass(frozen=True, slots=True)
class Wording:
    """How a corpus puts its concepts; an empty template is made of the model's own subject."""

    name: str
    domain: str
    prompt: str = ""
    neutral: str = ""
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mined:
    """A mined corpus, and what did not get in."""

    document: Document
    corpus: Corpus
    dropped: tuple[Dropped, ...]


def foreseen(images: int, domain: str, options: MiningOptions) -> Usage:
    """About what mining by a model will cost, were nothing kept yet and every answer usable."""
    groups = math.ceil(images / options.images_a_call)
    kinds = math.ceil(_KINDS / options.kinds_a_call)
    terms = math.ceil(_KINDS * _VALUES / options.terms_a_call)
    checked = min(options.images_checked, images)
    words = {
        "groups": letters(groups_asked(domain, [])),
        "kinds": letters(values_asked(domain, domain, [domain] * options.kinds_a_call, options.values)),
        "terms": letters(objections_asked(domain, [], ["a phrase of words"] * options.terms_a_call)),
    }
    asked = groups * words["groups"] + kinds * words["kinds"] + terms * words["terms"]
    seen = IMAGE_TOKENS * (images + terms * checked)
    said = groups * 400 + _KINDS * _VALUES * _VALUE_TOKENS + terms * 60
    return Usage(groups + kinds + terms, 0, asked // 4 + seen, said)


def mined(
    ledger: Ledger, images: torch.Tensor, *, wording: Wording, judge: Judge | None, options: MiningOptions
) -> Mined:
    """A corpus of a domain from sample pictures (N, 3, H, W). Without a judge CLIP's part is left out.

    Raises ModelError that says what came back when the model does not answer as asked.
    """
    parts = [image_part(image) for image in images]
    subject, kinds = _groups(ledger, wording.domain, parts, options)
    prompt = wording.prompt or f"a photo of {subject} with {{phrase}}"
    neutral = wording.neutral or f"a photo of {subject}"
    worded = replace(wording, prompt=prompt, neutral=neutral)
    draft, unfit = tidied(_expanded(ledger, worded.domain, subject, kinds, options))
    draft, twins = alike(draft, judge, worded, options)
    draft, objected = without(draft, _objections(ledger, worded.domain, parts, draft, options))
    done = cleaned(draft, images, wording=worded, judge=judge, options=options)
    return replace(done, dropped=(*unfit, *twins, *objected, *done.dropped))


def cleaned(
    draft: Draft, images: torch.Tensor, *, wording: Wording, judge: Judge | None, options: MiningOptions
) -> Mined:
    """The end of every mining: what CLIP sees, balanced, as a corpus. Raises CorpusError if nothing stays."""
    unseen: tuple[Dropped, ...] = ()
    if judge is not None:
        draft, unseen = _seen(draft, images, judge, wording)
    draft, wide = balanced(draft, options.width)
    dropped = (*unseen, *wide)
    if not draft:
        few = "; ".join(f"{d.path}: {d.why}" for d in dropped[:3])
        raise CorpusError(f"mining {wording.domain!r}: no term is left ({few}); give more varied pictures")
    made = document(
        draft,
        name=wording.name,
        domain=wording.domain,
        prompt=wording.prompt,
        neutral=wording.neutral,
        sources=wording.sources,
    )
    return Mined(made, grow(made), dropped)


def _groups(
    ledger: Ledger, domain: str, parts: Sequence[dict[str, Any]], options: MiningOptions
) -> tuple[str, Draft]:
    """The subject and the kinds that the model names over all sample pictures."""
    subject, named = "", list[Kind]()
    for i, some in enumerate(_batches(parts, options.images_a_call)):
        answer = ledger.ask(groups_asked(domain, some), Groups, f"group pass {i + 1}")
        subject = subject or " ".join(answer.subject.replace("{", "").replace("}", "").split())[:60]
        named += [Kind(group.name, kind) for group in answer.groups for kind in group.kinds]
    kinds, _ = tidied(named)
    if not kinds or not subject:
        raise ModelError(f"model {ledger.model.name}, group pass: named no groups; choose a stronger model")
    return subject, kinds


def _expanded(ledger: Ledger, domain: str, subject: str, kinds: Draft, options: MiningOptions) -> list[Kind]:
    """The kinds with their values. What an answer leaves out is asked again, with fewer kinds at once."""
    found: dict[str, Kind] = {}
    for first in _batches(kinds, options.kinds_a_call):
        waiting, most = list(first), len(first)
        for _ in range(2 * len(first)):
            some = waiting[:most]
            given = _values(ledger, domain, subject, some, options)
            found |= given
            most = most if given else most // 2
            waiting = [kind for kind in waiting if kind.path not in found]
            if not waiting or not most:
                break
    if not found:
        raise ModelError(f"model {ledger.model.name}, expansion pass: named no values for any kind")
    return [found[kind.path] for kind in kinds if kind.path in found]


def _values(
    ledger: Ledger, domain: str, subject: str, kinds: Sequence[Kind], options: MiningOptions
) -> dict[str, Kind]:
    """The kinds, by path, that one answer gives in full."""
    named = [kind.path.replace("/", ": ") for kind in kinds]
    asked, what = values_asked(domain, subject, named, options.values), f"expansion pass, {named[0]} …"
    if len(kinds) == 1:  # nothing shorter can be asked
        answer, whole = ledger.ask(asked, Expansion, what), True
    else:
        answer, whole = ledger.ask_part(asked, Expansion, what)
    given = [one for one in answer.kinds if 1 <= one.number <= len(kinds) and one.values]
    told = given if whole else given[:-1]  # where it breaks off, values may lack
    return {kinds[one.number - 1].path: _with_values(kinds[one.number - 1], one) for one in told}


def _with_values(kind: Kind, answer: Expanded) -> Kind:
    terms = tuple(Term(value.name, value.phrase) for value in answer.values)
    return replace(kind, terms=terms, exclusive=answer.one_at_a_time, absent=answer.absent.strip())


def alike(
    draft: Draft, judge: Judge | None, wording: Wording, options: MiningOptions
) -> tuple[Draft, tuple[Dropped, ...]]:
    """The draft without what says the same as an earlier term of its group, as CLIP embeds the words."""
    if judge is None:
        return draft, ()
    return distinct(draft, lambda phrases: phrase_vectors(judge, wording.prompt, phrases), options.similarity)


def _objections(
    ledger: Ledger, domain: str, parts: Sequence[dict[str, Any]], draft: Draft, options: MiningOptions
) -> dict[str, str]:
    """Path -> why the model objects to it."""
    terms = [(f"{kind.path}/{term.name}", term.phrase) for kind in draft for term in kind.terms]
    reasons: dict[str, str] = {}
    for i, some in enumerate(_batches(terms, options.terms_a_call)):
        asked = objections_asked(domain, parts[: options.images_checked], [phrase for _, phrase in some])
        answer = ledger.ask(asked, Objections, f"clean-up {i + 1}")
        for objection in answer.drop:
            if 1 <= objection.number <= len(some):
                reasons[some[objection.number - 1][0]] = f"the model says: {objection.why}"
    return reasons


def _seen(
    draft: Draft, images: torch.Tensor, judge: Judge, wording: Wording
) -> tuple[Draft, tuple[Dropped, ...]]:
    """The terms whose reading by CLIP varies more than that of placebos, each with how much it does."""
    level = placebo_spread(judge, images, wording.prompt, wording.neutral)
    kinds, reasons = [], dict[str, str]()
    for kind in (k for k in draft if k.terms):
        prompts = [wording.prompt.replace("{phrase}", term.phrase) for term in kind.terms]
        varied = [float(s) for s in spread(judge, images, prompts, wording.neutral)]
        terms = tuple(replace(t, spread=s) for t, s in zip(kind.terms, varied, strict=True))
        reasons |= {
            f"{kind.path}/{t.name}": f"CLIP reads it alike in all pictures (varies by {t.spread:.2f}, what "
            f"no picture shows by {level:.2f})"
            for t in terms
            if not t.spread > level
        }
        kinds.append(replace(kind, terms=terms))
    return without(tuple(kinds), reasons)


def _batches(items: Sequence[Any], most: int) -> Iterable[Sequence[Any]]:
    return (items[i : i + most] for i in range(0, len(items), most))
