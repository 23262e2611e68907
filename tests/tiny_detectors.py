"""Grounding DINO, SAM 2 and OWLv2 at toy size with random weights, in their folders with their processors."""

from __future__ import annotations

from pathlib import Path

import torch

SIDE = 32  # pixels that the models see
WIDTH = 16
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "padlock", "hat", "?")


def tiny_grounding_dino_folder(path: Path) -> Path:
    """A GroundingDinoForObjectDetection of six queries, whose vocabulary is `WORDS`."""
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=SIDE, patch_size=4, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 1, 1], window_size=4,
            out_indices=[2, 3],
        ),
        text_config=BertConfig(
            vocab_size=len(WORDS), hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=WIDTH, max_position_embeddings=64,
        ),
        d_model=32, num_queries=6, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=WIDTH, decoder_ffn_dim=WIDTH, num_feature_levels=2,
        max_text_len=32,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        GroundingDinoForObjectDetection(config).save_pretrained(path)
    processor = GroundingDinoImageProcessor(size={"shortest_edge": SIDE, "longest_edge": SIDE})
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    GroundingDinoProcessor(processor, tokenizer).save_pretrained(path)
    return path


def tiny_sam2_folder(path: Path) -> Path:
    """A Sam2Model of four stages."""
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

    backbone = dict(
        hidden_size=8, image_size=[SIDE, SIDE], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 4, 4, 4], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4], model_type="sam2_hiera_det_model",
    )  # fmt: skip
    config = Sam2Config(
        vision_config=dict(
            backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[8, 8], [4, 4], [2, 2]], fpn_hidden_size=WIDTH,
        ),
        prompt_encoder_config=dict(hidden_size=WIDTH, image_size=SIDE, patch_size=16, mask_input_channels=4),
        mask_decoder_config=dict(
            hidden_size=WIDTH, mlp_dim=WIDTH, num_hidden_layers=1, num_attention_heads=2, iou_head_depth=2,
            iou_head_hidden_dim=WIDTH,
        ),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        Sam2Model(config).save_pretrained(path)
    size, mask = {"height": SIDE, "width": SIDE}, {"height": SIDE // 4, "width": SIDE // 4}
    Sam2Processor(Sam2ImageProcessor(size=size, mask_size=mask)).save_pretrained(path)
    return path


def tiny_owlv2_folder(path: Path) -> Path:
    """An Owlv2ForObjectDetection of 16 patches that reads letters."""
    from tokenizers import pre_tokenizers
    from transformers import (
        CLIPTokenizer,
        Owlv2Config,
        Owlv2ForObjectDetection,
        Owlv2ImageProcessor,
        Owlv2Processor,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # 0 is the padding: a prompt that begins with it is none
    tokens = ["!", "<|startoftext|>", "<|endoftext|>", *(x for x in letters if x != "!")]
    tokens += [x + "</w>" for x in letters]
    tokenizer = CLIPTokenizer(
        vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=16, pad_token="!"
    )
    common = dict(hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=2)
    config = Owlv2Config(
        text_config=dict(
            vocab_size=len(tokens), max_position_embeddings=16, bos_token_id=1, eos_token_id=2,
            pad_token_id=0, **common,
        ),
        vision_config=dict(image_size=SIDE, patch_size=8, **common),
        projection_dim=WIDTH,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        Owlv2ForObjectDetection(config).save_pretrained(path)
    processor = Owlv2ImageProcessor(size={"height": SIDE, "width": SIDE})
    Owlv2Processor(processor, tokenizer).save_pretrained(path)
    return path
