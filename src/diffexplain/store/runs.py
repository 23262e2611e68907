"""A run that is being made: in memory, or in a folder that one process holds at a time."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from diffexplain.errors import RunError
from diffexplain.records import KINDS, SCHEMA_VERSION, Kind
from diffexplain.store.reading import (
    IMAGES,
    RESULT,
    ROWS,
    RUN,
    ended,
    picture_file,
    read_kind,
    read_picture,
    read_request,
)
from diffexplain.store.table import Table
from diffexplain.store.text import as_json, on_disk, plain, write_whole

LOCK = "lock"
VERSIONED = ("diffexplain", "torch", "diffusers", "transformers", "timm", "numpy", "pillow")

_DECIDED = """
CREATE TABLE IF NOT EXISTS batches (batch INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS rounds (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class MemoryRun:
    """What a run measured and decided so far, in memory. A `Run` is one that is kept in a folder."""

    path: Path | None = None
    result: Any = None

    def __init__(self, kind: str = "explanation") -> None:
        self.kind: Kind = KINDS[kind]
        self._table = Table(self.kind.row)
        self._rows: list[Any] = []
        self._batches: set[int] = set()
        self._rounds: dict[str, dict[str, Any]] = {}
        self._pictures: dict[str, bytes] = {}

    def append(self, batch: int, rows: Sequence[Any], pictures: Mapping[str, bytes]) -> None:
        """Keep a finished batch: rows, and pictures (PNG by content hash); all of it or nothing.

        Raises RunError when it is kept already or the disk is full; ValueError when a row names another
        batch or, in a folder, lacks a picture (an empty hash is none).
        """
        if batch in self._batches:
            raise RunError(f"batch {batch} is kept already: append it once")
        if any(row.batch != batch for row in rows):
            raise ValueError(f"rows of batches {sorted({row.batch for row in rows})} appended as {batch}")
        self._check_pictures(rows, pictures)
        self.record_inputs(pictures)
        values = [self._table.values(row) for row in rows]
        told = [(self._table.insert, row) for row in values]
        self._save([*told, ("INSERT INTO batches VALUES (?)", [batch])])
        self._rows.extend(map(self._table.revived, values))  # as a resume will read them
        self._batches.add(batch)

    def rows(self) -> list[Any]:
        """All rows, in the order they were appended."""
        return list(self._rows)

    def batches(self) -> set[int]:
        """The batches that are finished."""
        return set(self._batches)

    def note_round(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a search decision (JSON values) for a resume to replay. RunError if it was another."""
        noted = plain(value)
        if self._rounds.get(key, noted) != noted:
            raise RunError(f"round {key!r} was decided otherwise before: start again with another --out")
        if key not in self._rounds:
            self._save([("INSERT INTO rounds VALUES (?, ?)", [key, json.dumps(noted)])])
            self._rounds[key] = noted

    def rounds(self) -> dict[str, dict[str, Any]]:
        """The search decisions, in the order they were noted."""
        return dict(self._rounds)

    def record_inputs(self, pictures: Mapping[str, bytes]) -> None:
        """Keep pictures of no batch (inputs). Raises RunError when the disk is full."""
        self._pictures.update(pictures)

    def has_picture(self, digest: str) -> bool:
        """Whether the picture is kept."""
        return digest in self._pictures

    def picture(self, digest: str) -> bytes:
        """A kept picture, as PNG. Raises RunError when it is not there."""
        if digest not in self._pictures:
            raise RunError(f"picture {digest!r} is not kept")
        return self._pictures[digest]

    def write_result(self, result: Any) -> None:
        """Keep the result. Raises RunError when the disk is full."""
        self.result = result

    def close(self) -> None:
        """Let go of the folder."""

    def _check_pictures(self, rows: Sequence[Any], pictures: Mapping[str, bytes]) -> None: ...

    def _save(self, statements: Sequence[tuple[str, list[Any]]]) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Run(MemoryRun):
    """A run in a folder, which one process uses at a time. `Run.open` makes it."""

    path: Path

    def __init__(self, path: Path, lock: int, kind: str = "explanation") -> None:
        super().__init__(kind)
        self.path, self._lock = path, lock
        # autocommit, so that transactions are explicit; a web worker may pass the run between threads
        self._db = sqlite3.connect(path / ROWS, timeout=30, isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + self._table.schema + _DECIDED
        )
        self._table.widen(self._db)
        self._rows = self._table.read(self._db)
        self._mend()
        self._batches = {batch for (batch,) in self._db.execute("SELECT batch FROM batches")}
        noted = self._db.execute("SELECT key, value FROM rounds ORDER BY rowid")
        self._rounds = {key: json.loads(value) for key, value in noted}

    @classmethod
    def open(cls, folder: Path | str, request: Any, *, resume: bool = False) -> Run:
        """Begin a run in a new or empty folder, or continue the same run.

        Raises RunError when the path is a file, cannot be written, holds something else, another run
        or (without `resume`) this run begun already, or when another process uses it.
        """
        path = Path(folder)
        with on_disk(path):
            _prepare(path)
            lock = _acquire(path)
            try:
                _begin(path, request)
                run = cls(path, lock, _kind(request))
            except BaseException:
                os.close(lock)
                raise
        if not resume and (run.batches() or (path / RESULT).exists()):
            run.close()
            cure = "--resume continues it, or choose another --out"
            raise RunError(f"--out {path}: holds this run already: {cure}")
        return run

    def _mend(self) -> None:
        """Forget pictures that a power cut left short, with their batches: these are made again."""
        short = [file for file in (self.path / IMAGES).glob("*.png") if not ended(file)]
        gone = {file.stem for file in short}
        for file in short:
            file.unlink()
        if batches := {r.batch for r in self._rows for n in self.kind.pictures if getattr(r, n) in gone}:
            self._table.forget(self._db, batches)
            self._rows = [row for row in self._rows if row.batch not in batches]

    def record_inputs(self, pictures: Mapping[str, bytes]) -> None:
        """Write pictures that are not there yet. Raises RunError when the disk is full."""
        with on_disk(self.path):
            for digest, png in pictures.items():
                if not self.has_picture(digest):
                    write_whole(self.picture_path(digest), png)

    def picture_path(self, digest: str) -> Path:
        """Where the picture is, or would be. Raises ValueError for what can be no content hash."""
        return picture_file(self.path, digest)

    def has_picture(self, digest: str) -> bool:
        """Whether the picture is kept."""
        return self.picture_path(digest).exists()

    def picture(self, digest: str) -> bytes:
        """A kept picture, as PNG. Raises RunError when it is not there."""
        return read_picture(self.path, digest)

    def write_result(self, result: Any) -> None:
        """Write result.json: sorted keys, full precision, nan as null, infinities as text."""
        with on_disk(self.path):
            write_whole(self.path / RESULT, as_json(result.as_dict()))
        self.result = result

    def close(self) -> None:
        """Let go of the folder; twice is fine."""
        self._db.close()
        if self._lock >= 0:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # forked children may still hold the file
            os.close(self._lock)
            self._lock = -1

    def _check_pictures(self, rows: Sequence[Any], pictures: Mapping[str, bytes]) -> None:
        named = (getattr(row, name) for row in rows for name in self.kind.pictures)
        shown = {digest for digest in named if digest}
        missing = sorted(d for d in shown - pictures.keys() if not self.has_picture(d))
        if missing:
            raise ValueError(f"rows come without {len(missing)} of their pictures: {missing[0]}, …")

    def _save(self, statements: Sequence[tuple[str, list[Any]]]) -> None:
        """Run the statements in one transaction."""
        with on_disk(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for statement, values in statements:
                    self._db.execute(statement, values)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _prepare(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RunError(f"--out {path}: is a file: choose a folder")
    path.mkdir(parents=True, exist_ok=True)
    there = {entry.name for entry in path.iterdir()}
    if RUN not in there and there - {LOCK, IMAGES, RUN + ".tmp"}:  # what a run killed at once leaves
        raise RunError(f"--out {path}: is not empty and holds no run: choose a new or empty folder")


def _acquire(path: Path) -> int:
    """Take the folder's lock, which ends with the process."""
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
    except BaseException as error:
        holder = os.pread(lock, 20, 0).decode() or "unknown"
        os.close(lock)
        if isinstance(error, BlockingIOError):
            cure = "wait for it, or choose another --out"
            raise RunError(f"--out {path}: in use by process {holder}: {cure}") from None
        raise
    return lock


def _kind(request: Any) -> str:
    return next(name for name, kind in KINDS.items() if kind.request is type(request))


def _begin(path: Path, request: Any) -> None:
    """Write run.json, or check that the one there asks the same."""
    asked = plain(asdict(request))
    if not (path / RUN).exists():
        began = datetime.now(UTC).isoformat(timespec="seconds")
        found = {name: list(metadata.distributions(name=name)) for name in VERSIONED}
        versions = {name: packages[0].version for name, packages in found.items() if packages}
        about = {"schema": SCHEMA_VERSION, "kind": _kind(request), "created": began}
        write_whole(path / RUN, as_json({**about, "versions": versions, "request": asked}))
    elif (there := read_kind(path)) != _kind(request):
        raise RunError(f"--out {path}: holds a run of {there}: choose another --out")
    elif change := _difference(plain(asdict(read_request(path))), asked):
        raise RunError(f"--out {path}: holds another run ({change}): choose another --out")
    (path / IMAGES).mkdir(exist_ok=True)
    for half in (path / IMAGES).glob("*.tmp"):  # of a killed run
        half.unlink()


def _difference(there: Mapping[Any, Any], asked: Mapping[Any, Any], parent: str = "") -> str:
    """The first field that differs, in words; empty when none does."""
    for key in [*asked, *(key for key in there if key not in asked)]:
        old, new, name = there.get(key), asked.get(key), f"{parent}{key}"
        if isinstance(old, list) and isinstance(new, list):
            old, new = dict(enumerate(old)), dict(enumerate(new))
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := _difference(old, new, name + "."):
                return inner
        elif old != new:
            return f"{name}: {old!r} there, {new!r} asked"
    return ""
