"""Soft prompts in words: the nearest real ones, and prompts that are real words all along.

Hard prompts by projection (PEZ, Wen et al. 2023): the forward pass uses the nearest real words, and their
gradient moves the soft ones. Of the best prompt those words are kept that it takes: each is judged by what
taking it out costs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch.nn import functional as F

from diffexplain.editors.generator import Generator
from diffexplain.errors import InputError
from diffexplain.records import Word
from diffexplain.rows import in_rows
from diffexplain.synthesis.optimisation import optimisation_seeds
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.targets import Objective

ROWS = 32  # pictures a call of the classifier
Key = tuple[int, ...]  # a prompt by its words' rows
PACE = 3.0  # times the soft prompts' rate: a step has to reach another word
FINALISTS = 8  # prompts that are read once more, on every noise


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Real tokens near a learned one, the nearest first."""

    words: tuple[Word, ...]
    pieces: tuple[Word, ...]  # tokens that are only the ends of words


@dataclass(frozen=True, slots=True)
class WordedPrompt:
    """A prompt of real words that lowers an objective."""

    text: str
    words: tuple[str, ...]  # those found
    loss: float  # mean over all noises of the optimisation
    curve: tuple[float, ...]  # mean loss of every iteration's prompts
    tried: int  # different prompts


def nearest_words(
    generator: Generator, soft: torch.Tensor, k: int = 5, *, among: Collection[str] | None = None
) -> list[Neighbours]:
    """The k nearest real words of each soft token (N, D), by 1 - cosine.

    With `among`, a word list in lower case, other tokens count as pieces: a vocabulary of byte pairs holds
    ends of words that look like words. Raises InputError for k below 1.
    """
    if k < 1:
        raise InputError(f"k is {k}; ask for one word at least")
    tokens, table = typed_words(generator)
    whole = torch.tensor([among is None or t in among for t in tokens])
    distances = 1 - _cosines(soft.detach().float().cpu(), table)  # (N, V)

    def nearest(row: torch.Tensor, allowed: torch.Tensor) -> tuple[Word, ...]:
        index = allowed.nonzero()[:, 0]
        order = index[row[index].argsort(stable=True)[:k]].tolist()
        return tuple(Word(tokens[i], float(row[i])) for i in order)

    return [Neighbours(nearest(row, whole), nearest(row, ~whole)) for row in distances]


def hard_prompt(
    generator: Generator,
    objective: Objective,
    options: SynthesisOptions,
    *,
    start: torch.Tensor | None = None,
) -> WordedPrompt:
    """The best prompt of real words that the projected optimisation (PEZ) comes by, as short as it can be.

    `options.tokens` words follow `options.text`. All restarts are one batch: the first starts from `start`
    (N, D), a soft prompt already found, or else from `options.word`, the others from words at random, as PEZ
    does. The prompts with the least loss are read once more on all noises of the pool, and the best is cut
    down to the words that it takes. No cutouts, no noise: words leave little room to be adversarial.
    """
    tokens, table = typed_words(generator)
    soft = _start(generator, options, table, start).requires_grad_()  # (restarts, N, D)
    # Adam moves every coordinate by its rate: so one of 1 is a vocabulary's norm
    rate = PACE * options.rate * float(table.norm(dim=1).mean()) / table.shape[1] ** 0.5
    optimiser = torch.optim.Adam([soft], lr=rate)
    tried = Tried()
    for step in range(max(1, options.steps)):
        index = _cosines(soft.detach().flatten(0, 1), table).argmax(1).view(soft.shape[:2])
        straight = soft + (table[index] - soft).detach()  # projected; its gradient goes to the soft ones
        losses = drawn_losses(generator, objective, straight, options, step)
        tried.note([tuple(row) for row in index.tolist()], losses.detach())
        descend(optimiser, soft, losses.mean(1).sum())
    keys = tried.finalists(FINALISTS)
    final = pooled_losses(generator, objective, table[torch.tensor(keys)], options.text, options).mean(1)
    key, loss = _shortest(
        keys[int(final.argmin())],
        lambda key: pooled_losses(generator, objective, table[list(key)][None], options.text, options)[0],
    )
    words = tuple(tokens[i] for i in key)
    text = " ".join([options.text, *words]).strip()
    return WordedPrompt(text, words, loss, tuple(tried.curve), len(tried.losses))


def _start(
    generator: Generator, options: SynthesisOptions, table: torch.Tensor, start: torch.Tensor | None
) -> torch.Tensor:
    """Embeddings that the restarts begin with, (restarts, N, D)."""
    if start is None:
        start = generator.embedding(options.word)[-1:].expand(options.tokens, -1)
    draw = torch.Generator().manual_seed(options.seed)
    index = torch.randint(len(table), (options.restarts - 1, len(start)), generator=draw)
    return torch.cat([start.detach().to(table)[None], table[index]]).clone()


def _shortest(key: Key, losses: Callable[[Key], torch.Tensor]) -> tuple[Key, float]:
    """A prompt with only the words that it takes, each once, in their order; its mean loss.

    `losses`: of a prompt, one a noise. Words are ranked by what a prompt of each word once loses without
    them. Of the first word, the first two, and so on, and the prompt as it is, the shortest is taken whose
    loss lies within one standard error of the least (Breiman et al. 1984, section 3.4.3).
    """
    losses, once = cache(losses), tuple(dict.fromkeys(key))
    cost = {w: float(losses(tuple(v for v in once if v != w)).mean()) if once[1:] else 0.0 for w in once}
    ranked = sorted(once, key=lambda w: -cost[w])
    shorter = [tuple(w for w in once if w in ranked[:n]) for n in range(1, len(once) + 1)]
    tried = {each: losses(each) for each in dict.fromkeys([*shorter, key])}
    least = min(tried.values(), key=lambda own: float(own.mean()))
    enough = float(least.mean() + least.std(correction=0) / len(least) ** 0.5)
    short = next((each for each, own in tried.items() if float(own.mean()) <= enough), key)  # NaN: as it is
    return short, float(tried[short].mean())


def typed_words(generator: Generator) -> tuple[list[str], torch.Tensor]:
    """The generator's words that a typed prompt can hold, and their embeddings (V, D).

    CLIP's tokenizers put everything in lower case, but know the capitals.
    """
    tokens, table = generator.vocabulary
    rows = [i for i, token in enumerate(tokens) if token.islower()]
    return [tokens[i] for i in rows], table[rows]


def _cosines(soft: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    return F.normalize(soft, dim=-1) @ F.normalize(table, dim=-1).T


# -- shared with the other ways to find words -------------------------------------------------------------


@dataclass(slots=True)
class Tried:
    """Prompts met on the way and the losses of their pictures."""

    losses: dict[Key, list[float]] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)

    def note(self, keys: Sequence[Key], losses: torch.Tensor) -> None:
        """One iteration's prompts and their losses (prompts, pictures)."""
        for key, row in zip(keys, losses.tolist(), strict=True):
            self.losses.setdefault(key, []).extend(row)
        self.curve.append(float(losses.mean()))

    def finalists(self, n: int) -> list[Key]:
        """The n with the least mean loss, the least first; NaN comes last."""
        means = {key: sum(rows) / len(rows) for key, rows in self.losses.items()}
        return sorted(means, key=lambda key: (means[key] != means[key], means[key]))[:n]


def noises(options: SynthesisOptions, step: int | None = None) -> list[int]:
    """Seeds of the pictures: all of the pool, or those whose turn it is in a step."""
    pool = optimisation_seeds(options.pool, options.seed)
    if step is None:
        return pool
    first = step * options.seeds % options.pool
    return pool[first : first + options.seeds]


def drawn_losses(
    generator: Generator,
    objective: Objective,
    soft: torch.Tensor,
    options: SynthesisOptions,
    step: int,
    text: str | None = None,
) -> torch.Tensor:
    """Losses (P, seeds) with gradient of prompts (P, N, D), drawn with the noises of a step."""
    seeds = noises(options, step)
    rows = soft.repeat_interleave(len(seeds), dim=0)
    with torch.enable_grad():
        said = generator.states(rows, options.text if text is None else text)
        images = generator.draw(said, seeds * len(soft), mode=options.mode, k=options.k)
        return objective.loss(images).view(len(soft), len(seeds)).cpu()


def pooled_losses(
    generator: Generator,
    objective: Objective,
    soft: torch.Tensor,
    text: str,
    options: SynthesisOptions,
) -> torch.Tensor:
    """Losses (P, pool) of prompts (P, N, D) on each of the pool's noises; without gradient."""
    asked = noises(options)
    with torch.no_grad():
        said = generator.states(soft.repeat_interleave(len(asked), dim=0), text)
        images = generator.images(said, asked * len(soft))
        losses = in_rows(objective.loss, images, rows=ROWS)
    return losses.view(len(soft), len(asked)).double().cpu()


def descend(optimiser: torch.optim.Optimizer, soft: torch.Tensor, loss: torch.Tensor) -> None:
    """One step; what is not finite moves nothing."""
    (gradient,) = torch.autograd.grad(loss, soft)
    soft.grad = torch.nan_to_num(gradient, posinf=0.0, neginf=0.0)
    optimiser.step()
