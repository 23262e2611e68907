"""What an editor is given and gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch


class Term(NamedTuple):
    """One prompt of an edit; weight +1 guides towards it, -1 away from it, other values scale strength."""

    prompt: str
    weight: float = 1.0


class Edit(NamedTuple):
    """One row to make: which row of the inversion, and the prompts. No terms: the reconstruction."""

    row: int
    terms: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Inversion:
    """Pictures as an editor remembers them: a frozen value that can be sliced and joined.

    `start` (N, C, h, w) is where sampling begins; `residuals` (N, S, C, h, w) is what each of the S steps
    adds to the model's own mean under the source prompt (N of `prompts`).
    """

    start: torch.Tensor
    residuals: torch.Tensor
    prompts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.start)

    def select(self, rows: Sequence[int]) -> Inversion:
        """The named rows, in that order, repeats allowed."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.start.device)
        return Inversion(self.start[index], self.residuals[index], tuple(self.prompts[i] for i in rows))

    @staticmethod
    def joined(parts: Sequence[Inversion]) -> Inversion:
        """One inversion holding all rows of the parts."""
        return Inversion(
            torch.cat([p.start for p in parts]),
            torch.cat([p.residuals for p in parts]),
            tuple(prompt for p in parts for prompt in p.prompts),
        )


class Editor(Protocol):
    """A diffusion editor. Keeps no state between calls."""

    name: str
    size: int  # side of the pictures it makes, in pixels
    rows: int  # model rows a call: fixed, recorded by the run
    default_judge: str
    default_segmenter: str | None

    def settings(self) -> dict[str, Any]:
        """What the run record needs to repeat an edit."""
        ...

    def invert(
        self, images: torch.Tensor, seeds: Sequence[int], prompts: Sequence[str] | None = None
    ) -> Inversion:
        """Images (N, 3, size, size), one generator seed and one source prompt each (empty ones) -> N rows."""
        ...

    def edit(self, inversion: Inversion, edits: Sequence[Edit]) -> torch.Tensor:
        """One picture an edit, (len(edits), 3, size, size); rows may be any mix of pictures and prompts."""
        ...

    def reconstruct(self, inversion: Inversion) -> torch.Tensor:
        """Sampling without an edit, (N, 3, size, size)."""
        ...

    def evaluations(self, edit: Edit) -> int:
        """UNet evaluations that one edit costs."""
        ...
