"""Networks in one file: torch.export programs (.pt2) and TorchScript. Both run what their file says."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import nn

from diffexplain.classifiers.answers import Scores
from diffexplain.classifiers.base import Head, first_line
from diffexplain.classifiers.hub import existing
from diffexplain.classifiers.labels import fitting
from diffexplain.classifiers.modules import ModuleClassifier
from diffexplain.classifiers.preprocessing import Preprocessing
from diffexplain.errors import ClassifierError
from diffexplain.rows import in_rows


@dataclass(frozen=True, kw_only=True)
class PixelOptions(Preprocessing):
    """The preprocessing in numbers (see Preprocessing), and how the outputs are meant."""

    head: Head = "softmax"
    scores: Scores = "logits"

    def preprocessing(self, fixed: tuple[int, int] | None = None, **stated: Any) -> Preprocessing:
        """These numbers; those `stated` hold where they are not given, a `fixed` size always.

        Raises ClassifierError when another size was asked for.
        """
        given = {f.name: getattr(self, f.name) for f in fields(Preprocessing)}
        plain = Preprocessing()
        merged = {k: stated.get(k, v) if v == getattr(plain, k) else v for k, v in given.items()}
        asked = merged["size"] if not isinstance(merged["size"], int) else (merged["size"],) * 2
        if fixed and asked and tuple(asked) != fixed:
            raise ClassifierError(f"size {merged['size']!r}: this network takes {fixed[0]}×{fixed[1]} only")
        return Preprocessing(**{**merged, "size": tuple(asked) if asked else fixed})


class FileClassifier(ModuleClassifier):
    """A network out of a file, asked in calls of its fixed batch, if it has one."""

    def __init__(self, module: nn.Module, labels: Any, *, batch: int | None, **more: Any) -> None:
        super().__init__(module, labels, **more)
        self._batch = batch

    def _asked(self, images: torch.Tensor) -> Any:
        x = self.preprocessing(images.to(self._device))
        return self._run(x) if self._batch is None else in_rows(self._one, x, rows=self._batch)

    def _run(self, x: torch.Tensor) -> Any:
        return self._module(x)

    def _one(self, x: torch.Tensor) -> torch.Tensor:
        from diffexplain.classifiers.answers import unwrapped

        answer: torch.Tensor = unwrapped(self._run(x))
        return answer

    @property
    def layers(self) -> tuple[str, ...]:
        """None: a TorchScript file cannot be read from outside."""
        return ()


class ExportedClassifier(FileClassifier):
    """A torch.export program; its layers are the modules it was made of, as the graph remembers them."""

    @cached_property
    def _ends(self) -> dict[str, str]:
        """The last node of each module: module name -> node name, in the graph's order."""
        ends: dict[str, str] = {}
        graph: Any = self._module.graph
        for node in graph.nodes:
            for path, _ in (node.meta.get("nn_module_stack") or {}).values():
                if path:
                    ends[path.removeprefix("L['self'].")] = node.name
        return ends

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the modules that the program was exported from."""
        return tuple(self._ends)

    def activations(self, images: torch.Tensor, layer: str) -> torch.Tensor:
        """A module's channels, averaged over places or tokens: (N, C). Raises ClassifierError: none such."""
        self._check_layer(layer)
        graph, wanted = self._module, self._ends[layer]

        class Until(torch.fx.Interpreter):
            found: Any = None

            def run_node(self, n: torch.fx.Node) -> Any:
                value = super().run_node(n)
                if n.name == wanted:
                    self.found = value
                return value

        def ask(x: torch.Tensor) -> torch.Tensor:
            running = Until(graph)
            running.run(x)
            return self._averaged(running.found, layer)

        x = self.preprocessing(images.to(self._device))
        return ask(x) if self._batch is None else in_rows(ask, x, rows=self._batch)


def from_pt2(
    file: str, *, name: str, device: torch.device, labels: Any, options: PixelOptions
) -> ExportedClassifier:
    """A program saved by torch.export.save; size, batch and number of classes are the program's.

    Raises ClassifierError when the file is none, or takes or gives something else than pictures and scores.
    """
    path = existing(file, name, "give what torch.export.save wrote")
    if not zipfile.is_zipfile(path):
        raise ClassifierError(
            f"classifier {name!r}: {path.name} is no .pt2 archive; save it by torch.export.save"
        )
    try:
        program = torch.export.load(path)
        taken = [n.meta["val"] for n in program.graph.nodes if n.name in program.graph_signature.user_inputs]
        given = next(n for n in program.graph.nodes if n.op == "output").args[0]
        made = [n.meta["val"] for n in given if n.name in program.graph_signature.user_outputs]
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        module = program.module()
    except Exception as error:
        raise ClassifierError(
            f"cannot load classifier {name!r}: {type(error).__name__}: {first_line(error)}; "
            "save it again with this version of torch"
        ) from error
    batch, size = _input(taken, name)
    outputs = made[0].shape[-1] if made and made[0].ndim == 2 and isinstance(made[0].shape[-1], int) else None
    said = _labels(labels, outputs, name, options)
    return ExportedClassifier(
        module, said, batch=batch, name=name, preprocessing=options.preprocessing(size), head=options.head,
        scores=options.scores, device=device,
    )  # fmt: skip


def from_torchscript(
    file: str, *, name: str, device: torch.device, labels: Any, options: PixelOptions
) -> FileClassifier:
    """A module saved by torch.jit.save. Raises ClassifierError when the file is none."""
    path = existing(file, name, "give what torch.jit.save wrote")
    try:
        module = torch.jit.load(path, map_location=device).eval()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ClassifierError(
            f"cannot load classifier {name!r}: {first_line(error)}; save it by torch.jit.save"
        ) from error
    said = _labels(labels, None, name, options)
    return FileClassifier(
        module, said, batch=None, name=name, preprocessing=options.preprocessing(), head=options.head,
        scores=options.scores, device=device,
    )  # fmt: skip


def _labels(labels: Any, outputs: int | None, name: str, options: PixelOptions) -> tuple[str, ...]:
    """Those given, else numbers. Raises ClassifierError when they do not fit, or how many is unknown."""
    if labels is None and outputs is None:
        raise ClassifierError(f"classifier {name!r} does not say its labels; give --labels a,b,c or a file")
    return fitting(labels or numbered(outputs or 1, options.head), outputs, name, options.head)


def numbered(outputs: int, head: Head) -> tuple[str, ...]:
    """Labels of a network that names none; one logit speaks for the second of two."""
    return ("no", "yes") if outputs == 1 and head == "softmax" else tuple(str(i) for i in range(outputs))


def _input(taken: list[Any], name: str) -> tuple[int | None, tuple[int, int] | None]:
    """The fixed batch and size of a program's pictures, None where they are free. Raises ClassifierError."""
    shape = tuple(taken[0].shape) if len(taken) == 1 and isinstance(taken[0], torch.Tensor) else ()
    if len(shape) != 4 or shape[1] != 3:
        raise ClassifierError(f"classifier {name!r} takes {list(map(str, shape)) or len(taken)} inputs; "
                              "it must take one batch of pictures (N, 3, H, W)")  # fmt: skip
    batch, _, height, width = shape
    fixed = isinstance(height, int) and isinstance(width, int)
    return batch if isinstance(batch, int) else None, (height, width) if fixed else None


def stated_numbers(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The preprocessing that a file's metadata states, under Preprocessing's names."""
    names = {f.name for f in fields(Preprocessing)}
    found = {k: v for k, v in metadata.items() if k in names}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
