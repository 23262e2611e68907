"""Which number of the classifier is explained."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import torch

from diffexplain.classifiers import Classifier, checked_logits
from diffexplain.errors import ClassifierError


@dataclass(frozen=True, slots=True)
class Target:
    """A class, or one class against another.

    Score: the class's log-odds, its logit minus the log-sum-exp of the others; for one output, its
    logit; against another class, the difference of the two logits.
    """

    classifier: Classifier
    label: str
    versus: str | None = None

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Log-odds (N,), float64 on the CPU. Images must be rounded to 8 bits by the caller."""
        return self.of_logits(checked_logits(self.classifier, images))

    def of_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-odds (N,) from logits (N, K)."""
        k = self.classifier.labels.index(self.label)
        if logits.shape[1] == 1:
            return logits[:, 0] if k == len(self.classifier.labels) - 1 else -logits[:, 0]
        if self.versus is not None:
            return logits[:, k] - logits[:, self.classifier.labels.index(self.versus)]
        others = torch.cat([logits[:, :k], logits[:, k + 1 :]], dim=1)
        return logits[:, k] - torch.logsumexp(others, dim=1)

    def __str__(self) -> str:
        return self.label if self.versus is None else f"{self.label} against {self.versus}"


def choose_target(classifier: Classifier, label: str | int | None, versus: str | None = None) -> Target:
    """The target named by a label (or its index). Raises ClassifierError for an unknown label."""
    if label is None:
        if len(classifier.labels) != 2:
            raise ClassifierError(f"--target is missing; labels are {_listed(classifier)}")
        label = classifier.labels[1]
    found = _label(classifier, label, "target")
    other = _label(classifier, versus, "versus") if versus is not None else None
    if other == found:
        raise ClassifierError(f"target and versus are both {found!r}; name two different labels")
    return Target(classifier, found, other)


def _label(classifier: Classifier, label: str | int, argument: str) -> str:
    if isinstance(label, int) and 0 <= label < len(classifier.labels):
        return classifier.labels[label]
    if label in classifier.labels:
        return str(label)
    near = difflib.get_close_matches(str(label), classifier.labels, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ClassifierError(
        f"{argument} {label!r} is not a label of {classifier.name}; {hint}labels are {_listed(classifier)}"
    )


def _listed(classifier: Classifier) -> str:
    shown = ", ".join(classifier.labels[:12])
    return shown + (f", … ({len(classifier.labels)} in all)" if len(classifier.labels) > 12 else "")
