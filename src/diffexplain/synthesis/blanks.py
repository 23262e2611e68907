"""Prompts whose blanks a frozen masked language model fills (DEXTER, Carnemolla et al., NeurIPS 2025).

A learned prefix in the language model's embedding space steers what it predicts for the blanks; a
straight-through Gumbel-softmax makes words of the predictions, which the text encoder reads where it knows
them too. Besides the classifier's loss there is the mask loss: cross-entropy of the predictions against
pseudo-labels, the words that have done best so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from diffexplain.editors.generator import Generator
from diffexplain.errors import EditorError, InputError
from diffexplain.quiet import quiet_loading
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.synthesis.words import (
    FINALISTS,
    Key,
    Tried,
    WordedPrompt,
    descend,
    drawn_losses,
    pooled_losses,
    typed_words,
)
from diffexplain.targets import Objective

TEMPLATE = "a picture of a [MASK] [MASK]"
BLANK = "[MASK]"
WORD_STARTS = ("Ġ", "▁")  # marks of byte pairs and of sentence pieces


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A transformers masked language model and its tokenizer, frozen."""

    model: Any
    tokenizer: Any


@dataclass(frozen=True, slots=True)
class BlankOptions:
    """How the language model is steered; DEXTER's values."""

    prefix: int = 1  # learned embeddings ahead of the sentence
    temperature: float = 1.0  # of the Gumbel-softmax
    weight: float = 1.0  # of the mask loss; 0: none

    def __post_init__(self) -> None:
        if self.prefix < 1 or self.temperature <= 0 or self.weight < 0:
            raise InputError("prefix is at least 1, temperature above 0, weight at least 0")


def load_language_model(spec: str) -> LanguageModel:
    """Any BERT-like model by its hub name or folder. Raises EditorError when it cannot be loaded."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    try:
        with quiet_loading():
            model = AutoModelForMaskedLM.from_pretrained(spec, dtype=torch.float32, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(spec)
    except Exception as error:
        line = (str(error).splitlines() or ["no message"])[0][:200]
        raise EditorError(f"language model {spec!r} cannot be loaded ({line}); name a folder") from error
    if tokenizer.mask_token is None:
        raise EditorError(f"language model {spec!r} has no mask token; name a BERT-like model")
    return LanguageModel(model.eval().requires_grad_(False), tokenizer)


def masked_prompt(
    generator: Generator,
    objective: Objective,
    language_model: LanguageModel,
    *,
    template: str = TEMPLATE,
    options: SynthesisOptions | None = None,
    blanks: BlankOptions | None = None,
) -> WordedPrompt:
    """The best filling of a template's blanks.

    All restarts are one batch. Of `options`, steps, rate (in norms of the language model's vocabulary),
    restarts, seeds, pool, mode and k apply. Raises InputError for a template without a blank, or when the two
    vocabularies share no word.
    """
    options, blanks = options or SynthesisOptions(), blanks or BlankOptions()
    reader = _Reader(generator, language_model, template, blanks)
    prefix = reader.start(options).requires_grad_()  # (restarts, prefix, H)
    rate = options.rate * reader.norm / prefix.shape[2] ** 0.5
    optimiser = torch.optim.AdamW([prefix], lr=rate, weight_decay=0.01)
    draw = torch.Generator().manual_seed(options.seed)
    tried = Tried()
    labels = [_PseudoLabel() for _ in range(options.restarts)]
    for step in range(max(1, options.steps)):
        logits = reader.logits(prefix)  # (restarts, blanks, words)
        chosen = gumbel_words(logits, blanks.temperature, draw)
        losses = drawn_losses(generator, objective, reader.soft(chosen), options, step, reader.text)
        keys = [tuple(row) for row in chosen.argmax(2).tolist()]
        tried.note(keys, losses.detach())
        for label, key, loss in zip(labels, keys, losses.detach().mean(1).tolist(), strict=True):
            label.heard(key, loss)
        mask_loss = F.cross_entropy(
            logits.flatten(0, 1), torch.tensor([w for label in labels for w in label.words])
        )
        loss = losses.mean(1).sum() + blanks.weight * options.restarts * mask_loss
        descend(optimiser, prefix, loss)
    keys = tried.finalists(FINALISTS)
    one_hot = F.one_hot(torch.tensor(keys), len(reader.words)).float()
    final = pooled_losses(generator, objective, reader.soft(one_hot), reader.text, options).mean(1)
    best = int(final.argmin())
    words = tuple(reader.words[i] for i in keys[best])
    return WordedPrompt(
        reader.filled(words), words, float(final[best]), tuple(tried.curve), len(tried.losses)
    )


@dataclass(slots=True)
class _PseudoLabel:
    """The words that did best, until new ones do better than they did on average."""

    words: Key = ()
    losses: list[float] = field(default_factory=list)
    before: set[Key] = field(default_factory=set)

    def heard(self, words: Key, loss: float) -> None:
        """One drawing of these words had this loss."""
        if loss != loss:  # NaN
            self.words = self.words or words
        elif words == self.words:
            self.losses.append(loss)
        elif words not in self.before and (not self.losses or loss < sum(self.losses) / len(self.losses)):
            self.words, self.losses = words, [loss]
            self.before.add(words)


class _Reader:
    """A template between a language model, which fills it, and a text encoder, which reads it."""

    def __init__(
        self, generator: Generator, language: LanguageModel, template: str, options: BlankOptions
    ) -> None:
        if BLANK not in template:
            raise InputError(f"template {template!r} has no {BLANK}; write one where a word is to be found")
        self._language, self._template, self._options = language, template, options
        tokens, table = typed_words(generator)
        shared = shared_words(language.tokenizer, tokens)
        if not shared:
            raise InputError("the language model and the generator share no word; take another model")
        self.words = [word for word, _, _ in shared]
        self._columns = torch.tensor([i for _, i, _ in shared])
        self._table = table[torch.tensor([j for _, _, j in shared])]  # (words, D)
        first, *self._rest = [part.strip() for part in template.split(BLANK)]
        self.text = first
        self._between = [generator.embedding(part) if part else table[:0] for part in self._rest]
        sentence = template.replace(BLANK, language.tokenizer.mask_token)
        ids = torch.tensor(language.tokenizer(sentence)["input_ids"])
        self._blanks = (ids == language.tokenizer.mask_token_id).nonzero()[:, 0]
        vocabulary = language.model.get_input_embeddings()
        self._sentence = vocabulary(ids).detach()  # (T, H)
        self._vocabulary: torch.Tensor = vocabulary.weight.detach()
        self.norm = float(self._vocabulary.norm(dim=1).mean())

    def start(self, options: SynthesisOptions) -> torch.Tensor:
        """Prefixes of words at random, (restarts, prefix, H)."""
        draw = torch.Generator().manual_seed(options.seed)
        shape = (options.restarts, self._options.prefix)
        return self._vocabulary[torch.randint(len(self._vocabulary), shape, generator=draw)].clone()

    def logits(self, prefix: torch.Tensor) -> torch.Tensor:
        """What is predicted for the blanks among shared words, (restarts, blanks, words)."""
        sentence = self._sentence.expand(len(prefix), -1, -1)
        said = torch.cat([prefix, sentence], dim=1)
        mask = torch.ones(said.shape[:2], dtype=torch.long)
        predicted = self._language.model(inputs_embeds=said, attention_mask=mask).logits
        found: torch.Tensor = predicted[:, self._blanks + prefix.shape[1]][..., self._columns]
        return found

    def soft(self, chosen: torch.Tensor) -> torch.Tensor:
        """Embeddings after the first text: chosen words (R, blanks, words) and the words between them."""
        parts = []
        for words, between in zip((chosen @ self._table).unbind(1), self._between, strict=True):
            parts += [words[:, None], between.expand(len(chosen), -1, -1)]
        return torch.cat(parts, dim=1)

    def filled(self, words: Sequence[str]) -> str:
        """The template with its blanks filled."""
        text = self._template
        for word in words:
            text = text.replace(BLANK, word, 1)
        return text


def shared_words(tokenizer: Any, words: Sequence[str]) -> list[tuple[str, int, int]]:
    """Words that are one token for both: (word, language model's id, row among `words`)."""
    rows = {word: row for row, word in enumerate(words)}
    known = tokenizer.get_vocab()
    marked = any(token.startswith(WORD_STARTS) for token in known)
    special = set(tokenizer.all_special_tokens)
    found: dict[str, tuple[str, int, int]] = {}
    for token, index in sorted(known.items(), key=lambda item: int(item[1])):
        if token in special or (marked and not token.startswith(WORD_STARTS)):
            continue
        word = token.lstrip("".join(WORD_STARTS)).lower()
        if word in rows:
            found.setdefault(word, (word, int(index), rows[word]))
    return list(found.values())


def gumbel_words(logits: torch.Tensor, temperature: float, draw: torch.Generator) -> torch.Tensor:
    """One-hot words (…, V) drawn from logits; the gradient is the softmax's (Jang, Gu & Poole 2017)."""
    uniform = torch.rand(logits.shape, generator=draw).clamp(1e-9, 1 - 1e-7)
    soft = ((logits - torch.log(-torch.log(uniform))) / temperature).softmax(-1)
    hard: torch.Tensor = F.one_hot(soft.argmax(-1), logits.shape[-1]).to(soft)
    return hard + (soft - soft.detach())
