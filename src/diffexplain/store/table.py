"""The table of a kind of run in its database."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

_SQL = {str: "TEXT", int: "INTEGER", bool: "INTEGER", float: "REAL"}
_NULL: Mapping[Any, Any] = {float: math.nan, str: ""}


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
        """All rows, in the order of their batches."""
        missing = self.missing(database)
        names = ", ".join("NULL" if name in missing else name for name in self.columns)
        found = database.execute(f"SELECT {names} FROM {self._name} ORDER BY batch, rowid")
        return [self.revived(values) for values in found]

    def forget(self, database: sqlite3.Connection, batches: Iterable[int]) -> None:
        """Take batches out again, as if they had never been made."""
        which = [(batch,) for batch in batches]
        database.execute("BEGIN IMMEDIATE")
        database.executemany(f"DELETE FROM {self._name} WHERE batch = ?", which)
        database.executemany("DELETE FROM batches WHERE batch = ?", which)
        database.execute("COMMIT")
