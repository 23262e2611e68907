"""Who sees what, and in which order: a pure function of the study and the number of the booklet.

Counterbalanced: of a unit that several methods have, a reader sees one, the next reader the next (a Latin
square); readers start elsewhere among the units, so each is shown equally often; pictures side by side swap
places. Randomised: the order of pages within a kind, of choices, and where the checks come.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np

from diffexplain.study.records import BLIND, NAMED, Ask, Item, Kind, Panel, Study


@dataclass(frozen=True, slots=True)
class Page:
    """An item as one reader sees it."""

    item: Item
    panels: tuple[Panel, ...]  # in the order shown
    orders: tuple[tuple[int, ...], ...]  # of each ask: the numbers of the choices as shown
    swapped: bool = False  # whether the two arms changed places

    def shown(self) -> dict[str, Any]:
        """What the reader's page gets: no method, no truth, no unit."""
        return {
            "intro": self.item.intro,
            "panels": [{"heading": p.heading, "pictures": list(p.pictures)} for p in self.panels],
            "asks": [
                {"name": a.name, "text": a.text, "choices": [[i, a.choices[i]] for i in order]}
                for a, order in zip(self.item.asks, self.orders, strict=True)
            ],
        }


@lru_cache(maxsize=1024)
def booklet(study: Study, number: int) -> tuple[Page, ...]:
    """The pages of reader `number`, in order. Kinds that name the change come after those that do not."""
    rng = np.random.default_rng([study.options.seed, number])
    pages: list[Page] = []
    for kind in _blocks(number):
        chosen = _chosen(study, kind, number)
        pages += [_page(chosen[i][0], chosen[i][1], rng) for i in rng.permutation(len(chosen))]
    for item in [i for i in study.items if i.kind == "check"]:
        at = int(rng.integers(1, len(pages) + 1)) if pages else 0  # never the first page
        pages.insert(at, _page(item, False, rng))
    return tuple(pages)


def _blocks(number: int) -> tuple[Kind, ...]:
    """The order of kinds: blind before named, either pair forwards or backwards, all four in turn."""
    blind = BLIND if number // 2 % 2 == 0 else BLIND[::-1]
    named = NAMED if number // 4 % 2 == 0 else NAMED[::-1]
    return (*blind, *named)


def _chosen(study: Study, kind: Kind, number: int) -> list[tuple[Item, bool]]:
    """A reader's items of a kind, and whether the arms swap: `options.items` units, one method each.

    The first unit moves on from reader to reader. The methods of a unit take turns, and move on by one
    more whenever the first unit comes round again; so do the arms when all methods had their turn.
    """
    units: dict[str, list[Item]] = {}
    for item in study.items:
        if item.kind == kind:
            units.setdefault(item.unit, []).append(item)
    names, many = list(units), min(study.options.items, len(units))
    if not many:
        return []
    laps = len(names) // gcd(len(names), many)  # readers until every unit was shown equally often
    turn = number // laps + number % laps
    found = []
    for u in ((number * many + i) % len(names) for i in range(many)):
        variants = units[names[u]]
        item = variants[(u + turn) % len(variants)]
        found.append((item, bool(item.arms) and (u + turn // len(variants)) % 2 == 1))
    return found


def _page(item: Item, swapped: bool, rng: np.random.Generator) -> Page:
    panels = list(item.panels)
    if swapped:
        a, b = item.arms
        one, other = panels[a], panels[b]  # the headings stay where they are
        panels[a], panels[b] = Panel(one.heading, other.pictures), Panel(other.heading, one.pictures)
    return Page(item, tuple(panels), tuple(_order(ask, rng) for ask in item.asks), swapped)


def _order(ask: Ask, rng: np.random.Generator) -> tuple[int, ...]:
    mixed = tuple(int(i) for i in rng.permutation(ask.shuffled))
    return (*mixed, *range(ask.shuffled, len(ask.choices)))
