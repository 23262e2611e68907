"""Where prompts set out from: the neutral word, and the words that it pays to exchange it for.

Gradients at the neutral word are noisy and hold for small moves only. So they propose words (AutoPrompt,
Shin et al. 2020; greedy coordinate gradient, Zou et al. 2023), and pictures decide, by successive halving
(Jamieson & Talwalkar 2016): each proposed word is drawn a few times, once for all targets, those that do best
for a target more often, and those that lower its loss most are joined greedily. What a class lacks is a
meaning too: a word that does harm is proposed with `no` before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from diffexplain.editors.generator import Generator
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.targets import Objective

FIRST, SEEDS = 3, 12  # noises of the pool that a word, and a prompt of words, is judged by
HALVED = 12  # phrases of a target that are judged again
DENIED = 48  # words that the gradient points most away from, of which the worst are denied
NEXT = 4  # phrases tried at each further step
ROWS, PICTURES = 16, 96  # pictures with a gradient at a time, and without
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
) -> list[list[Opening]]:
    """For each objective one opening a restart; restart r begins with the r-th best word.

    `neutral` (N, D) is the prompt that all set out from, `pool` the noises of the optimisation.
    """
    return _Openings(generator, objectives, options, neutral, pool).found()


class _Openings:
    def __init__(
        self,
        generator: Generator,
        objectives: Sequence[Objective],
        options: SynthesisOptions,
        neutral: torch.Tensor,
        pool: Sequence[int],
    ) -> None:
        self._generator, self._objectives, self._options = generator, objectives, options
        self._neutral, self._pool = neutral.detach(), list(pool)
        self._seeds = self._pool[:SEEDS]
        known, table = generator.vocabulary
        self._table = table.to(neutral)  # (V, D)
        self._no = known.index(options.negation) if options.negation in known else None

    def found(self) -> list[list[Opening]]:
        """Judge the proposed phrases alone, then joined; a target's do not depend on the others'."""
        alone = self._judged(self._proposed(), self._pool[:FIRST])
        again = [[*_least(each, HALVED), *self._denied(each)] for each in alone]
        own = self._judged(again, self._seeds)
        ranked = [_least(each, HALVED) for each in own]
        starts = [
            (o, min(r, len(each) - 1)) for o, each in enumerate(ranked) for r in range(self._options.restarts)
        ]
        places = [ranked[o][rank] for o, rank in starts]
        best = [own[o][ranked[o][rank]] for o, rank in starts]
        for _ in range(self._options.tokens - 1):
            self._longer([o for o, _ in starts], ranked, places, best)
        made = [Opening(self._soft(p), b) for p, b in zip(places, best, strict=True)]
        each = self._options.restarts
        return [made[o * each : (o + 1) * each] for o in range(len(self._objectives))]

    def _denied(self, alone: Mapping[Place, float]) -> list[Place]:
        """The words that do most harm, each with a `no` before it."""
        if self._no is None or self._options.tokens < 2:
            return []
        worst = sorted(alone, key=alone.__getitem__, reverse=True)[: min(HALVED, len(alone) // 2)]
        return [(self._no, *place) for place in worst if place != (self._no,)]

    def _judged(self, proposed: Sequence[Iterable[Place]], seeds: Sequence[int]) -> list[dict[Place, float]]:
        """For each objective the losses of the phrases that are proposed to it."""
        phrases = sorted({p for each in proposed for p in each})
        alone = self._alone(phrases, seeds)  # (phrases, objectives)
        place = {p: i for i, p in enumerate(phrases)}
        return [{p: float(alone[place[p], o]) for p in each} for o, each in enumerate(proposed)]

    def _longer(
        self, owners: Sequence[int], ranked: Sequence[Sequence[Place]], places: list[Place], best: list[float]
    ) -> None:
        """Give every prompt the further phrase that lowers its loss most, if one does; in place."""
        tries = [
            (i, places[i] + p)
            for i, o in enumerate(owners)
            for p in [p for p in ranked[o] if p[-1] not in places[i]][:NEXT]
            if len(places[i]) + len(p) <= self._options.tokens
        ]
        if not tries:
            return
        losses = torch.empty(len(tries))
        for rows, images in self._drawn([place for _, place in tries], self._seeds):
            for row, own in zip(rows, torch.split(images, len(self._seeds)), strict=True):
                losses[row] = self._objectives[owners[tries[row][0]]].loss(own).mean()
        for (i, place), loss in zip(tries, losses.tolist(), strict=True):
            if loss < best[i]:
                places[i], best[i] = place, loss

    def _proposed(self) -> list[list[Place]]:
        """For each objective the words that its gradient at the neutral prompt points at, or away from."""
        total = [torch.zeros_like(self._neutral) for _ in self._objectives]
        for start in range(0, len(self._pool), ROWS):
            seeds = self._pool[start : start + ROWS]
            leaf = self._neutral.clone().requires_grad_()
            with torch.enable_grad():
                said = self._generator.states(leaf[None], self._options.text).of([0] * len(seeds))
                images = self._generator.draw(said, seeds, mode=self._options.mode, k=self._options.k)
                for o, objective in enumerate(self._objectives):
                    (gradient,) = torch.autograd.grad(
                        objective.loss(images).sum(), leaf, retain_graph=o + 1 < len(self._objectives)
                    )
                    total[o] += gradient
        found: list[list[Place]] = []
        for gradient in total:
            score = ((self._table[:, None] - self._neutral) * gradient).sum((1, 2))  # (V,) change of the loss
            order = score.nan_to_num(nan=float("inf")).argsort(stable=True).tolist()
            most = min(DENIED, self._options.candidates)
            away = order[self._options.candidates :][-most:] if self._no is not None else []
            found.append([(word,) for word in [*order[: self._options.candidates], *away]])
        return found

    def _alone(self, phrases: Sequence[Place], seeds: Sequence[int]) -> torch.Tensor:
        """Mean loss of every objective on the pictures of every phrase: (phrases, objectives)."""
        found = torch.empty(len(phrases), len(self._objectives), dtype=torch.float64)
        for rows, images in self._drawn(phrases, seeds):
            read = {o.key: o for o in reversed(self._objectives)}
            said = {key: o.read(images) for key, o in read.items()}  # objectives of a layer are read at once
            for j, o in enumerate(self._objectives):
                found[rows, j] = o.loss_of(said[o.key]).view(-1, len(seeds)).mean(1).double().cpu()
        return found.nan_to_num(nan=float("inf"))

    def _drawn(
        self, places: Sequence[Place], seeds: Sequence[int]
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """A few prompts of words at a time: their numbers, and their pictures, those of a prompt together."""
        step = max(1, PICTURES // len(seeds))
        with torch.no_grad():
            for start in range(0, len(places), step):
                rows = list(range(start, min(start + step, len(places))))
                soft = torch.stack([self._soft(places[r]) for r in rows])
                said = self._generator.states(soft, self._options.text)
                own = [i for i in range(len(rows)) for _ in seeds]
                yield rows, self._generator.images(said.of(own), list(seeds) * len(rows))

    def _soft(self, place: Place) -> torch.Tensor:
        """The words in turns, on all tokens: neutral ones between would dilute them."""
        return self._table[[place[i % len(place)] for i in range(len(self._neutral))]]


def _least(losses: Mapping[Place, float], most: int) -> list[Place]:
    """Those of least loss, the best first."""
    return sorted(losses, key=losses.__getitem__)[:most]
