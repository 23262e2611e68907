"""Feed the search with measured rows, batch by batch, until it has decided."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from diffexplain.effects import Subject, Tools, draw, read
from diffexplain.images import encode_png
from diffexplain.records import RACING, Ask, Effect
from diffexplain.search import Outcome, Rounds
from diffexplain.store import MemoryRun, Run

#: told (what is going on, steps done, steps in all) as a run proceeds.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """Tools, and the pictures that they inverted."""

    tools: Tools
    subject: Subject


@dataclass(frozen=True, slots=True)
class Benches:
    """The bench of the race and that of what is reported: two where a faster editor screens.

    A second opinion has one of its own.
    """

    race: Bench
    report: Bench
    second: Bench | None = None

    def of(self, ask: Ask) -> Bench:
        """Where an edit is made."""
        if ask.stage == "second" and self.second:
            return self.second
        return self.race if ask.stage in RACING else self.report


def drive(
    rounds: Rounds, run: Run | MemoryRun, benches: Benches, expected: int, tell: Progress
) -> tuple[list[Effect], Outcome]:
    """Answer every round of the search; finished batches are read back from the run, not made again.

    Batches are a fixed function of the request and of earlier rows, so a resumed run is the same run.
    """
    stored: dict[int, list[Effect]] = {}
    for row in run.rows():
        stored.setdefault(row.batch, []).append(row)
    rows: list[Effect] = []
    answer: list[Effect] | None = None  # a generator is started by sending nothing
    batch = 0
    while True:
        try:
            asks = rounds.send(answer)  # type: ignore[arg-type]
        except StopIteration as stop:
            tell("editing", len(rows), len(rows))
            return rows, stop.value
        answer = []
        for made in _batches(asks, batch, stored, run, benches):
            answer += made
            batch += 1
            done = len(rows) + len(answer)
            tell("editing", done, max(expected, done + len(asks) - len(answer)))
        rows += answer


def files(run: Run | MemoryRun, drawn: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    """PNG files by content hash; a run in memory keeps no pictures."""
    return {name: encode_png(p) for name, p in drawn.items()} if isinstance(run, Run) else {}


def _chunks(asks: Sequence[Ask], benches: Benches) -> Iterator[Sequence[Ask]]:
    """The asks in order, as many at a time as fill one UNet call of their editor, one bench a chunk."""
    start = 0
    while start < len(asks):
        bench = benches.of(asks[start])
        most = max(1, bench.tools.editor.rows // 2)
        end = start
        while end < len(asks) and end - start < most and benches.of(asks[end]) is bench:
            end += 1
        yield asks[start:end]
        start = end


def _batches(
    asks: Sequence[Ask],
    first: int,
    stored: Mapping[int, list[Effect]],
    run: Run | MemoryRun,
    benches: Benches,
) -> Iterator[list[Effect]]:
    """The rows of each batch of a round, in order.

    On a GPU one batch is scored and encoded by a thread while the next is drawn; on a processor, where
    both would share its cores, one after the other.
    """
    overlaps = any(b.subject.inversion.on_gpu for b in (benches.race, benches.report, benches.second) if b)
    waiting: deque[Callable[[], list[Effect]]] = deque()
    with ThreadPoolExecutor(1) if overlaps else nullcontext() as reader:
        for batch, chunk in enumerate(_chunks(asks, benches), first):
            if batch in stored:
                waiting.append(partial(stored.__getitem__, batch))
            else:
                waiting.append(_started(chunk, batch, run, benches.of(chunk[0]), reader))
            while len(waiting) > overlaps:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()


def _started(
    asks: Sequence[Ask], batch: int, run: Run | MemoryRun, bench: Bench, reader: Executor | None
) -> Callable[[], list[Effect]]:
    """Draw a batch and have it read, if there is a reader; the call that ends that and gives its rows."""
    pictures = draw(bench.tools, bench.subject, asks)

    def reading() -> tuple[list[Effect], dict[str, bytes]]:
        effects, drawn = read(bench.tools, bench.subject, asks, pictures, batch)
        return effects, files(run, drawn)

    found = reader.submit(reading) if reader else None

    def written() -> list[Effect]:
        effects, pngs = found.result() if found else reading()
        run.append(batch, effects, pngs)
        return effects

    return written
