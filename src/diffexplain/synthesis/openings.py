"""Where prompts set out from: the neutral word, and the words that it pays to exchange it for.

Gradients at the neutral word are noisy and hold for small moves only. So they propose words (AutoPrompt,
Shin et al. 2020; greedy coordinate gradient, Zou et al. 2023), and pictures decide, by successive halving
(Jamieson & Talwalkar 2016): each proposed word is drawn a few times, once for all targets, those that do best
for a target more often, and those that lower its loss most are joined greedily. Then one word at a time is
exchanged, as the gradient at the prompt itself proposes and pictures decide. What a class lacks is a meaning
too: a word that does harm is proposed with `no` before it. What takes several words ("star sticker") no
gradient at a word finds: a corpus proposes its phrases whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from diffexplain.editors.generator import Generator
from diffexplain.synthesis.gallery import AT_ONCE, Gallery
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.targets import Objective

SIFTED = (3, 9)  # noises of the pool that words are judged by: of all, then of the better quarter
HALVED = 12  # phrases of a target that are judged by all of the opening's noises
FIRST, SEEDS = 4, 12  # noises that an exchange is sifted by, and that a prompt of words is judged by
DENIED = 48  # words that the gradient points most away from, of which the worst are denied
NEXT = 4  # phrases tried at each further step
EXCHANGED, AGAIN = 20, 4  # exchanges of one word that are tried in a round, and judged again
ROWS = 16  # pictures with a gradient at a time
Place = tuple[int, ...]  # a word, a phrase or a prompt by rows of the vocabulary, no longer than its tokens


@dataclass(frozen=True, slots=True, eq=False)
class Opening:
    """Where one restart of one target sets out from."""

    soft: torch.Tensor  # (N, D)
    loss: float  # mean over the noises it was judged by; inf where it was not


def openings(
    generator: Generator,
    objectives: Sequence[Objective],
    options: SynthesisOptions,
    neutral: torch.Tensor,
    pool: Sequence[int],
    gallery: Gallery,
) -> list[list[Opening]]:
    """For each objective one opening a restart; restart r begins with the r-th best word.

    `neutral` (N, D) is the prompt that all set out from, `pool` the noises of the optimisation, `gallery`
    where the pictures of words are kept.
    """
    return _Openings(generator, objectives, options, neutral, pool, gallery).found()


def most_drawn(options: SynthesisOptions, targets: int) -> int:
    """Pictures that the openings of so many targets take at most; one with a gradient counts three times."""
    if not options.candidates:
        return 0
    words = options.candidates + min(DENIED, options.candidates) + len(options.phrases)
    alone = words * SIFTED[0] + max(HALVED, words // 4) * SIFTED[1] + 2 * HALVED * SEEDS + 3 * options.pool
    longer = (options.tokens - 1) * NEXT * SEEDS
    exchange = (1 + AGAIN) * SEEDS + EXCHANGED * FIRST + 3 * options.pool
    return targets * (alone + options.restarts * (longer + options.exchanges * exchange))


@dataclass(slots=True)
class _Draft:
    """A prompt of words on its way."""

    objective: int
    place: Place
    loss: float  # mean over the noises that prompts of words are judged by


class _Openings:
    def __init__(
        self,
        generator: Generator,
        objectives: Sequence[Objective],
        options: SynthesisOptions,
        neutral: torch.Tensor,
        pool: Sequence[int],
        gallery: Gallery,
    ) -> None:
        self._generator, self._objectives, self._options = generator, objectives, options
        self._neutral, self._pool, self._gallery = neutral.detach(), list(pool), gallery
        self._seeds = self._pool[:SEEDS]
        known, table = generator.vocabulary
        self._known = known
        self._table = table.to(neutral)  # (V, D)
        self._phrases = _places(options.phrases, known, options.tokens)
        self._no = known.index(options.negation) if options.negation in known else None

    def found(self) -> list[list[Opening]]:
        """Judge the proposed phrases alone, then joined; a target's do not depend on the others'."""
        alone = self._judged(self._proposed(), self._pool[: SIFTED[0]])
        better = [_least(each, max(HALVED, len(each) // 4)) for each in alone]
        again = [
            [*_least(each, HALVED), *self._denied(first)]
            for each, first in zip(self._judged(better, self._pool[: SIFTED[1]]), alone, strict=True)
        ]
        own = self._judged(again, self._seeds)
        ranked = [_least(each, HALVED) for each in own]
        drafts = [
            _Draft(o, place, own[o][place])
            for o, each in enumerate(ranked)
            for place in (each[min(r, len(each) - 1)] for r in range(self._options.restarts))
        ]
        moving: Sequence[_Draft] = drafts
        for _ in range(self._options.tokens - 1):
            moving = self._longer(moving, ranked)
        moving = drafts
        for _ in range(self._options.exchanges):
            moving = self._exchanged(moving)
        made = [Opening(self._soft(d.place), d.loss) for d in drafts]
        each = self._options.restarts
        return [made[o * each : (o + 1) * each] for o in range(len(self._objectives))]

    def _denied(self, alone: Mapping[Place, float]) -> list[Place]:
        """The words that do most harm, each with a `no` before it."""
        if self._no is None or self._options.tokens < 2:
            return []
        worst = sorted(alone, key=alone.__getitem__, reverse=True)[: min(HALVED, len(alone) // 2)]
        most = self._options.tokens - 1
        return [(self._no, *place) for place in worst if place != (self._no,) and len(place) <= most]

    def _judged(self, proposed: Sequence[Iterable[Place]], seeds: Sequence[int]) -> list[dict[Place, float]]:
        """For each objective the losses of the phrases that are proposed to it."""
        phrases = sorted({p for each in proposed for p in each})
        alone = self._alone(phrases, seeds)  # (phrases, objectives)
        place = {p: i for i, p in enumerate(phrases)}
        return [{p: float(alone[place[p], o]) for p in each} for o, each in enumerate(proposed)]

    def _longer(self, drafts: Sequence[_Draft], ranked: Sequence[Sequence[Place]]) -> list[_Draft]:
        """Give every prompt the further phrase that lowers its loss most; those for which one did."""
        tries = [
            [
                d.place + p
                for p in [p for p in ranked[d.objective] if p[-1] not in d.place][:NEXT]
                if len(d.place) + len(p) <= self._options.tokens
            ]
            for d in drafts
        ]
        return _moved(drafts, self._tried(drafts, tries, [self._seeds] * len(drafts)))

    def _exchanged(self, drafts: Sequence[_Draft]) -> list[_Draft]:
        """Exchange in every prompt the word that lowers its loss most; those for which one did.

        The gradient at the prompt proposes, the noises that it does worst on sift, all of the opening's
        decide.
        """
        every = [self._seeds] * len(drafts)
        hard = [
            [self._seeds[k] for k in found[d.place].argsort(descending=True, stable=True)[:FIRST]]
            for d, found in zip(drafts, self._tried(drafts, [[d.place] for d in drafts], every), strict=True)
        ]
        proposed = [self._exchanges(d) for d in drafts]
        chosen = [_least(_means(each), AGAIN) for each in self._tried(drafts, proposed, hard)]
        return _moved(drafts, self._tried(drafts, chosen, every))

    def _exchanges(self, draft: _Draft) -> list[Place]:
        """The prompts of one other word that the gradient at a prompt points at most."""
        n, soft = len(self._neutral), self._soft(draft.place)
        words = self._everywhere(draft.place)
        gradient = self._gradients(soft, [draft.objective])[0]  # (N, D)
        gain = gradient @ self._table.T - (gradient * soft).sum(1, keepdim=True)  # (N, V) change of the loss
        gain = gain.nan_to_num(nan=float("inf"))
        gain[torch.arange(n), words] = float("inf")
        order = gain.flatten().argsort(stable=True)[:EXCHANGED].tolist()
        found = []
        for at, word in (divmod(k, len(self._table)) for k in order):
            found.append((*words[:at], word, *words[at + 1 :]))
        return found

    @torch.no_grad()
    def _tried(
        self, drafts: Sequence[_Draft], proposed: Sequence[Sequence[Place]], seeds: Sequence[Sequence[int]]
    ) -> list[dict[Place, torch.Tensor]]:
        """For each prompt its objective's losses (S,) of those proposed in its place, by its own noises."""
        tries = [(i, place) for i, each in enumerate(proposed) for place in each]
        found: list[dict[Place, torch.Tensor]] = [{} for _ in proposed]
        noises = [seeds[i] for i, _ in tries]
        for rows, images in self._drawn([place for _, place in tries], noises):
            for row, own in zip(rows, torch.split(images, len(noises[0])), strict=True):
                i, place = tries[row]
                losses = self._objectives[drafts[i].objective].loss(own).detach().double().cpu()
                found[i][place] = losses.nan_to_num(nan=float("inf"))
        return found

    def _proposed(self) -> list[list[Place]]:
        """For each objective the words that its gradient at the neutral prompt points at, or away from.

        The corpus's phrases besides.
        """
        found: list[list[Place]] = []
        for gradient in self._gradients(self._neutral, range(len(self._objectives))):
            score = ((self._table[:, None] - self._neutral) * gradient).sum((1, 2))  # (V,) change of the loss
            order = score.nan_to_num(nan=float("inf")).argsort(stable=True).tolist()
            most = min(DENIED, self._options.candidates)
            away = order[self._options.candidates :][-most:] if self._no is not None else []
            words = [(word,) for word in [*order[: self._options.candidates], *away]]
            found.append([*words, *(p for p in self._phrases if p not in words)])
        return found

    def _gradients(self, soft: torch.Tensor, objectives: Sequence[int]) -> list[torch.Tensor]:
        """Of each objective's loss summed over the pool, to a prompt (N, D)."""
        total = [torch.zeros_like(soft) for _ in objectives]
        for start in range(0, len(self._pool), ROWS):
            seeds = self._pool[start : start + ROWS]
            leaf = soft.clone().requires_grad_()
            with torch.enable_grad():
                said = self._generator.states(leaf[None], self._options.text).of([0] * len(seeds))
                images = self._generator.draw(said, seeds, mode=self._options.mode, k=self._options.k)
                for i, o in enumerate(objectives):
                    (gradient,) = torch.autograd.grad(
                        self._objectives[o].loss(images).sum(), leaf, retain_graph=i + 1 < len(objectives)
                    )
                    total[i] += gradient
        return total

    @torch.no_grad()
    def _alone(self, phrases: Sequence[Place], seeds: Sequence[int]) -> torch.Tensor:
        """Mean loss of every objective on the pictures of every phrase: (phrases, objectives)."""
        found = torch.empty(len(phrases), len(self._objectives), dtype=torch.float64)
        for rows, images in self._drawn(phrases, [seeds] * len(phrases)):
            read = {o.key: o for o in reversed(self._objectives)}
            said = {key: o.read(images) for key, o in read.items()}  # objectives of a layer are read at once
            for j, o in enumerate(self._objectives):
                found[rows, j] = o.loss_of(said[o.key]).view(-1, len(seeds)).mean(1).double().cpu()
        return found.nan_to_num(nan=float("inf"))

    def _drawn(
        self, places: Sequence[Place], seeds: Sequence[Sequence[int]]
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """A few prompts of words at a time: their numbers, and their pictures, those of a prompt together.

        Each has seeds of its own, all of them as many.
        """
        step = max(1, AT_ONCE // len(seeds[0])) if places else 1
        for start in range(0, len(places), step):
            rows = list(range(start, min(start + step, len(places))))
            texts = [self._text(places[r]) for r in rows for _ in seeds[r]]
            yield rows, self._gallery.images(self._generator, texts, [s for r in rows for s in seeds[r]])

    def _everywhere(self, place: Place) -> list[int]:
        """The words in turns, on all tokens: neutral ones between would dilute them."""
        return [place[i % len(place)] for i in range(len(self._neutral))]

    def _soft(self, place: Place) -> torch.Tensor:
        """A prompt's embeddings (N, D)."""
        return self._table[self._everywhere(place)]

    def _text(self, place: Place) -> str:
        """The same as one types it, after the fixed text."""
        return " ".join([self._options.text, *(self._known[w] for w in self._everywhere(place))]).strip()


def _places(phrases: Sequence[str], known: Sequence[str], tokens: int) -> list[Place]:
    """Phrases as rows of the vocabulary, once each; without those of other words, or of too many."""
    rows = {word: i for i, word in reversed(list(enumerate(known)))}
    split = [phrase.lower().replace(",", " ").split() for phrase in phrases]
    told = [words for words in split if 0 < len(words) <= tokens and all(w in rows for w in words)]
    return list(dict.fromkeys(tuple(rows[w] for w in words) for words in told))


def _moved(drafts: Sequence[_Draft], tried: Sequence[Mapping[Place, torch.Tensor]]) -> list[_Draft]:
    """Take the best of the prompts tried where it is better. Those that moved: the others would try again."""
    moved = []
    for draft, each in zip(drafts, map(_means, tried), strict=True):
        for place in _least(each, 1):
            if each[place] < draft.loss:
                draft.place, draft.loss = place, each[place]
                moved.append(draft)
    return moved


def _means(losses: Mapping[Place, torch.Tensor]) -> dict[Place, float]:
    return {place: float(own.mean()) for place, own in losses.items()}


def _least(losses: Mapping[Place, float], most: int) -> list[Place]:
    """Those of least loss, the best first."""
    return sorted(losses, key=losses.__getitem__)[:most]
