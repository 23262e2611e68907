"""Open-vocabulary detectors as segmenters: boxes named in words, made masks by SAM 2 or taken as they are.

They are asked for a thing by its bare name ("padlock"), one picture at a time, for boxes differ in number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffexplain.errors import EditorError
from diffexplain.images import to_8bit
from diffexplain.quiet import quiet_loading

GROUNDED, LIKELY = 0.25, 0.1  # scores from which a box counts, as the models' authors set them


@dataclass(frozen=True, slots=True)
class Detector:
    """A transformers model with its processor."""

    model: Any
    processor: Any
    device: torch.device

    def __call__(self, **inputs: Any) -> tuple[Any, Any]:
        """What the processor makes of the inputs, and what the model says of that."""
        read = self.processor(return_tensors="pt", **inputs).to(self.device)
        with torch.no_grad():
            return read, self.model(**read)


class GroundedRegions:
    """Grounding DINO (Liu et al., ECCV 2024) finds boxes, SAM 2 (Ravi et al., 2024) what is in them."""

    bare = True  # wants the thing's name, not a sentence

    def __init__(self, detector: Detector, sam: Detector, *, name: str, threshold: float = GROUNDED) -> None:
        self.name, self._detector, self._sam, self._threshold = name, detector, sam, threshold

    def regions(self, images: torch.Tensor, concepts: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
        """The union of the masks of the boxes found for prompt i in picture i: bool (N, H, W)."""
        found = [self._region(x, p) for x, p in zip(_pixels(images), prompts, strict=True)]
        return torch.stack(found)

    def boxes(self, picture: torch.Tensor, prompt: str) -> torch.Tensor:
        """Boxes (n, 4) in pixels: left, top, right, bottom."""
        read, said = self._detector(images=picture, text=f"{prompt.lower().rstrip('. ')}.")
        answer = self._detector.processor.post_process_grounded_object_detection(
            said, read["input_ids"], threshold=self._threshold, target_sizes=[tuple(picture.shape[-2:])]
        )
        boxes: torch.Tensor = answer[0]["boxes"].cpu()
        return boxes

    def _region(self, picture: torch.Tensor, prompt: str) -> torch.Tensor:
        size = tuple(picture.shape[-2:])
        boxes = self.boxes(picture, prompt)
        if not len(boxes):
            return torch.zeros(size, dtype=torch.bool)
        sam = self._sam
        read = sam.processor(images=picture, input_boxes=[boxes.tolist()], return_tensors="pt")
        with torch.no_grad():
            said = sam.model(**read.to(sam.device), multimask_output=False)
        masks = sam.processor.post_process_masks(said.pred_masks.cpu(), [size])[0]  # (boxes, 1, H, W)
        region: torch.Tensor = masks.bool().flatten(0, 1).any(0)
        return region


class BoxRegions:
    """OWLv2 (Minderer et al., NeurIPS 2023): the boxes themselves."""

    bare = True

    def __init__(self, detector: Detector, *, name: str, threshold: float = LIKELY) -> None:
        self.name, self._detector, self._threshold = name, detector, threshold

    def regions(self, images: torch.Tensor, concepts: Sequence[str], prompts: Sequence[str]) -> torch.Tensor:
        """The union of the boxes found for prompt i in picture i: bool (N, H, W)."""
        return torch.stack([self._region(x, p) for x, p in zip(_pixels(images), prompts, strict=True)])

    def _region(self, picture: torch.Tensor, prompt: str) -> torch.Tensor:
        _, said = self._detector(images=picture, text=[[prompt]])
        answer = self._detector.processor.post_process_grounded_object_detection(
            said, threshold=self._threshold, target_sizes=[tuple(picture.shape[-2:])]
        )
        return filled(answer[0]["boxes"].cpu(), picture.shape[-2:])


def filled(boxes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Every pixel that a box touches: boxes (n, 4) in pixels -> bool (H, W)."""
    region = torch.zeros(tuple(size), dtype=torch.bool)
    for left, top, right, bottom in boxes.tolist():
        rows = slice(max(0, int(top)), max(0, -int(-bottom // 1)))
        region[rows, max(0, int(left)) : max(0, -int(-right // 1))] = True
    return region


def load_grounded(spec: str, sources: str, device: torch.device | None) -> GroundedRegions:
    """From `DETECTOR+SAM2`, each a hub name or folder. Raises EditorError when one cannot be loaded."""
    from transformers import (
        GroundingDinoForObjectDetection,
        GroundingDinoProcessor,
        Sam2Model,
        Sam2Processor,
    )

    detector, plus, sam = sources.partition("+")
    if not (detector and plus and sam):
        raise EditorError(f"segmenter {spec!r}: give groundingdino:DETECTOR+SAM2, hub names or folders")
    return GroundedRegions(
        _loaded(spec, detector, GroundingDinoForObjectDetection, GroundingDinoProcessor, device),
        _loaded(spec, sam, Sam2Model, Sam2Processor, device),
        name=spec,
    )


def load_boxes(spec: str, source: str, device: torch.device | None) -> BoxRegions:
    """From a hub name or folder of an OWLv2. Raises EditorError when it cannot be loaded."""
    from transformers import Owlv2ForObjectDetection, Owlv2Processor

    return BoxRegions(_loaded(spec, source, Owlv2ForObjectDetection, Owlv2Processor, device), name=spec)


def _loaded(spec: str, source: str, model: Any, processor: Any, device: torch.device | None) -> Detector:
    on = device or torch.device("cpu")
    read: Callable[..., Any] = processor.from_pretrained
    try:
        with quiet_loading():
            made = model.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        processes = read(source)
    except Exception as error:
        line = (str(error).splitlines() or ["no message"])[0][:200]
        raise EditorError(
            f"segmenter {spec!r}: {source!r} cannot be loaded ({line}); download it or name a folder"
        ) from error
    return Detector(made.to(on).eval().requires_grad_(False), processes, on)


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """Pictures as processors take them: bytes (N, 3, H, W)."""
    return to_8bit(images).cpu()
