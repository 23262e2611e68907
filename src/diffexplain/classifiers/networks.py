"""Networks that a library knows by name: timm, torchvision, transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffexplain.classifiers.answers import Scores
from diffexplain.classifiers.base import Head, first_line
from diffexplain.classifiers.hub import checkpoint, no_download
from diffexplain.classifiers.labels import fitting, unique
from diffexplain.classifiers.modules import ModuleClassifier
from diffexplain.classifiers.preprocessing import from_processor, from_timm, from_torchvision
from diffexplain.errors import ClassifierError
from diffexplain.quiet import quiet_loading

Names = tuple[str, ...] | None
PROBLEMS: dict[str | None, Head] = {"multi_label_classification": "sigmoid", "regression": "regression"}


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """How a network's outputs are meant; None: as its configuration says, else one of K classes."""

    head: Head | None = None
    scores: Scores = "logits"


@dataclass(frozen=True, kw_only=True)
class HubOptions(NetworkOptions):
    """Also which version on the hub."""

    revision: str | None = None


def from_timm_folder(
    folder: Path,
    *,
    name: str,
    device: torch.device,
    labels: Names = None,
    options: NetworkOptions | None = None,
) -> ModuleClassifier:
    """A timm folder: `config.json` (architecture, pretrained_cfg, label_names) and `model.safetensors`.

    Raises ClassifierError when they are missing, broken or do not fit each other.
    """
    import timm
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        count = int(config["num_classes"])
        said = labels or config.get("label_names") or [str(i) for i in range(count)]
        fitting(said, count, name, (options or NetworkOptions()).head)
        arguments = config.get("model_args") or {}
        module = timm.create_model(config["architecture"], num_classes=count, **arguments)
        module.load_state_dict(load_file(folder / "model.safetensors"))
        return _asked_as(module.float(), said, from_timm(config["pretrained_cfg"]), name, device, options)
    except ClassifierError:
        raise
    except Exception as error:
        raise ClassifierError(
            f"cannot load classifier {name!r}: {type(error).__name__}: {first_line(error)}; "
            f"{folder} needs a timm config.json and the model.safetensors that fits it"
        ) from error


def from_timm_name(
    model: str,
    *,
    name: str,
    device: torch.device,
    labels: Names = None,
    options: NetworkOptions | None = None,
) -> ModuleClassifier:
    """`NAME`, `NAME@checkpoint.safetensors` or `hf-hub:ORG/NAME` with timm's own preprocessing.

    The number of classes is the checkpoint's. Labels: given, or the configuration's, or ImageNet's.
    """
    import timm

    model, _, file = model.partition("@") if not model.startswith("hf-hub:") else (model, "", "")
    count = _classes(model, checkpoint(file, name)) if file else None
    if count is not None and labels:
        fitting(labels, count, name, (options or NetworkOptions()).head)
    try:
        made = {"checkpoint_path": file, "num_classes": count} if file else {"pretrained": True}
        module = timm.create_model(model, **{k: v for k, v in made.items() if v is not None})
    except Exception as error:
        raise ClassifierError(f"timm cannot load {model!r}: {_timm_cure(model, file, error)}") from error
    config = dict(module.pretrained_cfg)
    said = (
        labels
        or config.get("label_names")
        or _imagenet(module)
        or [str(i) for i in range(module.num_classes)]
    )
    fitting(said, module.num_classes, name, (options or NetworkOptions()).head)
    return _asked_as(module, said, from_timm(config), name, device, options)


def _classes(model: str, shapes: dict[str, tuple[int, ...]]) -> int | None:
    """How many classes a checkpoint's last layer has; None where timm does not say which layer that is."""
    import timm

    if not timm.is_model(model):
        raise ClassifierError(f"timm cannot load {model!r}: Unknown model; {_NAMES}")
    cfg = timm.models.get_pretrained_cfg(model)
    last = cfg.classifier if cfg else None
    last = last[0] if isinstance(last, tuple | list) else last
    shape = shapes.get(f"{last}.bias") or shapes.get(f"{last}.weight")
    return shape[0] if shape else None


def _imagenet(module: Any) -> tuple[str, ...] | None:
    """ImageNet's names in the network's order, when it was trained on one of timm's subsets."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(module)
    if not subset:
        return None
    info = ImageNetInfo(subset)
    return unique(info.index_to_description(i) for i in range(info.num_classes()))


_NAMES = "give a name from timm.list_pretrained(), or a folder with config.json and model.safetensors"


def _timm_cure(model: str, file: str, error: Exception) -> str:
    import timm

    if file:
        return f"{first_line(error)}; {Path(file).name} must hold that network's weights"
    if model.startswith("hf-hub:"):
        return no_download(model.removeprefix("hf-hub:"), error)
    config = timm.models.get_pretrained_cfg(model) if timm.models.is_model(model) else None
    if config is None:
        return f"{first_line(error)}; {_NAMES}"
    if not config.hf_hub_id:
        return f"{first_line(error)}; {_NAMES}"
    return no_download(f"{config.hf_hub_id}{model if config.hf_hub_id.endswith('/') else ''}", error)


def from_torchvision_name(
    model: str,
    *,
    name: str,
    device: torch.device,
    labels: Names = None,
    options: NetworkOptions | None = None,
) -> ModuleClassifier:
    """`NAME` or `NAME@checkpoint.safetensors`: Weights.DEFAULT, its transforms and categories."""
    from safetensors.torch import load_file
    from torchvision.models import get_model, get_model_weights

    model, _, file = model.partition("@")
    shapes = checkpoint(file, name) if file else {}
    try:
        weights = get_model_weights(model).DEFAULT
        preset = weights.transforms()
    except Exception as error:
        raise ClassifierError(
            f"torchvision has no classifier {model!r} with weights: {first_line(error)}; "
            "give a name from torchvision.models.list_models(torchvision.models)"
        ) from error
    if not hasattr(preset, "crop_size") or "categories" not in weights.meta:
        raise ClassifierError(f"torchvision's {model!r} classifies no pictures; choose an image classifier")
    auxiliary = model.startswith(("inception", "googlenet"))  # their builders think of it with weights only
    more: dict[str, Any] = {"transform_input": True, "init_weights": False} if auxiliary else {}
    outputs = _outputs(model, shapes) if file else len(weights.meta["categories"])
    known = unique(weights.meta["categories"])
    said = labels or (known if len(known) == outputs else tuple(str(i) for i in range(outputs)))
    fitting(said, outputs, name, (options or NetworkOptions()).head)
    try:
        state = load_file(file) if file else weights.get_state_dict(progress=False, weights_only=True)
        module = get_model(model, weights=None, num_classes=outputs, **more)
        module.load_state_dict(state)
    except Exception as error:
        where = f"{torch.hub.get_dir()}/checkpoints"
        cure = (
            f"{Path(file).name} must hold that network's weights for {outputs} classes"
            if file
            else f"where there is a connection download {weights.url}; it is looked for in {where}"
        )
        raise ClassifierError(f"torchvision cannot load {model!r}: {first_line(error)}; {cure}") from error
    return _asked_as(module, said, from_torchvision(preset), name, device, options)


def _outputs(model: str, shapes: dict[str, tuple[int, ...]]) -> int:
    """How many classes a checkpoint's last layer has."""
    from torchvision.models import get_model

    with torch.device("meta"):
        parts = list(get_model(model, weights=None).named_modules())
    last = [part for part, module in parts if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    if f"{last}.weight" not in shapes:
        raise ClassifierError(f"torchvision cannot load {model!r}: the checkpoint has no {last}.weight")
    return shapes[f"{last}.weight"][0]


def from_transformers(
    source: str, *, name: str, device: torch.device, labels: Names = None, options: HubOptions | None = None
) -> ModuleClassifier:
    """`ORG/NAME` on the hub or a folder: AutoModelForImageClassification, its image processor, id2label."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    options = options or HubOptions()
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(source, revision=options.revision or "main")
            said = labels or unique(config.id2label[i] for i in sorted(config.id2label))
            head = options.head or PROBLEMS.get(getattr(config, "problem_type", None), "softmax")
            fitting(said, config.num_labels, name, head)
            processor = AutoImageProcessor.from_pretrained(source, revision=options.revision or "main")
            module = AutoModelForImageClassification.from_pretrained(
                source, revision=options.revision or "main", use_safetensors=True, dtype=torch.float32
            )
    except ClassifierError:
        raise
    except Exception as error:
        cure = (
            f"{first_line(error)}; it needs config.json, preprocessor_config.json and model.safetensors"
            if Path(source).is_dir()
            else no_download(source, error)
        )
        raise ClassifierError(f"cannot load classifier {name!r}: {cure}") from error
    return ModuleClassifier(
        module,
        said,
        name=name,
        preprocessing=from_processor(processor),
        head=head,
        scores=options.scores,
        device=device,
    )


def _asked_as(
    module: nn.Module,
    labels: Any,
    preprocessing: Any,
    name: str,
    device: torch.device,
    options: NetworkOptions | None,
) -> ModuleClassifier:
    options = options or NetworkOptions()
    return ModuleClassifier(
        module.eval(),
        labels,
        name=name,
        preprocessing=preprocessing,
        head=options.head or "softmax",
        scores=options.scores,
        device=device,
    )
