"""Where jobs are done: here, or by workers on a Ray cluster. Answers come in the order of the jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffexplain.errors import InputError
from diffexplain.execution.base import Here, Job, Workers

__all__ = ["Here", "Job", "Workers", "check_place", "hired"]

HERE, RAY = "here", "ray"


def check_place(on: str) -> str | None:
    """The address in `ray://HOST:PORT`; None for `here` and `ray`. Raises InputError for anything else."""
    kind, mark, address = on.partition("://")
    host, colon, port = address.rpartition(":")
    if on in (HERE, RAY) or (kind == RAY and mark and host and colon and port.isdecimal()):
        return address or None
    raise InputError(f"on {on!r}: choose here, ray (this machine, or RAY_ADDRESS) or ray://HOST:PORT")


@contextmanager
def hired(on: str, make: Callable[[], Any], *, threads: int = 1) -> Iterator[Workers | None]:
    """Workers that `make` what they do jobs with; None where jobs are to be done in this process.

    `threads`: cores that a worker without a GPU takes. Raises InputError, MissingExtra, and RunError where
    there is no such cluster.
    """
    address = check_place(on)
    if on == HERE:
        yield None
        return
    from diffexplain.execution.cluster import Cluster

    with Cluster(make, address=address, threads=threads) as cluster:
        yield cluster
