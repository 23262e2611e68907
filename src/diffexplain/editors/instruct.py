"""Edits by instruction: pipelines that take a picture and a sentence saying what to change.

InstructPix2Pix (Brooks, Holynski & Efros, CVPR 2023), FLUX.1 Kontext (Batifol et al. 2025) and
Qwen-Image-Edit (Wu et al. 2025), each called as it is. They invert nothing and promise nothing of the rest of
a picture, so effects are measured from what the same noise and settings make of it under the instruction to
change nothing.

The instruction of an edit is to add its terms' prompts, joined by semicolons; one of negative weight is to be
removed. Guidance is 1 + |w|·(s - 1) with the mean weight: at 1 the model just heeds its instruction, which is
as weak as it can be asked; only without terms, or at weights of 0, it is told to change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from diffexplain.editors.base import Edit, Inversion, Term
from diffexplain.editors.offloading import take_turns
from diffexplain.errors import EditorError


@dataclass(frozen=True, slots=True)
class InstructOptions:
    """Settings of the editor; the defaults are those of InstructPix2Pix, see `usual`."""

    steps: int = 100
    guidance: float = 7.5  # s, by the instruction
    image_guidance: float = 1.5  # by the picture, for InstructPix2Pix
    nothing: str = "change nothing"  # the reconstruction's instruction
    add: str = "add {}"  # the instruction towards a prompt
    remove: str = "remove {}"  # and away from one
    offload: bool = False  # parts wait in main memory while they are not used

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps is at least 1")
        if not all(math.isfinite(s) and s >= 1 for s in (self.guidance, self.image_guidance)):
            raise ValueError("guidance and image_guidance are numbers of 1 or more")
        if not self.nothing or "{}" not in self.add or "{}" not in self.remove:
            raise ValueError("nothing is a sentence, add and remove are ones with {} where the prompt goes")

    @classmethod
    def usual(cls, pipeline: str, **stated: Any) -> InstructOptions:
        """A pipeline class's own defaults under the fields stated. Raises ValueError as the class does."""
        return cls(**{**USUAL.get(pipeline, {}), **stated})


#: pipeline class name -> the defaults of its call.
USUAL: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "FluxKontextPipeline": dict(steps=28, guidance=3.5),
        "QwenImageEditPipeline": dict(steps=50, guidance=4.0),
    }
)


class Instruction(NamedTuple):
    """What one call is asked."""

    text: str
    guidance: float


class InstructEditor:
    """Edits with an instruction pipeline, one picture a call, so that no row depends on another."""

    rows = 1
    captioned = False

    def __init__(
        self,
        pipeline: Any,
        *,
        name: str,
        options: InstructOptions,
        default_judge: str,
        default_segmenter: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        kind = type(pipeline).__name__
        if kind not in FAMILIES:
            raise EditorError(f"editor {name!r} is a {kind}; instructions go to {', '.join(FAMILIES)}")
        self.name, self.options = name, options
        self.default_judge, self.default_segmenter = default_judge, default_segmenter
        self._family = FAMILIES[kind]
        self._pipeline = _placed(pipeline, device or torch.device("cpu"), options.offload)
        self._pipeline.set_progress_bar_config(disable=True)
        if getattr(pipeline, "safety_checker", None) is not None:
            pipeline.safety_checker = None  # a picture that it blackens would be measured as an effect
        denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
        self.size = int(denoiser.config.get("sample_size", 128) * pipeline.vae_scale_factor)

    def settings(self) -> dict[str, Any]:
        """The options, and the pixel size."""
        return {"method": "instruct", "size": self.size, **asdict(self.options)}

    def evaluations(self, edit: Edit) -> int:
        """One a step, or one for each condition that guidance compares."""
        guided = self._instruction(edit.terms).guidance > 1
        return self.options.steps * (self._family.branches if guided else 1)

    def invert(
        self, images: torch.Tensor, seeds: Sequence[int], prompts: Sequence[str] | None = None
    ) -> Inversion:
        """Nothing is inverted: the pictures themselves."""
        said = tuple(prompts) if prompts is not None else ("",) * len(images)
        return Inversion({"picture": images}, said, tuple(seeds), (images.shape[-2], images.shape[-1]))

    def reconstruct(self, inversion: Inversion) -> torch.Tensor:
        """An edit without terms of every row."""
        return self.edit(inversion, [Edit(i) for i in range(len(inversion))])

    def edit(self, inversion: Inversion, edits: Sequence[Edit]) -> torch.Tensor:
        """One call an edit. Raises EditorError where a term states a threshold, warmup or cooldown."""
        asked = [self._instruction(e.terms) for e in edits]
        made = [
            self._made(inversion["picture"][e.row], inversion.seeds[e.row], instruction)
            for e, instruction in zip(edits, asked, strict=True)
        ]
        return torch.stack(made)

    def _made(self, picture: torch.Tensor, seed: int, instruction: Instruction) -> torch.Tensor:
        """One picture (3, H, W) edited; sides that do not fit are filled up by their edges, then cut off."""
        height, width = picture.shape[-2:]
        multiple = self._pipeline.image_processor.config.vae_scale_factor
        fill = (0, -width % multiple, 0, -height % multiple)
        image = F.pad(picture[None].float().cpu(), fill, mode="replicate")
        draws = torch.Generator().manual_seed(seed)
        made = self._family.call(self._pipeline, image, instruction, self.options, draws)
        return made[0, :, :height, :width].float().cpu()

    def _instruction(self, terms: Sequence[Term]) -> Instruction:
        acting = [t for t in terms if t.weight]
        for term in acting:
            if term.threshold or term.warmup or term.cooldown is not None:
                raise EditorError(
                    f"{term.prompt!r} states a threshold, warmup or cooldown, "
                    "which an editor by instruction has not: leave them out"
                )
        if not acting:
            return Instruction(self.options.nothing, self.options.guidance)
        frames = [self.options.add if t.weight > 0 else self.options.remove for t in acting]
        said = [frame.replace("{}", t.prompt) for frame, t in zip(frames, acting, strict=True)]
        strength = math.fsum(abs(t.weight) for t in acting) / len(acting)
        return Instruction("; ".join(said), 1 + strength * (self.options.guidance - 1))


def _placed(pipeline: Any, device: torch.device, offload: bool) -> Any:
    """The pipeline on its device, or its parts where they take turns on it."""
    if not offload:
        return pipeline.to(device)
    take_turns((p for p in pipeline.components.values() if isinstance(p, torch.nn.Module)), device)
    return pipeline


def _pix2pix(
    pipeline: Any, image: torch.Tensor, asked: Instruction, options: InstructOptions, draws: torch.Generator
) -> torch.Tensor:
    """Guided by the instruction and by the picture (Brooks et al., equation 3)."""
    made: torch.Tensor = pipeline(
        asked.text,
        image=image,
        num_inference_steps=options.steps,
        guidance_scale=asked.guidance,
        image_guidance_scale=options.image_guidance,
        generator=draws,
        output_type="pt",
    ).images
    return made


def _kontext(
    pipeline: Any, image: torch.Tensor, asked: Instruction, options: InstructOptions, draws: torch.Generator
) -> torch.Tensor:
    """At the picture's own size, not at one of the megapixel sizes it was trained on; guidance is told."""
    height, width = image.shape[-2:]
    made: torch.Tensor = pipeline(
        image,
        asked.text,
        height=height,
        width=width,
        max_area=height * width,
        _auto_resize=False,
        num_inference_steps=options.steps,
        guidance_scale=asked.guidance,
        generator=draws,
        output_type="pt",
    ).images
    return made


def _qwen(
    pipeline: Any, image: torch.Tensor, asked: Instruction, options: InstructOptions, draws: torch.Generator
) -> torch.Tensor:
    """Seen at a megapixel, made at the picture's own size; guided by the empty instruction."""
    from torchvision.transforms.functional import to_pil_image

    made: torch.Tensor = pipeline(
        to_pil_image(image[0]),
        asked.text,
        negative_prompt=" " if asked.guidance > 1 else None,
        true_cfg_scale=asked.guidance,
        height=image.shape[-2],
        width=image.shape[-1],
        num_inference_steps=options.steps,
        generator=draws,
        output_type="pt",
    ).images
    return made


class Family(NamedTuple):
    """How a pipeline is called, and the evaluations a guided step takes."""

    call: Callable[[Any, torch.Tensor, Instruction, InstructOptions, torch.Generator], torch.Tensor]
    branches: int


#: pipeline class name -> its call.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "StableDiffusionInstructPix2PixPipeline": Family(_pix2pix, branches=3),
        "FluxKontextPipeline": Family(_kontext, branches=1),
        "QwenImageEditPipeline": Family(_qwen, branches=2),
    }
)
