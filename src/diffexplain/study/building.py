"""Questionnaires from finished runs: which rows are shown, with which distractors, under which words.

Pictures are drawn at random among the rows that count, not picked; where several runs have a unit, all show
the same input pictures as far as they can.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from diffexplain.errors import InputError, RunError
from diffexplain.records import Effect
from diffexplain.study.records import PAIR, PICTURES, STUDY, Ask, Item, Panel, Study, StudyOptions
from diffexplain.study.sources import Edits, Sets, Source, encoded, read_source

SHARED = ("shape", "colour", "texture", "material", "meaning (what it is)", "context (what is around it)",
          "several of these", "none of these")  # fmt: skip
SHARED_RED = "What does the red area share most with the pictures made by a computer?"
SHARED_MIXED = 6  # "several" and "none" stay last
QUALITY = ("1 – did not happen, or looks broken", "2", "3", "4", "5 – happened, and looks real")
APART = ("1 – much else changed", "2", "3", "4", "5 – nothing else changed")
BETTER = ("left", "right", "no difference")
SHOWN = 3  # pictures of a set on a page about what they share

CONSENT = """You are asked to look at pictures and answer questions about them. Some pictures were changed or
made by a computer.
Taking part is voluntary. You may stop at any time, and you may have your answers deleted.
We keep your answers and the time you take for each page, under a random name. We keep no name, no address and
no IP number.
By choosing “I agree” you say that you are at least 18 years old and have read this."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What the builders of the four kinds share."""

    sources: tuple[Source, ...]
    options: StudyOptions
    rng: np.random.Generator


def build_study(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    names: Sequence[str] = (),
    title: str = "Pictures and what changes them",
    consent: str = CONSENT,
    options: StudyOptions | None = None,
) -> Study:
    """A study from run folders of `explain` and `synthesize`; writes it, with its pictures, to a new folder.

    Each run is a method, called by `names` or else by its folder, in the analysis only. Raises InputError
    when the runs give nothing to ask, RunError for folders that cannot be read or written.
    """
    settings = options or StudyOptions()
    called = _names(runs, names)
    folder = _prepared(Path(out))
    sources = tuple(read_source(run, name) for run, name in zip(runs, called, strict=True))
    draft = Draft(sources, settings, np.random.default_rng(settings.seed))
    makers = {"attribute": _attribute, "share": _share, "rating": _rating, "side": _side}
    items = [item for kind in settings.kinds for item in makers[kind](draft)]
    if not items:
        raise InputError(
            f"runs {', '.join(map(str, runs))}: nothing to ask about {', '.join(settings.kinds)}; "
            "attribute and rating need a run of `explain` with measured concepts, side two of them, "
            "share a run of `synthesize`"
        )
    items += _checks(draft, items)
    study = Study(secrets.token_hex(6), title, consent, called, tuple(items), settings)
    _write_pictures(study, sources, folder / PICTURES)
    study.write(folder)
    return study


def _names(runs: Sequence[str | Path], names: Sequence[str]) -> tuple[str, ...]:
    called = tuple(names) or tuple(Path(run).resolve().name for run in runs)
    if not runs:
        raise InputError("runs (none): give at least one run folder")
    if len(called) != len(runs):
        raise InputError(f"{len(called)} names for {len(runs)} runs: give one name to each run")
    if bad := [name for name in called if PAIR in name or not name.strip()]:
        raise InputError(f"name {bad[0]!r}: give a name without {PAIR!r}")
    if len(set(called)) != len(called):
        raise InputError(f"names {', '.join(called)}: two runs have one name; give --name to each")
    return called


def _prepared(folder: Path) -> Path:
    try:
        if (folder / STUDY).exists() or (folder.exists() and any(folder.iterdir())):
            raise RunError(f"--out {folder}: is not empty: choose a new folder")
        (folder / PICTURES).mkdir(parents=True)
    except OSError as error:
        raise RunError(f"--out {folder}: cannot be used ({error.strerror}): choose another folder") from error
    return folder


# -- the four kinds -----------------------------------------------------------------------------------


def _attribute(draft: Draft) -> list[Item]:
    """The DiffEx table (Kazimi et al., CVPR 2025): pairs and the class names; which attribute is it?"""
    items = []
    for (concept, direction), having in _common(draft):
        unit = f"{direction} {concept}"
        distractors = _distractors(draft, having, concept)
        if len(distractors) < draft.options.choices - 1:
            continue
        options = [concept, *distractors]
        order = [int(i) for i in draft.rng.permutation(len(options))]
        verb = "added" if direction == "add" else "taken away"
        ask = Ask("attribute", f"Which attribute was {verb}?", tuple(_worded(options[i]) for i in order),
                  len(options), order.index(0))  # fmt: skip
        images = _images(draft, having, concept, direction, draft.options.pairs)
        for source, rows in having:
            shown = enumerate(_of(rows, images), 1)
            pairs = tuple(Panel(f"pair {i}", (r.reconstruction, r.edited)) for i, r in shown)
            intro = _classes(source, concept, direction, verb)
            items.append(Item("attribute", unit, source.name, intro, pairs, (ask,)))
    return items


def _share(draft: Draft) -> list[Item]:
    """DEXTER's question (Carnemolla et al., NeurIPS 2025): what do these pictures share?"""
    items = []
    for source in draft.sources:
        if not isinstance(source, Sets):
            continue
        marked = source.marked and bool(source.real)
        asked = SHARED_RED if marked else "What do these pictures share most?"
        ask = Ask("share", asked, SHARED, SHARED_MIXED)
        for target, made in source.made.items():
            pick = [made[i] for i in draft.rng.permutation(len(made))[:SHOWN]]
            panels = [Panel("made by a computer", tuple(pick))]
            if source.real:
                some = [source.real[i] for i in draft.rng.permutation(len(source.real))[:SHOWN]]
                called = "with a red area" if marked else "photographed or drawn"
                panels.append(Panel(called, tuple(some)))
            intro = "Look at all the pictures on this page."
            items.append(Item("share", target, source.name, intro, tuple(panels), (ask,)))
    return items


def _rating(draft: Draft) -> list[Item]:
    """One edit, named: did it happen and look real, and did anything else change (1 to 5)?"""
    items = []
    for (concept, direction), having in _common(draft):
        images = _images(draft, having, concept, direction, 1)
        for source, rows in having:
            row = _of(rows, images)[0]
            asks = (
                Ask("quality", "How well was this done?", QUALITY),
                Ask("disentanglement", "How much of the rest stayed as it was?", APART),
            )
            panels = (Panel("before", (row.reconstruction,)), Panel("after", (row.edited,)))
            unit = f"{direction} {concept}"
            items.append(Item("rating", unit, source.name, _told(concept, direction), panels, asks))
    return items


def _side(draft: Draft) -> list[Item]:
    """Two methods' edits of one picture, side by side: which is better, which changed less else?"""
    items = []
    for (concept, direction), having in _common(draft):
        for (a, of_a), (b, of_b) in combinations(having, 2):
            shared = sorted({r.image for r in of_a} & {r.image for r in of_b})
            if not shared:
                continue
            image = shared[int(draft.rng.integers(len(shared)))]
            one, other = _of(of_a, [image])[0], _of(of_b, [image])[0]
            before = one.image if a.has(one.image) else one.reconstruction
            panels = (
                Panel("before", (before,)),
                Panel("left", (one.edited,)),
                Panel("right", (other.edited,)),
            )
            asks = (
                Ask("better", "Which one made the change better?", BETTER),
                Ask("cleaner", "Which one left more of the rest as it was?", BETTER),
            )
            told = _told(concept, direction) + " Two ways of doing it are shown."
            unit, methods = f"{direction} {concept}", PAIR.join((a.name, b.name))
            items.append(Item("side", unit, methods, told, panels, asks, (1, 2)))
    return items


def _checks(draft: Draft, items: Sequence[Item]) -> list[Item]:
    """Pages that tell the reader what to choose; who chooses something else was not reading."""
    found = []
    for i in range(draft.options.checks):
        like = items[int(draft.rng.integers(len(items)))]
        right = int(draft.rng.integers(5))
        choices = tuple(str(n) for n in range(1, 6))
        text = f"This page checks that the questions are read. Please choose {right + 1}."
        ask = Ask("check", text, choices, 0, right)
        found.append(Item("check", f"check {i + 1}", "", "Look at the pictures, then read the question.",
                          like.panels, (ask,)))  # fmt: skip
    return found


# -- which rows, which words --------------------------------------------------------------------------


def _common(draft: Draft) -> list[tuple[tuple[str, str], list[tuple[Edits, list[Effect]]]]]:
    """Questions with the runs that have rows of them: what most runs have first, then the strongest.

    As many as fill `items` for a reader twice over, so that readers see different ones.
    """
    edits = [source for source in draft.sources if isinstance(source, Edits)]
    having: dict[tuple[str, str], list[tuple[Edits, list[Effect]]]] = {}
    for source in edits:
        for question, rows in source.rows.items():
            having.setdefault(question, []).append((source, rows))
    ranked = sorted(having, key=lambda q: (-len(having[q]), -max(s.strength(*q) for s, _ in having[q]), q))
    most = max((len(having[q]) for q in ranked), default=0)
    full = sum(len(having[q]) == most for q in ranked)
    kept = min(max(full, draft.options.items), 2 * draft.options.items)
    return [(q, having[q]) for q in ranked[:kept]]


def _distractors(draft: Draft, having: Sequence[tuple[Edits, list[Effect]]], concept: str) -> list[str]:
    """Other attributes of the run's corpus, none of them above, below or within the concept's."""
    taken = [concept]
    known = sorted({c for source, _ in having for c in source.concepts})
    for i in draft.rng.permutation(len(known)):
        if not any(_related(known[i], other) for other in taken):
            taken.append(known[i])
    return taken[1 : draft.options.choices]


def _related(one: str, other: str) -> bool:
    a, b = one + "/", other + "/"
    return a.startswith(b) or b.startswith(a) or _worded(one) == _worded(other)


def _images(draft: Draft, having: Sequence[tuple[Edits, list[Effect]]], concept: str, direction: str,
            many: int) -> list[str]:  # fmt: skip
    """Input pictures at random, those that every run has first."""
    sets = [{row.image for row in rows} for _, rows in having]
    common = sorted(set.intersection(*sets))
    rest = sorted(set.union(*sets) - set(common))
    mixed = [[pool[i] for i in draft.rng.permutation(len(pool))] for pool in (common, rest)]
    return (mixed[0] + mixed[1])[:many]


def _of(rows: Sequence[Effect], images: Sequence[str]) -> list[Effect]:
    """The rows of these images, one an image; other rows where a run has none of them."""
    by_image = {row.image: row for row in reversed(rows)}
    found = [by_image[image] for image in images if image in by_image]
    spare = [row for image, row in by_image.items() if image not in images]
    return found or spare[: len(images)]


def _worded(concept: str) -> str:
    """A concept path as a person reads it."""
    return " › ".join(concept.split("/"))


def _classes(source: Edits, concept: str, direction: str, verb: str) -> str:
    one, other = source.towards
    return (
        f"A computer program sorts pictures into “{one}” and “{other}”. Each pair shows a picture before and "
        f"after one attribute was {verb}. The change moves the program’s decision towards "
        f"“{source.moves(concept, direction)}”."
    )


def _told(concept: str, direction: str) -> str:
    verb = "to add" if direction == "add" else "to take away"
    return f"The computer was asked {verb}: {_worded(concept)}, and to change nothing else."


def _write_pictures(study: Study, sources: Sequence[Source], folder: Path) -> None:
    """Each picture once, as WebP, by its content hash."""
    names = {name for item in study.items for panel in item.panels for name in panel.pictures}
    for name in sorted(names):
        source = next(s for s in sources if s.has(name))
        try:
            (folder / f"{name}.webp").write_bytes(encoded(source.picture(name)))
        except OSError as error:
            raise RunError(f"study {folder}: cannot be written ({error.strerror}): free space") from error
