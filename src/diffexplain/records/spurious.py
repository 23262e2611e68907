"""The records of `find_spurious`: what was asked, a row for each picture looked at, the verdicts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import nan
from typing import Any, Literal

from diffexplain.records.explanation import SCHEMA_VERSION, Interval

Verdict = Literal["core", "spurious", "undecided"]
Why = Literal["outside the object", "said not to matter"]  # a concept is a shortcut
#: where a picture comes from: a unit's synthesis, the class's plain prompt, the neutral prompt; or a picture
#: of the class, drawn anew in part.
Look = Literal["unit", "plain", "neutral", "base", "no object", "no placebo", "object only"]


@dataclass(frozen=True, slots=True)
class SpuriousRequest:
    """What was asked; stored in run.json and compared on resume."""

    classifier: str
    target: str
    object: str  # words for what the class is of
    units: tuple[str, ...]
    editor: str
    segmenter: str
    judge: str
    corpus: str | None
    images: tuple[str, ...]  # content hashes of real pictures; empty: drawn from the plain prompt
    names: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Looked:
    """One row: a picture, how much of it the object takes, and what the classifier says."""

    look: Look
    unit: str  # "" where it is no unit's own picture
    pair: int  # which seed or picture; those of one number are paired
    area: float  # share that the object takes, 0 to 1
    activation: float  # of the unit; nan where there is none
    score: float  # log-odds of the class
    picture: str
    masked: str  # the same with the object's mask drawn over it
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Calibration:
    """What plain-prompt pictures say of a segmenter: when an object counts as there, how often it is."""

    area: float  # share of a picture from which the object counts as there
    plain: float  # how often it is there in pictures of the class's plain prompt
    neutral: float  # and in those of the neutral prompt
    threshold: float  # rate between both that a verdict is measured against; nan where they do not differ
    pictures: int  # of each
    prompt: str
    neutral_prompt: str


@dataclass(frozen=True, slots=True)
class Causal:
    """What taking away the object, or all else, does to a number of the classifier, over pictures."""

    images: int
    base: float  # mean of the number in the reconstructions
    no_object: Interval  # fall of the number when the object is drawn over
    no_placebo: Interval  # when a region as large elsewhere is
    no_rest: Interval  # when everything but the object is
    share: Interval  # the object's share of the number's variance under these interventions
    beyond_placebo: Interval  # squared change by the object's region less the placebo's
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Content:
    """A concept of the corpus that a unit's pictures show more or less often than neutral ones."""

    concept: str
    there: float  # mean presence in the unit's pictures
    neutral: float
    low: float  # 95 % interval of the difference, paired by seed
    high: float
    q: float  # Benjamini–Yekutieli over the concepts


@dataclass(frozen=True, slots=True)
class UnitVerdict:
    """What is known of one unit."""

    unit: str
    contribution: float  # to the class's log-odds, mean activation × weight; nan where the unit was given
    gain: float  # of the activation over the neutral prompt's, on held-out seeds
    gain_low: float
    gain_high: float
    reached: bool
    presence: float  # share of the unit's pictures that show the object
    low: float
    high: float
    pictures: int
    by_presence: Verdict
    causal: Causal | None
    verdict: Verdict
    agree: bool | None  # of the two lines of evidence; None where one of them is undecided
    words: tuple[str, ...]  # nearest words of the prompt
    hard_prompt: str
    contents: tuple[Content, ...]
    examples: tuple[Looked, ...] = ()


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A concept that moves the class although it should not."""

    concept: str
    direction: str
    effect: float  # mean Δ log-odds
    low: float
    high: float
    q: float
    images: int
    inside: Interval | None  # share of the change that falls on the object; None where it was not looked at
    why: Why
    back: float = (
        nan  # the effect as told by pictures that show the concept already; nan where it may be absent
    )
    lost: float = nan  # what the editor's reconstruction takes from the concept
    in_all: Interval | None = None  # the edits' own effect and these, weighed; None where nothing else tells


@dataclass(frozen=True, slots=True)
class SpuriousResult:
    """Everything in result.json of `find_spurious`."""

    request: SpuriousRequest
    calibration: Calibration
    units: tuple[UnitVerdict, ...]
    target: Causal | None  # the same interventions on the class's own score
    shortcuts: tuple[Shortcut, ...]
    examples: tuple[Looked, ...]  # pictures of the interventions
    seconds: float
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA_VERSION

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON (nan becomes None in the store)."""
        return asdict(self)
