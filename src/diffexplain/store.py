"""The run folder: what was asked, a row for each edit, the pictures, the result. A killed run continues.

run.json (the kind of run, the request, versions, when it began) · effects.sqlite (rows, finished batches and
search decisions; write-ahead log, append only) · images/ (PNG, named by content hash) · result.json · lock
(held while a process uses the folder; POSIX). A batch is kept completely or not at all: its pictures first,
then its rows in one transaction.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import MISSING, asdict, fields, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, cast, get_args, get_origin, get_type_hints

from diffexplain.errors import RunError
from diffexplain.records import KINDS, SCHEMA_VERSION, Kind

RUN, RESULT, ROWS, IMAGES, LOCK = "run.json", "result.json", "effects.sqlite", "images", "lock"
VERSIONED = ("diffexplain", "torch", "diffusers", "transformers", "timm", "numpy", "pillow")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_SQL = {str: "TEXT", int: "INTEGER", bool: "INTEGER", float: "REAL"}
_NULL: Mapping[Any, Any] = {float: math.nan, str: ""}
_DECIDED = """
CREATE TABLE IF NOT EXISTS batches (batch INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS rounds (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Table:
    """How the rows of a kind of run lie in the database: a column a field; what is no number is text."""

    def __init__(self, row: Any) -> None:
        hints = get_type_hints(row)
        self._row = row
        self.columns = {n: hint if hint in (int, float, bool) else str for n, hint in hints.items()}
        names, places = ", ".join(self.columns), ", ".join("?" * len(self.columns))
        typed = ", ".join(f"{name} {_SQL[kind]}" for name, kind in self.columns.items())
        self._name = name = row.__name__.lower() + "s"
        self.schema = f"CREATE TABLE IF NOT EXISTS {name} ({typed});"
        self.insert = f"INSERT INTO {name} ({names}) VALUES ({places})"

    def values(self, row: Any) -> list[Any]:
        """A row as its columns."""
        return [kind(getattr(row, name)) for name, kind in self.columns.items()]

    def revived(self, values: Iterable[Any]) -> Any:
        """A row from its columns; SQLite keeps nan as NULL."""
        kinds = self.columns.values()
        typed = [_NULL[kind] if v is None else kind(v) for v, kind in zip(values, kinds, strict=True)]
        return self._row(*typed)

    def missing(self, database: sqlite3.Connection) -> list[str]:
        """The columns that the rows of an older version do not have, and can do without."""
        there = {name for _, name, *_ in database.execute(f"PRAGMA table_info({self._name})")}
        return [f.name for f in fields(self._row) if f.default is not MISSING and f.name not in there]

    def widen(self, database: sqlite3.Connection) -> None:
        """Give the rows of an older version the columns of this one."""
        for name in self.missing(database):
            database.execute(f"ALTER TABLE {self._name} ADD COLUMN {name} {_SQL[self.columns[name]]}")

    def read(self, database: sqlite3.Connection) -> list[Any]:
        """All rows, in the order they were appended."""
        missing = self.missing(database)
        names = ", ".join("NULL" if name in missing else name for name in self.columns)
        found = database.execute(f"SELECT {names} FROM {self._name} ORDER BY rowid")
        return [self.revived(values) for values in found]


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
        plain = _plain(value)
        if self._rounds.get(key, plain) != plain:
            raise RunError(f"round {key!r} was decided otherwise before: start again with another --out")
        if key not in self._rounds:
            self._save([("INSERT INTO rounds VALUES (?, ?)", [key, json.dumps(plain)])])
            self._rounds[key] = plain

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
        with _disk(path):
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

    def record_inputs(self, pictures: Mapping[str, bytes]) -> None:
        """Write pictures that are not there yet. Raises RunError when the disk is full."""
        with _disk(self.path):
            for digest, png in pictures.items():
                if not self.has_picture(digest):
                    _write(self.picture_path(digest), png)

    def picture_path(self, digest: str) -> Path:
        """Where the picture is, or would be. Raises ValueError for what can be no content hash."""
        return _picture_path(self.path, digest)

    def has_picture(self, digest: str) -> bool:
        """Whether the picture is kept."""
        return self.picture_path(digest).exists()

    def picture(self, digest: str) -> bytes:
        """A kept picture, as PNG. Raises RunError when it is not there."""
        return read_picture(self.path, digest)

    def write_result(self, result: Any) -> None:
        """Write result.json: sorted keys, full precision, nan as null, infinities as text."""
        with _disk(self.path):
            _write(self.path / RESULT, _json(result.as_dict()))
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
        with _disk(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for statement, values in statements:
                    self._db.execute(statement, values)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def read_kind(folder: Path | str) -> str:
    """Which kind of run a folder holds: a key of KINDS. Raises RunError when it holds no run."""
    return cast("str", _load(Path(folder) / RUN).get("kind", "explanation"))


def read_request(folder: Path | str) -> Any:
    """What a run was asked. Raises RunError when the folder holds no run of this schema."""
    file = Path(folder) / RUN
    return _read(lambda data: _revive(KINDS[data.get("kind", "explanation")].request, data["request"]), file)


def read_result(folder: Path | str) -> Any:
    """The result of a finished run, null numbers as nan. Raises RunError when there is none to read."""
    kind = KINDS[read_kind(folder)] if (Path(folder) / RUN).exists() else KINDS["explanation"]
    return _read(lambda data: _revive(kind.result, data), Path(folder) / RESULT)


def read_rows(folder: Path | str) -> list[Any]:
    """The rows of a run, finished or not, while nothing is written. Raises RunError: no rows to read."""
    path = Path(folder)
    table = Table(KINDS[read_kind(path)].row)
    with (
        _disk(path),
        closing(sqlite3.connect(f"{(path / ROWS).absolute().as_uri()}?mode=ro", uri=True)) as database,
    ):
        return table.read(database)


def read_picture(folder: Path | str, digest: str) -> bytes:
    """A picture of a run, as PNG, by content hash. Raises RunError when it is not there."""
    path = _picture_path(Path(folder), digest)
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}): restore it, or run again") from error


def _picture_path(folder: Path, digest: str) -> Path:
    if not re.fullmatch(r"[\w-]+", digest):
        raise ValueError(f"{digest!r} is not a content hash")
    return folder / IMAGES / f"{digest}.png"


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
    asked = _plain(asdict(request))
    if not (path / RUN).exists():
        began = datetime.now(UTC).isoformat(timespec="seconds")
        found = {name: list(metadata.distributions(name=name)) for name in VERSIONED}
        versions = {name: packages[0].version for name, packages in found.items() if packages}
        about = {"schema": SCHEMA_VERSION, "kind": _kind(request), "created": began}
        _write(path / RUN, _json({**about, "versions": versions, "request": asked}))
    elif (there := read_kind(path)) != _kind(request):
        raise RunError(f"--out {path}: holds a run of {there}: choose another --out")
    elif change := _difference(_plain(asdict(read_request(path))), asked):
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


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn what the disk or SQLite raises into one line with the cure."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) in FULL or "disk is full" in reason:
            raise RunError(f"disk full at --out {path}: free space, then --resume") from error
        raise RunError(f"--out {path}: cannot be used ({reason}): mend it or choose another --out") from error


def _write(path: Path, data: bytes) -> None:
    """Write a file completely or not at all."""
    half = path.with_name(path.name + ".tmp")
    try:
        half.write_bytes(data)
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(_plain(value), sort_keys=True, indent=1, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    """JSON's own types: tuples become lists, numpy scalars numbers, keys text, nan None, inf text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and math.isinf(value):
        return str(value)  # "inf" or "-inf": JSON has no word for it
    return None if isinstance(value, float) and math.isnan(value) else value


def _read(made: Callable[[Any], Any], file: Path) -> Any:
    """Read a record back. Raises RunError when the file is missing, damaged or of another schema."""
    data = _load(file)
    try:
        return made(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file}: is damaged ({error}): run again with another --out") from error


def _load(file: Path) -> Any:
    """A file's JSON. Raises RunError when it is missing, damaged or of another schema."""
    try:
        data = json.loads(file.read_text("utf-8"))
        schema = data["schema"]
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror}): no finished run here?") from error
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file}: is damaged ({error}): run again with another --out") from error
    if schema != SCHEMA_VERSION:
        cure = "read it with the diffexplain that wrote it"
        raise RunError(f"{file}: has schema {schema}, not {SCHEMA_VERSION}: {cure}")
    return data


def _revive(hint: Any, value: Any) -> Any:
    """A value of the hinted type from its JSON; null is nan where a float stands."""
    kind, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return cast("Any", hint)(**{name: _revive(hints[name], item) for name, item in value.items()})
    if kind is UnionType:
        return None if value is None else _revive(inner[0], value)
    if kind is tuple:
        return tuple(_revive(inner[0], item) for item in value)
    if kind is dict:
        return {key: _revive(inner[1], item) for key, item in value.items()}
    if hint is float:
        return math.nan if value is None else float(value)
    if hint is not Any and not (value in inner if kind is Literal else isinstance(value, hint)):
        raise TypeError(f"{value!r} for {hint}")
    return value
