"""The records of `audit` and `mitigate`. No model in sight."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import Literal

from diffexplain.records.explanation import Interval

Reference = Literal["plain", "twin"]


@dataclass(frozen=True, slots=True)
class AttributeShares:
    """How an attribute is spread in the pictures of one class, beside a reference's.

    Shares are corrected for the reader's confusion where it was calibrated; the test is on the counts.
    """

    label: str
    attribute: str
    values: tuple[str, ...]
    against: Reference
    counts: tuple[int, ...]  # as read
    shares: tuple[float, ...]
    low: tuple[float, ...]  # 95 % interval, the confusion matrix's own uncertainty included
    high: tuple[float, ...]
    reference_counts: tuple[int, ...]
    reference_shares: tuple[float, ...]
    effect_size: float  # Cramér's V
    p: float  # permutation χ² test
    q: float  # Benjamini–Hochberg over classes × attributes

    @property
    def strongest(self) -> int:
        """Which value's share differs most from the reference's."""
        differences = [abs(a - b) for a, b in zip(self.shares, self.reference_shares, strict=True)]
        return differences.index(max(differences))


@dataclass(frozen=True, slots=True)
class FairnessGap:
    """What changing one attribute value, and nothing else, does to the answer for real pictures."""

    concept: str
    direction: str
    attribute: str
    images: int
    gap: float  # mean Δ log-odds; less the twin's, where a twin is given
    low: float
    high: float
    p: float  # of "there is no gap"
    q: float
    flip_rate: float
    flip_low: float  # exact interval
    flip_high: float
    success_rate: float  # share of the edits that happened
    back: float = nan  # the gap as told by pictures that show the value already; nan where it may be absent
    lost: float = nan  # what the editor's reconstruction takes from the value
    in_all: Interval | None = None  # the edits' own gap and these, weighed; None of removals

    @property
    def told(self) -> float:
        """The gap, by all that tells of it."""
        return self.in_all.value if self.in_all else self.gap


@dataclass(frozen=True, slots=True)
class AttributeGap:
    """Whether an attribute matters at all: its largest gap, tested over all of its edits."""

    attribute: str
    concept: str
    direction: str
    gap: float
    low: float  # of that edit alone
    high: float
    p: float  # Simes over the attribute's edits
    q: float  # Benjamini–Yekutieli over attributes
    back: float = nan  # that edit's
    lost: float = nan  # that edit's
    in_all: Interval | None = None  # that edit's

    def matters(self, margin: float) -> bool:
        """Whether there surely is a gap, and it is larger than the margin, by all that tells of it."""
        return self.q < 0.05 and abs(self.in_all.value if self.in_all else self.gap) > margin


@dataclass(frozen=True, slots=True)
class Reading:
    """How well the reader knows an attribute: its confusion on labelled pictures, (true, read)."""

    attribute: str
    values: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    accuracy: float  # mean over values


@dataclass(frozen=True, slots=True)
class AuditResult:
    """Everything an audit found."""

    classifier: str
    target: str
    twin: str | None
    attributes: tuple[str, ...]
    corpus: str
    judge: str
    margin: float
    readings: tuple[Reading, ...]  # empty: the counts are as read, not corrected
    shares: tuple[AttributeShares, ...]
    gaps: tuple[FairnessGap, ...]
    attribute_gaps: tuple[AttributeGap, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """A classifier before or after its mitigation, on pictures that it was not mitigated with."""

    gap: float  # mean Δ log-odds of the shortcut's edits
    low: float
    high: float
    flip_rate: float
    accuracy: float  # mean over classes
    accuracy_low: float
    accuracy_high: float


@dataclass(frozen=True, slots=True)
class MitigationResult:
    """What a mitigation did."""

    classifier: str
    target: str
    shortcuts: tuple[str, ...]
    method: str
    units: tuple[int, ...]  # damped ones
    before: Standing
    after: Standing
    effect_ratio: float  # |gap| after over before
    accuracy_loss: float  # in points of a hundred
    training_images: int
    held_out_images: int
    notes: tuple[str, ...] = ()
