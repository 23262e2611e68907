"""Readers made of chance: what they know, like and overlook is planted, so an analysis can be checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffexplain.study.booklets import booklet
from diffexplain.study.records import Answer, Ask, Item, Panel, Reader, Study, StudyOptions

CHOICES = 4
SHARED = 8


@dataclass(frozen=True)
class Minds:
    """What readers do. Methods by name; a missing one has no advantage."""

    accuracy: Mapping[str, float] = field(default_factory=dict)  # share right; else 1 / CHOICES
    rating: Mapping[str, float] = field(default_factory=dict)  # points added to 3
    preference: float = 0.0  # for the first of two methods, −1 to 1
    shares: Sequence[float] = (1.0,) * SHARED  # weights of what pictures share
    reader_spread: float = 0.6  # standard deviation of readers' mean rating, in points
    unit_spread: float = 0.6  # of units' mean rating
    careless: float = 0.0  # share of readers who fail the checks


def study(units: int = 8, methods: Sequence[str] = ("A", "B"), items: int = 8, checks: int = 1) -> Study:
    """A study of all kinds without pictures."""
    found: list[Item] = []
    panels = (Panel("before", ("x",)), Panel("left", ("a",)), Panel("right", ("b",)))
    scale = tuple("12345")
    for u in range(units):
        for method in methods:
            right = Ask("attribute", "Which?", tuple(f"c{i}" for i in range(CHOICES)), CHOICES, u % CHOICES)
            rated = (Ask("quality", "How?", scale), Ask("disentanglement", "Rest?", scale))
            share = Ask("share", "What?", tuple(f"s{i}" for i in range(SHARED)), SHARED - 2)
            found += [
                Item("attribute", f"u{u}", method, "", panels, (right,)),
                Item("share", f"u{u}", method, "", panels, (share,)),
                Item("rating", f"u{u}", method, "", panels, rated),
            ]
        better = Ask("better", "Which is better?", ("left", "right", "no difference"))
        found.append(Item("side", f"u{u}", " | ".join(methods[:2]), "", panels, (better,), (1, 2)))
    found += [
        Item("check", f"check {i}", "", "", panels, (Ask("check", "5", scale, 0, 4),)) for i in range(checks)
    ]
    return Study("0", "simulated", "agree", tuple(methods), tuple(found), StudyOptions(items=items))


def answered(of: Study, readers: int, minds: Minds, seed: int) -> tuple[list[Reader], list[Answer]]:
    """Everything that `readers` such people answer."""
    rng = np.random.default_rng(seed)
    units = {unit: rng.normal(0, minds.unit_spread) for unit in sorted({i.unit for i in of.items})}
    people, answers = [], []
    for number in range(readers):
        name, bias = f"reader{number}", rng.normal(0, minds.reader_spread)
        careless = rng.random() < minds.careless
        people.append(Reader(name, number, True))
        for at, page in enumerate(booklet(of, number)):
            for ask in page.item.asks:
                choice = _choice(page.item, ask, page.swapped, minds, bias, units, careless, rng)
                answers.append(Answer(name, number, at, ask.name, choice, 5.0))
    return people, answers


def _choice(item: Item, ask: Ask, swapped: bool, minds: Minds, bias: float, units: Mapping[str, float],
            careless: bool, rng: np.random.Generator) -> int:  # fmt: skip
    if item.kind == "check":
        return 0 if careless else 4
    if item.kind == "attribute":
        if rng.random() < (minds.accuracy.get(item.method, 1 / CHOICES) - 1 / CHOICES) / (1 - 1 / CHOICES):
            return int(ask.truth or 0)
        return int(rng.integers(CHOICES))
    if item.kind == "share":
        weights = np.asarray(minds.shares, float)
        return int(rng.choice(SHARED, p=weights / weights.sum()))
    if item.kind == "rating":
        mean = 3 + bias + units[item.unit] + minds.rating.get(item.method, 0.0)
        return int(np.clip(np.round(mean + rng.normal(0, 0.8)), 1, 5)) - 1
    drawn = rng.random()
    first = 0 if drawn < 0.4 * (1 + minds.preference) else 1 if drawn < 0.8 else 2
    return 1 - first if swapped and first < 2 else first
