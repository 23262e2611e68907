"""The port: jobs go in, answers come out in the same order, and few of either are held at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Job(Protocol):
    """Something to do with what a worker holds. It travels, so it must be small and can be pickled."""

    def started(self, station: Any) -> Callable[[], Any]:
        """Do the first half; the call that does the second and gives the answer."""
        ...


class Workers(Protocol):
    """Whoever does jobs."""

    #: whether jobs travel to other processes.
    away: bool

    @property
    def notes(self) -> Sequence[str]:
        """What readers of the answers must know, that only the workers do."""
        ...

    def answers(self, jobs: Iterable[Job]) -> Iterator[Any]:
        """The answer of each job, in order; a job is taken when there is room for it."""
        ...

    def place(self, value: T) -> Callable[[], T]:
        """Put a value where every worker can reach it, once for many jobs; the call that gives it."""
        ...


class Here:
    """This process. Where two jobs overlap, a thread does second halves while the next job begins."""

    away = False
    notes: Sequence[str] = ()

    def __init__(self, station: Any, *, overlaps: bool = False) -> None:
        self._station, self._overlaps = station, overlaps

    def answers(self, jobs: Iterable[Job]) -> Iterator[Any]:
        """One after the other."""
        waiting: deque[Callable[[], Any]] = deque()
        with ThreadPoolExecutor(1) if self._overlaps else nullcontext() as reader:
            for job in jobs:
                rest = job.started(self._station)
                waiting.append(reader.submit(rest).result if reader else rest)
                while len(waiting) > self._overlaps:
                    yield waiting.popleft()()
            while waiting:
                yield waiting.popleft()()

    def place(self, value: T) -> Callable[[], T]:
        """The value itself."""
        return partial(_itself, value)


def _itself(value: T) -> T:
    return value
