"""What stands beside an answer when a run has it: tables and pictures of audits, baselines, verdicts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A small table; the first cell of a row names it, the others are numbers or short words."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Plate:
    """One picture of the run, by content hash, and what is said of it."""

    picture: str
    caption: str
    badge: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page: a heading, paragraphs, tables, pictures. All of it is text, never markup."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    plates: tuple[Plate, ...] = ()
