"""From a spec string to an editor."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from diffexplain import pocket
from diffexplain.editors.base import Editor
from diffexplain.editors.ddpm import DDPMEditor, DDPMOptions
from diffexplain.errors import EditorError
from diffexplain.quiet import quiet_loading

DEFAULT_JUDGE = "clip:openai/clip-vit-large-patch14"
SETTINGS_FILE = "diffexplain.json"
FITTING = "stable-diffusion-v1-5/stable-diffusion-v1-5, or a pipeline folder trained on such pictures"


def load_editor(spec: Any, *, device: torch.device | None = None, **overrides: Any) -> Editor:
    """An editor from `pocket`, `pocket-turbo`, a Hugging Face name ORG/NAME, or a diffusers pipeline folder.

    A pipeline folder may hold `diffexplain.json` with calibrated settings, its judge and its segmenter;
    `overrides` are DDPMOptions fields that win over it. An Editor in hand passes through.
    Raises EditorError when it cannot be loaded, saying what to do.
    """
    if not isinstance(spec, str | Path):
        return spec  # type: ignore[no-any-return]
    name = str(spec)
    path = _folder(spec)
    source = str(path) if path.is_dir() else name
    stated = _stated(path / SETTINGS_FILE)
    options = _options(path, stated, overrides)
    return DDPMEditor(
        _pipeline(source),
        name=name,
        options=options,
        default_judge=stated.get("judge", DEFAULT_JUDGE),
        default_segmenter=stated.get("segmenter"),
        device=device,
    )


@dataclass(frozen=True, slots=True)
class EditorShape:
    """What can be known of an editor without loading it."""

    name: str
    size: int | None  # side of its pictures; None when its files are not on this machine
    steps: int  # UNet steps of one edit
    operations: float  # floating-point operations of one UNet evaluation, roughly; 0 when unknown
    default_judge: str
    default_segmenter: str | None


def editor_shape(spec: Any, **overrides: Any) -> EditorShape:
    """Read an editor's configuration files only. Raises EditorError as load_editor does."""
    if not isinstance(spec, str | Path):
        return EditorShape(spec.name, spec.size, 0, 0.0, spec.default_judge, spec.default_segmenter)
    path = _folder(spec)
    stated = _stated(path / SETTINGS_FILE)
    options = _options(path, stated, overrides)
    size, operations = None, 0.0
    if (path / "unet" / "config.json").is_file() and (path / "vae" / "config.json").is_file():
        side = json.loads((path / "unet" / "config.json").read_text())["sample_size"]
        blocks = json.loads((path / "vae" / "config.json").read_text())["block_out_channels"]
        size = side * 2 ** (len(blocks) - 1)
        parameters = sum(f.stat().st_size for f in (path / "unet").glob("*.safetensors")) / 2
        operations = 2 * parameters * side**2 / 7  # most parameters sit at low resolution
    return EditorShape(
        name=str(spec),
        size=size,
        steps=options.steps - round(options.skip * options.steps),
        operations=operations,
        default_judge=stated.get("judge", DEFAULT_JUDGE),
        default_segmenter=stated.get("segmenter"),
    )


def _folder(spec: str | Path) -> Path:
    """The folder a spec names; for a hub name one that need not exist here."""
    name = str(spec)
    bundled = {"pocket": "editor", "pocket-turbo": "turbo"}
    path = pocket.ROOT / bundled[name] if name in bundled else Path(name)
    if not path.is_dir() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise EditorError(
            f"no editor {name!r}; an editor is pocket, pocket-turbo, ORG/NAME on a hub, or a folder"
        )
    return path


def _stated(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EditorError(f"{file}: is not JSON ({error}); mend it or remove it") from error
    if not isinstance(stated, dict) or not isinstance(stated.get("options", {}), dict):
        raise EditorError(
            f"{file}: must be an object with options, judge and segmenter; mend it or remove it"
        )
    known = {f.name for f in fields(DDPMOptions)}
    unknown = set(stated.get("options", {})) - known
    if unknown:
        raise EditorError(
            f"{file}: unknown option {', '.join(sorted(unknown))}; known are {', '.join(known)}"
        )
    return dict(stated)


def _options(path: Path, stated: dict[str, Any], overrides: dict[str, Any]) -> DDPMOptions:
    """The stated settings under the overrides. Raises EditorError naming the file for a bad value."""
    try:
        return DDPMOptions(**{**stated.get("options", {}), **overrides})
    except (TypeError, ValueError) as error:
        raise EditorError(f"{path / SETTINGS_FILE} or an override: {error}") from error


def _pipeline(source: str) -> Any:
    import diffusers

    try:
        with quiet_loading():
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                source, dtype=torch.float32, safety_checker=None, use_safetensors=True
            )
    except Exception as error:
        line = (str(error).splitlines() or ["no message"])[0][:200]
        raise EditorError(
            f"editor {source!r} cannot be loaded ({line}); download it first, "
            "for instance with `hf download`, or name a folder"
        ) from error
    needed = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    missing = [part for part in needed if getattr(pipeline, part, None) is None]
    if missing:
        raise EditorError(
            f"editor {source!r} is a {type(pipeline).__name__} without {', '.join(missing)}; "
            "supported are Stable Diffusion 1.x and 2.x pipelines"
        )
    if getattr(pipeline, "text_encoder_2", None) is not None:
        raise EditorError(
            f"editor {source!r} is a {type(pipeline).__name__} with two text encoders; "
            "supported are Stable Diffusion 1.x and 2.x pipelines"
        )
    kind = pipeline.scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise EditorError(
            f"editor {source!r} predicts {kind!r}; supported are UNets that predict epsilon or v_prediction"
        )
    return pipeline
