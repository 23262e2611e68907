"""Words to set out from, on a tiny real pipeline: real ones, of least loss, and each target's own."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffexplain.images import rounded
from diffexplain.synthesis import openings as module
from diffexplain.synthesis.gallery import Gallery
from diffexplain.synthesis.openings import most_drawn, openings
from diffexplain.synthesis.optimisation import optimisation_seeds, optimise
from tests.unit.synthesis.test_optimisation import OPTIONS, Channel, generator

ASKED = replace(OPTIONS, candidates=10, pool=4, steps=0)
POOL = optimisation_seeds(ASKED.pool, ASKED.seed)


def neutral() -> torch.Tensor:
    word = generator().embedding(ASKED.word)[torch.arange(ASKED.tokens) % 3]
    return F.normalize(word, dim=-1) * generator().vocabulary[1].norm(dim=1).mean()


def losses(soft: torch.Tensor, objective: Channel, seeds: Sequence[int]) -> float:
    """On pictures of 8 bits, as those of words are kept."""
    model = generator()
    images = model.images(model.states(soft[None], ASKED.text).of([0] * len(seeds)), seeds)
    return float(objective.loss(rounded(images)).mean())


@lru_cache
def found(*colours: int) -> list[list[torch.Tensor]]:
    return openings(generator(), [Channel(c) for c in colours], ASKED, neutral(), POOL, Gallery())


def test_openings_are_real_words_and_better_than_the_neutral_one() -> None:
    table = generator().vocabulary[1]
    for colour, each in enumerate(found(0, 1)):
        assert len(each) == ASKED.restarts
        for opening in each:
            assert all((row == table).all(1).any() for row in opening)
            assert losses(opening, Channel(colour), POOL) < losses(neutral(), Channel(colour), POOL)


def test_an_opening_is_no_worse_than_the_phrase_it_begins_with() -> None:
    model = module._Openings(generator(), [Channel(0)], ASKED, neutral(), POOL, Gallery())
    (ranked,) = model._ranked(model._proposed())
    table = generator().vocabulary[1]
    for opening, ((word,), *_) in zip(found(0)[0], (ranked, ranked[1:]), strict=True):
        begun = table[[word] * ASKED.tokens]
        assert losses(opening, Channel(0), POOL) <= losses(begun, Channel(0), POOL) + 1e-5
    assert not torch.equal(*found(0)[0])


@pytest.mark.parametrize("tokens", [1, 4, 9])
def test_each_phrase_is_screened_as_often_as_any_other(tokens: int) -> None:
    lengths = [1 if tokens == 1 else 1 + k % 3 for k in range(20)]
    groups = module._grouped(lengths, tokens, 0)
    assert np.bincount(np.concatenate(groups)).tolist() == [max(4, 2 * tokens)] * 20
    for group in groups:
        assert sum(lengths[k] for k in group) <= tokens
        assert len(set(group)) == len(group) > 0
    assert groups != module._grouped(lengths, tokens, 1)


def test_screening_tells_what_each_word_does_among_others() -> None:
    """Ten effects on two objectives, from noisy prompts of three words; a loss that is no number is bad."""
    rng, effects = np.random.default_rng(0), np.linspace(-1, 1, 10)
    groups = [g for seed in range(6) for g in module._grouped([1] * 10, 3, seed)]
    there = np.array([[k in group for k in range(10)] for group in groups], dtype=float)
    losses = there @ np.stack([effects, -effects], 1) + rng.normal(0, 0.2, (len(groups), 2))
    said = module._effects(there, losses)
    assert said[:, 0].argsort().tolist() == list(range(10))
    assert np.corrcoef(said[:, 1], -effects)[0, 1] > 0.98
    losses[0, 0] = np.nan
    assert np.isfinite(module._effects(there, losses)).all()


def test_phrases_of_a_corpus_are_proposed_beside_words() -> None:
    known, _ = generator().vocabulary
    words = known[:3]
    phrase = f"{words[0]} {words[1].upper()}, {words[2]}"
    asked = replace(ASKED, tokens=3, negation="")
    start = torch.cat([neutral()] * 3)[:3]
    more = replace(asked, phrases=(phrase, phrase, "no-such-word here", " ".join(known[:4]), ""))
    proposed = module._Openings(generator(), [Channel(0)], more, start, POOL, Gallery())._proposed()[0]
    assert proposed.count((0, 1, 2)) == 1
    assert not [p for p in proposed if len(p) > 1 and p != (0, 1, 2)]
    assert most_drawn(more, 1) > most_drawn(asked, 1)


def test_what_is_added_to_an_opening_only_ever_helps() -> None:
    model = module._Openings(generator(), [Channel(0)], ASKED, neutral(), POOL, Gallery())
    (ranked,) = model._ranked(model._proposed())
    ladder = model._ladder(ranked, ranked[0])
    assert [len(p) for p in ladder] == list(range(1, ASKED.tokens + 1))
    (best,) = model._best([0], [ladder])
    by_hand = {p: losses(model._soft(p), Channel(0), POOL) for p in ladder}
    assert by_hand[best] == min(by_hand.values())
    short = ranked[0]
    tries = model._longer(ranked, short)
    assert tries[0] == short
    assert all(p[: len(short)] == short for p in tries)
    assert len(tries) == 1 + module.NEXT


def test_no_more_pictures_are_drawn_than_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = [0]
    images, draw = type(generator()).images, type(generator()).draw

    def without(self: object, said: object, seeds: list[int], **more: object) -> torch.Tensor:
        counted[0] += len(seeds)
        return images(self, said, seeds, **more)

    def with_gradient(self: object, said: object, seeds: list[int], **more: object) -> torch.Tensor:
        counted[0] += 3 * len(seeds)
        return draw(self, said, seeds, **more)

    monkeypatch.setattr(type(generator()), "images", without)
    monkeypatch.setattr(type(generator()), "draw", with_gradient)
    openings(generator(), [Channel(0), Channel(1)], ASKED, neutral(), POOL, Gallery())
    assert 0 < counted[0] <= most_drawn(ASKED, 2)
    assert most_drawn(replace(ASKED, candidates=0), 2) == 0


def test_targets_to_which_the_same_is_proposed_do_not_depend_on_each_other() -> None:
    everything = replace(ASKED, candidates=len(generator().vocabulary[0]))

    def opened(*colours: int) -> list[torch.Tensor]:
        objectives = [Channel(c) for c in colours]
        return openings(generator(), objectives, everything, neutral(), POOL, Gallery())[-1]

    for a, b in zip(opened(0, 1), opened(1), strict=True):
        assert torch.equal(a, b)


def test_the_descent_begins_there() -> None:
    begun = found(0)[0]
    for opening, optimum in zip(begun, optimise(generator(), [Channel(0)], ASKED), strict=True):
        assert torch.equal(optimum.soft, opening)


def test_a_word_that_does_harm_is_denied() -> None:
    """`no` before it is a phrase of the vocabulary's rows, the worst first."""

    def denied(negation: str) -> list[tuple[int, ...]]:
        options = replace(ASKED, negation=negation)
        model = module._Openings(generator(), [Channel(0)], options, neutral(), POOL, Gallery())
        return model._denied([(5,), (no,), (3, 4), (7,)])

    no = generator().vocabulary[0].index("n")
    assert denied("n") == [(no, 7), (no, 5)]
    assert denied("") == []
