"""Real model classes at toy size with random weights: a diffusion pipeline and a CLIP, in their folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diffexplain import pocket

WIDTH = 16  # of the text encoder
LENGTH = 77  # tokens: letters, as the tokenizer merges nothing


def tiny_pipeline_folder(
    path: Path, *, size: int = 16, prediction: str = "epsilon", settings: dict[str, Any] | None = None
) -> Path:
    """Save a StableDiffusionPipeline for pictures of `size` pixels; `settings` become diffexplain.json."""
    tiny_pipeline(size=size, prediction=prediction).save_pretrained(path)
    if settings is not None:
        (path / "diffexplain.json").write_text(json.dumps(settings))
    return path


def pocket_turbo_of_few_rows(path: Path) -> Path:
    """`pocket-turbo`, saved with eight rows a call: a test asks for a handful of edits."""
    shutil.copytree(pocket.ROOT / "turbo", path)
    settings = json.loads((path / "diffexplain.json").read_text())
    settings["options"]["rows"] = 8
    (path / "diffexplain.json").write_text(json.dumps(settings))
    return path


def tiny_clip_folder(path: Path, *, size: int = 16) -> Path:
    """Save a CLIPModel for pictures of `size` pixels, its tokenizer and its processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = tiny_tokenizer()
    vision = dict(image_size=size, patch_size=size // 2, projection_dim=WIDTH, **_TRANSFORMER)
    config = CLIPConfig(text_config=_text(tokenizer), vision_config=vision, projection_dim=WIDTH)
    with _seeded(2):
        CLIPModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(path)
    return path


def tiny_clipseg_folder(path: Path, *, size: int = 16) -> Path:
    """Save a CLIPSegForImageSegmentation for pictures of `size` pixels, its tokenizer and its processor."""
    from transformers import CLIPImageProcessor, CLIPSegConfig, CLIPSegForImageSegmentation

    tokenizer = tiny_tokenizer()
    vision = dict(image_size=size, patch_size=size // 4, **_TRANSFORMER)
    config = CLIPSegConfig(
        text_config=_text(tokenizer),
        vision_config=vision,
        projection_dim=WIDTH,
        extract_layers=[0, 1],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    with _seeded(3):
        model = CLIPSegForImageSegmentation(config)
        with torch.no_grad():  # at random, a map hardly heeds its prompt and never reaches a half
            model.decoder.film_mul.weight.mul_(200)
            model.decoder.transposed_convolution.weight.mul_(50)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(path)
    return path


def tiny_pipeline(*, size: int = 16, prediction: str = "epsilon", heed: float = 8, **unet: Any) -> Any:
    """A StableDiffusionPipeline: latents of half the side, a UNet of three levels that heeds its prompt.

    It does so the more, the larger `heed`, and the more do rounding errors grow on the way.
    """
    from diffusers import DDPMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = tiny_tokenizer()
    with _seeded(1):
        parts = _unet_and_vae(size, heed, cross_attention_dim=WIDTH, **unet)
        text = CLIPTextModel(CLIPTextConfig(**_text(tokenizer)))
    return StableDiffusionPipeline(
        **parts,
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        scheduler=DDPMScheduler(**NOISE, prediction_type=prediction, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_xl_pipeline(*, size: int = 16, heed: float = 8) -> Any:
    """A StableDiffusionXLPipeline with both its text encoders, otherwise as tiny_pipeline."""
    from diffusers import DDPMScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = tiny_tokenizer()
    with _seeded(4):
        parts = _unet_and_vae(
            size,
            heed,
            cross_attention_dim=2 * WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        )
        config = CLIPTextConfig(**_text(tokenizer))
        texts = CLIPTextModel(config).eval(), CLIPTextModelWithProjection(config).eval()
    return StableDiffusionXLPipeline(
        **parts,
        text_encoder=texts[0],
        text_encoder_2=texts[1],
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=DDPMScheduler(**NOISE, clip_sample=False),
        add_watermarker=False,
    )


NOISE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)


def _unet_and_vae(size: int, heed: float, **unet: Any) -> dict[str, Any]:
    """A UNet with cross-attention at all three levels, and an autoencoder of factor two."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    made = UNet2DConditionModel(
        sample_size=size // 2,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        norm_num_groups=4,
        attention_head_dim=4,
        **unet,
    )
    with torch.no_grad():  # random attention hardly says anything
        for name, weight in made.named_parameters():
            if ".attn2." in name:
                weight.mul_(heed)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=size,
    )
    return {"unet": made.eval(), "vae": vae.eval()}


def tiny_tokenizer() -> Any:
    """A CLIPTokenizer that knows every byte, alone and ending a word, and merges none."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=LENGTH)


_TRANSFORMER = dict(hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)


def _text(tokenizer: Any) -> dict[str, Any]:
    return dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=LENGTH,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **_TRANSFORMER,
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
