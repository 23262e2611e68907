"""Files written completely or not at all, records as JSON and back, and what a disk may raise."""

from __future__ import annotations

import errno
import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from diffexplain.errors import RunError
from diffexplain.records import SCHEMA_VERSION

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_FOR_SQLITE = ("SQLITE_FULL", "SQLITE_IOERR_WRITE")  # a quota or a limit fails the write itself


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Turn what the disk or SQLite raises into one line with the cure."""
    try:
        yield
    except (UnicodeDecodeError, json.JSONDecodeError) as error:  # SQLite names in errors what it cannot read
        raise RunError(f"--out {path}: is damaged ({error}): choose another --out") from error
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", None) in FULL or getattr(error, "sqlite_errorname", "") in FULL_FOR_SQLITE:
            raise RunError(f"disk full at --out {path}: free space, then --resume") from error
        raise RunError(f"--out {path}: cannot be used ({reason}): mend it or choose another --out") from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file completely or not at all."""
    half = path.with_name(path.name + ".tmp")
    try:
        half.write_bytes(data)
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def as_json(value: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and full precision."""
    return json.dumps(plain(value), sort_keys=True, indent=1, allow_nan=False).encode()


def plain(value: Any) -> Any:
    """JSON's own types: tuples become lists, numpy scalars numbers, keys text, nan None, inf text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and math.isinf(value):
        return str(value)  # "inf" or "-inf": JSON has no word for it
    return None if isinstance(value, float) and math.isnan(value) else value


def record(made: Callable[[Any], Any], file: Path) -> Any:
    """Read a record back. Raises RunError when the file is missing, damaged or of another schema."""
    data = loaded(file)
    try:
        return made(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file}: is damaged ({error}): run again with another --out") from error


def loaded(file: Path) -> Any:
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


def revived(hint: Any, value: Any) -> Any:
    """A value of the hinted type from its JSON; null is nan where a float stands."""
    kind, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return cast("Any", hint)(**{name: revived(hints[name], item) for name, item in value.items()})
    if kind is UnionType:
        return None if value is None else revived(inner[0], value)
    if kind is tuple:
        return tuple(revived(inner[0], item) for item in value)
    if kind is dict:
        return {key: revived(inner[1], item) for key, item in value.items()}
    if hint is float:
        return math.nan if value is None else float(value)
    if hint is not Any and not (value in inner if kind is Literal else isinstance(value, hint)):
        raise TypeError(f"{value!r} for {hint}")
    return value
