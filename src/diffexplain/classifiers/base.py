"""The classifier protocol and the one place that distrusts its answers."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import torch

from diffexplain.errors import ClassifierError
from diffexplain.rows import in_rows

ROWS = 32  # pictures a call
#: how scores are meant: one of K classes; labels that stand alone, each yes or no; numbers.
Head = Literal["softmax", "sigmoid", "regression"]


@runtime_checkable
class Classifier(Protocol):
    """Anything that scores pictures.

    `logits(images (N, 3, H, W) in [0, 1]) -> (N, K)` with K = len(labels), or K = 1 for two labels, the
    logit then speaking for the second. It may also have `head` (a Head; softmax without) and `notes`, lines
    that a reader of its answers must know.
    """

    name: str
    labels: tuple[str, ...]

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Raw scores of the classes."""
        ...


@runtime_checkable
class WhiteBox(Classifier, Protocol):
    """A classifier that gradients pass through and whose layers can be read.

    `logits` and `activations` carry gradient to the images, inside of `torch.enable_grad()`.
    """

    @property
    def layers(self) -> tuple[str, ...]:
        """The names that `activations` takes, in the network's order."""
        ...

    def activations(self, images: torch.Tensor, layer: str) -> torch.Tensor:
        """A layer's channels, averaged over places or tokens: (N, C). Raises ClassifierError for others."""
        ...


def head_of(classifier: Classifier) -> Head:
    """How its scores are meant."""
    head: Head = getattr(classifier, "head", "softmax")
    return head


def notes_of(classifier: Classifier) -> tuple[str, ...]:
    """What a reader of its answers must know, so far."""
    return tuple(getattr(classifier, "notes", ()))


def white_box(classifier: Classifier, need: str) -> WhiteBox:
    """The classifier itself, if it can be differentiated. Raises ClassifierError naming the `need`."""
    if isinstance(classifier, WhiteBox):
        return classifier
    raise ClassifierError(
        f"classifier {classifier.name!r} gives scores only, no gradients, and {need} needs them; "
        "load the network itself (timm:, hf:, torchvision:, a torch module)"
    )


def checked_logits(classifier: Classifier, images: torch.Tensor, rows: int = ROWS) -> torch.Tensor:
    """Ask in calls of a fixed row count and check what comes back: (N, K) float64 on the CPU.

    Raises ClassifierError when the classifier raises, or answers with NaN or a wrong shape.
    """

    def ask(chunk: torch.Tensor) -> torch.Tensor:
        try:
            answer = classifier.logits(chunk)
        except ClassifierError:
            raise
        except Exception as error:  # whatever a user's model raises becomes one line
            raise ClassifierError(
                f"classifier {classifier.name!r} raised {type(error).__name__}: {first_line(error)}; "
                f"it was given {tuple(chunk.shape)} float32 images in [0, 1]"
            ) from error
        return _checked(classifier, answer, len(chunk))

    with torch.no_grad():
        return in_rows(ask, images, rows=rows)


def _checked(classifier: Classifier, answer: object, n: int) -> torch.Tensor:
    try:
        answer = torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ClassifierError(
            f"classifier {classifier.name!r} returned {type(answer).__name__}, not numbers; "
            f"expected a tensor ({n}, {len(classifier.labels)}), one column a label"
        ) from error
    one = len(classifier.labels) == 2 and head_of(classifier) == "softmax"
    allowed = {len(classifier.labels)} | ({1} if one else set())
    if answer.ndim == 1 and 1 in allowed:
        answer = answer[:, None]
    if answer.ndim != 2 or len(answer) != n or answer.shape[1] not in allowed:
        raise ClassifierError(
            f"classifier {classifier.name!r} returned shape {tuple(answer.shape)} for {n} images; "
            f"expected ({n}, {len(classifier.labels)}), one column a label"
        )
    answer = answer.detach().double().cpu()
    bad = int((~torch.isfinite(answer)).any(1).sum())
    if bad:
        raise ClassifierError(
            f"classifier {classifier.name!r} returned NaN or infinity for {bad} of {n} images; "
            "check its preprocessing and weights"
        )
    return answer


def first_line(error: Exception) -> str:
    """What an error says, cut to fit into one line."""
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
