"""Which number of the classifier is explained: a class's log-odds, or what a hidden unit answers.

A `Target` is scored; an `Objective` has a gradient too, for pictures to be optimised towards it.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch.nn import functional as F

from diffexplain.classifiers import Classifier, checked_logits, head_of, white_box
from diffexplain.errors import ClassifierError
from diffexplain.rows import in_rows

ROWS = 32  # pictures a call of a layer's reading
PROBE = 64  # pixels of a grey picture that a layer is measured with
NEED = "optimising pictures towards it"


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
        if head_of(self.classifier) != "softmax":
            return logits[:, k]  # the labels stand alone, or are numbers
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


# -- objectives ---------------------------------------------------------------------------------------


class Objective(Protocol):
    """What pictures are optimised towards.

    `read` is the classifier's part, which objectives of equal `key` share: pictures (N, 3, H, W) in [0, 1] to
    (N, C), differentiable. `loss_of` is what the objective makes of it.
    """

    @property
    def name(self) -> str:
        """What a person reads: "hired", "hired against rejected", "layer4:12"."""
        ...

    @property
    def key(self) -> Hashable:
        """Equal where `read` gives the same."""
        ...

    def read(self, images: torch.Tensor) -> torch.Tensor:
        """What the classifier says of the pictures, (N, C)."""
        ...

    def loss_of(self, read: torch.Tensor) -> torch.Tensor:
        """From `read` to (N,), lower is better: cross-entropy of a class, minus a unit's activation."""
        ...

    def loss(self, images: torch.Tensor) -> torch.Tensor:
        """`loss_of` what is `read`: (N,), differentiable."""
        ...

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """What is reported, higher is better: (N,) float64 on the CPU. Log-odds, or an activation."""
        ...


@dataclass(frozen=True, slots=True)
class ClassObjective:
    """A class, or one class against another, by cross-entropy with a margin: softplus(margin - log-odds).

    Without a margin it hardly falls once most pictures are in the class, and what else the class asks for,
    a shortcut beside its cause, is not found.
    """

    target: Target
    margin: float = 4.0  # log-odds by which a picture is to be in the class

    @property
    def name(self) -> str:
        """The label, or "one against another"."""
        return str(self.target)

    @property
    def key(self) -> Hashable:
        """The classifier."""
        return id(self.target.classifier), ""

    def read(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K), differentiable."""
        return _columns(self.target.classifier, images)

    def loss_of(self, read: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with the margin (N,)."""
        return F.softplus(self.margin - self.target.of_logits(read))

    def loss(self, images: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with the margin (N,), differentiable."""
        return self.loss_of(self.read(images))

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Log-odds (N,)."""
        return self.target.score(images)


@dataclass(frozen=True)
class LayerObjective(ABC):
    """A number of a layer's channels, which are averaged over places or tokens.

    Raises ClassifierError for a classifier without gradients, and an unknown layer.
    """

    classifier: Classifier
    layer: str

    @property
    def key(self) -> Hashable:
        """The classifier's layer."""
        return id(self.classifier), self.layer

    def read(self, images: torch.Tensor) -> torch.Tensor:
        """The layer's pooled channels (N, C), differentiable."""
        return white_box(self.classifier, NEED).activations(images, self.layer)

    @abstractmethod
    def loss_of(self, read: torch.Tensor) -> torch.Tensor:
        """Minus the activation (N,)."""

    def loss(self, images: torch.Tensor) -> torch.Tensor:
        """Minus the activation (N,), differentiable."""
        return self.loss_of(self.read(images))

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """The activation (N,)."""
        with torch.no_grad():
            return -self.loss_of(in_rows(self.read, images, rows=ROWS).double()).cpu()


@dataclass(frozen=True)
class UnitObjective(LayerObjective):
    """A channel of a named layer, high or `low`: a class may want a unit silent, or below nought.

    Raises ClassifierError as LayerObjective, and for an unknown channel.
    """

    channel: int
    low: bool = False

    def __post_init__(self) -> None:
        width = channels(self.classifier, self.layer)
        if not 0 <= self.channel < width:
            layers = white_box(self.classifier, NEED).layers
            raise ClassifierError(
                f"unit {self.name} is not in {self.classifier.name}; layer {self.layer!r} has channels 0 to "
                f"{width - 1}; layers are {', '.join(layers)}"
            )

    @property
    def name(self) -> str:
        """As it is asked for: "layer4:12", "layer4:low12"."""
        return unit_name(self.layer, self.channel, self.low)

    def loss_of(self, read: torch.Tensor) -> torch.Tensor:
        """Minus the channel (N,); the channel, where it is to be low."""
        return read[:, self.channel] if self.low else -read[:, self.channel]


@dataclass(frozen=True)
class DirectionObjective(LayerObjective):
    """How far a layer's channels reach along a vector (C,).

    Raises ClassifierError as LayerObjective, and for a vector that does not fit.
    """

    vector: torch.Tensor = field(repr=False, compare=False)
    name: str

    def __post_init__(self) -> None:
        width = channels(self.classifier, self.layer)
        if tuple(self.vector.shape) != (width,):
            raise ClassifierError(
                f"vector of {self.name!r} has shape {tuple(self.vector.shape)}; layer {self.layer!r} of "
                f"{self.classifier.name} has {width} channels: give a vector of shape ({width},)"
            )

    def loss_of(self, read: torch.Tensor) -> torch.Tensor:
        """Minus the product with the vector (N,)."""
        return -(read @ self.vector.to(read))


@dataclass(frozen=True)
class DifferenceObjective:
    """What one classifier puts in a class and another does not.

    Loss: the cross-entropy of the class by the first and of the rest by the second; score: the first's
    log-odds less the second's. Raises ClassifierError for classifiers without gradients, and unknown labels.
    """

    classifier: Classifier
    other: Classifier
    label: str

    def __post_init__(self) -> None:
        for classifier in (self.classifier, self.other):
            choose_target(white_box(classifier, NEED), self.label)

    @property
    def name(self) -> str:
        """The label, and who differs about it."""
        return f"{self.label} by {self.classifier.name}, not by {self.other.name}"

    @property
    def key(self) -> Hashable:
        """Both classifiers, and the label."""
        return id(self.classifier), id(self.other), self.label

    @property
    def targets(self) -> tuple[Target, Target]:
        """The class by either."""
        return Target(self.classifier, self.label), Target(self.other, self.label)

    def read(self, images: torch.Tensor) -> torch.Tensor:
        """Both log-odds (N, 2), differentiable."""
        return torch.stack([t.of_logits(_columns(t.classifier, images)) for t in self.targets], dim=1)

    def loss_of(self, read: torch.Tensor) -> torch.Tensor:
        """Both cross-entropies (N,)."""
        return F.softplus(-read[:, 0]) + F.softplus(read[:, 1])

    def loss(self, images: torch.Tensor) -> torch.Tensor:
        """Both cross-entropies (N,), differentiable."""
        return self.loss_of(self.read(images))

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """The difference of the log-odds (N,)."""
        one, other = self.targets
        return one.score(images) - other.score(images)


def class_objective(
    classifier: Classifier, label: str | int | None, versus: str | None = None
) -> ClassObjective:
    """A class by its label. Raises ClassifierError: unknown label, or a classifier without gradients."""
    return ClassObjective(choose_target(white_box(classifier, NEED), label, versus))


@dataclass(frozen=True, slots=True)
class UnitsAsked:
    """Units as a person asks for them: channels by number, high or `low`, or the `top` that carry a class."""

    layer: str
    channels: tuple[int, ...] = ()
    top: int = 0
    low: bool = False

    @property
    def names(self) -> list[str]:
        """Each of the channels, as one asks for it alone."""
        return [unit_name(self.layer, c, self.low) for c in self.channels]


def unit_name(layer: str, channel: int, low: bool) -> str:
    """As a unit is asked for."""
    return f"{layer}:{'low' if low else ''}{channel}"


def units_of(spec: str) -> UnitsAsked:
    """`LAYER:NUMBER`, `LAYER:NUMBER,NUMBER`, `LAYER:lowNUMBER` or `LAYER:topK`.

    Raises ClassifierError for anything else.
    """
    layer, _, which = spec.rpartition(":")
    low = which.startswith("low")
    numbers = which.removeprefix("low" if low else "top").split(",")
    if layer and all(n.isascii() and n.isdigit() for n in numbers):
        if not which.startswith("top"):
            return UnitsAsked(layer, tuple(map(int, numbers)), low=low)
        if len(numbers) == 1 and int(numbers[0]):
            return UnitsAsked(layer, top=int(numbers[0]))
    raise ClassifierError(f"unit {spec!r} is not understood; give LAYER:NUMBER or LAYER:topK, as layer4:476")


def choose_objective(
    classifier: Classifier,
    *,
    target: str | int | None = None,
    unit: str | None = None,
    versus: str | None = None,
) -> ClassObjective | UnitObjective:
    """A class by its label, or a unit by `LAYER:NUMBER` or `LAYER:lowNUMBER`.

    Raises ClassifierError for an unknown label, layer or channel, and for a classifier without gradients.
    """
    if unit is None:
        return class_objective(classifier, target, versus)
    if target is not None or versus is not None:
        raise ClassifierError("unit and target are both given; name one of them")
    asked = units_of(unit)
    if len(asked.channels) != 1:
        raise ClassifierError(f"unit {unit!r} is not one unit; give LAYER:NUMBER")
    return UnitObjective(classifier, asked.layer, asked.channels[0], asked.low)


def channels(classifier: Classifier, layer: str) -> int:
    """How many channels a layer has.

    Raises ClassifierError when there is no such layer, or the classifier gives no gradients.
    """
    white = white_box(classifier, NEED)
    with torch.no_grad():
        return int(white.activations(torch.full((1, 3, PROBE, PROBE), 0.5), layer).shape[1])


def _columns(classifier: Classifier, images: torch.Tensor) -> torch.Tensor:
    """Logits (N, K), one column for one output."""
    logits = classifier.logits(images)
    return logits[:, None] if logits.ndim == 1 else logits
