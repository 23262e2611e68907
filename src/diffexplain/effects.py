"""Make edits, measure them, and check that they happened.

Δ is taken from the inversion's own reconstruction, after both pictures are rounded to 8 bits, so drift
is never reported as meaning (methods: DiffEx, Kazimi et al., CVPR 2025, measures from the raw image).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import torch

from diffexplain.captions import Caption, Covered, filled, read_captions
from diffexplain.corpus import Concept, Corpus
from diffexplain.editors import Edit, Editor, Inversion, Term, begun
from diffexplain.images import Pictures, hashes, rounded, to_8bit
from diffexplain.judges import Judge, Segmenter
from diffexplain.records import Ask, Direction, Drift, Effect
from diffexplain.targets import Target

PRESENT = 0.5  # presence at which a concept counts as there
MOVED = 0.1  # presence change from which a row tells that another concept moved
VISIBLE = 1 / 32  # change of a channel from which a pixel counts as changed


@dataclass(frozen=True, slots=True)
class Tools:
    """Everything a measurement uses."""

    target: Target
    editor: Editor
    judge: Judge
    segmenter: Segmenter | None
    corpus: Corpus
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class Subject:
    """The pictures of a run, inverted once: row = image · seeds + seed."""

    images: tuple[str, ...]  # content hashes
    seeds: int
    captions: tuple[Caption, ...]  # (rows,) what the judge sees in the picture itself
    inversion: Inversion
    reconstructions: torch.Tensor  # (rows, 3, H, W), 8-bit values
    hashes: tuple[str, ...]
    scores: np.ndarray  # (rows,) log-odds
    presence: Mapping[str, np.ndarray]  # concept -> (rows,), nan where there is nothing to read
    drift: Drift

    def row(self, image: int, seed: int) -> int:
        """Where an (image, seed) lies."""
        return image * self.seeds + seed

    def eligible(self, corpus: Corpus, image: int, seed: int, concept: str, direction: Direction) -> bool:
        """Add where the concept is absent and could be seen; remove where it is present."""
        row, node = self.row(image, seed), corpus[concept]
        hidden = any(self.presence[h][row] >= PRESENT for h in node.hidden_by)
        if direction not in node.directions or hidden:
            return False
        there = self.presence[concept][row] >= PRESENT
        return bool(there) if direction == "remove" else not there


def probability(score: np.ndarray) -> np.ndarray:
    """The logistic of log-odds."""
    return np.asarray(0.5 * (1 + np.tanh(np.asarray(score) / 2)))


def presence(judge: Judge, corpus: Corpus, images: torch.Tensor) -> dict[str, np.ndarray]:
    """How present each concept is, by zero-shot choice among rival prompts: concept -> (N,) in [0, 1].

    Rivals are the other leaves of the concept's slot and the slot's absence; without a slot, the
    domain's neutral prompt. A node over several slots has nothing to read: nan. What a present concept
    hides is absent.
    """
    prompts: dict[str, int] = {corpus.neutral: 0}
    nodes = [*corpus.walk(), *corpus.outside.values()]  # rivals and what hides count in a restricted tree too
    for concept in nodes:
        for text in (concept.prompt, concept.absent_prompt):
            if text:
                prompts.setdefault(text, len(prompts))
    logits = judge.logits(images, list(prompts)).numpy()
    table: dict[str, np.ndarray] = {}
    for slot in dict.fromkeys(c.slot for c in nodes if c.slot is not None):
        members = corpus.slot_leaves(slot)
        rivals = [m.prompt for m in members]
        absent = members[0].absent_prompt
        shares = _softmax(logits[:, [prompts[p] for p in [*rivals, *([absent] if absent else [])]]])
        table.update({m.path: shares[:, i] for i, m in enumerate(members)})
    for concept in reversed(nodes):
        table.setdefault(concept.path, _read(concept, corpus, table, logits, prompts))
    visible = {path: values.copy() for path, values in table.items()}
    for concept in nodes:
        for hiding in concept.hidden_by:
            visible[concept.path][table[hiding] >= PRESENT] = 0.0
    return visible


def _read(
    concept: Concept,
    corpus: Corpus,
    table: Mapping[str, np.ndarray],
    logits: np.ndarray,
    prompts: Mapping[str, int],
) -> np.ndarray:
    """Presence of a node that is no slot's leaf: its leaves' sum, or its prompt against the neutral one."""
    slots = {corpus[leaf].slot for leaf in concept.leaves}
    if len(slots) == 1 and None not in slots:
        return np.asarray(np.sum([table[leaf] for leaf in concept.leaves], axis=0))
    if concept.prompt:
        return _softmax(logits[:, [prompts[concept.prompt], 0]])[:, 0]
    return np.full(len(logits), np.nan)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def generator_seed(image: str, seed: int) -> int:
    """One noise generator per image and seed, shared by all prompts of the image, so effects are paired."""
    return int.from_bytes(blake2b(f"{seed}:{image}".encode(), digest_size=7).digest(), "little")


@dataclass(frozen=True, slots=True)
class Inverted:
    """Every (image, seed): caption, inversion and reconstruction (rows, 3, H, W), 8-bit values."""

    captions: tuple[Caption, ...]
    inversion: Inversion
    reconstructions: torch.Tensor


def invert(tools: Tools, pictures: Pictures, seeds: int) -> Inverted:
    """Say what is in every picture, invert it from there, and reconstruct it."""
    seen = read_captions(tools.corpus, presence(tools.judge, tools.corpus, rounded(pictures.pixels)))
    captions = tuple(c for c in seen for _ in range(seeds))
    rows = pictures.pixels.repeat_interleave(seeds, dim=0)
    noise = [generator_seed(h, s) for h in pictures.hashes for s in range(seeds)]
    inversion = tools.editor.invert(rows, noise, [c.text for c in captions])
    return Inverted(captions, inversion, rounded(tools.editor.reconstruct(inversion)))


def prepare(tools: Tools, pictures: Pictures, seeds: int, inverted: Inverted | None = None) -> Subject:
    """Invert, reconstruct, score and read every picture once."""
    shares = completed([measured(tools, pictures, seeds, inverted)], tools.corpus)
    return joined(shares, tools.corpus, pictures)


@dataclass(frozen=True, slots=True)
class Share:
    """Some pictures of a subject as they travel between machines: without the corpus, in 8 bits."""

    images: tuple[str, ...]
    seeds: int
    clauses: tuple[Mapping[str, str], ...]  # (rows,) of the captions
    covered: tuple[Mapping[str, Covered], ...]  # and what those pictures hide
    inversion: Inversion
    reconstructions: torch.Tensor  # (rows, 3, H, W), uint8
    hashes: tuple[str, ...]
    scores: np.ndarray  # (rows,)
    moved: np.ndarray  # (rows,) what reconstruction alone does to the score
    presence: np.ndarray  # (concepts in sorted order, rows)

    def of(self, image: int) -> Share:
        """One of the pictures; a copy, since a view would travel with all that it is a view of."""
        rows = slice(image * self.seeds, (image + 1) * self.seeds)
        return Share(
            images=(self.images[image],),
            seeds=self.seeds,
            clauses=self.clauses[rows],
            covered=self.covered[rows],
            inversion=self.inversion.select(range(rows.start, rows.stop)),
            reconstructions=self.reconstructions[rows].clone(),
            hashes=self.hashes[rows],
            scores=self.scores[rows].copy(),
            moved=self.moved[rows].copy(),
            presence=self.presence[:, rows].copy(),
        )

    def on(self, device: torch.device | str) -> Share:
        """The same with the inversion on a device."""
        i = self.inversion
        moved = Inversion({n: t.to(device) for n, t in i.tensors.items()}, i.prompts, i.seeds, i.size)
        return replace(self, inversion=moved)


def measured(tools: Tools, pictures: Pictures, seeds: int, inverted: Inverted | None = None) -> Share:
    """Some pictures inverted, reconstructed, scored and read."""
    inverted = inverted or invert(tools, pictures, seeds)
    reconstructions = inverted.reconstructions
    originals = pictures.pixels.repeat_interleave(seeds, dim=0)
    scores = tools.target.score(reconstructions).numpy()
    moved = scores - tools.target.score(rounded(originals)).numpy()
    seen = presence(tools.judge, tools.corpus, reconstructions)
    return Share(
        images=pictures.hashes,
        seeds=seeds,
        clauses=tuple(c.clauses for c in inverted.captions),
        covered=tuple(c.covered for c in inverted.captions),
        inversion=inverted.inversion,
        reconstructions=to_8bit(reconstructions),
        hashes=hashes(reconstructions),
        scores=scores,
        moved=moved,
        presence=np.stack([seen[path] for path in sorted(seen)]),
    )


def completed(shares: Sequence[Share], corpus: Corpus) -> list[Share]:
    """The same, with what their pictures hide borrowed from those that show it, of all shares of a run."""
    seen = iter(filled([Caption(corpus, *c) for s in shares for c in zip(s.clauses, s.covered, strict=True)]))
    return [replace(s, covered=tuple(next(seen).covered for _ in s.covered)) for s in shares]


def joined(shares: Sequence[Share], corpus: Corpus, pictures: Pictures | None = None) -> Subject:
    """The subject that these pictures are together; its drift is known where they are given."""
    reconstructions = rounded(torch.cat([s.reconstructions for s in shares]))
    seeds, moved = shares[0].seeds, np.concatenate([s.moved for s in shares])
    originals = pictures.pixels.repeat_interleave(seeds, dim=0) if pictures else reconstructions
    paths = sorted([*corpus, *corpus.outside])
    seen = np.concatenate([s.presence for s in shares], axis=1)
    return Subject(
        images=tuple(image for s in shares for image in s.images),
        seeds=seeds,
        captions=tuple(Caption(corpus, *c) for s in shares for c in zip(s.clauses, s.covered, strict=True)),
        inversion=Inversion.joined([s.inversion for s in shares]),
        reconstructions=reconstructions,
        hashes=tuple(name for s in shares for name in s.hashes),
        scores=np.concatenate([s.scores for s in shares]),
        presence=dict(zip(paths, seen, strict=True)),
        drift=Drift(
            pixels=float((reconstructions - originals).abs().mean()),
            score=float(np.abs(moved).mean()),
            score_signed=float(moved.mean()),
        ),
    )


def terms(caption: Caption, ask: Ask, strength: float, captioned: bool = True) -> tuple[Term, ...]:
    """The prompts of an edit: for each part, the picture's caption with that part changed.

    An editor that is not `captioned` is told the concept alone. A placebo is the caption, garbled.
    """
    strength = strength * ask.weight
    if ask.stage == "placebo":
        return (Term(garbled(caption.text), strength),)
    found = []
    for concept, direction in zip(ask.edited_as, ask.question.directions, strict=True):
        if captioned:
            prompt, sign = caption.edited(concept, direction)
        else:
            node = caption.corpus[concept]
            prompt, sign = node.phrase or node.prompt, 1.0 if direction == "add" else -1.0
        found.append(Term(prompt, sign * strength))
    return tuple(found)


def garbled(text: str) -> str:
    """The words of a prompt in another order, always the same: guidance towards nothing in particular.

    Of three words or fewer the letters are shuffled too.
    """
    rng = np.random.default_rng(int.from_bytes(blake2b(text.encode(), digest_size=7).digest(), "little"))
    words = text.replace(",", "").split()
    if len(words) <= 3:
        words = ["".join(np.array(list(w))[rng.permutation(len(w))]) for w in words]
    return " ".join(words[i] for i in rng.permutation(len(words)))


def draw(tools: Tools, subject: Subject, asks: Sequence[Ask]) -> Callable[[], torch.Tensor]:
    """Begin the edits of one batch; the call decodes them: (asks, 3, H, W), 8-bit values."""
    pictures = begun(tools.editor, subject.inversion, _edits(tools, subject, asks))
    return lambda: rounded(pictures())


def _edits(tools: Tools, subject: Subject, asks: Sequence[Ask]) -> list[Edit]:
    at = [subject.row(a.image, a.seed) for a in asks]
    return [
        Edit(row, terms(subject.captions[row], a, tools.strength, tools.editor.captioned))
        for row, a in zip(at, asks, strict=True)
    ]


def read(
    tools: Tools, subject: Subject, asks: Sequence[Ask], pictures: torch.Tensor, batch: int
) -> tuple[list[Effect], dict[str, torch.Tensor]]:
    """Score the edits of one batch, check presence and locality: rows, and pictures by hash."""
    edits = _edits(tools, subject, asks)
    scores = tools.target.score(pictures).numpy()
    after = presence(tools.judge, tools.corpus, pictures)
    names = hashes(pictures)
    originals = subject.reconstructions[[e.row for e in edits]]
    outside = _outside(tools, originals, pictures, asks)
    moved = (pictures - originals).abs()  # (N, 3, H, W)
    size, area = moved.mean((1, 2, 3)), (moved.amax(1) >= VISIBLE).float().mean((1, 2))
    rows = []
    for i, (ask, edit) in enumerate(zip(asks, edits, strict=True)):
        there, now = _judged(subject, ask, edit.row, {c: float(after[c][i]) for c in ask.edited_as})
        others = {c: float(after[c][i] - subject.presence[c][edit.row]) for c in _others(tools.corpus, ask)}
        rows.append(
            Effect(
                image=subject.images[ask.image],
                seed=ask.seed,
                concept=ask.question.concept,
                direction=ask.question.direction,
                edited_as=" + ".join(ask.edited_as),
                strength=tools.strength * ask.weight,
                stage=ask.stage,
                eligible=not ask.edited_as or _eligible(tools.corpus, subject, ask),
                score_before=float(subject.scores[edit.row]),
                score_after=float(scores[i]),
                probability_before=float(probability(subject.scores[edit.row])),
                probability_after=float(probability(scores[i])),
                presence_before=there,
                presence_after=now,
                outside=float(outside[i]),
                reconstruction=subject.hashes[edit.row],
                edited=names[i],
                evaluations=tools.editor.evaluations(edit),
                batch=batch,
                size=float(size[i]),
                area=float(area[i]),
                others=json.dumps({c: round(v, 3) for c, v in others.items() if abs(v) >= MOVED}),
            )
        )
    return rows, dict(zip(names, pictures, strict=True))


def _eligible(corpus: Corpus, subject: Subject, ask: Ask) -> bool:
    parts = zip(ask.edited_as, ask.question.directions, strict=True)
    return all(subject.eligible(corpus, ask.image, ask.seed, c, d) for c, d in parts)


def _judged(subject: Subject, ask: Ask, row: int, after: Mapping[str, float]) -> tuple[float, float]:
    """Presence before and after; a joint edit's is its weakest part's, told in the first one's direction."""
    if not ask.edited_as:
        return float("nan"), float("nan")
    before = {c: float(subject.presence[c][row]) for c in ask.edited_as}
    weakest = min(ask.edited_as, key=lambda c: _gain(ask, c, before, after))
    if ask.question.directions[ask.edited_as.index(weakest)] != ask.question.directions[0]:
        return 1 - before[weakest], 1 - after[weakest]
    return before[weakest], after[weakest]


def _others(corpus: Corpus, ask: Ask) -> list[str]:
    """The leaves that an edit is to leave alone: not its own, their rivals, nor what they hide or replace."""
    nodes = [corpus[c] for c in ask.edited_as]
    return [leaf.path for leaf in corpus.leaves() if not any(_implied(leaf, n) for n in nodes)]


def _implied(leaf: Concept, edited: Concept) -> bool:
    slot = leaf.slot is not None and leaf.slot == edited.slot
    touched = (*edited.replaces, *edited.hidden_by, edited.path)
    return slot or _under(leaf.path, touched) or _under(edited.path, (*leaf.hidden_by, *leaf.replaces))


def _under(path: str, tops: Sequence[str]) -> bool:
    return any(path == top or path.startswith(top + "/") for top in tops)


def _gain(ask: Ask, concept: str, before: Mapping[str, float], now: Mapping[str, float]) -> float:
    direction = ask.question.directions[ask.edited_as.index(concept)]
    return (now[concept] - before[concept]) * (1 if direction == "add" else -1)


def _outside(tools: Tools, before: torch.Tensor, after: torch.Tensor, asks: Sequence[Ask]) -> np.ndarray:
    """Mean absolute change outside the concepts' regions in both pictures, (N,) in 0 to 1.

    nan where it cannot be judged: no segmenter, an edit of the whole image, or nothing outside.
    """
    found = np.full(len(asks), np.nan)
    nodes = [[tools.corpus[c] for c in ask.edited_as] for ask in asks]
    judged = (
        []
        if tools.segmenter is None
        else [i for i, n in enumerate(nodes) if n and not any(c.whole_image for c in n)]
    )
    if tools.segmenter is None or not judged:
        return found
    owners = [i for i in judged for _ in nodes[i]]
    asked = [node for i in judged for node in nodes[i]]
    paths, prompts = [n.path for n in asked] * 2, [n.prompt for n in asked] * 2
    where = tools.segmenter.regions(torch.cat([before[owners], after[owners]]), paths, prompts)
    region = torch.zeros(len(asks), *before.shape[-2:], dtype=torch.bool)
    for i, one, other in zip(owners, where[: len(owners)], where[len(owners) :], strict=True):
        region[i] |= one | other
    for i in judged:
        beyond = (after[i] - before[i]).abs().mean(0)[~region[i]]
        found[i] = float(beyond.mean()) if len(beyond) else np.nan
    return found
