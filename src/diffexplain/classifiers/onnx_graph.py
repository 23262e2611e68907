"""ONNX graphs through onnxruntime: on the CPU or CUDA; batch-1-only graphs work."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from diffexplain.classifiers.answers import Adapter
from diffexplain.classifiers.base import first_line
from diffexplain.classifiers.exported import PixelOptions, numbered, stated_numbers
from diffexplain.classifiers.hub import existing
from diffexplain.classifiers.labels import fitting, label_names
from diffexplain.classifiers.preprocessing import Preprocessing
from diffexplain.errors import ClassifierError, MissingExtra
from diffexplain.rows import in_rows

KINDS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
         "tensor(uint8)": np.uint8}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OnnxOptions(PixelOptions):
    """The preprocessing in numbers, where channels stand (None: found), and which output holds the scores."""

    layout: Literal["NCHW", "NHWC"] | None = None
    output: str | None = None


class OnnxClassifier(Adapter):
    """An onnxruntime session: scores only, no gradients."""

    def __init__(self, session: Any, labels: Any, preprocessing: Preprocessing, *, layout: str, output: str,
                 batch: int | None, name: str, options: OnnxOptions) -> None:  # fmt: skip
        super().__init__(name, labels, head=options.head, scores=options.scores)
        self.preprocessing = preprocessing
        self._session, self._layout, self._output, self._batch = session, layout, output, batch
        self._input = session.get_inputs()[0]

    def _asked(self, images: torch.Tensor) -> torch.Tensor:
        x = self.preprocessing(images.detach().cpu())
        return in_rows(self._run, x, rows=self._batch or len(x))

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self._layout == "NCHW" else x.permute(0, 2, 3, 1)
        kind = KINDS[self._input.type]
        pixels = np.ascontiguousarray((x.round() if kind is np.uint8 else x).numpy().astype(kind))
        answer: torch.Tensor = torch.from_numpy(
            np.asarray(self._session.run([self._output], {self._input.name: pixels})[0])
        )
        return answer


def from_onnx(
    file: str, *, name: str, device: torch.device, labels: Any, options: OnnxOptions
) -> OnnxClassifier:
    """A graph of one picture input; what is not given is taken from its metadata and shapes.

    Metadata: `labels` (or Ultralytics' `names`), `head`, `scores` and what Preprocessing has, as JSON.
    Raises ClassifierError when the file is none or the graph takes something else, MissingExtra.
    """
    path = existing(file, name, "give an .onnx file")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnx", "onnxruntime") from error
    wanted = (
        ["CUDAExecutionProvider", "CPUExecutionProvider"]
        if device.type == "cuda"
        else ["CPUExecutionProvider"]
    )
    here = [p for p in wanted if p in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(path), providers=here)
    except Exception as error:
        raise ClassifierError(
            f"cannot load classifier {name!r}: {first_line(error)}; export it again"
        ) from error
    metadata = _metadata(session.get_modelmeta().custom_metadata_map)
    layout, batch, size = _input(session.get_inputs(), options.layout, name)
    kind = session.get_inputs()[0].type
    stated = {"scale": 255.0} if kind == "tensor(uint8)" else {}
    output, outputs = _output(session.get_outputs(), options.output, name)
    said = (
        labels
        or label_names(metadata.get("labels", metadata.get("names")))
        or numbered(outputs or 1, options.head)
    )
    return OnnxClassifier(
        session,
        fitting(said, outputs, name, options.head),
        options.preprocessing(size, **(stated | stated_numbers(metadata))),
        layout=layout,
        output=output,
        batch=batch,
        name=name,
        options=_meant(options, metadata),
    )


def _metadata(found: dict[str, str]) -> dict[str, Any]:
    """Values as JSON, or as Python's literals (Ultralytics writes these), else as text."""

    def read(text: str) -> Any:
        for reader in (json.loads, ast.literal_eval):
            try:
                return reader(text)
            except (ValueError, SyntaxError):
                continue
        return text

    return {key: read(text) for key, text in found.items()}


def _meant(options: OnnxOptions, metadata: dict[str, Any]) -> OnnxOptions:
    """How the outputs are meant: as was asked, else as the metadata says."""
    from dataclasses import replace

    plain = OnnxOptions()
    stated = {
        k: metadata[k]
        for k in ("head", "scores")
        if k in metadata and getattr(options, k) == getattr(plain, k)
    }
    return replace(options, **stated)


def _input(
    inputs: list[Any], layout: str | None, name: str
) -> tuple[str, int | None, tuple[int, int] | None]:
    """Layout, fixed batch, fixed size. Raises ClassifierError when it is not one batch of pictures."""
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    if len(shape) != 4 or inputs[0].type not in KINDS:
        took = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise ClassifierError(
            f"classifier {name!r} takes {took}; it must take one batch of pictures, N×3×H×W or N×H×W×3"
        )
    found = layout or ("NHWC" if shape[3] == 3 and shape[1] != 3 else "NCHW")
    batch, *sides = (shape[0], *(shape[2:] if found == "NCHW" else shape[1:3]))
    colours = shape[1] if found == "NCHW" else shape[3]
    if isinstance(colours, int) and colours != 3:
        raise ClassifierError(
            f"classifier {name!r} takes {colours} channels ({shape}); it must take RGB pictures"
        )
    fixed = all(isinstance(side, int) for side in sides)
    return found, batch if isinstance(batch, int) else None, (sides[0], sides[1]) if fixed else None


def _output(outputs: list[Any], wanted: str | None, name: str) -> tuple[str, int | None]:
    """The output that holds the scores, and how many they are. Raises ClassifierError: not there."""
    names = [o.name for o in outputs]
    if wanted is not None and wanted not in names:
        raise ClassifierError(f"output {wanted!r} is not in {name!r}; outputs are {', '.join(names)}")
    flat = [o for o in outputs if o.type in KINDS and len(o.shape) in (1, 2)]
    chosen = outputs[names.index(wanted)] if wanted else (flat or outputs)[0]
    count = chosen.shape[-1] if len(chosen.shape) == 2 else 1 if len(chosen.shape) == 1 else None
    return chosen.name, count if isinstance(count, int) else None
