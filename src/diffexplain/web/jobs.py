"""Jobs of the web app: a queue, one worker thread, run folders under one root. Knows no page.

A job belongs to the server, not to the tab that asked for it: who comes back finds it. Its question lies
beside its pictures in ROOT/asked/NAME, so that a stopped or killed run can be resumed later.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from diffexplain import api
from diffexplain.corpus import parse_corpus
from diffexplain.errors import DiffexplainError, InputError, RunError
from diffexplain.store import RESULT, RUN

State = Literal["waiting", "running", "stopped", "finished", "failed"]

ASKED, QUESTION, PICTURES, CORPUS = "asked", "question.json", "pictures", "corpus.yaml"
MAX_FILES = 256  # pictures of one run
MAX_TOTAL = 512 << 20  # bytes of them
MAX_WAITING = 20
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


class Stopped(BaseException):
    """Raised inside a run that a visitor stopped; what is finished is kept."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a visitor asks; `corpus` is a bundled name, or "" for the YAML text beside the pictures."""

    classifier: str
    target: str
    corpus: str = "avatars"
    editor: str = "pocket"
    budget: int | None = None


@dataclass(slots=True)
class Job:
    """A question on its way."""

    name: str
    question: Question
    state: State = "waiting"
    what: str = ""
    done: int = 0
    total: int = 0
    said: str = ""  # why it failed
    stop: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """The queue over a run root. `heavy` is held while a model works, by a job or by anything else."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"--root {root}: cannot be used ({error.strerror}): choose a folder") from error
        self.heavy = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._worker = threading.Thread(target=self._work, name="diffexplain-jobs", daemon=True)
        self._worker.start()

    def submit(self, question: Question, files: Sequence[str | Path], corpus: str = "") -> Job:
        """Take a question with its pictures; `corpus` is YAML text. Raises InputError."""
        if corpus:
            parse_corpus(corpus)
        chosen = _accepted(files)
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                raise InputError(f"{MAX_WAITING} runs are waiting already: come back later")
            name = self._free(question)
            folder = self.root / ASKED / name
            (folder / PICTURES).mkdir(parents=True)
        for i, file in enumerate(chosen, 1):
            shutil.copyfile(file, folder / PICTURES / f"{i:03d}-{_plain(file.name)}")
        (folder / CORPUS).write_text(corpus, "utf-8")
        (folder / QUESTION).write_text(json.dumps(asdict(question)), "utf-8")
        return self._enqueue(Job(name, question))

    def resume(self, name: str) -> Job:
        """Go on with a run that was stopped, failed or killed. Raises InputError for any other."""
        job = self.find(name)
        if job.state in ("waiting", "running", "finished"):
            raise InputError(f"run {name}: is {job.state}: nothing to resume")
        return self._enqueue(Job(name, job.question))

    def stop(self, name: str) -> None:
        """Stop a run after its present batch, or take it out of the queue."""
        job = self.find(name)
        job.stop.set()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                job.state = "stopped"

    def find(self, name: str) -> Job:
        """A job of this server, or one that lies under the root. Raises InputError when there is none."""
        if name in self._jobs:
            return self._jobs[name]
        if not re.fullmatch(r"[\w.-]+", name) or name in (".", "..") or name not in self.names():
            raise InputError(f"run {name!r}: there is none of that name")
        question = Question("", "")
        file = self.root / ASKED / name / QUESTION
        if file.exists():
            try:
                question = Question(**json.loads(file.read_text("utf-8")))
            except (TypeError, ValueError) as error:
                raise RunError(f"{file}: is damaged: start the run again") from error
        finished = (self.root / name / RESULT).exists()
        return Job(name, question, "finished" if finished else "stopped")

    def names(self) -> list[str]:
        """All runs under the root, the newest first."""
        there = {p.parent.name: p.stat().st_mtime for p in self.root.glob(f"*/{RUN}")}
        asked = {p.parent.name: p.stat().st_mtime for p in self.root.glob(f"{ASKED}/*/{QUESTION}")}
        times = asked | there
        return sorted(times, key=lambda name: (-times[name], name))

    def current(self) -> Job | None:
        """The job that is running."""
        return next((job for job in self._jobs.values() if job.state == "running"), None)

    def before(self, job: Job) -> int:
        """How many runs must end before this one begins."""
        with self._changed:
            ahead = list(self._waiting).index(job) if job in self._waiting else 0
        return ahead + (self.current() is not None)

    def close(self) -> None:
        """Stop the run that works, after its present batch, and the queue; what is done is kept."""
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._changed.notify()
        if job := self.current():
            job.stop.set()
        self._worker.join()

    def _free(self, question: Question) -> str:
        """A folder name that is not taken."""
        base = _plain(f"{question.classifier}-{question.target or 'default'}")
        coming = {path.name for path in (self.root / ASKED).glob("*")}  # whose pictures are being copied
        taken = {*self.names(), *coming}
        number = next(n for n in range(1, len(taken) + 2) if f"{base}-{n:03d}" not in taken)
        return f"{base}-{number:03d}"

    def _enqueue(self, job: Job) -> Job:
        with self._changed:
            self._jobs[job.name] = job
            self._waiting.append(job)
            self._changed.notify()
        return job

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                job = self._waiting.popleft()
                job.state = "running"
            with self.heavy:
                self._run(job)

    def _run(self, job: Job) -> None:
        folder = self.root / ASKED / job.name
        q = job.question
        try:
            api.explain(
                q.classifier,
                str(folder / PICTURES),
                target=q.target or None,
                corpus=q.corpus or str(folder / CORPUS),
                editor=q.editor,
                budget=q.budget,
                out=self.root / job.name,
                resume=True,
                progress=_teller(job),
            )
            job.state = "finished"
        except Stopped:
            job.state = "stopped"
        except DiffexplainError as error:
            job.state, job.said = "failed", str(error)
        except Exception as error:  # the queue must live on
            job.state, job.said = "failed", f"{type(error).__name__}: {error}"


def _teller(job: Job) -> Callable[[str, int, int], None]:
    def tell(what: str, done: int, total: int) -> None:
        if job.stop.is_set():
            raise Stopped
        job.what, job.done, job.total = what, done, total

    return tell


def _accepted(files: Sequence[str | Path]) -> list[Path]:
    paths = [Path(file) for file in files]
    if not paths:
        raise InputError("pictures (none): drop at least one picture")
    if len(paths) > MAX_FILES:
        raise InputError(f"{len(paths)} pictures: give at most {MAX_FILES}")
    odd = [path.name for path in paths if path.suffix.lower() not in SUFFIXES]
    if odd:
        raise InputError(f"picture {odd[0]!r}: give PNG, JPEG or WebP files")
    if sum(path.stat().st_size for path in paths) > MAX_TOTAL:
        raise InputError(f"pictures of more than {MAX_TOTAL >> 20} MB: give smaller or fewer ones")
    return paths


def _plain(text: str) -> str:
    """A file name from any text."""
    return re.sub(r"[^\w.-]", "-", text).strip("-.")[-80:] or "run"


def plain_question(values: dict[str, Any]) -> Question:
    """A question from what a form holds. Raises InputError."""
    budget = values.get("budget")
    if budget is not None and not (float(budget).is_integer() and budget >= 1):
        raise InputError(f"budget {budget}: give a whole number of edits, or leave it empty")
    return Question(
        classifier=str(values.get("classifier") or "").strip(),
        target=str(values.get("target") or "").strip(),
        corpus=str(values.get("corpus") or ""),
        editor=str(values.get("editor") or "pocket"),
        budget=None if budget is None else int(budget),
    )
