"""Where prompts set out from: the neutral word, and the words that it pays to exchange it for.

Gradients at the neutral word are noisy and hold for small moves only. So they propose words (AutoPrompt,
Shin et al. 2020; greedy coordinate gradient, Zou et al. 2023), and pictures decide. They are screened in
groups, as a supersaturated design screens factors (Satterthwaite 1959): each picture is of a prompt of
several words drawn at random, all targets read the same pictures, and a ridge regression tells each word's
own effect on each target. The best are joined while that lowers the loss, and one more is added where it
helps. What a class lacks is a meaning too: words that do harm are tried with `no` before them. What takes
several words ("star sticker") no gradient at a word finds: a corpus proposes its phrases whole. Little is
spent on any prompt of words, for the descent goes on from there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from diffexplain.editors.generator import Generator
from diffexplain.synthesis.gallery import AT_ONCE, Gallery
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.targets import Objective

FEWEST, SCREENED = 4, 2  # random prompts that a phrase is screened in: at least, and for each of their words
RIDGE = 0.25  # of a phrase's appearances: what holds effects back that chance alone may make
LADDER = 8  # phrases that are joined at once, at most
NEXT = 4  # further ones that are tried after them, one of them denied
SEEDS = 6  # noises that a prompt of words is judged by
DENIED = 48  # words that the gradient points most away from, screened for how much harm they do
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
    joined = (LADDER + NEXT) * SEEDS
    return screened + targets * (3 * options.pool + options.restarts * joined)


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
        """Screen what is proposed, join the best of it."""
        ranked, each = self._ranked(self._proposed()), self._options.restarts
        owners = [o for o in range(len(ranked)) for _ in range(each)]
        first = [own[min(r, len(own) - 1)] for own in ranked for r in range(each)]
        best = self._best(owners, [self._ladder(ranked[o], p) for o, p in zip(owners, first, strict=True)])
        best = self._best(owners, [self._longer(ranked[o], p) for o, p in zip(owners, best, strict=True)])
        made = [self._soft(place) for place in best]
        return [made[o * each : (o + 1) * each] for o in range(len(ranked))]

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

    def _longer(self, ranked: Sequence[Place], place: Place) -> list[Place]:
        """A prompt, and it with each of the next phrases, one of them denied."""
        denied = [p for p in self._denied(ranked) if self._fits(place, p)][:1]
        more = [p for p in ranked if self._fits(place, p)][: NEXT - len(denied)]
        return [place, *(place + p for p in denied + more)]

    def _fits(self, place: Place, phrase: Place) -> bool:
        """Whether a phrase says something new, and there is room for it."""
        return not set(phrase) <= set(place) and len(place) + len(phrase) <= self._options.tokens

    @torch.no_grad()
    def _best(self, owners: Sequence[int], proposed: Sequence[Sequence[Place]]) -> list[Place]:
        """Of the prompts proposed to each owner, an objective, the one of least mean loss."""
        tries = [(i, place) for i, each in enumerate(proposed) for place in each]
        found: list[dict[Place, float]] = [{} for _ in proposed]
        for rows, images in self._drawn([place for _, place in tries], [self._seeds] * len(tries)):
            for row, own in zip(rows, torch.split(images, len(self._seeds)), strict=True):
                i, place = tries[row]
                loss = float(self._objectives[owners[i]].loss(own).double().mean())
                found[i][place] = loss if math.isfinite(loss) else math.inf
        return [min(each, key=each.__getitem__) for each in found]

    def _proposed(self) -> list[list[Place]]:
        """For each objective the words that its gradient at the neutral prompt points at, or away from.

        The corpus's phrases besides.
        """
        found: list[list[Place]] = []
        for gradient in self._gradients():
            score = ((self._table[:, None] - self._neutral) * gradient).sum((1, 2))  # (V,) change of the loss
            order = score.nan_to_num(nan=float("inf")).argsort(stable=True).tolist()
            most = min(DENIED, self._options.candidates)
            away = order[self._options.candidates :][-most:] if self._no is not None else []
            words = [(word,) for word in [*order[: self._options.candidates], *away]]
            found.append([*words, *(p for p in self._phrases if p not in words)])
        return found

    def _gradients(self) -> list[torch.Tensor]:
        """Of each objective's loss summed over the pool, to the neutral prompt (N, D)."""
        total = [torch.zeros_like(self._neutral) for _ in self._objectives]
        for start in range(0, len(self._pool), ROWS):
            seeds = self._pool[start : start + ROWS]
            leaf = self._neutral.clone().requires_grad_()
            said = self._generator.states(leaf[None], self._options.text).of([0] * len(seeds))
            images = self._generator.draw(said, seeds, mode=self._options.mode, k=self._options.k)
            for i, objective in enumerate(self._objectives):
                (gradient,) = torch.autograd.grad(
                    objective.loss(images).sum(), leaf, retain_graph=i + 1 < len(self._objectives)
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
