"""What a notebook shows of an answer: markup without script, escaped, pictures inside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from diffexplain.report import frame, wording
from diffexplain.report.album import Album
from diffexplain.report.axis import Axis
from diffexplain.report.beside import Section
from diffexplain.report.comparing import answer, labels
from diffexplain.report.contrast import Contrast
from diffexplain.report.finished import Finished
from diffexplain.report.page import axis, hero
from diffexplain.report.rows import ALPHA, rows, tree

PICTURED = 20  # rows with a thumbnail: a notebook keeps its outputs
SHOWN = 15  # changes of a contrast


def fragment(run: Finished) -> str:
    """Question, answer, strongest pairs and the tree with intervals."""
    ranked = rows(run.result)
    return frame.fragment(
        "notebook.html.j2",
        Album(run.picture),
        question=wording.question(run.result.request),
        answer=wording.answer(run.result, ranked),
        notes=run.result.notes,
        hero=list(reversed(hero(ranked))),
        sides=wording.sides(run.result.request),
        roots=tree(ranked),
        axis=axis(ranked),
        pictured=PICTURED,
        compared=None,
        alpha=ALPHA,
    )


def contrast_fragment(compared: Contrast) -> str:
    """The answer and the largest changes with intervals."""
    a, b = labels(compared)
    changes = compared.changes
    ends = chain.from_iterable((c.low, c.high) for c in changes)
    return frame.fragment(
        "notebook.html.j2",
        Album(lambda name: b""),
        question=f"What changes from {a} to {b}?",
        answer=[[wording.Part(answer(changes, a, b))]],
        notes=(),
        hero=[],
        roots=[],
        axis=Axis.over([c.difference for c in changes], ends),
        compared=changes[:SHOWN],
        more=max(0, len(changes) - SHOWN),
        alpha=ALPHA,
    )


def parts_fragment(question: str, parts: Iterable[Section], picture: Callable[[str], bytes]) -> str:
    """Any answer that is made of parts. `picture(hash)` gives a kept picture as PNG bytes."""
    return frame.fragment("notebook-sections.html.j2", Album(picture), question=question, parts=list(parts))
