"""What a run folder holds, read while nothing is written."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from diffexplain.errors import RunError
from diffexplain.records import KINDS
from diffexplain.store.table import Table
from diffexplain.store.text import loaded, on_disk, record, revived

RUN, RESULT, ROWS, IMAGES = "run.json", "result.json", "effects.sqlite", "images"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def read_kind(folder: Path | str) -> str:
    """Which kind of run a folder holds: a key of KINDS. Raises RunError when it holds none that is known."""
    file = Path(folder) / RUN
    kind = loaded(file).get("kind", "explanation")
    if not (isinstance(kind, str) and kind in KINDS):
        raise RunError(f"{file}: a run of kind {kind!r}: read it with the diffexplain that wrote it")
    return kind


def read_request(folder: Path | str) -> Any:
    """What a run was asked. Raises RunError when the folder holds no run of this schema."""
    kind, file = KINDS[read_kind(folder)], Path(folder) / RUN
    return record(lambda data: revived(kind.request, data["request"]), file)


def read_result(folder: Path | str) -> Any:
    """The result of a finished run, null numbers as nan. Raises RunError when there is none to read."""
    kind = KINDS[read_kind(folder)] if (Path(folder) / RUN).exists() else KINDS["explanation"]
    return record(lambda data: revived(kind.result, data), Path(folder) / RESULT)


def read_rows(folder: Path | str) -> list[Any]:
    """The rows of a run, finished or not, while nothing is written. Raises RunError: no rows to read."""
    path = Path(folder)
    table = Table(KINDS[read_kind(path)].row)
    with (
        on_disk(path),
        closing(sqlite3.connect(f"{(path / ROWS).absolute().as_uri()}?mode=ro", uri=True)) as database,
    ):
        return table.read(database)


def read_picture(folder: Path | str, digest: str) -> bytes:
    """A picture of a run, as PNG, by content hash. Raises RunError when it is not there."""
    path = picture_file(Path(folder), digest)
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}): restore it, or run again") from error


def ended(file: Path) -> bool:
    """Whether a PNG is there to its last bytes."""
    with file.open("rb") as stream:
        stream.seek(-min(len(PNG_END), file.stat().st_size), os.SEEK_END)
        return stream.read() == PNG_END


def picture_file(folder: Path, digest: str) -> Path:
    """Where a picture lies, or would. Raises ValueError for what can be no content hash."""
    if not re.fullmatch(r"[\w-]+", digest):
        raise ValueError(f"{digest!r} is not a content hash")
    return folder / IMAGES / f"{digest}.png"
