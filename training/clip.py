"""The pocket CLIP: a transformers CLIPModel whose tokenizer is trained on the world's captions.

Loss: image-text contrast with every true pair counted as a positive (a short caption is true of many
images), plus a sigmoid loss over all single clauses (SigLIP, Zhai et al. 2023), so that
single-concept prompts, the judge's diet, are read well.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer, PreTrainedModel

from diffexplain.worlds import avatars as world
from training import data
from training.loop import Recipe, fit

LENGTH = 77
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def make_tokenizer(folder: Path, n: int = 20_000) -> CLIPTokenizer:
    """Train a CLIP byte-pair tokenizer on captions and save it in transformers' format."""
    from tokenizers import pre_tokenizers

    if (folder / "tokenizer.json").exists():
        return CLIPTokenizer.from_pretrained(folder)
    rng = np.random.default_rng(0)
    texts = [world.caption(a, rng) for a in world.sample(n, seed=data.CALIBRATION_SEED - 1)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # CLIP knows every byte, alone and ending a word
    special = ["<|startoftext|>", "<|endoftext|>"]
    start = [*special, *letters, *(letter + "</w>" for letter in letters)]
    blank = CLIPTokenizer(vocab={token: i for i, token in enumerate(start)}, merges=[])
    trained = blank.train_new_from_iterator(texts, 1024, initial_alphabet=letters, show_progress=False)
    learned = json.loads(trained.backend_tokenizer.to_str())["model"]
    vocabulary = {token: i for i, token in enumerate(start)}
    for token in sorted(learned["vocab"], key=learned["vocab"].__getitem__):
        vocabulary.setdefault(token, len(vocabulary))
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)
    tokenizer.save_pretrained(folder)
    return tokenizer


def configuration(tokenizer: CLIPTokenizer, size: int) -> CLIPConfig:
    """A CLIP of about 1.5 M parameters."""
    tokens = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = dict(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=128,
        **tokens,
    )
    vision = dict(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=size,
        patch_size=size // 16,  # fine enough for the pocket CLIPSeg, which shares it
        projection_dim=128,
    )
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)


def encode(tokenizer: CLIPTokenizer, texts: list[str], device: torch.device) -> dict[str, torch.Tensor]:
    """Token ids padded to the model's length."""
    out = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    return {"input_ids": out["input_ids"].to(device)}


def train(folder: Path, out: Path, size: int, n: int, minutes: float, device: torch.device) -> None:
    """Train and save the CLIP as `out/clip`."""
    torch.manual_seed(0)
    drawn, array = data.pictures(n, size, folder)
    tokenizer = make_tokenizer(folder / "tokenizer", min(20_000, 50 * n))
    model = CLIPModel(configuration(tokenizer, size)).to(device)
    bias = nn.Parameter(torch.full((), -4.0, device=device))
    truth = torch.from_numpy(data.truths(drawn)).to(device)
    prompts = encode(tokenizer, ["a person with " + c for c in data.caption_table()], device)
    short = int((prompts["input_ids"] != tokenizer.pad_token_id).sum(1).max()) + 1
    prompts = {"input_ids": prompts["input_ids"][:, :short]}
    mean, std = MEAN.to(device), STD.to(device)

    def step(i: int) -> torch.Tensor:
        rng = np.random.default_rng((1, i))
        index = np.sort(rng.integers(len(drawn), size=min(data.rows(192, device), len(drawn) // 2)))
        images = data.batch(array, index, device)
        images = images + 0.03 * torch.rand(len(images), 1, 1, 1, device=device) * torch.randn_like(images)
        with torch.autocast(device.type, torch.bfloat16):
            seen = _unit(model.get_image_features(pixel_values=(images - mean) / std))
            clause = _unit(model.get_text_features(**prompts))
            asked = [world.caption(drawn[j], rng) for j in index[:48]]
            tokens = encode(tokenizer, asked, device)["input_ids"]
            longest = int((tokens != tokenizer.pad_token_id).sum(1).max()) + 1
            said = _unit(model.get_text_features(input_ids=tokens[:, :longest]))
        scale = model.logit_scale.exp().clamp(max=100.0)
        logits = scale * seen.float() @ clause.float().T + bias  # (N, clauses)
        single = F.binary_cross_entropy_with_logits(logits, truth[index].float())
        wanted = torch.zeros(len(asked), truth.shape[1], device=device)
        for row, text in enumerate(asked):
            wanted[row, data.clauses_of(text)] = 1
        match = (wanted @ (~truth[index]).float().T) == 0  # (captions, N): caption true of image
        contrast = scale * said.float() @ seen.float().T
        target = match.float() / match.sum(1, keepdim=True).clamp(min=1)
        return 5 * single + 0.3 * F.cross_entropy(contrast, target)

    with torch.no_grad():
        model.logit_scale.fill_(np.log(10.0))
    model = fit("clip", model, step, Recipe(minutes, 1.5e-3, 0.05, 0.995), folder, [bias])
    save(model, tokenizer, out / "clip", size)


def train_vision(folder: Path, out: Path, size: int, n: int, minutes: float, device: torch.device) -> None:
    """Go on with the image side and the two projections; the diffusion model reads the text states.

    Those stay frozen. The loss is a choice among the clauses of each attribute, as the judge uses it.
    """
    torch.manual_seed(5)
    drawn, array = data.pictures(n, size, folder)
    model = CLIPModel.from_pretrained(out / "clip", dtype=torch.float32).to(device).requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(out / "clip")
    model.vision_model.requires_grad_(True)
    model.visual_projection.requires_grad_(True)
    model.text_projection.requires_grad_(True)
    model.logit_scale.requires_grad_(True)
    bias = nn.Parameter(torch.full((), -6.0, device=device))
    truth = torch.from_numpy(data.truths(drawn)).to(device).float()
    prompts = encode(tokenizer, ["a person with " + c for c in data.caption_table()], device)
    with torch.no_grad():
        states = model.text_model(**prompts).pooler_output
    groups = data.rivals()

    def step(i: int) -> torch.Tensor:
        rng = np.random.default_rng((6, i))
        index = np.sort(rng.integers(len(drawn), size=data.rows(48, device)))
        images = data.batch(array, index, device)
        images = images + 0.03 * torch.rand(len(images), 1, 1, 1, device=device) * torch.randn_like(images)
        with torch.autocast(device.type, torch.bfloat16):
            seen = _unit(model.get_image_features(pixel_values=(images - MEAN.to(device)) / STD.to(device)))
        clause = F.normalize(model.text_projection(states), dim=-1)
        logits = model.logit_scale.exp() * seen.float() @ clause.T
        chosen = torch.zeros((), device=device)
        for columns in groups:
            wanted = truth[index][:, columns]
            known = wanted.sum(1) > 0  # what cannot be seen teaches nothing
            chosen = chosen + F.cross_entropy(logits[known][:, columns], wanted[known].argmax(1))
        single = F.binary_cross_entropy_with_logits(logits + bias, truth[index])
        return single + chosen / len(groups)

    model = fit("clip_vision", model, step, Recipe(minutes, 1e-3, 0.05, 0.998), folder, [bias])
    save(model, tokenizer, out / "clip", size)


def train_text(folder: Path, out: Path, size: int, n: int, minutes: float, device: torch.device) -> None:
    """Go on with the text side alone, against frozen picture features.

    Three losses: the choice among each attribute's clauses; contrast of captions with pictures; and a
    linear probe, dropped afterwards, that must name every clause from the state of its last token, so that
    the states which the diffusion model reads tell all clauses apart.
    """
    torch.manual_seed(6)
    drawn, array = data.pictures(n, size, folder)
    drawn = drawn[:12_000]
    model = CLIPModel.from_pretrained(out / "clip", dtype=torch.float32).to(device).requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(out / "clip")
    model.text_model.requires_grad_(True)
    model.text_projection.requires_grad_(True)
    truth = torch.from_numpy(data.truths(drawn)).to(device)
    clauses = len(data.caption_table())
    probe = nn.Linear(model.config.text_config.hidden_size, clauses).to(device)
    prompts = encode(tokenizer, ["a person with " + c for c in data.caption_table()], device)["input_ids"]
    prompts = prompts[:, : int((prompts != tokenizer.pad_token_id).sum(1).max()) + 1]
    comma, end = tokenizer.convert_tokens_to_ids(",</w>"), tokenizer.eos_token_id
    groups = data.rivals()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        chunks = np.array_split(np.arange(len(drawn)), max(1, len(drawn) // 250))
        seen = torch.cat(
            [
                _unit(
                    model.get_image_features(
                        pixel_values=(data.batch(array, c, device) - MEAN.to(device)) / STD.to(device)
                    )
                )
                for c in chunks
            ]
        ).float()

    def step(i: int) -> torch.Tensor:
        rng = np.random.default_rng((7, i))
        index = rng.integers(len(drawn), size=data.rows(256, device))
        asked = [world.caption(drawn[j], rng) for j in index[:48]]
        tokens = encode(tokenizer, asked, device)["input_ids"]
        tokens = tokens[:, : int((tokens != tokenizer.pad_token_id).sum(1).max()) + 1]
        with torch.autocast(device.type, torch.bfloat16):
            said = model.text_model(input_ids=tokens)
            single = model.text_model(input_ids=prompts).pooler_output
        ends = (tokens == comma) | ((tokens == end) & ((tokens == end).cumsum(1) == 1))
        states = said.last_hidden_state.float()[:, :-1][ends[:, 1:]]  # each clause's last token, in order
        named = torch.tensor([c for text in asked for c in data.clauses_of(text)], device=device)
        clause = F.normalize(model.text_projection(single.float()), dim=-1)
        scale = model.logit_scale.exp()
        logits, chosen = scale * seen[index] @ clause.T, torch.zeros((), device=device)
        for columns in groups:
            wanted = truth[index][:, columns]
            known = wanted.any(1)
            chosen = chosen + F.cross_entropy(logits[known][:, columns], wanted[known].float().argmax(1))
        wanted = torch.zeros(len(asked), clauses, device=device)
        for row, text in enumerate(asked):
            wanted[row, data.clauses_of(text)] = 1
        match = ((wanted @ (~truth[index]).float().T) == 0).float()
        contrast = (
            scale * F.normalize(model.text_projection(said.pooler_output.float()), dim=-1) @ seen[index].T
        )
        target = match / match.sum(1, keepdim=True).clamp(min=1)
        return (
            chosen / len(groups)
            + 0.3 * F.cross_entropy(contrast, target)
            + F.cross_entropy(probe(states), named)
        )

    model = fit("clip_text", model, step, Recipe(minutes, 1e-3, 0.01, 0.99), folder, list(probe.parameters()))
    save(model, tokenizer, out / "clip", size)


def _unit(out: object) -> torch.Tensor:
    features = out if isinstance(out, torch.Tensor) else out.pooler_output  # type: ignore[attr-defined]
    return F.normalize(features, dim=-1)


def save(model: PreTrainedModel, tokenizer: CLIPTokenizer, out: Path, size: int) -> None:
    """Write a folder that the model's `from_pretrained` reads, in fp16 safetensors."""
    model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(out)
