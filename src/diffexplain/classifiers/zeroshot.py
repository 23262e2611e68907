"""Zero-shot classifiers: CLIP (Radford et al. 2021) or SigLIP compares pictures with the labels as texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from diffexplain.classifiers.base import Head, first_line
from diffexplain.classifiers.hub import checkpoint, no_download
from diffexplain.classifiers.labels import read_labels
from diffexplain.classifiers.modules import ModuleClassifier
from diffexplain.classifiers.preprocessing import Prepare, from_open_clip, from_processor
from diffexplain.errors import ClassifierError, MissingExtra
from diffexplain.quiet import quiet_loading

Prompts = dict[str, tuple[str, ...]]  # label -> what is said of its pictures
Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class ZeroShotOptions:
    """What is said of a label's pictures, and how scores are meant (None: as the model was trained).

    `templates` are filled with each label; `prompts` (a mapping, or a YAML or JSON file of one) says all of
    them itself: label -> a prompt or several. Several are averaged, as in CLIP's paper.
    """

    templates: tuple[str, ...] = ("a photo of a {}.",)
    prompts: str | dict[str, str | tuple[str, ...]] | None = None
    head: Head | None = None

    def __post_init__(self) -> None:
        bad = [t for t in self.templates if t.count("{}") != 1]
        if bad or not self.templates:
            raise ClassifierError(
                f"templates {bad or 'without any'}: each needs one {{}} where the label goes"
            )


@dataclass(frozen=True)
class Clip:
    """A contrastive model in hand: how pictures and texts are embedded, and what scales their cosines."""

    model: nn.Module
    visual: nn.Module  # the part whose layers are the classifier's
    image: Encode  # (N, 3, h, w) -> (N, D)
    text: Callable[[Sequence[str]], torch.Tensor]  # -> (P, D)
    prepare: Prepare
    scale: float
    bias: float | None  # SigLIP's


class ZeroShot(nn.Module):
    """exp(scale)·cos(picture, label) + bias; a label's text is the mean of its prompts'."""

    texts: torch.Tensor

    def __init__(self, clip: Clip, texts: torch.Tensor) -> None:
        super().__init__()
        self.visual = clip.visual
        self._image, self._scale, self._bias = clip.image, clip.scale, clip.bias or 0.0
        self.register_buffer("texts", texts)  # (K, D)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (N, K)."""
        seen = F.normalize(self._image(pixels), dim=-1)
        return self._scale * seen @ self.texts.T + self._bias


def prompts_of(labels: Any, options: ZeroShotOptions, spec: str) -> Prompts:
    """What is said of each label. Raises ClassifierError when there are no labels, or too few prompts."""
    said = read_labels(Path(options.prompts) if isinstance(options.prompts, str) else options.prompts)
    if said is not None and not isinstance(said, Mapping):
        raise ClassifierError(
            f"prompts of {spec!r} are a {type(said).__name__}; give a mapping label: prompts"
        )
    if said is None and not labels:
        raise ClassifierError(f"classifier {spec!r} needs labels: --labels cat,dog or labels=('cat', 'dog')")
    names = tuple(labels or (said or {}))
    missing = [name for name in names if said is not None and name not in said]
    if missing:
        raise ClassifierError(f"prompts of {spec!r} say nothing of the label {missing[0]!r}; add it")
    if said is None:
        return {name: tuple(t.format(name) for t in options.templates) for name in names}
    return {name: (said[name],) if isinstance(said[name], str) else tuple(said[name]) for name in names}


def load_clip(
    source: str, *, name: str, device: torch.device, labels: Any, options: ZeroShotOptions
) -> ModuleClassifier:
    """`ORG/NAME` or a folder (transformers), `NAME@TAG`, `NAME@FILE.safetensors` or a folder (open_clip)."""
    prompts = prompts_of(labels, options, name)
    clip = _open_clip(source, name) if _is_open_clip(source) else _transformers(source, name)
    with torch.no_grad():
        each = [F.normalize(clip.text(said), dim=-1).mean(0) for said in prompts.values()]
    texts = F.normalize(torch.stack(each), dim=-1)  # (K, D)
    clip.model.to(device)
    head: Head = options.head or ("softmax" if clip.bias is None else "sigmoid")
    return ModuleClassifier(
        ZeroShot(clip, texts), tuple(prompts), name=name, preprocessing=clip.prepare, head=head, device=device
    )


def _is_open_clip(source: str) -> bool:
    if (Path(source) / "open_clip_config.json").is_file() or source.startswith("hf-hub:"):
        return True
    return "@" in source or ("/" not in source and not Path(source).is_dir())


# -- transformers --------------------------------------------------------------------------------------


def _transformers(source: str, name: str) -> Clip:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    try:
        with quiet_loading():
            model = AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True).eval()
            tokenizer = AutoTokenizer.from_pretrained(source)
            processor = AutoImageProcessor.from_pretrained(source)
    except Exception as error:
        folder = Path(source).is_dir()
        cure = f"{first_line(error)}; is the folder a whole CLIP?" if folder else no_download(source, error)
        raise ClassifierError(f"cannot load classifier {name!r}: {cure}") from error
    if not hasattr(model, "get_image_features") or not hasattr(model, "logit_scale"):
        raise ClassifierError(
            f"classifier {name!r} is a {type(model).__name__}; clip: takes CLIP and SigLIP models"
        )
    bias = getattr(model, "logit_bias", None)

    def text(said: Sequence[str]) -> torch.Tensor:
        length = model.config.text_config.max_position_embeddings
        tokens = tokenizer(
            list(said), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        if bias is not None:  # SigLIP learnt with padding in sight
            tokens = {"input_ids": tokens["input_ids"]}
        return _features(model.get_text_features(**tokens))

    return Clip(
        model,
        model.vision_model,
        lambda pixels: _features(model.get_image_features(pixel_values=pixels)),
        text,
        from_processor(processor),
        float(model.logit_scale.detach().exp()),
        None if bias is None else float(bias.detach()),
    )


def _features(output: Any) -> torch.Tensor:
    found: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return found


# -- open_clip -----------------------------------------------------------------------------------------


def _open_clip(source: str, name: str) -> Clip:
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtra("clip", "open_clip_torch") from error
    model_name, tag = _resolved(open_clip, source, name)
    try:
        with quiet_loading():
            model, _, transform = open_clip.create_model_and_transforms(model_name, pretrained=tag)
            tokenizer = open_clip.get_tokenizer(model_name)
    except Exception as error:
        raise ClassifierError(
            f"open_clip cannot load {source!r}: {_open_clip_cure(open_clip, source, error)}"
        ) from error
    model = model.eval()
    bias = model.logit_bias
    return Clip(
        model,
        model.visual,
        model.encode_image,
        lambda said: model.encode_text(tokenizer(list(said))),
        from_open_clip(model.visual.preprocess_cfg, transform),
        float(model.logit_scale.detach().exp()),
        None if bias is None else float(bias.detach()),
    )


def _resolved(open_clip: Any, source: str, name: str) -> tuple[str, str | None]:
    """open_clip's name and weights. Raises ClassifierError when it knows neither, before anything loads."""
    if source.startswith("hf-hub:"):
        return source, None
    if (Path(source) / "open_clip_config.json").is_file():
        return f"local-dir:{source}", None
    model, _, tag = source.partition("@")
    if model not in open_clip.list_models():
        raise ClassifierError(
            f"no classifier {name!r}: open_clip has no model {model!r}; give one of open_clip.list_models(), "
            "ORG/NAME on the hub, or a folder that exists"
        )
    known = open_clip.pretrained.list_pretrained_tags_by_model(model)
    if tag.endswith((".safetensors", ".pt", ".pth", ".bin")):
        checkpoint(tag, name)
    elif tag not in known:
        said = f"no weights {tag!r}" if tag else "several weights"
        some = [*known[:4], "FILE.safetensors"]
        raise ClassifierError(f"classifier {name!r}: {model} has {said}; choose {model}@{', @'.join(some)}")
    return model, tag


def _open_clip_cure(open_clip: Any, source: str, error: Exception) -> str:
    model, _, tag = source.removeprefix("hf-hub:").partition("@")
    if source.startswith("hf-hub:"):
        return no_download(model, error)
    config = open_clip.pretrained.get_pretrained_cfg(model, tag)
    if hub := config.get("hf_hub"):
        return no_download(hub.rstrip("/"), error)
    if url := config.get("url"):
        where = "it is looked for in ~/.cache/clip"
        return f"{first_line(error)}; where there is a connection download {url}; {where}"
    return f"{first_line(error)}; give weights that fit the model"
