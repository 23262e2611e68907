"""Edits a second: diffusers' LEDITS++ as the released DiffEx loop uses it, and ours, in one process.

(a) the pipeline inverts and edits again for every (image, concept, seed), one at a time; (b) ours at the same
steps, guidance, threshold and masks inverts each image once and edits in batches, in the same float32, and
again with the UNet compiled, in bfloat16 where the processor has it (beside it, how far apart the pictures
are then); (c) ours with the few-step editor. Same images, same concepts, same model; inversion and decoding
count on every side. Where there is a GPU the same is done with models of Stable Diffusion 1.5's and SDXL's
size and random weights: honest for speed and memory only.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from diffexplain import pocket
from diffexplain.corpus import load_corpus
from diffexplain.editors import Edit, Term, load_editor
from diffexplain.rows import choose_device
from diffexplain.worlds import avatars as world

SEED = 1_000_000
STEPS, SKIP, GUIDANCE, THRESHOLD = 50, 0.1, 10.0, 0.75  # the released DiffEx's
IMAGES, CONCEPTS = 16, 8


@dataclass(frozen=True)
class Timed:
    """What one way of editing took."""

    edits: int
    seconds: float
    evaluations: int

    @property
    def edits_per_s(self) -> float:
        """Edits a second, inversion and decoding included."""
        return self.edits / self.seconds

    @property
    def evals_per_edit(self) -> float:
        """Rows that went through the UNet for an edit, inversion included."""
        return self.evaluations / self.edits


def measure(quick: bool) -> dict[str, Any]:
    """On the pocket editor, and where there is a GPU on models of full size."""
    device = choose_device()
    corpus = load_corpus("avatars")
    concepts = [corpus[leaf].phrase for leaf in world.LEAVES][:CONCEPTS]
    images = world.render(world.sample(IMAGES, SEED), 64)
    folder, few = pocket.ROOT / "editor", pocket.ROOT / "turbo"
    found = compare(str(folder), str(few), images, concepts, device, 1 if quick else 4)
    if device.type == "cuda":
        for name, size in (("sd", 512), ("sdxl", 1024)):
            found[name] = full_size(name, size, concepts, device, 1 if quick else 2)
    return found


def compare(
    folder: str, few: str, images: torch.Tensor, concepts: Sequence[str], device: torch.device, loops: int
) -> dict[str, Any]:
    """(a), (b) and (c) with the pipelines in two folders."""
    loop = timed(lambda: released(folder, images, concepts, device, loops))
    same = timed(lambda: ours(f"ledits:{folder}", images, concepts, device, SAME))
    hurried = timed(lambda: ours(f"ledits:{folder}", images, concepts, device, SAME | faster(device)))
    quickest = timed(lambda: ours(f"turbo:{few}", images, concepts, device, {}))
    return {
        "ratio_same_steps": same.edits_per_s / loop.edits_per_s,
        "ratio_same_steps_compiled": hurried.edits_per_s / loop.edits_per_s,
        "compiled_pixels_apart": apart(f"ledits:{folder}", images[:4], concepts[:2], device),
        "ratio_few_step": quickest.edits_per_s / loop.edits_per_s,
        "edits_per_s": quickest.edits_per_s,
        "edits_per_s_same_steps": same.edits_per_s,
        "edits_per_s_released": loop.edits_per_s,
        "unet_evals_per_edit": quickest.evals_per_edit,
        "unet_evals_per_edit_same_steps": same.evals_per_edit,
        "unet_evals_per_edit_released": loop.evals_per_edit,
        "peak_gb": _peak(device),
    }


SAME = {
    "steps": STEPS,
    "skip": SKIP,
    "guidance": GUIDANCE,
    "threshold": THRESHOLD,
    "mask": "intersection",
    "order": 2,
    "rows": 32,
}


def faster(device: torch.device) -> dict[str, Any]:
    """What may be switched on: the UNet compiled, in sixteen bits where the processor calculates in them."""
    sixteen = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return {"compiled": True, "dtype": "bfloat16" if sixteen else "float32"}


def apart(spec: str, images: torch.Tensor, concepts: Sequence[str], device: torch.device) -> dict[str, Any]:
    """Mean absolute difference of the compiled UNet's edits, beside what an edit changes."""
    edits = [Edit(i, (Term(c),)) for i in range(len(images)) for c in concepts]
    made = []
    for options in (SAME, SAME | faster(device)):
        editor = load_editor(spec, device=device, **options)
        inversion = editor.invert(images, range(len(images)))
        made.append(editor.edit(inversion, edits))
        plain = editor.reconstruct(inversion)[[e.row for e in edits]]
    return {
        "dtype": faster(device)["dtype"],
        "difference": float((made[1] - made[0]).abs().mean()),
        "edit": float((made[1] - plain).abs().mean()),
    }


def timed(work: Callable[[], Callable[[], tuple[int, int]]]) -> Timed:
    """Load, then time what was loaded: (edits, evaluations) made."""
    made = work()
    start = time.perf_counter()
    edits, evaluations = made()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Timed(edits, time.perf_counter() - start, evaluations)


def released(
    folder: str, images: torch.Tensor, concepts: Sequence[str], device: torch.device, loops: int
) -> Callable[[], tuple[int, int]]:
    """The released loop: for each image and keyword, invert and edit; `loops` edits are enough to time."""
    import diffusers

    parts = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=_dtype(device), safety_checker=None)
    xl = hasattr(parts, "text_encoder_2")
    kind = getattr(diffusers, f"LEditsPPPipelineStableDiffusion{'XL' if xl else ''}")
    names = ["vae", "text_encoder", "tokenizer", "unet"]
    names += ["text_encoder_2", "tokenizer_2"] if xl else ["safety_checker", "feature_extractor"]
    solver = diffusers.DPMSolverMultistepScheduler.from_config(
        parts.scheduler.config, algorithm_type="sde-dpmsolver++", solver_order=2
    )
    more = {} if xl else {"requires_safety_checker": False}
    pipe = kind(**{n: getattr(parts, n) for n in names}, scheduler=solver, **more).to(device)
    pipe.set_progress_bar_config(disable=True)
    masks = _reference_masks(parts.unet)

    def one(image: torch.Tensor, concept: str) -> None:
        pipe.invert(image[None], num_inversion_steps=STEPS, skip=SKIP, source_prompt="")
        pipe(
            editing_prompt=[concept],
            edit_guidance_scale=GUIDANCE,
            edit_threshold=THRESHOLD,
            output_type="pt",
            **masks,
        )

    def work() -> tuple[int, int]:
        pairs = [(image, concept) for concept in concepts for image in images][:loops]
        for image, concept in pairs:
            one(image, concept)
        return len(pairs), len(pairs) * 3 * STEPS

    one(images[0], concepts[0])  # warm
    return work


def _reference_masks(unet: Any) -> dict[str, bool]:
    """Its default masks; without cross-attention it reads at a quarter of the latent, the quantile alone."""
    deep = len(unet.config.down_block_types) > 2 and "CrossAttn" in unet.config.down_block_types[2]
    return {"use_intersect_mask": deep}


def ours(
    spec: str, images: torch.Tensor, concepts: Sequence[str], device: torch.device, options: Mapping[str, Any]
) -> Callable[[], tuple[int, int]]:
    """Every image inverted once, every (image, concept) edited."""
    editor = load_editor(spec, device=device, **options)
    counted = []

    def work() -> tuple[int, int]:
        edits = [Edit(i, (Term(c),)) for i in range(len(images)) for c in concepts]
        inversion = editor.invert(images, range(len(images)))
        editor.edit(inversion, edits)
        counted.append(sum(editor.evaluations(e) for e in edits))
        return len(edits), counted[-1] + editor.evaluations(Edit(0)) * len(images)

    warm = editor.invert(images[:1], [0])
    editor.edit(warm, [Edit(0, (Term(concepts[0]),))])
    return work


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _peak(device: torch.device) -> float:
    """Peak memory in GB: of the GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


# -- full size, random weights ---------------------------------------------------------------------------


def full_size(
    name: str, size: int, concepts: Sequence[str], device: torch.device, loops: int
) -> dict[str, Any]:
    """The comparison at full size, the share of the GPU's matrix ceiling, and a whole explanation's time."""
    images = torch.rand(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        save_random(name, Path(folder))
        found = compare(folder, folder, images, concepts, device, loops)
        found["mfu"] = utilisation(folder, images, device)
        started = time.perf_counter()
        many = torch.rand(16, 3, size, size)
        ours(f"turbo:{folder}", many, [f"concept {i}" for i in range(45)], device, {"rows": 0})()
        torch.cuda.synchronize()
        found["explanation_s"] = time.perf_counter() - started
    return found


def save_random(name: str, folder: Path, **smaller: Any) -> None:
    """A pipeline of Stable Diffusion 1.5's or SDXL's architecture; `smaller` replaces UNet settings."""
    import diffusers
    import transformers

    tokenizer = transformers.CLIPTokenizer.from_pretrained(pocket.ROOT / "editor" / "tokenizer")
    marks = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    first = transformers.CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, **marks
    )
    torch.manual_seed(0)
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    parts: dict[str, Any] = {
        "unet": diffusers.UNet2DConditionModel(**{**UNETS[name], **smaller}),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        ),
        "text_encoder": transformers.CLIPTextModel(first),
        "tokenizer": tokenizer,
        "scheduler": scheduler,
    }
    if name == "sdxl":
        second = transformers.CLIPTextConfig(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=20,
            projection_dim=1280,
            **marks,
        )
        parts["text_encoder_2"] = transformers.CLIPTextModelWithProjection(second)
        pipeline = diffusers.StableDiffusionXLPipeline(**parts, tokenizer_2=tokenizer, add_watermarker=False)
    else:
        pipeline = diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipeline.to(torch.bfloat16).save_pretrained(folder)


UNETS: dict[str, dict[str, Any]] = {
    "sd": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


def utilisation(folder: str, images: torch.Tensor, device: torch.device) -> float:
    """Operations a second in UNet calls of an edit, as a share of a large bf16 matrix product's."""
    from torch.utils.flop_counter import FlopCounterMode

    editor = load_editor(f"turbo:{folder}", device=device, rows=32)
    inversion = editor.invert(images[:1], [0])
    edits = [Edit(0, (Term(f"concept {i}"),)) for i in range(16)]
    with FlopCounterMode(display=False) as counter:
        editor.sample(inversion, edits)  # type: ignore[attr-defined]
    torch.cuda.synchronize()
    start = time.perf_counter()
    editor.sample(inversion, edits)  # type: ignore[attr-defined]
    torch.cuda.synchronize()
    return float(counter.get_total_flops() / (time.perf_counter() - start) / _ceiling(device))


def _ceiling(device: torch.device, n: int = 8192) -> float:
    """Operations a second of a bf16 matrix product of n by n."""
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    a @ a
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        a @ a
    torch.cuda.synchronize()
    return 10 * 2 * n**3 / (time.perf_counter() - start)


if __name__ == "__main__":
    harness.run("edit_speed", (__doc__ or "").split("\n")[0], measure)
