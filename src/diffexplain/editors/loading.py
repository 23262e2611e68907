"""From a spec string to an editor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from diffexplain import pocket
from diffexplain.editors.base import Editor
from diffexplain.editors.flow import FlowEditor, FlowOptions
from diffexplain.editors.instruct import FAMILIES as INSTRUCT_FAMILIES
from diffexplain.editors.instruct import InstructEditor, InstructOptions
from diffexplain.editors.ledits import TURBO, LeditsEditor, LeditsOptions
from diffexplain.editors.velocities import FAMILIES as FLOW_FAMILIES
from diffexplain.errors import EditorError, MissingExtra
from diffexplain.quiet import quiet_loading

DEFAULT_JUDGE = "clip:openai/clip-vit-large-patch14"
SETTINGS_FILE = "diffexplain.json"
GENERIC = ("a picture of a", "thing")
FITTING = "stable-diffusion-v1-5/stable-diffusion-v1-5, or a pipeline folder trained on such pictures"


class Method(NamedTuple):
    """An editor, and its settings: from a pipeline's class name, under those that are stated."""

    editor: Any
    options: Callable[..., Any]


METHODS: Mapping[str, Method] = {
    "ledits": Method(LeditsEditor, lambda family, **stated: LeditsOptions(**stated)),
    "turbo": Method(LeditsEditor, lambda family, **stated: replace(TURBO, **stated)),
    "flow": Method(FlowEditor, FlowOptions.published),
    "instruct": Method(InstructEditor, InstructOptions.usual),
}
#: diffusers pipelines whose components an editor understands -> that editor.
FAMILIES: Mapping[str, str] = {
    "StableDiffusionPipeline": "ledits",
    "StableDiffusionImg2ImgPipeline": "ledits",
    "StableDiffusionXLPipeline": "ledits",
    "StableDiffusionXLImg2ImgPipeline": "ledits",
    "LatentConsistencyModelPipeline": "turbo",
    "LatentConsistencyModelImg2ImgPipeline": "turbo",
    **dict.fromkeys(FLOW_FAMILIES, "flow"),
    **dict.fromkeys(INSTRUCT_FAMILIES, "instruct"),
}
SUPPORTED = (
    "Stable Diffusion 1.x, 2.x and XL and models distilled from them, latent consistency models, "
    + ", ".join(n.removesuffix("Pipeline") for n in [*FLOW_FAMILIES, *INSTRUCT_FAMILIES])
)
#: short names of models on the hub.
HUB = {
    "sd-1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd-turbo": "stabilityai/sd-turbo",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sdxl-turbo": "stabilityai/sdxl-turbo",
    "sd-3.5": "stabilityai/stable-diffusion-3.5-medium",
    "lcm": "SimianLuo/LCM_Dreamshaper_v7",
}
BUNDLED = {"pocket": "editor", "pocket-turbo": "turbo"}


@dataclass(frozen=True, slots=True)
class Spec:
    """`[METHOD:]NAME[+LORA]`, taken apart; `source` is a folder or a hub name."""

    name: str
    method: str | None
    source: str
    lora: str | None

    @property
    def folder(self) -> Path:
        """The folder named, which for a hub name need not exist here."""
        return Path(self.source)


def load_editor(spec: Any, *, device: torch.device | None = None, **overrides: Any) -> Editor:
    """An editor from `[METHOD:]NAME[+LORA]`, or one in hand, which passes through.

    NAME is `pocket`, `pocket-turbo`, a short name (`sd-1.5`, `sd-turbo`, `sdxl`, …), ORG/NAME on the Hugging
    Face hub, or a diffusers pipeline folder; METHOD (ledits, turbo, flow, instruct) is found from the model
    when it is not given; LORA, a hub name or folder, is fused into the model (LCM-LoRA: `turbo:NAME+LORA`).
    A folder may hold `diffexplain.json` with its method, calibrated settings, judge and segmenter;
    `overrides` are options of the method that win over it. Raises EditorError when it cannot be loaded,
    saying what to do, and MissingExtra.
    """
    if not isinstance(spec, str | Path):
        return spec  # type: ignore[no-any-return]
    parsed = parse_spec(str(spec))
    stated = stated_in(parsed)
    if parsed.folder.is_dir():
        _foreseen(parsed, stated, overrides)  # bad options are found before anything is loaded
    pipeline = load_pipeline(parsed)
    method = parsed.method or stated.get("method") or method_of(pipeline)
    made: Editor = METHODS[method].editor(
        supported(parsed, pipeline, method),
        name=parsed.name,
        options=_options(parsed, method, type(pipeline).__name__, {**stated.get("options", {}), **overrides}),
        default_judge=stated.get("judge", DEFAULT_JUDGE),
        default_segmenter=stated.get("segmenter"),
        device=device,
    )
    return made


@dataclass(frozen=True, slots=True)
class EditorShape:
    """What can be known of an editor without loading it."""

    name: str
    size: int | None  # side of its pictures; None when its files are not on this machine
    steps: int  # UNet steps of one edit
    operations: float  # floating-point operations of one UNet evaluation, roughly; 0 when unknown
    default_judge: str
    default_segmenter: str | None
    text: str = GENERIC[0]  # the domain's generic prompt, and a neutral word to follow it
    word: str = GENERIC[1]


def editor_shape(spec: Any, **overrides: Any) -> EditorShape:
    """Read an editor's configuration files only. Raises EditorError as load_editor does."""
    if not isinstance(spec, str | Path):
        return EditorShape(spec.name, spec.size, 0, 0.0, spec.default_judge, spec.default_segmenter)
    parsed = parse_spec(str(spec))
    stated = stated_in(parsed)
    size, operations = _measured(parsed.folder)
    return EditorShape(
        name=parsed.name,
        size=size,
        steps=_foreseen(parsed, stated, overrides).steps,
        operations=operations,
        default_judge=stated.get("judge", DEFAULT_JUDGE),
        default_segmenter=stated.get("segmenter"),
        text=str(stated.get("text", GENERIC[0])),
        word=str(stated.get("word", GENERIC[1])),
    )


def _measured(folder: Path) -> tuple[int | None, float]:
    """Side in pixels and operations of one evaluation, from a folder's files."""
    found = [folder / part / "config.json" for part in ("unet", "transformer", "vae")]
    *denoisers, vae = (_json(f) if f.is_file() else None for f in found)
    denoiser = next((d for d in denoisers if d is not None), None)
    if denoiser is None or vae is None:
        return None, 0.0
    side = int(denoiser.get("sample_size", 128))
    halvings = len(
        vae["temperal_downsample"] if "temperal_downsample" in vae else vae["block_out_channels"][1:]
    )
    weights = [f for part in ("unet", "transformer") for f in (folder / part).glob("*.safetensors")]
    parameters = sum(f.stat().st_size for f in weights) / 2
    # most parameters of a UNet sit at low resolution
    return side * 2**halvings, 2 * parameters * side**2 / 7


def parse_spec(name: str) -> Spec:
    """Take `[METHOD:]NAME[+LORA]` apart. Raises EditorError when NAME can be nothing."""
    method, colon, rest = name.partition(":")
    if not (colon and method in METHODS):
        method, rest = "", name
    base, _, lora = rest.partition("+")
    source = str(pocket.ROOT / BUNDLED[base]) if base in BUNDLED else HUB.get(base, base)
    spec = Spec(name, method or None, source, lora or None)
    if not spec.folder.is_dir() and (source.count("/") != 1 or source.startswith((".", "/", "~"))):
        raise EditorError(
            f"no editor {name!r}; an editor is {', '.join([*BUNDLED, *HUB])}, ORG/NAME on the hub, or a "
            f"folder, with {', '.join(f'{m}:' for m in METHODS)} before it where the method is to be chosen"
        )
    return spec


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def stated_in(spec: Spec) -> dict[str, Any]:
    """The folder's settings file. Raises EditorError naming the file and what is wrong in it."""
    file = spec.folder / SETTINGS_FILE
    if not file.is_file():
        return {}
    try:
        stated = _json(file)
    except ValueError as error:
        raise EditorError(f"{file}: is not JSON ({error}); mend it or remove it") from error
    kinds = {"options": dict, "method": str, "judge": str, "segmenter": str | None}
    if not isinstance(stated, dict) or not all(
        name not in stated or isinstance(stated[name], kind) for name, kind in kinds.items()
    ):
        raise EditorError(
            f"{file}: must be an object with method, options, judge and segmenter; mend it or remove it"
        )
    if stated.get("method", "ledits") not in METHODS:
        raise EditorError(f"{file}: unknown method {stated['method']!r}; known are {', '.join(METHODS)}")
    return dict(stated)


def _foreseen(spec: Spec, stated: dict[str, Any], overrides: dict[str, Any]) -> Any:
    """The options as far as the files tell the pipeline."""
    index = spec.folder / "model_index.json"
    family = str(_json(index).get("_class_name", "")) if index.is_file() else ""
    method = spec.method or stated.get("method") or FAMILIES.get(family, "ledits")
    return _options(spec, method, family, {**stated.get("options", {}), **overrides})


def _options(spec: Spec, method: str, family: str, given: dict[str, Any]) -> Any:
    """A method's settings under those given. Raises EditorError for a bad one."""
    where = f"{spec.folder / SETTINGS_FILE} or an override"
    known = {f.name for f in fields(METHODS[method].options(family))}
    if unknown := set(given) - known:
        raise EditorError(
            f"{where}: unknown option {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}"
        )
    try:
        return METHODS[method].options(family, **given)
    except (TypeError, ValueError) as error:
        raise EditorError(f"{where}: {error}") from error


def load_pipeline(spec: Spec) -> Any:
    """The diffusers pipeline, without its safety checker, which would blacken edits."""
    import diffusers

    load = partial(diffusers.DiffusionPipeline.from_pretrained, safety_checker=None, use_safetensors=True)
    try:
        with quiet_loading():
            pipeline = load(spec.source, dtype=torch.float32)
            if spec.lora:
                _fuse(pipeline, spec.lora)
    except MissingExtra:
        raise
    except Exception as error:
        raise EditorError(f"editor {spec.name!r} cannot be loaded: {_cure(error, spec)}") from error
    return pipeline


def _fuse(pipeline: Any, lora: str) -> None:
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise MissingExtra("lora", "peft") from error
    pipeline.load_lora_weights(lora)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()


def _cure(error: BaseException, spec: Spec) -> str:
    """What kept a model from loading, and what to do about it."""
    names = {type(e).__name__ for e in _chain(error)}
    page = f"https://huggingface.co/{spec.source}"
    if "GatedRepoError" in names:
        return f"its owner asks for terms to be accepted; do that at {page}, then run `hf auth login`"
    if "RepositoryNotFoundError" in names:
        return (
            f"the hub has no {spec.source} for you; check the name, or run `hf auth login` if it is private"
        )
    line = (str(error).splitlines() or ["no message"])[0][:200]
    if spec.folder.is_dir():
        return f"{line}; the folder must be a diffusers pipeline with safetensors weights"
    return f"{line}; download it where there is a connection, `hf download {spec.source}`, or name a folder"


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def method_of(pipeline: Any) -> str:
    """The editor that fits a pipeline: turbo where its scheduler or UNet is a distilled model's."""
    method = FAMILIES.get(type(pipeline).__name__, "ledits")
    scheduler = pipeline.scheduler
    trailing = getattr(scheduler.config, "timestep_spacing", "") == "trailing"
    few = type(scheduler).__name__ == "LCMScheduler" or (
        trailing and type(scheduler).__name__.startswith("Euler")
    )
    return "turbo" if method == "ledits" and few else method


def supported(spec: Spec, pipeline: Any, method: str) -> Any:
    """The pipeline itself. Raises EditorError when the editor does not understand it."""
    family = type(pipeline).__name__
    kinds = {"turbo": "ledits"}
    if kinds.get(FAMILIES.get(family, ""), FAMILIES.get(family)) != kinds.get(method, method):
        raise EditorError(
            f"editor {spec.name!r} is a {family}"
            + (f", which {method} cannot edit with" if family in FAMILIES else "")
            + f"; supported are {SUPPORTED}"
        )
    if method in ("ledits", "turbo"):
        kind = pipeline.scheduler.config.get("prediction_type", "none")
        if kind not in ("epsilon", "v_prediction") or not hasattr(pipeline.scheduler, "alphas_cumprod"):
            raise EditorError(
                f"editor {spec.name!r} predicts {kind!r} under a {type(pipeline.scheduler).__name__}; "
                "supported are UNets that predict epsilon or v_prediction on discrete noise"
            )
        if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
            raise EditorError(
                f"editor {spec.name!r} has a UNet of {pipeline.unet.config.in_channels} input channels "
                f"(inpainting or instruction); supported are {SUPPORTED}"
            )
    return pipeline
