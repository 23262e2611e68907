"""What CLIP sees of a term: how near two phrases are, and how far its reading varies over pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from diffexplain.errors import InputError
from diffexplain.judges import Judge
from diffexplain.judges.clip import CLIPJudge

#: what no picture can show: how far CLIP varies over these is how far it varies over nothing.
PLACEBOS = (
    "a hidden intention",
    "an odd number",
    "a legal clause",
    "the square root of two",
    "a past tense",
    "a bank guarantee",
    "a spelling rule",
    "an unpaid debt",
    "a plan",
    "tomorrow",
    "a promise",
    "an opinion",
    "a rumour",
    "a theorem",
    "an average",
    "a permission",
)
QUANTILE = 0.75  # of the placebos, that a term must exceed


def spread(judge: Judge, images: torch.Tensor, prompts: Sequence[str], neutral: str) -> np.ndarray:  # (P,)
    """Standard deviation over pictures of logit(prompt) - logit(neutral): presence before it saturates."""
    logits = judge.logits(images, [*prompts, neutral])
    return np.asarray((logits[:, :-1] - logits[:, -1:]).std(0))


def placebo_spread(judge: Judge, images: torch.Tensor, template: str, neutral: str) -> float:
    """The spread below which a term is taken for unseen: the upper quartile of what no picture shows."""
    prompts = [template.replace("{phrase}", placebo) for placebo in PLACEBOS]
    return float(np.quantile(spread(judge, images, prompts, neutral), QUANTILE))


def phrase_vectors(judge: Judge, template: str, phrases: Sequence[str]) -> np.ndarray:
    """Unit text embeddings (P, D) of the phrases in their prompts. Raises InputError for another judge."""
    if not isinstance(judge, CLIPJudge):
        raise InputError(f"judge {judge.name!r}: near-duplicates are found by a CLIP; give clip:ORG/NAME")
    return judge.text_vectors([template.replace("{phrase}", p) for p in phrases]).numpy()
