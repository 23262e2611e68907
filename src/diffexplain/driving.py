"""Feed the search with measured rows, batch by batch, until it has decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from diffexplain.classifiers import notes_of
from diffexplain.effects import Share, Subject, Tools, completed, draw, joined, measured, read
from diffexplain.execution import Here, Workers
from diffexplain.images import Pictures, encode_png
from diffexplain.records import RACING, Ask, Effect
from diffexplain.search import Outcome, Rounds
from diffexplain.store import MemoryRun, Run

#: told (what is going on, steps done, steps in all) as a run proceeds.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """Tools, and the pictures that they inverted.

    `name` is what workers elsewhere call the tools; `shares` the pictures one by one, as those reach them.
    """

    tools: Tools
    subject: Subject
    name: str = "report"
    shares: tuple[Callable[[], Share], ...] = ()


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


@dataclass(frozen=True, slots=True)
class Station:
    """What a worker holds: the tools of every bench by its name, on a device."""

    tools: Mapping[str, Tools]
    device: torch.device

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the classifier's answers must know."""
        return notes_of(self.tools["report"].target.classifier)


@dataclass(frozen=True, slots=True)
class Inverting:
    """A job: invert, score and read some pictures."""

    bench: str
    pictures: Pictures
    seeds: int

    def started(self, station: Station) -> Callable[[], Share]:
        """The pictures, on the processor."""
        share = measured(station.tools[self.bench], self.pictures, self.seeds).on("cpu")
        return lambda: share


@dataclass(frozen=True, slots=True)
class Batch:
    """A job: edits that fill one call of the editor. Its pictures are in `subject`, or come in `shares`.

    `keep`: whether the pictures made are wanted, as PNG.
    """

    number: int
    asks: tuple[Ask, ...]
    bench: str
    keep: bool
    subject: Subject | None = None
    shares: tuple[Callable[[], Share], ...] = ()

    def started(self, station: Station) -> Callable[[], tuple[list[Effect], dict[str, bytes]]]:
        """Begin the edits; what is left is to decode and score them: rows, and pictures by hash."""
        tools = station.tools[self.bench]
        subject = self.subject or joined([share().on(station.device) for share in self.shares], tools.corpus)
        drawn = draw(tools, subject, self.asks)

        def measuring() -> tuple[list[Effect], dict[str, bytes]]:
            effects, pictures = read(tools, subject, self.asks, drawn(), self.number)
            return effects, {n: encode_png(p) for n, p in pictures.items()} if self.keep else {}

        return measuring


def prepared(workers: Workers, name: str, tools: Tools, given: Pictures, seeds: int, tell: Progress) -> Bench:
    """Every picture inverted and read by workers elsewhere, as many at a time as fill a call.

    Inverting again wherever a picture is edited would cost as many evaluations as an edit; its share
    is a few megabytes. So each is made once, and Ray's store fetches it once to a machine.
    """
    step = max(1, -(-tools.editor.rows // seeds))
    groups = [given.some(range(i, min(i + step, len(given)))) for i in range(0, len(given), step)]
    found: list[Share] = []
    for share in workers.answers(Inverting(name, group, seeds) for group in groups):
        found.append(share)
        tell("inverting", sum(len(s.hashes) for s in found), len(given) * seeds)
    found = completed(found, tools.corpus)
    single = tuple(workers.place(share.of(i)) for share in found for i in range(len(share.images)))
    return Bench(tools, joined(found, tools.corpus, given), name, single)


def drive(
    rounds: Rounds,
    run: Run | MemoryRun,
    benches: Benches,
    expected: int,
    tell: Progress,
    workers: Workers | None = None,
) -> tuple[list[Effect], Outcome]:
    """Answer every round of the search; finished batches are read back from the run, not made again.

    Batches are a fixed function of the request and of earlier rows, so a resumed run is the same run,
    and one whose batches others make (`workers`; None: this process) is too.
    """
    stored: dict[int, list[Effect]] = {}
    for row in run.rows():
        stored.setdefault(row.batch, []).append(row)
    rows: list[Effect] = []
    answer: list[Effect] | None = None  # a generator is started by sending nothing
    batch = 0
    workers = workers or _here(benches)
    while True:
        try:
            asks = rounds.send(answer)  # type: ignore[arg-type]
        except StopIteration as stop:
            tell("editing", len(rows), len(rows))
            return rows, stop.value
        answer = []
        for made in _batches(asks, batch, stored, run, benches, workers):
            answer += made
            batch += 1
            done = len(rows) + len(answer)
            tell("editing", done, max(expected, done + len(asks) - len(answer)))
        rows += answer


def files(run: Run | MemoryRun, drawn: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    """PNG files by content hash; a run in memory keeps no pictures."""
    return {name: encode_png(p) for name, p in drawn.items()} if isinstance(run, Run) else {}


def _here(benches: Benches) -> Here:
    """This process. On a GPU a thread decodes, scores and encodes one batch while the next is sampled.

    On a processor, where both would share its cores, one after the other.
    """
    used = [b for b in (benches.race, benches.report, benches.second) if b]
    station = Station({b.name: b.tools for b in used}, torch.device("cpu"))
    return Here(station, overlaps=any(b.subject.inversion.on_gpu for b in used))


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
    workers: Workers,
) -> Iterator[list[Effect]]:
    """The rows of each batch of a round, in order; new ones are kept in that order too."""
    chunks = list(enumerate(_chunks(asks, benches), first))
    keep = isinstance(run, Run)
    new = workers.answers(_job(chunk, n, benches, keep, workers) for n, chunk in chunks if n not in stored)
    for number, _ in chunks:
        if number in stored:
            yield stored[number]
            continue
        effects, pngs = next(new)
        run.append(number, effects, pngs)
        yield effects


def _job(asks: Sequence[Ask], number: int, benches: Benches, keep: bool, workers: Workers) -> Batch:
    """A batch with its pictures; where it travels, only with those that it edits."""
    bench = benches.of(asks[0])
    if not workers.away:
        return Batch(number, tuple(asks), bench.name, keep, bench.subject)
    images = sorted({ask.image for ask in asks})
    here = tuple(replace(ask, image=images.index(ask.image)) for ask in asks)
    return Batch(number, here, bench.name, keep, None, tuple(bench.shares[i] for i in images))
