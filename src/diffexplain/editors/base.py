"""What an editor is given and gives back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from diffexplain.errors import EditorError


class Term(NamedTuple):
    """One prompt of an edit; weight +1 guides towards it, -1 away from it, other values scale strength.

    What is None is the editor's own setting; steps are counted from the noisiest, 0, and guidance acts from
    `warmup` up to, not including, `cooldown`.
    """

    prompt: str
    weight: float = 1.0
    threshold: float | None = None
    warmup: int | None = None
    cooldown: int | None = None


class Edit(NamedTuple):
    """One row to make: which row of the inversion, and the prompts. No terms: the reconstruction."""

    row: int
    terms: tuple[Term, ...] = ()

    def at(self, strength: float) -> Edit:
        """The same edit with every weight times `strength`: the points of a slider."""
        return Edit(self.row, tuple(t._replace(weight=t.weight * strength) for t in self.terms))


@dataclass(frozen=True, slots=True)
class Inversion:
    """Pictures as an editor remembers them: a frozen value that can be sliced, joined and saved.

    `tensors` holds what the editor needs, (N, …) each, by names of its own; `prompts` the source prompt,
    `seeds` the noise of each row; `size` is (height, width) of the pictures in pixels.
    """

    tensors: Mapping[str, torch.Tensor]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    @property
    def on_gpu(self) -> bool:
        """Whether the tensors lie on an accelerator."""
        return any(t.device.type != "cpu" for t in self.tensors.values())

    def select(self, rows: Sequence[int]) -> Inversion:
        """The named rows, in that order, repeats allowed."""
        index = torch.as_tensor(rows, dtype=torch.long)
        return Inversion(
            {name: t[index.to(t.device)] for name, t in self.tensors.items()},
            tuple(self.prompts[i] for i in rows),
            tuple(self.seeds[i] for i in rows),
            self.size,
        )

    @staticmethod
    def joined(parts: Sequence[Inversion]) -> Inversion:
        """One inversion holding all rows of the parts. Raises EditorError when they do not fit together."""
        if len({(p.size, *((n, t.shape[1:]) for n, t in sorted(p.tensors.items()))) for p in parts}) != 1:
            raise EditorError("inversions of one editor and one picture size can be joined, not these")
        return Inversion(
            {name: torch.cat([p.tensors[name] for p in parts]) for name in parts[0].tensors},
            tuple(prompt for p in parts for prompt in p.prompts),
            tuple(seed for p in parts for seed in p.seeds),
            parts[0].size,
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        from safetensors.torch import save_file

        about = json.dumps({"prompts": self.prompts, "seeds": self.seeds, "size": self.size})
        plain = {name: t.contiguous().cpu() for name, t in self.tensors.items()}
        save_file(plain, str(path), metadata={"inversion": about})

    @staticmethod
    def load(path: str | Path, device: torch.device | str = "cpu") -> Inversion:
        """Read what `save` wrote. Raises EditorError for any other file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt", device=str(device)) as file:
                about = json.loads((file.metadata() or {})["inversion"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise EditorError(f"{path}: is no saved inversion; write one with Inversion.save") from error
        height, width = about["size"]
        return Inversion(tensors, tuple(about["prompts"]), tuple(about["seeds"]), (height, width))


class Editor(Protocol):
    """A diffusion editor. Keeps no state between calls."""

    name: str
    size: int  # side of the pictures it makes best, in pixels
    rows: int  # model rows a call: fixed, recorded by the run
    captioned: bool  # reads whole captions; else it is told the change alone
    default_judge: str
    default_segmenter: str | None

    def settings(self) -> dict[str, Any]:
        """What the run record needs to repeat an edit."""
        ...

    def invert(
        self, images: torch.Tensor, seeds: Sequence[int], prompts: Sequence[str] | None = None
    ) -> Inversion:
        """Images (N, 3, H, W), one generator seed and one source prompt each (empty ones) -> N rows."""
        ...

    def edit(self, inversion: Inversion, edits: Sequence[Edit]) -> torch.Tensor:
        """One picture an edit, (len(edits), 3, H, W); rows may be any mix of pictures and prompts."""
        ...

    def reconstruct(self, inversion: Inversion) -> torch.Tensor:
        """What an edit is measured from: the pictures without one, (N, 3, H, W)."""
        ...

    def evaluations(self, edit: Edit) -> int:
        """Evaluations of the UNet or transformer that one edit costs."""
        ...


@runtime_checkable
class Begins(Protocol):
    """An editor whose edits come in two halves, so that the next ones can begin while these are decoded."""

    def begun(self, inversion: Inversion, edits: Sequence[Edit]) -> Callable[[], torch.Tensor]:
        """`edit`, whose latents are made at once; the call decodes them, also in another thread."""
        ...


def begun(editor: Editor, inversion: Inversion, edits: Sequence[Edit]) -> Callable[[], torch.Tensor]:
    """The first half of `edit`, where the editor has halves, else all of it; the call gives the pictures."""
    if isinstance(editor, Begins):
        return editor.begun(inversion, edits)
    return done(editor.edit(inversion, edits))


def done(images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A second half with nothing left to do."""
    return lambda: images
