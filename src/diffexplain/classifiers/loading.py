"""From a spec string (or a model in hand) to a classifier; its options are checked before anything loads."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from diffexplain import pocket
from diffexplain.classifiers.answers import Scores
from diffexplain.classifiers.base import Classifier, Head, first_line
from diffexplain.classifiers.exported import PixelOptions, from_pt2, from_torchscript
from diffexplain.classifiers.hub import existing
from diffexplain.classifiers.labels import Labels, label_names
from diffexplain.classifiers.modules import CallableClassifier, ModuleClassifier
from diffexplain.classifiers.networks import (
    HubOptions,
    NetworkOptions,
    from_timm_folder,
    from_timm_name,
    from_torchvision_name,
    from_transformers,
)
from diffexplain.classifiers.null import NullClassifier
from diffexplain.classifiers.onnx_graph import OnnxOptions, from_onnx
from diffexplain.classifiers.remote import HttpOptions, from_url
from diffexplain.classifiers.transport import check_url
from diffexplain.classifiers.zeroshot import ZeroShotOptions, load_clip
from diffexplain.errors import ClassifierError


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """A source that has none."""


@dataclass(frozen=True, kw_only=True)
class CallableOptions(PixelOptions):
    """How a function's scores are meant (None: as its attributes say); the numbers are for a torch module."""

    head: Head | None = None  # type: ignore[assignment]
    scores: Scores | None = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Asked:
    """What a person asked for, checked."""

    spec: str
    rest: str  # after the kind's colon
    labels: Any
    options: Any
    stated: frozenset[str]  # the options given
    device: torch.device


class Kind(NamedTuple):
    """A source of classifiers."""

    form: str
    options: Any
    load: Callable[[Asked], Classifier]
    white: bool = True  # gives gradients


def _common(asked: Asked) -> dict[str, Any]:
    return dict(name=asked.spec, device=asked.device, labels=asked.labels, options=asked.options)


def _pocket(asked: Asked) -> Classifier:
    if asked.rest == "null" or asked.rest.startswith("null:"):
        return _null(asked.spec, asked.rest)
    return from_timm_folder(pocket.classifier_folder(asked.rest), name=asked.spec, device=asked.device)


def _timm(asked: Asked) -> Classifier:
    if (Path(asked.rest) / "config.json").is_file():
        return from_timm_folder(Path(asked.rest), **_common(asked))
    return from_timm_name(asked.rest, **_common(asked))


def _http(asked: Asked) -> Classifier:
    return from_url(asked.spec, labels=asked.labels, options=asked.options, stated=asked.stated)


def _path(asked: Asked) -> Classifier:
    return _wrapped(imported(asked.spec), asked)


#: what comes before the colon -> its source. A module's path stands for itself.
KINDS: dict[str, Kind] = {
    "pocket": Kind("pocket:NAME", NoOptions, _pocket),
    "timm": Kind("timm:NAME[@FILE.safetensors], timm:hf-hub:ORG/NAME, timm:FOLDER", NetworkOptions, _timm),
    "torchvision": Kind(
        "torchvision:NAME", NetworkOptions, lambda asked: from_torchvision_name(asked.rest, **_common(asked))
    ),
    "hf": Kind(
        "hf:ORG/NAME, hf:FOLDER", HubOptions, lambda asked: from_transformers(asked.rest, **_common(asked))
    ),
    "clip": Kind("clip:MODEL", ZeroShotOptions, lambda asked: load_clip(asked.rest, **_common(asked))),
    "onnx": Kind(
        "onnx:FILE", OnnxOptions, lambda asked: from_onnx(asked.rest, **_common(asked)), white=False
    ),
    "pt2": Kind("pt2:FILE", PixelOptions, lambda asked: from_pt2(asked.rest, **_common(asked))),
    "torchscript": Kind(
        "torchscript:FILE", PixelOptions, lambda asked: from_torchscript(asked.rest, **_common(asked))
    ),
    "http": Kind("http://…", HttpOptions, _http, white=False),
    "https": Kind("https://…", HttpOptions, _http, white=False),
}
PATH = Kind("package.module:function", CallableOptions, _path)
SPECS = ", ".join(kind.form for kind in [*KINDS.values(), PATH])


def load_classifier(
    spec: Any, *, device: torch.device | None = None, labels: Labels | None = None, **options: Any
) -> Classifier:
    """A classifier from a spec (`timm:resnet50.a1_in1k`, `onnx:model.onnx`; see SPECS) or a model in hand.

    `labels`: names in the order of the outputs, `"a,b,c"` or a file; `options` are the source's own, for
    instance `size=224`. A `Classifier` passes through; an `nn.Module` needs labels (or has `label_names`); a
    plain function is wrapped. Options, labels and files are checked before anything is loaded. Raises
    ClassifierError, MissingExtra.
    """
    device = device or torch.device("cpu")
    if not isinstance(spec, str):
        asked = Asked(type(spec).__name__, "", label_names(labels), None, frozenset(options), device)
        return _wrapped(spec, replace(asked, options=_checked(PATH, asked.spec, options)))
    kind, rest = _kind(spec)
    asked = Asked(spec, rest, label_names(labels), _checked(kind, spec, options), frozenset(options), device)
    return kind.load(asked)


def foresee_classifier(
    spec: Any, *, labels: Labels | None = None, need: str | None = None, **options: Any
) -> None:
    """What can be known to be wrong without loading or asking anything: spec, labels, options, missing files.

    `need`: what wants gradients, if anything does. Raises ClassifierError as load_classifier would.
    """
    label_names(labels)
    if not isinstance(spec, str):
        _checked(PATH, type(spec).__name__, options)
        return
    kind, rest = _kind(spec)
    _checked(kind, spec, options)
    if need is not None and not kind.white:
        raise ClassifierError(
            f"classifier {spec!r} gives scores only, no gradients, and {need} needs them; "
            "load the network itself (timm:, hf:, torchvision:, a torch module)"
        )
    if kind.form.endswith(":FILE"):
        existing(rest, spec, f"give {kind.form}")
    if kind.form.endswith("://…"):
        check_url(spec)


def _kind(spec: str) -> tuple[Kind, str]:
    """The source a spec names, and what comes after its colon. Raises ClassifierError when there is none."""
    before, _, rest = spec.partition(":")
    if before in KINDS and rest and (not before.startswith("http") or rest.startswith("//")):
        return KINDS[before], rest
    if before not in KINDS and rest.isidentifier() and all(part.isidentifier() for part in before.split(".")):
        return PATH, rest
    raise ClassifierError(f"no classifier {spec!r}; a classifier is one of {SPECS}")


def _checked(kind: Kind, spec: str, given: dict[str, Any]) -> Any:
    """A source's options from what was given. Raises ClassifierError naming the option and the cure."""
    known = [f.name for f in fields(kind.options)]
    if unknown := sorted(set(given) - set(known)):
        there = f"known are {', '.join(sorted(known))}" if known else "it has no options"
        raise ClassifierError(f"classifier {spec!r} has no option {', '.join(unknown)}; {there}")
    try:
        return TypeAdapter(kind.options).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        said = (
            first.get("ctx", {}).get("error")
            or f"{first['loc'][0] if first['loc'] else ''} {first['input']!r}: {first['msg']}"
        )
        raise ClassifierError(f"classifier {spec!r}, option {said}") from error


def _wrapped(model: Any, asked: Asked) -> Classifier:
    if isinstance(model, Classifier):
        if asked.labels or asked.stated:
            raise ClassifierError(
                f"classifier {model.name!r} has its labels and options already; leave them out here"
            )
        return model
    if isinstance(model, nn.Module):
        return _module(model, asked)
    if callable(model):
        name = asked.spec if asked.rest else getattr(model, "__name__", "function")
        return CallableClassifier(
            model, asked.labels, name=name, head=asked.options.head, scores=asked.options.scores
        )
    if asked.rest:
        raise ClassifierError(
            f"classifier {asked.spec!r} is {type(model).__name__}, not a function of images"
        )
    raise ClassifierError(
        f"a classifier is a spec string, a module or a function, not {type(model).__name__}"
    )


def _module(model: nn.Module, asked: Asked) -> ModuleClassifier:
    labels = asked.labels or getattr(model, "label_names", None)
    if labels is None:
        raise ClassifierError(
            "a torch module needs labels: dx.ModuleClassifier(module, labels, size=…, mean=…, std=…)"
        )
    return ModuleClassifier(
        model,
        labels,
        name=asked.spec if asked.rest else "module",
        preprocessing=asked.options.preprocessing(),
        head=asked.options.head or "softmax",
        scores=asked.options.scores or "logits",
        device=asked.device,
    )


def imported(spec: str) -> Any:
    """`package.module:function`, imported because a person typed it, as `python -m` would find it.

    Raises ClassifierError when it cannot be imported.
    """
    module, _, attribute = spec.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module raises anything
        raise ClassifierError(
            f"cannot import classifier {spec!r}: {type(error).__name__}: {first_line(error)}; "
            "give module:function, the module in this folder or on PYTHONPATH"
        ) from error
    finally:
        sys.path.remove(here)


def _null(spec: str, rest: str) -> NullClassifier:
    _, _, key = rest.partition(":")
    try:
        return NullClassifier(int(key or 0))
    except (ValueError, OverflowError):
        raise ClassifierError(f"{spec!r}: the key after pocket:null: is a whole number below 2**63") from None
