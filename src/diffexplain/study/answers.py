"""Where answers lie: an SQLite file beside the study, or files that readers of the static page sent back."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diffexplain.errors import InputError, RunError
from diffexplain.study.booklets import booklet
from diffexplain.study.records import ANSWERS, Answer, Reader, Study

MAX_BYTES = 1 << 20  # of one reader's file
NAME = 22  # characters of a reader's random name

_TABLES = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS readers (
    booklet INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL, agreed REAL NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    reader TEXT NOT NULL, page INTEGER NOT NULL, ask TEXT NOT NULL, choice INTEGER NOT NULL,
    PRIMARY KEY (reader, page, ask));
CREATE TABLE IF NOT EXISTS pages (
    reader TEXT NOT NULL, page INTEGER NOT NULL, shown REAL NOT NULL, done REAL, PRIMARY KEY (reader, page));
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a reader is: the page to show, what was chosen on it, and how many pages there are."""

    page: int
    pages: int
    chosen: dict[str, int]

    @property
    def finished(self) -> bool:
        """Whether every page is done."""
        return self.page >= self.pages


class Desk:
    """The answers of a study that is being served; any thread may use it, one at a time."""

    def __init__(self, folder: Path | str) -> None:
        self.study = Study.read(folder)
        self._turn = threading.Lock()
        try:
            self._db = sqlite3.connect(
                Path(folder) / ANSWERS, timeout=30, isolation_level=None, check_same_thread=False
            )
            self._db.executescript(_TABLES)
        except sqlite3.Error as error:
            raise RunError(f"study {folder}: answers cannot be kept ({error}): check the disk") from error

    def admit(self) -> str:
        """A new reader, who agreed; returns the random name. Booklets are given in turn, none twice."""
        name = secrets.token_urlsafe(16)
        with self._writing():
            self._db.execute("INSERT INTO readers (name, agreed) VALUES (?, ?)", [name, time.time()])
        return name

    def booklet(self, name: str) -> int:
        """The number of a reader's booklet, from 0. Raises InputError for an unknown reader."""
        with self._turn:
            row = self._db.execute("SELECT booklet FROM readers WHERE name = ?", [name]).fetchone()
        if row is None:
            raise InputError("this link belongs to no reader: begin anew")
        return int(row[0]) - 1

    def standing(self, name: str) -> Standing:
        """The first page that is not done, with what was chosen there so far."""
        pages = len(booklet(self.study, self.booklet(name)))
        with self._writing():
            done = "SELECT COUNT(*) FROM pages WHERE reader = ? AND done IS NOT NULL"
            page = int(self._db.execute(done, [name]).fetchone()[0])
            if page < pages:
                self._db.execute(
                    "INSERT OR IGNORE INTO pages VALUES (?, ?, ?, NULL)", [name, page, time.time()]
                )
            there = self._db.execute(
                "SELECT ask, choice FROM answers WHERE reader = ? AND page = ?", [name, page]
            )
            return Standing(page, pages, dict(there.fetchall()))

    def choose(self, name: str, page: int, ask: str, choice: int) -> None:
        """Keep a choice on the page that the reader is at. Raises InputError for anything else."""
        standing = self.standing(name)
        self._check(name, standing, page, ask, choice)
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", [name, page, ask, choice])

    def turn(self, name: str, page: int) -> None:
        """Leave a page whose questions are all answered. Raises InputError when one is not."""
        standing = self.standing(name)
        if page < standing.page:
            return  # a second click
        asks = (
            booklet(self.study, self.booklet(name))[standing.page].item.asks if not standing.finished else ()
        )
        missing = [ask.name for ask in asks if ask.name not in standing.chosen]
        if missing or not asks:
            raise InputError(f"page {page}: is not answered yet")
        with self._writing():
            when = "UPDATE pages SET done = ? WHERE reader = ? AND page = ?"
            self._db.execute(when, [time.time(), name, page])

    def withdraw(self, name: str) -> None:
        """Delete a reader's answers; that there was one stays, so that no booklet is given twice."""
        with self._writing():
            self._db.execute("DELETE FROM answers WHERE reader = ?", [name])
            self._db.execute("DELETE FROM pages WHERE reader = ?", [name])
            withdrawn = f"withdrawn-{secrets.token_urlsafe(16)}"
            self._db.execute("UPDATE readers SET name = ? WHERE name = ?", [withdrawn, name])

    def close(self) -> None:
        """Let go of the file."""
        with self._turn:
            self._db.close()

    def _check(self, name: str, standing: Standing, page: int, ask: str, choice: int) -> None:
        if standing.finished or page != standing.page:
            raise InputError(f"page {page}: is not the page to answer")
        asks = {a.name: a for a in booklet(self.study, self.booklet(name))[page].item.asks}
        if ask not in asks or not 0 <= choice < len(asks[ask].choices):
            raise InputError(f"answer {choice} to {ask!r}: there is no such choice")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._turn:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise RunError(f"answers cannot be kept ({error}): check the disk") from error
                raise


def read_answers(folder: Path | str, files: Sequence[Path | str] = ()) -> tuple[list[Reader], list[Answer]]:
    """Everyone who began and all done pages: from the server's file, if there is one, and readers' files.

    A reader who is there twice counts once. Raises InputError for a file of another study, RunError for a
    damaged database.
    """
    study = Study.read(folder)
    readers, answers = _served(study, Path(folder) / ANSWERS)
    known = {reader.name for reader in readers}
    for file in files:
        reader, given = read_file(study, Path(file))
        if reader.name not in known:
            known.add(reader.name)
            readers.append(reader)
            answers += given
    return readers, answers


def read_file(study: Study, file: Path) -> tuple[Reader, list[Answer]]:
    """One reader's answers, as the static page saves them. Raises InputError for another study's."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large")
        data = json.loads(file.read_text("utf-8"))
        if data["study"] != study.number:
            raise InputError(f"{file}: holds answers to another study: analyse it with its own")
        reader, number = str(data["reader"]), int(data["booklet"])
        answers = [
            Answer(reader, number, int(a["page"]), str(a["ask"]), int(a["choice"]), float(a["seconds"]))
            for a in data["answers"]
        ]
        if number < 0:
            raise ValueError(f"booklet {number}")
        finished = _complete(study, number, answers)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: holds no answers as the study's page saves them ({error})") from error
    return Reader(reader, number, finished), answers


def _complete(study: Study, number: int, answers: Sequence[Answer]) -> bool:
    """Whether all is answered. Raises ValueError for a choice that does not exist, or one made twice."""
    pages = booklet(study, number)
    asked = {(i, a.name): len(a.choices) for i, page in enumerate(pages) for a in page.item.asks}
    given = [(a.page, a.ask) for a in answers]
    for a in answers:
        if not 0 <= a.choice < asked.get((a.page, a.ask), 0):
            raise ValueError(f"page {a.page}: no choice {a.choice} for {a.ask!r}")
    if len(set(given)) != len(given):
        raise ValueError("a question is answered twice")
    return set(given) == set(asked)


def _served(study: Study, path: Path) -> tuple[list[Reader], list[Answer]]:
    if not path.exists():
        return [], []
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            people = db.execute("SELECT name, booklet - 1 FROM readers ORDER BY booklet").fetchall()
            rows = db.execute(
                "SELECT a.reader, r.booklet - 1, a.page, a.ask, a.choice, p.done - p.shown FROM answers a "
                "JOIN readers r ON r.name = a.reader JOIN pages p ON p.reader = a.reader AND p.page = a.page "
                "WHERE p.done IS NOT NULL ORDER BY r.booklet, a.page, a.ask"
            ).fetchall()
        db.close()
    except sqlite3.Error as error:
        raise RunError(f"{path}: is damaged ({error}): restore it") from error
    answers = [Answer(*row) for row in rows]
    done: dict[str, set[int]] = {}
    for a in answers:
        done.setdefault(a.reader, set()).add(a.page)
    pages = {number: len(booklet(study, number)) for _, number in people}
    return [Reader(name, i, len(done.get(name, ())) == pages[i]) for name, i in people], answers
