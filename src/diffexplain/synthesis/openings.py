"""Where prompts set out from: the neutral word, and the words that it pays to exchange it for.

Gradients at the neutral word are noisy and hold for small moves only. So they propose words (AutoPrompt,
Shin et al. 2020; greedy coordinate gradient, Zou et al. 2023), and pictures decide. They are screened in
groups, as a supersaturated design screens factors (Satterthwaite 1959): each picture is of a prompt of
several words drawn at random, all targets read the same pictures, and a ridge regression tells each word's
own effect on each target. The best are joined while that lowers the loss. Then one word at a time is
exchanged, as the gradient at the prompt itself proposes and pictures decide. What a class lacks is a meaning
too: words that do harm are tried with `no` before them. What takes several words ("star sticker") no gradient
at a word finds: a corpus proposes its phrases whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diffexplain.editors.generator import Generator
from diffexplain.synthesis.gallery import AT_ONCE, Gallery
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.targets import Objective

FEWEST, SCREENED = 4, 2  # random prompts that a phrase is screened in: at least, and for each of their words
RIDGE = 0.25  # of a phrase's appearances: what holds effects back that chance alone may make
LADDER = 8  # phrases that are joined at once, at most
ROUNDS, NEXT = 3, 4  # in which further phrases are tried, and how many of them at a time
SEEDS = 12  # noises that a prompt of words is judged by
DENIED = 48  # words that the gradient points most away from, screened for how much harm they do
FIRST, EXCHANGED, AGAIN = 4, 20, 4  # noises that exchanges of a word are sifted by; tried in a round; again
ROWS = 16  # pictures with a gradient at a time
Place = tuple[int, ...]  # a word, a phrase or a prompt by rows of the vocabulary, no longer than its tokens


def openings(
    generator: Generator,
    objectives: Sequence[Objective],
    options: SynthesisOptions,
    neutral: torch.Tensor,
    pool: Sequence[int],
    gallery: Gallery,
) -> list[list[torch.Tensor]]:
    """For each objective one prompt (N, D) a restart; restart r begins with the r-th best word.

    `neutral` (N, D) is the prompt that all set out from, `pool` the noises of the optimisation, `gallery`
    where the pictures of words are kept. All are screened by the same pictures, so what is proposed to one
    objective decides beside which words those of another are seen.
    """
    return _Openings(generator, objectives, options, neutral, pool, gallery).found()


def most_drawn(options: SynthesisOptions, targets: int) -> int:
    """Pictures that the openings of so many targets take at most; one with a gradient counts three times."""
    if not options.candidates:
        return 0
    said = [len(phrase.split()) for phrase in options.phrases]
    tokens = targets * (options.candidates + min(DENIED, options.candidates)) + sum(said)
    longest = max(said, default=1)
    screened = _appearances(options.tokens) * (1 + tokens // max(1, options.tokens - longest + 1))
    joined = (LADDER + ROUNDS * NEXT) * SEEDS
    exchange = (1 + AGAIN) * SEEDS + EXCHANGED * FIRST + 3 * options.pool
    return screened + targets * (
        3 * options.pool + options.restarts * (joined + options.exchanges * exchange)
    )


@dataclass(slots=True)
class _Draft:
    """A prompt of words on its way."""

    objective: int
    place: Place
    loss: float  # mean over the noises that prompts of words are judged by
    next: int = 0  # which of its objective's ranked phrases is tried next
    denied: int = 0  # and of its denied ones


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

    def found(self) -> list[list[torch.Tensor]]:
        """Screen what is proposed, join the best of it, exchange words."""
        ranked = self._ranked(self._proposed())
        denied = [self._denied(each) for each in ranked]
        drafts = [
            _Draft(o, each[min(r, len(each) - 1)], float("inf"))
            for o, each in enumerate(ranked)
            for r in range(self._options.restarts)
        ]
        every = [self._seeds] * len(drafts)
        ladders = [self._ladder(ranked[d.objective], d.place) for d in drafts]
        _moved(drafts, self._tried(drafts, ladders, every))
        for _ in range(ROUNDS):
            tries = [self._longer(d, ranked[d.objective], denied[d.objective]) for d in drafts]
            _moved(drafts, self._tried(drafts, tries, every))
        moving: Sequence[_Draft] = drafts
        for _ in range(self._options.exchanges):
            moving = self._exchanged(moving)
        made = [self._soft(d.place) for d in drafts]
        each = self._options.restarts
        return [made[o * each : (o + 1) * each] for o in range(len(self._objectives))]

    def _ranked(self, proposed: Sequence[Sequence[Place]]) -> list[list[Place]]:
        """For each objective what is proposed to it, by its effect on the loss, the least first."""
        phrases = sorted({p for each in proposed for p in each})
        drawn = _grouped([len(p) for p in phrases], self._options.tokens, self._options.seed)
        there = np.zeros((len(drawn), len(phrases)))
        for row, group in enumerate(drawn):
            there[row, group] = 1
        places = [sum((phrases[k] for k in group), ()) for group in drawn]
        losses = self._screened(places, [self._pool[i % len(self._pool)] for i in range(len(places))])
        effects = _effects(there, losses)
        at = {p: k for k, p in enumerate(phrases)}
        return [sorted(each, key=lambda p: effects[at[p], o]) for o, each in enumerate(proposed)]

    def _ladder(self, ranked: Sequence[Place], first: Place) -> list[Place]:
        """The first phrase, with the best other one, with the best two, and so on."""
        ladder = [first]
        for phrase in ranked:
            if len(ladder) < LADDER and self._fits(ladder[-1], phrase):
                ladder.append(ladder[-1] + phrase)
        return ladder

    def _denied(self, ranked: Sequence[Place]) -> list[Place]:
        """The words that do most harm, the worst first, each with a `no` before it."""
        if self._no is None:
            return []
        return [(self._no, *p) for p in reversed(ranked) if len(p) == 1 and p != (self._no,)]

    def _longer(self, draft: _Draft, ranked: Sequence[Place], denied: Sequence[Place]) -> list[Place]:
        """A prompt with each of the next phrases, one of them denied, which are not tried again."""
        tries = [draft.place + p for p in denied[draft.denied :][:1] if self._fits(draft.place, p)]
        draft.denied += 1
        while len(tries) < NEXT and draft.next < len(ranked):
            if self._fits(draft.place, ranked[draft.next]):
                tries.append(draft.place + ranked[draft.next])
            draft.next += 1
        return tries

    def _fits(self, place: Place, phrase: Place) -> bool:
        """Whether a phrase says something new, and there is room for it."""
        return not set(phrase) <= set(place) and len(place) + len(phrase) <= self._options.tokens

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
    def _screened(self, places: Sequence[Place], seeds: Sequence[int]) -> np.ndarray:
        """Loss of every objective on one picture of each prompt: (prompts, objectives)."""
        found = torch.empty(len(places), len(self._objectives), dtype=torch.float64)
        for rows, images in self._drawn(places, [[seed] for seed in seeds]):
            read = {o.key: o for o in reversed(self._objectives)}
            said = {key: o.read(images) for key, o in read.items()}  # objectives of a layer are read at once
            for j, o in enumerate(self._objectives):
                found[rows, j] = o.loss_of(said[o.key]).double().cpu()
        return found.numpy()

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


def _appearances(tokens: int) -> int:
    """Random prompts of so many words that each phrase is in: about two pictures a word, all in all."""
    return max(FEWEST, SCREENED * tokens)


def _grouped(lengths: Sequence[int], tokens: int, seed: int) -> list[list[int]]:
    """Random groups of phrases of these lengths that fill a prompt; each is in as many as any other."""
    rng, room = np.random.default_rng(seed), tokens
    groups: list[list[int]] = []
    open_: list[int] = []
    for k in [int(k) for _ in range(_appearances(tokens)) for k in rng.permutation(len(lengths))]:
        if lengths[k] > room or k in open_:
            groups.append(open_)
            open_, room = [], tokens
        open_.append(k)
        room -= lengths[k]
    return [*groups, open_]


def _effects(there: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Of each phrase on each objective's loss, by ridge regression (Hoerl & Kennard 1970): (phrases, O)."""
    good = np.isfinite(losses)
    worst = np.max(losses, axis=0, initial=0.0, where=good)
    y = np.where(good, losses, worst)
    x = there - there.mean(0)
    scale = RIDGE * float(there.sum(0).mean()) * np.eye(x.shape[1])
    return np.asarray(np.linalg.solve(x.T @ x + scale, x.T @ (y - y.mean(0))))


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
