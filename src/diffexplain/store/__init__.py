"""The run folder: what was asked, a row for each edit, the pictures, the result. A killed run continues.

run.json (the kind of run, the request, versions, when it began) · effects.sqlite (rows, finished batches and
search decisions; write-ahead log, append only) · images/ (PNG, named by content hash) · result.json · lock
(held while a process uses the folder; POSIX). A batch is kept completely or not at all: its pictures first,
then its rows in one transaction.
"""

from diffexplain.store.reading import (
    IMAGES,
    RESULT,
    ROWS,
    RUN,
    read_kind,
    read_picture,
    read_request,
    read_result,
    read_rows,
)
from diffexplain.store.runs import LOCK, MemoryRun, Run

__all__ = [
    "IMAGES", "LOCK", "RESULT", "ROWS", "RUN", "MemoryRun", "Run",
    "read_kind", "read_picture", "read_request", "read_result", "read_rows",
]  # fmt: skip
