"""Workers on a Ray cluster: an actor a GPU, or a core where there is none; lost jobs are asked again.

Ray starts, places and watches the actors and moves the bytes. What is here is the order of the answers and
how much is under way: a worker has DEPTH jobs at most, and answers that wait for an earlier one are bounded.
"""

from __future__ import annotations

import heapq
import os
import pickle
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Self, TypeVar

from diffexplain.errors import DiffexplainError, MissingExtra, RunError
from diffexplain.execution.base import Job

T = TypeVar("T")

DEPTH = 2  # jobs of a worker: one at work, one waiting beside it
AHEAD = 2  # jobs beyond the first unanswered one, times those of all workers
TRIES = 4  # workers that a job may lose before it is blamed
PATIENCE = 600.0  # seconds without any worker before the run gives up
LOOK = 10.0  # seconds between two looks for new machines
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}


@dataclass(frozen=True, slots=True)
class Done:
    """What comes back: an answer, or the error that a person must see; warnings; notes."""

    answer: Any = None
    failed: tuple[type[DiffexplainError], str] | None = None
    warned: tuple[tuple[type[Warning], str], ...] = ()
    notes: tuple[str, ...] = ()


class Worker:
    """What lives in an actor: a station, made once, and the jobs done with it."""

    def __init__(self, make: bytes, folder: str, paths: Sequence[str]) -> None:
        self._make, self._station = make, None
        self._drawing, self._heard = threading.Lock(), dict[tuple[type[Warning], str], None]()
        with suppress(OSError):
            os.chdir(folder)  # what is named by a relative path lies there, if anywhere
        sys.path += [path for path in (*paths, folder) if path not in sys.path]
        warnings.showwarning = self._hear  # type: ignore[assignment]  # the process is ours

    def ready(self) -> Done:
        """Make the station."""
        try:
            self._station = pickle.loads(self._make)()
        except DiffexplainError as error:
            return Done(failed=(type(error), f"{error} (on worker {socket.gethostname()})"))
        return Done()

    def do(self, job: Job) -> Done:
        """A job; the first halves of two never overlap."""
        try:
            with self._drawing:
                rest = job.started(self._station)
            answer = rest()
        except DiffexplainError as error:
            return Done(failed=(type(error), str(error)))
        return Done(answer, None, self._told(), tuple(getattr(self._station, "notes", ())))

    def _hear(self, message: Any, category: type[Warning], *_: Any) -> None:
        if category.__module__.startswith("diffexplain"):
            self._heard[category, str(message)] = None

    def _told(self) -> tuple[tuple[type[Warning], str], ...]:
        heard = tuple(self._heard)
        for warning in heard:
            self._heard.pop(warning, None)
        return heard


@dataclass(slots=True, eq=False)
class Hand:
    """An actor, and the jobs that it has."""

    actor: Any
    starting: Any  # reference of its being ready; None when it is
    takes: Mapping[str, Any]  # what it was taken on with
    jobs: dict[Any, tuple[int, Job]] = field(default_factory=dict)  # by the reference of the answer

    @property
    def at_work(self) -> bool:
        """Whether it is ready for jobs."""
        return self.starting is None


class Cluster:
    """Workers on Ray. `make` makes a station in each; `address` HOST:PORT of a cluster's head.

    `workers`: how many, as many as there is room for when None; `threads`: cores that one takes where the
    cluster has no GPU; `takes`: Ray's options of an actor in place of those.
    """

    away = True

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        address: str | None = None,
        threads: int = 1,
        workers: int | None = None,
        takes: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import ray
        except ImportError:
            raise MissingExtra("ray", "ray") from None
        self._ray, self._threads, self._workers, self._takes = ray, threads, workers, takes
        self._mine = not ray.is_initialized()
        if self._mine:
            _join(ray, address)
        self._hands: list[Hand] = []
        self._notes: dict[Hand, tuple[str, ...]] = {}
        self._looked = self._worked = time.monotonic()
        try:
            self._make = ray.put(ray.cloudpickle.dumps(make))  # opened where `sys.path` is ours
            self._hire()
        except BaseException:
            self.close()
            raise

    @property
    def notes(self) -> Sequence[str]:
        """What the stations say, each thing once."""
        return tuple(dict.fromkeys(chain.from_iterable(self._notes.values())))

    def place(self, value: T) -> Callable[[], T]:
        """In Ray's object store, which keeps it on this machine and fetches it once for each other one."""
        return Placed(self._ray.put(value))

    def answers(self, jobs: Iterable[Job]) -> Iterator[Any]:
        """In order. A worker that is lost is replaced, and what it had is asked of another."""
        flow = Flow(enumerate(jobs))
        try:
            while True:
                self._look()
                self._hand_out(flow)
                if flow.ended and not flow.again and not any(hand.jobs for hand in self._hands):
                    return
                self._hear(flow)
                while flow.turn in flow.done:
                    answer = flow.done.pop(flow.turn)
                    flow.turn += 1
                    yield answer
        finally:
            for hand in self._hands:
                hand.jobs.clear()

    def wait(self, workers: int) -> None:
        """Until so many are ready. Raises RunError when there is none for long."""
        while sum(hand.at_work for hand in self._hands) < workers:
            self._look()
            self._hear(Flow(iter(())))

    def close(self) -> None:
        """End the workers; a cluster that was there before stays."""
        for hand in self._hands:
            self._ray.kill(hand.actor)
        self._hands.clear()
        if self._mine:
            self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- workers ----------------------------------------------------------------------------------------

    def _room(self) -> tuple[int, Mapping[str, Any]]:
        """How many workers there is room for, and what one takes."""
        there = self._ray.cluster_resources()
        gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 0))
        takes = (
            {"num_cpus": 1, "num_gpus": 1, "max_concurrency": DEPTH} if gpus else {"num_cpus": self._threads}
        )
        return self._workers or max(1, gpus or cpus // self._threads), self._takes or takes

    def _hire(self) -> None:
        """As many workers as there is room for; Ray places them when it can."""
        room, takes = self._room()
        for hand in [h for h in self._hands if not h.at_work and h.takes != takes]:
            self._ray.kill(hand.actor)  # taken on for cores, before the first GPU was there
            self._hands.remove(hand)
        for _ in range(room - len(self._hands)):
            actor = self._ray.remote(Worker).options(**takes).remote(self._make, str(Path.cwd()), sys.path)
            self._hands.append(Hand(actor, actor.ready.remote(), takes))

    def _look(self) -> None:
        """Take on workers where machines have joined; give up where there has been none for long."""
        now = time.monotonic()
        if any(hand.at_work for hand in self._hands):
            self._worked = now
        elif now - self._worked > PATIENCE:
            raise RunError(f"on ray: no worker for {PATIENCE:.0f} s: start machines, then --resume")
        if now - self._looked > LOOK:
            self._looked = now
            self._hire()

    def _dismiss(self, hand: Hand, flow: Flow) -> None:
        """A worker is lost: what it had is asked again."""
        for index, job in hand.jobs.values():
            flow.ask_again(index, job)
        hand.jobs.clear()
        self._hands.remove(hand)
        self._looked = -LOOK  # take on another at once

    # -- jobs -------------------------------------------------------------------------------------------

    def _hand_out(self, flow: Flow) -> None:
        """Give jobs to the workers that have room, the idlest first."""
        there = [hand for hand in self._hands if hand.at_work]
        while free := [hand for hand in there if len(hand.jobs) < DEPTH]:
            given = flow.next((DEPTH + AHEAD) * len(there))
            if given is None:
                return
            hand = min(free, key=lambda h: len(h.jobs))
            hand.jobs[hand.actor.do.remote(given[1])] = given

    def _hear(self, flow: Flow) -> None:
        """Take what has come: answers, and workers that are ready or lost."""
        refs = {ref: hand for hand in self._hands for ref in (hand.starting, *hand.jobs) if ref is not None}
        if not refs:
            time.sleep(0.1)
            return
        self._ray.wait(list(refs), timeout=1.0)
        came, _ = self._ray.wait(list(refs), num_returns=len(refs), timeout=0)
        for ref in came:
            hand = refs[ref]
            if ref is not hand.starting and ref not in hand.jobs:
                continue  # lost a moment ago
            try:
                said = self._ray.get(ref)
            except _losses(self._ray):
                self._dismiss(hand, flow)
                continue
            self._take(hand, ref, said, flow)

    def _take(self, hand: Hand, ref: Any, said: Done, flow: Flow) -> None:
        if said.failed:
            raise _revived(*said.failed)
        for category, text in said.warned:
            warnings.warn(text, category, stacklevel=2)
        if ref is hand.starting:
            hand.starting = None
            return
        index, _ = hand.jobs.pop(ref)
        flow.done[index] = said.answer
        self._notes[hand] = said.notes


@dataclass(slots=True)
class Flow:
    """Jobs on their way to answers in order."""

    coming: Iterator[tuple[int, Job]]
    again: list[tuple[int, Job]] = field(default_factory=list)  # a heap
    done: dict[int, Any] = field(default_factory=dict)  # answers whose turn has not come
    lost: dict[int, int] = field(default_factory=dict)  # job -> workers that were lost with it
    turn: int = 0  # the first unanswered job
    taken: int = 0
    ended: bool = False  # no job is left to come

    def next(self, most: int) -> tuple[int, Job] | None:
        """The next job to hand out, at most so many ahead of the first unanswered one."""
        if self.again:
            return heapq.heappop(self.again)
        if self.ended or self.taken - self.turn >= most:
            return None
        given = next(self.coming, None)
        self.ended = given is None
        self.taken += given is not None
        return given

    def ask_again(self, index: int, job: Job) -> None:
        """Raises RunError when the job has lost too many workers."""
        self.lost[index] = self.lost.get(index, 0) + 1
        if self.lost[index] >= TRIES:
            raise RunError(f"on ray: {TRIES} workers were lost at one batch: see their logs, then --resume")
        heapq.heappush(self.again, (index, job))


@dataclass(frozen=True, slots=True)
class Placed:
    """A value in Ray's object store."""

    ref: Any

    def __call__(self) -> Any:
        """Fetch it."""
        import ray

        return ray.get(self.ref)


def _join(ray: Any, address: str | None) -> None:
    """Connect to a cluster, or start one on this machine. Raises RunError when it cannot be reached."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    known = address or os.environ.get("RAY_ADDRESS")
    started = {} if known else {"include_dashboard": False}
    try:
        if known and known != "auto":
            host, _, port = known.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray would try for minutes
        ray.init(address=known or "local", log_to_driver=False, logging_level="error", **started)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or ["no reason"])[0]
        raise RunError(
            f"on ray: no cluster at {known or 'this machine'} ({reason}): `ray start --head` first"
        ) from None


def _losses(ray: Any) -> tuple[type[Exception], ...]:
    """What Ray raises when a machine or process is gone."""
    found = ray.exceptions
    return (found.RayActorError, found.ObjectLostError, found.WorkerCrashedError, found.NodeDiedError)


def _revived(kind: type[DiffexplainError], said: str) -> DiffexplainError:
    """An error of a worker, whatever its class is made with."""
    error = kind.__new__(kind)
    error.args = (said,)
    return error
