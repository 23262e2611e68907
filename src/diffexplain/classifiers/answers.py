"""What a source answers, read as logits: unwrapped, and taken back from probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch

from diffexplain.classifiers.base import Head
from diffexplain.errors import ClassifierError

Scores = Literal["logits", "probabilities"]
LEAST = 1e-6  # a probability is kept this far from 0 and 1


class Adapter(ABC):
    """What all adapters share: a name, labels, and how the source's scores are meant.

    Probabilities become log-odds, each clipped to [1e-6, 1 − 1e-6]; pictures whose answer was beyond are
    counted, and `notes` says how many. Raises ClassifierError for a head or kind of score that is none.
    """

    def __init__(
        self, name: str, labels: Sequence[str], *, head: Head = "softmax", scores: Scores = "logits"
    ):
        self.name = name
        self.labels = tuple(labels)
        self.head: Head = _one_of(Head, "head", head)
        self._scores: Scores = _one_of(Scores, "scores", scores)
        self._saturated = self._read = 0
        if head == "regression" and scores == "probabilities":
            raise ClassifierError(
                f"classifier {name!r}: a regression gives no probabilities; drop one of the two"
            )

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Raw scores (N, K)."""
        answer = unwrapped(self._asked(images))
        return answer if self._scores == "logits" else self._from_probabilities(answer, images)

    @property
    def notes(self) -> tuple[str, ...]:
        """How many answers were probabilities that say nothing but 0 or 1."""
        if not self._saturated:
            return ()
        return (
            f"{self._saturated} of {self._read} pictures got a probability of 0 or 1 from {self.name}, read "
            f"as {LEAST:g} from it: their effects are cut short; let it give logits",
        )

    @abstractmethod
    def _asked(self, images: torch.Tensor) -> Any:
        """What the source answers to pictures in [0, 1]."""

    def _from_probabilities(self, answer: Any, images: torch.Tensor) -> torch.Tensor:
        p = torch.as_tensor(answer)
        p = p.double() if p.dtype != torch.float64 else p
        if p.ndim == 2 and p.shape[1] > 1 and self.head == "softmax":
            self._check(p, p.sum(1))
            # the others share the least, so that the log-odds of a class reach as far whatever K
            logits = p.clamp_min(LEAST / (p.shape[1] - 1)).log()
            beyond = p.max(1).values > 1 - LEAST
        else:
            self._check(p, None)
            logits = torch.logit(p.clamp(LEAST, 1 - LEAST))
            beyond = ((p < LEAST) | (p > 1 - LEAST)).reshape(len(p), -1).any(1)
        self._count(beyond, images)
        return logits

    def _check(self, p: torch.Tensor, sums: torch.Tensor | None) -> None:
        """Raises ClassifierError when numbers are no probabilities."""
        low, high = (float(v) for v in p.detach().aminmax())
        off = float((sums.detach() - 1).abs().max()) if sums is not None else 0.0
        if low < -1e-4 or high > 1 + 1e-4 or off > 0.01:
            said = f"go from {low:.3g} to {high:.3g}" + (
                f" and do not sum to 1 (off by {off:.2g})" if off > 0.01 else ""
            )
            raise ClassifierError(
                f"classifier {self.name!r}: its scores are said to be probabilities, but {said}; "
                "leave out scores=probabilities, or say head=sigmoid if the labels stand alone"
            )

    def _count(self, beyond: torch.Tensor, images: torch.Tensor) -> None:
        new = torch.ones(len(images), dtype=torch.bool)
        new[1:] = (images[1:] != images[:-1]).flatten(1).any(1).cpu()  # padding repeats the last picture
        self._read += int(new.sum())
        self._saturated += int((beyond.cpu() & new).sum()) if len(beyond) == len(new) else 0


def unwrapped(answer: Any) -> Any:
    """The scores in a dict, a Hugging Face output or a tuple; all else passes."""
    if isinstance(answer, Mapping):
        for key in ("logits", "scores", "probabilities", "output"):
            if key in answer:
                return answer[key]
        return next(iter(answer.values())) if len(answer) == 1 else answer
    if isinstance(answer, tuple) and answer:
        return answer[0]
    return answer


def _one_of(kinds: Any, argument: str, value: Any) -> Any:
    if value not in get_args(kinds):
        raise ClassifierError(f"{argument} {value!r}: choose {', '.join(get_args(kinds))}")
    return value
