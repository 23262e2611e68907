"""The answer of `explain`, as a person or a notebook holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diffexplain.records import ConceptResult, Drift, JointPath, Result
from diffexplain.report.finished import Finished

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


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
