"""What a study is: items to show, questions to ask, answers that came back. No run and no page in sight."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from diffexplain.errors import InputError, RunError

Kind = Literal["attribute", "share", "rating", "side", "check"]

#: kinds in which nothing names the change, and kinds that name it; a reader sees the blind ones first.
BLIND: tuple[Kind, ...] = ("attribute", "share")
NAMED: tuple[Kind, ...] = ("rating", "side")
KINDS: tuple[Kind, ...] = (*BLIND, *NAMED)

PAIR = " | "  # between the names of two methods
STUDY, PICTURES, ANSWERS = "study.json", "pictures", "answers.sqlite"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Ask:
    """One question with its choices; the first `shuffled` of them come in another order to each reader."""

    name: str  # what is measured: attribute, share, quality, disentanglement, better, cleaner, check
    text: str
    choices: tuple[str, ...]
    shuffled: int = 0
    truth: int | None = None  # number of the right choice, where there is one


@dataclass(frozen=True, slots=True)
class Panel:
    """Pictures that stand together under a heading, as names of files."""

    heading: str
    pictures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One page: what is shown and asked. Items of one `unit` ask the same of different methods."""

    kind: Kind
    unit: str
    method: str  # the run behind it, two of them side by side; never shown
    intro: str
    panels: tuple[Panel, ...]
    asks: tuple[Ask, ...]
    arms: tuple[int, ...] = ()  # panels that swap places from reader to reader (side by side)


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """How a study is made. Counts are per reader."""

    kinds: tuple[Kind, ...] = KINDS
    items: int = 8  # pages of each kind
    choices: int = 4  # attributes to choose from
    pairs: int = 3  # before/after pairs on a page about the attribute
    checks: int = 2  # attention checks
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for what cannot be built."""
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise InputError(f"kind {', '.join(unknown) or '(none)'}: choose from {', '.join(KINDS)}")
        least = {"items": 1, "choices": 2, "pairs": 1, "checks": 0, "seed": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InputError(f"{name} {getattr(self, name)}: give a whole number of at least {bound}")


@dataclass(frozen=True, slots=True)
class Study:
    """Everything in study.json. It holds the right answers and the methods: keep it from the readers."""

    number: str  # of this study, random
    title: str
    consent: str
    methods: tuple[str, ...]
    items: tuple[Item, ...]
    options: StudyOptions = field(default_factory=StudyOptions)
    schema: int = SCHEMA

    def write(self, folder: Path) -> Path:
        """Write study.json. Raises RunError when it cannot be written."""
        from pydantic import TypeAdapter

        path = folder / STUDY
        try:
            path.write_bytes(TypeAdapter(dict).dump_json(asdict(self), indent=1))
        except OSError as error:
            raise RunError(f"study {str(path)!r} cannot be written: {error.strerror}") from error
        return path

    @classmethod
    def read(cls, folder: Path | str) -> Study:
        """The study in a folder. Raises RunError when there is none."""
        from pydantic import TypeAdapter, ValidationError

        path = Path(folder) / STUDY
        try:
            study = TypeAdapter(cls).validate_json(path.read_bytes())
        except OSError as error:
            cure = "make one with `diffexplain study build`"
            raise RunError(f"{path}: cannot be read ({error.strerror}): {cure}") from error
        except ValidationError as error:
            raise RunError(
                f"{path}: is damaged ({error.errors()[0]['msg']}): build the study again"
            ) from error
        if study.schema != SCHEMA:
            raise RunError(f"{path}: has schema {study.schema}, not {SCHEMA}: build the study again")
        return study


@dataclass(frozen=True, slots=True)
class Answer:
    """One question answered by one reader."""

    reader: str  # a random name
    booklet: int
    page: int
    ask: str
    choice: int  # number in the ask's own order
    seconds: float  # on the page


@dataclass(frozen=True, slots=True)
class Reader:
    """One person who agreed to take part."""

    name: str
    booklet: int
    finished: bool
