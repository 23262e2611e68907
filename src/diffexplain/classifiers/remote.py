"""Classifiers behind HTTP: our small contract, KServe v2 and Hugging Face inference endpoints.

Ours: POST {"images": [base64 PNG, …]} -> {"scores": [[…], …]}; or, with body=png, one PNG as it is ->
{"scores": […]}. GET at the same address may answer {"labels": […], "head": …, "scores": …}.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any, Literal, Protocol

import torch

from diffexplain.classifiers.answers import Adapter
from diffexplain.classifiers.exported import PixelOptions, numbered
from diffexplain.classifiers.labels import fitting, label_names
from diffexplain.classifiers.preprocessing import Preprocessing
from diffexplain.classifiers.transport import Answers, Transport, TransportOptions
from diffexplain.errors import ClassifierError
from diffexplain.images import encode_png

Rows = list[list[float]]


@dataclass(frozen=True, kw_only=True)
class HttpOptions(PixelOptions, TransportOptions):
    """The server's dialect, pictures a request, and everything of TransportOptions.

    `size`, `mean` and so on are for kserve, which takes numbers; the others take the picture itself.
    `input` and `output` name a KServe model's tensors, where its metadata does not.
    """

    profile: Literal["diffexplain", "kserve", "huggingface"] = "diffexplain"
    body: Literal["json", "png"] = "json"
    batch: int = 8
    input: str | None = None
    output: str | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    def __post_init__(self) -> None:
        Preprocessing.__post_init__(self)
        TransportOptions.__post_init__(self)
        if self.batch < 1:
            raise ClassifierError(f"batch {self.batch!r}: give pictures a request, at least 1")


class Dialect(Protocol):
    """How pictures are put to a server and what its answer means."""

    @property
    def batch(self) -> int:
        """Pictures a request."""
        ...

    def body(self, images: torch.Tensor) -> tuple[bytes, str]:
        """The request for pictures (n, 3, H, W), and its content type."""
        ...

    def rows(self, answer: Any, n: int) -> Rows:
        """The scores in an answer, or whatever ValueError, KeyError … when it is none."""
        ...


class HttpClassifier(Adapter):
    """A server: each picture is asked about once, and what it costs is counted."""

    def __init__(
        self, transport: Transport, dialect: Dialect, labels: Any, *, name: str, options: HttpOptions
    ) -> None:
        super().__init__(name, labels, head=options.head, scores=options.scores)
        self._transport, self._dialect = transport, dialect
        self._answers = Answers(options.cache)
        asked = {k: v for k, v in asdict(options).items() if k not in _NO_MATTER}
        self._asking = json.dumps([name, self.labels, asked], sort_keys=True).encode()

    @property
    def notes(self) -> tuple[str, ...]:
        """Saturated answers, and requests that had to be repeated."""
        if not self._transport.repeated:
            return super().notes
        sent, repeated = self._transport.sent, self._transport.repeated
        return (*super().notes, f"{self.name}: {sent} requests, {repeated} of them repeated after a failure")

    def _asked(self, images: torch.Tensor) -> torch.Tensor:
        keys = [self._key(image) for image in images]
        new = {key: i for i, key in enumerate(keys) if self._answers.get(key) is None}
        todo = list(new)
        for start in range(0, len(todo), self._dialect.batch):
            some = todo[start : start + self._dialect.batch]
            body, kind = self._dialect.body(images[[new[key] for key in some]])
            self._answers.keep(
                list(zip(some, self._rows(self._transport.ask(body, kind), len(some)), strict=True))
            )
        return torch.tensor([self._answers.get(key) for key in keys], dtype=torch.float64)

    def _rows(self, answer: Any, n: int) -> Rows:
        """Raises ClassifierError when the answer does not hold n rows of numbers, saying what came."""
        try:
            rows = [[float(v) for v in row] for row in self._dialect.rows(answer, n)]
            if len(rows) != n or len({len(row) for row in rows}) != 1:
                raise ValueError(f"{len(rows)} rows for {n} pictures")
            return rows
        except ClassifierError:
            raise
        except Exception as error:  # an answer may be anything
            came = json.dumps(answer)[:120]
            raise ClassifierError(
                f"{self.name} answered {came}, not scores ({type(error).__name__}: {error}); "
                "see docs/classifiers.md for what it should say"
            ) from error

    def _key(self, image: torch.Tensor) -> str:
        return blake2b(
            encode_png(image), key=blake2b(self._asking, digest_size=32).digest(), digest_size=16
        ).hexdigest()


_NO_MATTER = (
    "rate",
    "retries",
    "backoff",
    "timeout",
    "most_requests",
    "cache",
    "token_env",
    "token_header",
    "batch",
)


@dataclass(frozen=True)
class Plain:
    """Our own contract."""

    batch: int
    png: bool
    labels: tuple[str, ...]

    def body(self, images: torch.Tensor) -> tuple[bytes, str]:
        """PNGs in base64, or one PNG."""
        if self.png:
            return encode_png(images[0]), "image/png"
        return json.dumps({"images": [_base64(image) for image in images]}).encode(), "application/json"

    def rows(self, answer: Any, n: int) -> Rows:
        """`scores`; `labels`, where it comes with them, must be ours."""
        if "labels" in answer and tuple(answer["labels"]) != self.labels:
            raise ClassifierError(
                f"the server's labels are {answer['labels']}, here they are {list(self.labels)}; give its own"
            )
        scores = answer["scores"]
        return [scores] if self.png and not isinstance(scores[0], list) else scores


@dataclass(frozen=True)
class KServe:
    """The Open Inference Protocol (KServe v2): one tensor in, one out."""

    batch: int
    input: str
    output: str | None
    kind: str
    layout: str
    preprocessing: Preprocessing

    def body(self, images: torch.Tensor) -> tuple[bytes, str]:
        """Numbers, as the model's preprocessing makes them."""
        x = self.preprocessing(images.detach().cpu())
        x = x if self.layout == "NCHW" else x.permute(0, 2, 3, 1)
        data = (x.round().int() if self.kind == "UINT8" else x).flatten().tolist()
        tensor = {"name": self.input, "shape": list(x.shape), "datatype": self.kind, "data": data}
        return json.dumps({"inputs": [tensor]}).encode(), "application/json"

    def rows(self, answer: Any, n: int) -> Rows:
        """The output asked for, or the first."""
        outputs = {o["name"]: o for o in answer["outputs"]}
        chosen = outputs[self.output] if self.output else answer["outputs"][0]
        rows: Rows = torch.tensor(chosen["data"], dtype=torch.float64).reshape(n, -1).tolist()
        return rows


@dataclass(frozen=True)
class HuggingFace:
    """The image-classification task of Hugging Face's inference endpoints: [{label, score}, …] a picture."""

    labels: tuple[str, ...]
    function: str
    batch: int = 1

    def body(self, images: torch.Tensor) -> tuple[bytes, str]:
        """One picture, all labels asked for."""
        parameters = {"function_to_apply": self.function, "top_k": len(self.labels)}
        return json.dumps(
            {"inputs": _base64(images[0]), "parameters": parameters}
        ).encode(), "application/json"

    def rows(self, answer: Any, n: int) -> Rows:
        """In our labels' order. Raises ClassifierError when one is missing."""
        found = {
            entry["label"]: entry["score"] for entry in (answer[0] if isinstance(answer[0], list) else answer)
        }
        if missing := [label for label in self.labels if label not in found]:
            raise ClassifierError(
                f"the endpoint scores {list(found)}, not {missing[0]!r}; give the labels that it has"
            )
        return [[found[label] for label in self.labels]]


def from_url(
    url: str, *, labels: Any, options: HttpOptions, stated: frozenset[str] = frozenset()
) -> HttpClassifier:
    """A classifier at an address; `stated` are the options that a person gave. Raises ClassifierError."""
    transport = Transport(url, options)
    name = url.partition("?")[0]
    dialect: Dialect
    if options.profile == "kserve":
        dialect, labels, options = _kserve(transport, url, labels, options)
    elif options.profile == "huggingface":
        if not labels:
            raise ClassifierError(f"{name} needs labels: those of its model, --labels a,b,c or a file")
        options = options if "scores" in stated else replace(options, scores="probabilities")
        function = (
            "none" if options.scores == "logits" else "sigmoid" if options.head == "sigmoid" else "softmax"
        )
        dialect = HuggingFace(tuple(labels), function)
    else:
        if not labels:
            labels, options = _told(transport, name, options, stated)
        dialect = Plain(1 if options.body == "png" else options.batch, options.body == "png", tuple(labels))
    return HttpClassifier(transport, dialect, labels, name=name, options=options)


def _told(
    transport: Transport, name: str, options: HttpOptions, stated: frozenset[str]
) -> tuple[Any, HttpOptions]:
    """Labels and meaning, as the server itself says. Raises ClassifierError when it does not."""
    try:
        told = transport.ask()
        labels = label_names(told["labels"])
    except (ClassifierError, KeyError, TypeError) as error:
        raise ClassifierError(
            f"{name} does not tell its labels (GET: {error}); give --labels a,b,c or a file"
        ) from error
    more = {k: told[k] for k in ("head", "scores") if k in told and k not in stated}
    return labels, replace(options, **more)


def _kserve(
    transport: Transport, url: str, labels: Any, options: HttpOptions
) -> tuple[KServe, Any, HttpOptions]:
    """Tensor names, type and size: given, else from the model's metadata."""
    told: dict[str, Any] = {}
    if options.input is None:
        address = url.partition("?")[0].rstrip("/").removesuffix("/infer")
        told = transport.ask(url=address)
    try:
        given = told["inputs"][0] if told else _named(str(options.input))
        kind, (batch, *sides) = given["datatype"], (int(side) for side in given["shape"])
        made = int(told["outputs"][0]["shape"][-1]) if told else -1
        layout = "NHWC" if sides[-1] == 3 and sides[0] != 3 else options.layout
        height, width = sides[1:] if layout == "NCHW" else sides[:2]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ClassifierError(
            f"{url}: its metadata tells of no picture input; give input=NAME and size=…"
        ) from error
    if kind not in ("FP32", "UINT8"):
        raise ClassifierError(f"{url}: input {given['name']!r} takes {kind}; FP32 and UINT8 can be sent")
    if not labels and made < 1:
        raise ClassifierError(f"{url} does not tell how many labels it has; give --labels a,b,c or a file")
    said = fitting(labels or numbered(made, options.head), made if made > 0 else None, url, options.head)
    size = (height, width) if height > 0 and width > 0 else None
    preprocessing = options.preprocessing(size, **({"scale": 255.0} if kind == "UINT8" else {}))
    most = options.batch if batch < 1 else batch
    return KServe(most, given["name"], options.output, kind, layout, preprocessing), said, options


def _named(tensor: str) -> dict[str, Any]:
    return {"name": tensor, "datatype": "FP32", "shape": [-1] * 4}


def _base64(image: torch.Tensor) -> str:
    return b64encode(encode_png(image)).decode("ascii")
