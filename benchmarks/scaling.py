"""How far one driver reaches: Ray workers that only wait, as long as a GPU would work at a batch.

The stubs import no torch and take no core (`num_cpus=0`); they sleep BATCH_SECONDS, then hand back rows and
pictures as large as real ones. The driver does what it does in a run: it plans, sends, receives in order, and
writes rows and pictures to the run folder. Start-up is left out. Efficiency is the time that sleeping alone
would take over the time taken.

BATCH_SECONDS is an assumption, not a measurement of this machine: 16 edits of Stable Diffusion 1.5 at 512
pixels, 50 steps, two branches, are 1,600 evaluations; an A100 makes about 80 a second in bfloat16.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.stubs import EDITS, INVERSION_BYTES, Sleeping, Stub, made_pictures, made_rows

BATCH_SECONDS = 20.0
WORKERS = (1, 2, 4, 8, 64)
BATCHES = 4  # of each worker
QUICK_SECONDS = 1.0


def measure(quick: bool) -> Mapping[str, Any]:
    """All figures."""
    seconds = QUICK_SECONDS if quick else BATCH_SECONDS
    workers = WORKERS[:3] if quick else WORKERS
    found = {}
    for count in workers:
        found[str(count)] = scaled(count, BATCHES, seconds)
        print(f"{count} workers: {found[str(count)]}", flush=True)
    alone = scaled(2, 40, 0.0)
    return {
        "efficiency": {n: f["efficiency"] for n, f in found.items()},
        "driver_ms_per_edit": alone["driver_cpu_ms_per_edit"],
        "driver_wall_ms_per_edit": alone["wall_ms_per_edit"],
        "bytes_per_edit": bytes_per_edit(),
        "store_rows_per_second": store_rate(200 if quick else 2000),
        "store_rows_per_second_without_pictures": store_rate(200 if quick else 2000, pictures=False),
        "batch_seconds_assumed": seconds,
    }


def scaled(workers: int, batches: int, seconds: float) -> dict[str, float]:
    """A run of so many batches a worker."""
    from diffexplain.execution.cluster import Cluster
    from diffexplain.store import Run
    from tests import factories

    with (
        tempfile.TemporaryDirectory() as folder,
        Cluster(Stub, workers=workers, takes={"num_cpus": 0}) as ray,
    ):
        ray.wait(workers)
        shares = tuple(ray.place(os.urandom(INVERSION_BYTES)) for _ in range(4))
        list(ray.answers(_jobs(workers, 0.0, shares)))  # what is done once is done
        with Run.open(folder, factories.request()) as run:
            run.record_inputs({"base": made_pictures(0)["p0x0"]})
            began, spent = time.monotonic(), time.process_time()
            for number, (rows, pictures) in enumerate(ray.answers(_jobs(workers * batches, seconds, shares))):
                run.append(number, rows, pictures)
            wall, cpu = time.monotonic() - began, time.process_time() - spent
    edits = workers * batches * EDITS
    return {
        "efficiency": batches * seconds / wall,
        "wall_ms_per_edit": 1000 * wall / edits,
        "driver_cpu_ms_per_edit": 1000 * cpu / edits,
    }


def _jobs(number: int, seconds: float, shares: Sequence[Callable[[], bytes]]) -> Iterator[Sleeping]:
    for i in range(number):
        yield Sleeping(i, _asks(), seconds, (shares[i % len(shares)],))


@cache
def _asks() -> tuple[Any, ...]:
    from diffexplain.records import Ask, Question

    question = Question.single("facial hair/beard/long")
    return tuple(Ask(i, 0, question, question.concepts, "race") for i in range(EDITS))


def bytes_per_edit() -> float:
    """What goes out and comes back for an edit, but for the shares, which go once to a machine."""
    job = Sleeping(0, _asks(), 0.0, ())
    answer = (made_rows(0), made_pictures(0))
    return float(len(pickle.dumps(job)) + len(pickle.dumps(answer))) / EDITS


def store_rate(batches: int, *, pictures: bool = True) -> float:
    """Rows a second that one process writes to a run folder."""
    from diffexplain.store import Run
    from tests import factories

    with tempfile.TemporaryDirectory() as folder, Run.open(Path(folder), factories.request()) as run:
        run.record_inputs({"base": made_pictures(0)["p0x0"]})
        body = made_pictures(0)["p0x0"]
        began = time.monotonic()
        for batch in range(batches):
            rows = made_rows(batch)
            if not pictures:
                rows = [replace(row, reconstruction="", edited="") for row in rows]
            run.append(batch, rows, {row.edited: body for row in rows} if pictures else {})
        return batches * EDITS / (time.monotonic() - began)


if __name__ == "__main__":
    harness.run("scaling", __doc__ or "", measure)
