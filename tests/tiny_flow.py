"""Real flow-matching and instruction pipelines at toy size with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tests.tiny import LENGTH, WIDTH, tiny_tokenizer

CHANNELS = 4  # of the latents
SIZE = 16  # pixels; latents of half the side


def tiny_sd3(*, dynamic: bool = False) -> Any:
    """A StableDiffusion3Pipeline with its three text encoders."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    with _seeded(1):
        transformer = SD3Transformer2DModel(
            sample_size=SIZE // 2,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=WIDTH * 2,
            pooled_projection_dim=WIDTH * 2,
            pos_embed_max_size=16,
        )
        encoders = [_clip(projected=True), _clip(projected=True), _t5(WIDTH * 2)]
        return StableDiffusion3Pipeline(
            transformer=_loud(transformer),
            scheduler=_scheduler(shift=3.0, use_dynamic_shifting=dynamic),
            vae=_vae(scaling_factor=1.5, shift_factor=0.06),
            text_encoder=encoders[0],
            tokenizer=tiny_tokenizer(),
            text_encoder_2=encoders[1],
            tokenizer_2=tiny_tokenizer(),
            text_encoder_3=encoders[2],
            tokenizer_3=tiny_t5_tokenizer(),
        )


def tiny_flux(*, guidance_embeds: bool = True, kontext: bool = False) -> Any:
    """A FluxPipeline, or a FluxKontextPipeline."""
    from diffusers import FluxKontextPipeline, FluxPipeline, FluxTransformer2DModel

    with _seeded(2):
        transformer = FluxTransformer2DModel(
            in_channels=CHANNELS * 4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH * 2,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance_embeds,
        )
        return (FluxKontextPipeline if kontext else FluxPipeline)(
            transformer=_loud(transformer),
            scheduler=_scheduler(use_dynamic_shifting=True),
            vae=_vae(scaling_factor=0.36, shift_factor=0.12),
            text_encoder=_clip(projected=False),
            tokenizer=tiny_tokenizer(),
            text_encoder_2=_t5(WIDTH * 2),
            tokenizer_2=tiny_t5_tokenizer(),
        )


def tiny_auraflow() -> Any:
    """An AuraFlowPipeline."""
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
    from transformers import UMT5Config, UMT5EncoderModel

    with _seeded(3):
        transformer = AuraFlowTransformer2DModel(
            sample_size=SIZE // 2,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=WIDTH * 2,
            caption_projection_dim=16,
            pos_embed_max_size=256,
        )
        return AuraFlowPipeline(
            transformer=_loud(transformer, 2.0),
            scheduler=_scheduler(shift=1.73),
            vae=_vae(scaling_factor=0.5),
            text_encoder=UMT5EncoderModel(UMT5Config(**_T5, d_model=WIDTH * 2)).eval(),
            tokenizer=tiny_t5_tokenizer(),
        )


def tiny_qwen_image(*, edit: bool = False) -> Any:
    """A QwenImagePipeline, or a QwenImageEditPipeline, with a Qwen2.5-VL."""
    from diffusers import (
        AutoencoderKLQwenImage,
        QwenImageEditPipeline,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    halvings = 5 if edit else 1  # the editor sees every picture at a megapixel
    tokenizer = tiny_qwen_tokenizer()
    text = dict(
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        rope_scaling={"type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
    )
    vision = dict(
        depth=1,
        hidden_size=16,
        intermediate_size=16,
        num_heads=2,
        out_hidden_size=16,
        fullatt_block_indexes=[0],
    )
    marks = {
        f"{part}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for part, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    with _seeded(4):
        transformer = QwenImageTransformer2DModel(
            in_channels=CHANNELS * 4,
            out_channels=CHANNELS,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 4, 8),
        )
        vae = AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=CHANNELS,
            dim_mult=[1] * (halvings + 1),
            num_res_blocks=1,
            temperal_downsample=[False] * halvings,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[0.5, 0.4, 0.6, 0.7],
        )
        encoder = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision, **marks)
        )
        parts = dict(
            transformer=_loud(transformer, 2.0),
            scheduler=_scheduler(use_dynamic_shifting=True, max_shift=0.9, shift_terminal=0.02),
            vae=_loud(vae, 1.5),
            text_encoder=encoder.eval(),
            tokenizer=tokenizer,
        )
    if not edit:
        return QwenImagePipeline(**parts)
    return QwenImageEditPipeline(**parts, processor=_qwen_processor(tokenizer))


def tiny_z_image() -> Any:
    """A ZImagePipeline with a Qwen3."""
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = tiny_qwen_tokenizer()
    with _seeded(5):
        transformer = ZImageTransformer2DModel(
            in_channels=CHANNELS,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[1024, 64, 64],
        )
        with torch.no_grad():  # made without values
            transformer.x_pad_token.normal_()
            transformer.cap_pad_token.normal_()
        text = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
        )
        return ZImagePipeline(
            transformer=_loud(transformer),
            scheduler=_scheduler(shift=3.0),
            vae=_vae(scaling_factor=0.36, shift_factor=0.12),
            text_encoder=Qwen3Model(text).eval(),
            tokenizer=tokenizer,
        )


def tiny_pix2pix() -> Any:
    """A StableDiffusionInstructPix2PixPipeline: its UNet sees the picture's latents beside the noise."""
    from diffusers import (
        EulerAncestralDiscreteScheduler,
        StableDiffusionInstructPix2PixPipeline,
        UNet2DConditionModel,
    )

    with _seeded(6):
        unet = UNet2DConditionModel(
            sample_size=SIZE // 2,
            in_channels=CHANNELS * 2,
            out_channels=CHANNELS,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=4,
            cross_attention_dim=WIDTH,
        )
        return StableDiffusionInstructPix2PixPipeline(
            unet=_loud(unet),
            vae=_vae(scaling_factor=0.18),
            text_encoder=_clip(projected=False),
            tokenizer=tiny_tokenizer(),
            scheduler=EulerAncestralDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def tiny_t5_tokenizer() -> Any:
    """A T5Tokenizer that knows every printable ASCII character."""
    from transformers import T5TokenizerFast

    letters = ["▁", *(chr(i) for i in range(33, 127))]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *((letter, -1.0) for letter in letters)]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)


def tiny_qwen_tokenizer() -> Any:
    """A Qwen2Tokenizer that knows every byte and merges none, with a chat template."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    marks = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
    special = [f"<|{mark}|>" for mark in marks]
    vocabulary = {t: i for i, t in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=special[1:])
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant\n"
    )
    return tokenizer


_T5 = dict(vocab_size=98, d_kv=8, d_ff=32, num_layers=1, num_heads=2)


def _t5(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(**_T5, d_model=width)).eval()


def _clip(*, projected: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = tiny_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=LENGTH,
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind: Callable[[Any], Any] = CLIPTextModelWithProjection if projected else CLIPTextModel
    return kind(config).eval()


def _vae(**config: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=CHANNELS,
        sample_size=SIZE,
        **config,
    ).eval()


def _scheduler(**config: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**config)


def _qwen_processor(tokenizer: Any) -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    sizes = {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}
    return Qwen2VLProcessor(Qwen2VLImageProcessor(size=sizes), tokenizer, Qwen2VLVideoProcessor())


def _loud(model: Any, times: float = 1.0) -> Any:
    """The model with larger weights: at random, some hardly heed their prompt."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(times)
    return model.eval()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
