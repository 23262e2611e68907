"""The answers of `explain`, `find_spurious`, `audit`, `mitigate`, as a person or a notebook holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffexplain.errors import RunError
from diffexplain.records import ConceptResult, Drift, JointPath, Result
from diffexplain.records.audit import AttributeShares, AuditResult, FairnessGap, MitigationResult
from diffexplain.records.spurious import Shortcut, SpuriousResult, UnitVerdict
from diffexplain.report.finished import Finished
from diffexplain.store import read_picture
from diffexplain.store.text import revived

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from diffexplain.classifiers.modules import ModuleClassifier

AUDIT, MITIGATION = "audit.json", "mitigation.json"


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer of `explain`: ranked concepts with intervals, and where the run lies."""

    result: Result
    folder: Path | None
    finished: Finished = field(repr=False, compare=False)  # with all rows and pictures

    @classmethod
    def read(cls, folder: str | Path) -> Explanation:
        """A finished run, from its folder. Raises RunError when there is none."""
        run = Finished.read(folder)
        return cls(run.result, Path(folder), run)

    @property
    def concepts(self) -> tuple[ConceptResult, ...]:
        """One result a question, measured ones first, by |effect|."""
        return self.result.concepts

    @property
    def joint(self) -> JointPath | None:
        """The best joint combination, if any step beat the one before."""
        return self.result.joint

    @property
    def drift(self) -> Drift:
        """How far inversion alone moved the pictures."""
        return self.result.drift

    @property
    def report(self) -> Path | None:
        """The page to open."""
        return self.folder / "report.html" if self.folder else None

    def top(self, n: int = 10) -> tuple[ConceptResult, ...]:
        """The n strongest measured concepts."""
        return tuple(c for c in self.result.concepts if c.status == "measured")[:n]

    def to_frame(self) -> DataFrame:
        """One row a question, as a pandas table. Raises MissingExtra without pandas."""
        from diffexplain.report.tables import concepts

        return concepts(self.finished)

    def plot(self, kind: str = "forest") -> Figure:
        """A figure: forest, pairs, grid or hierarchy. Raises MissingExtra without matplotlib."""
        from diffexplain.report.figures import figure

        return figure(self.finished, kind)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from diffexplain.report.notebook import fragment

        return fragment(self.finished)


@dataclass(frozen=True, slots=True)
class SpuriousReport:
    """The answer of `find_spurious`: a verdict a unit, shortcuts, and where the run lies."""

    result: SpuriousResult
    folder: Path | None
    pictures: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)  # without a folder

    @property
    def units(self) -> tuple[UnitVerdict, ...]:
        """One verdict a unit."""
        return self.result.units

    @property
    def shortcuts(self) -> tuple[Shortcut, ...]:
        """Concepts that move the class although they should not."""
        return self.result.shortcuts

    @property
    def report(self) -> Path | None:
        """The page to open."""
        return self.folder / "report.html" if self.folder else None

    def to_frame(self) -> DataFrame:
        """One row a unit, as a pandas table. Raises MissingExtra without pandas."""
        from diffexplain.report.tables import units

        return units(self.result)

    def plot(self, kind: str | None = None) -> Figure:
        """A forest of the `units` (how often each shows the object) or `shortcuts`; raises InputError."""
        from diffexplain.report.forest_figure import spurious_figure

        return spurious_figure(self.result, kind)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from diffexplain.report.notebook import parts_fragment
        from diffexplain.report.sections import spurious_sections
        from diffexplain.report.spurious import question

        return parts_fragment(question(self.result), spurious_sections(self.result), self._png)

    def _png(self, digest: str) -> bytes:
        return read_picture(self.folder, digest) if self.folder else self.pictures[digest]


@dataclass(frozen=True, slots=True)
class Audit:
    """The answer of `audit`, and where its edits and `audit.json` lie."""

    result: AuditResult
    folder: Path | None

    @classmethod
    def read(cls, place: str | Path) -> Audit:
        """An audit from its folder, or from the file. Raises RunError when there is none."""
        path = Path(place)
        file = path / AUDIT if path.is_dir() else path
        return cls(read_record(file, AuditResult), file.parent)

    @property
    def shares(self) -> tuple[AttributeShares, ...]:
        """How attributes are spread in the pictures of each class; empty without counts."""
        return self.result.shares

    @property
    def gaps(self) -> tuple[FairnessGap, ...]:
        """What changing an attribute does to the answer; empty without edits."""
        return self.result.gaps

    def to_frame(self, kind: str | None = None) -> DataFrame:
        """A pandas table: `shares`, one row a class, attribute and reference; `gaps`, one row an edit.

        By default the first that it has. Raises InputError for another kind, MissingExtra without pandas.
        """
        from diffexplain.report.tables import audited

        return audited(self.result, kind)

    def plot(self, kind: str | None = None) -> Figure:
        """A forest of `shares` or `gaps`, by default the first that it has. Raises as `to_frame`."""
        from diffexplain.report.forest_figure import audit_figure

        return audit_figure(self.result, kind)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from diffexplain.report.notebook import parts_fragment
        from diffexplain.report.sections import audit_sections

        question = f"For whom does {self.result.classifier} answer differently?"
        return parts_fragment(question, audit_sections(self.result), lambda digest: b"")


@dataclass(frozen=True, slots=True)
class Mitigation:
    """The answer of `mitigate`: the changed classifier, what it did, and where it is saved."""

    result: MitigationResult
    classifier: ModuleClassifier
    folder: Path | None

    def to_frame(self) -> DataFrame:
        """Two rows, before and after, as a pandas table. Raises MissingExtra without pandas."""
        from diffexplain.report.tables import standings

        return standings(self.result)

    def plot(self, kind: str | None = None) -> Figure:
        """A forest of the shortcut's `gap` or of the `accuracy`. Raises InputError, MissingExtra."""
        from diffexplain.report.forest_figure import mitigation_figure

        return mitigation_figure(self.result, kind)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from diffexplain.report.notebook import parts_fragment
        from diffexplain.report.sections import mitigation_sections

        question = f"Does {self.result.classifier} still follow {', '.join(self.result.shortcuts)}?"
        return parts_fragment(question, mitigation_sections(self.result), lambda digest: b"")


def read_record(file: Path, kind: Any) -> Any:
    """A record from the JSON that `audit` or `mitigate` wrote, null as nan. Raises RunError: it is none."""
    try:
        return revived(kind, json.loads(file.read_text("utf-8")))
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror}): no finished answer here?") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        cure = "give the file that `audit` or `mitigate` wrote"
        raise RunError(f"{file}: holds no {kind.__name__} ({error}): {cure}") from error
