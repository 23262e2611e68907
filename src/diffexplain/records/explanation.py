"""The records of `explain`: request, effect rows, results. No model in sight."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import nan
from typing import Any, Literal

SCHEMA_VERSION = 1

Direction = Literal["add", "remove"]
Stage = Literal["race", "report", "joint race", "joint report", "placebo", "second", "slide"]
Status = Literal["measured", "ruled out", "not eligible"]

#: stages whose edits a screening editor makes; the others are reported.
RACING: tuple[Stage, ...] = ("race", "joint race")

#: joins the concepts of one joint question, e.g. "facewear/glasses + expression/mouth/smile".
JOIN = " + "

#: the concept of the edits that ask for nothing.
PLACEBO = "placebo"


@dataclass(frozen=True, slots=True, order=True)
class Question:
    """What is asked of the classifier: one concept in one direction, or several at once (joint)."""

    concepts: tuple[str, ...]
    directions: tuple[Direction, ...]

    @classmethod
    def single(cls, concept: str, direction: Direction = "add") -> Question:
        """The question about one concept."""
        return cls((concept,), (direction,))

    @property
    def concept(self) -> str:
        """The concept path, or the joined paths of a joint question."""
        return JOIN.join(self.concepts)

    @property
    def direction(self) -> str:
        """The direction, or the joined directions of a joint question."""
        return JOIN.join(self.directions)

    def joined(self, other: Question) -> Question:
        """Both asked at once."""
        return Question(self.concepts + other.concepts, self.directions + other.directions)

    def __str__(self) -> str:
        signs = {"add": "+", "remove": "−"}
        pairs = zip(self.directions, self.concepts, strict=True)
        return ", ".join(f"{signs[d]}{c}" for d, c in pairs)


@dataclass(frozen=True, slots=True)
class Ask:
    """One edit to make: which picture, which noise, which question, which leaves stand in."""

    image: int
    seed: int
    question: Question
    edited_as: tuple[str, ...]
    stage: Stage
    weight: float = 1.0  # times the run's strength


@dataclass(frozen=True, slots=True)
class Effect:
    """One row: what one edit of one picture did to the score, and whether the edit happened.

    Scores are log-odds of the target; presences are probabilities in [0, 1] (nan when not judged);
    `outside` is the mean absolute change (0 to 1) outside the concept's region, nan without a segmenter.
    """

    image: str  # content hash of the input picture
    seed: int
    concept: str
    direction: str
    edited_as: str  # the leaf whose prompt stood in for an inner node; else the concept itself
    strength: float
    stage: Stage
    eligible: bool
    score_before: float  # of the reconstruction
    score_after: float
    probability_before: float
    probability_after: float
    presence_before: float
    presence_after: float
    outside: float
    reconstruction: str  # picture hashes: files in images/
    edited: str
    evaluations: int  # UNet evaluations spent on this edit
    batch: int  # which batch of the run made it
    size: float = nan  # mean absolute change of the picture, 0 to 1
    area: float = nan  # share of its pixels that changed visibly
    others: str = ""  # JSON, leaf -> presence change: those beyond its own and what it implies that moved

    @property
    def change(self) -> float:
        """Δ in log-odds, from the reconstruction."""
        return self.score_after - self.score_before

    @property
    def probability_change(self) -> float:
        """Δ in probability, from the reconstruction."""
        return self.probability_after - self.probability_before

    @property
    def flipped(self) -> bool:
        """Whether the decision crossed one half."""
        return (self.probability_before > 0.5) != (self.probability_after > 0.5)

    @property
    def succeeded(self) -> bool:
        """Whether the edit took: presence crossed one half in the asked direction."""
        if self.direction.startswith("remove"):
            return self.presence_after < 0.5
        return self.presence_after >= 0.5

    @property
    def gain(self) -> float:
        """Presence gained in the asked direction (for a removal: presence lost)."""
        sign = -1.0 if self.direction.startswith("remove") else 1.0
        return sign * (self.presence_after - self.presence_before)


@dataclass(frozen=True, slots=True)
class Drift:
    """How far inversion and reconstruction moved the pictures before any edit."""

    pixels: float  # mean absolute change, 0 to 1
    score: float  # mean absolute change of the target's log-odds
    score_signed: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run spent."""

    edits: int
    inversions: int
    evaluations: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95 % interval, clustered by image."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ConceptResult:
    """The answer to one question. Effects are nan unless `status` is "measured"."""

    concept: str
    direction: str
    status: Status
    effect: float  # mean Δ log-odds over eligible images
    low: float  # 95 % interval, clustered by image
    high: float
    effect_probability: float
    p: float  # studentised
    q: float  # Benjamini–Yekutieli over all questions measured, the joint path included
    flip_rate: float
    presence_gain: float
    success_rate: float  # share of eligible edits that happened
    outside: float
    images: int  # eligible images behind the effect
    edits: int  # spent on this question, race included
    race_effect: float  # what the race saw; descriptive only
    examples: tuple[Effect, ...] = ()  # rows to show, strongest first
    detectable: float = nan  # least |effect| that reaches q < 0.05 with power 0.8, log-odds
    beyond_placebo: Interval | None = None  # the effect less a placebo's on the same pictures
    per_presence: Interval | None = None  # Wald ratio: log-odds for each unit of presence gained
    partial: float = nan  # the effect less what other concepts that moved with it explain
    passed: float = nan  # share of eligible edits that pass the gate
    effect_passed: float = nan  # mean over those alone: descriptive, for they are chosen after the edit
    second: Interval | None = None  # the effect by the second editor
    second_q: float = nan
    supported: bool | None = (
        None  # both editors find it, with one sign; None: neither does, or none was asked
    )


@dataclass(frozen=True, slots=True)
class JointPath:
    """The best joint combination that the search found, estimated on images outside the race."""

    steps: tuple[str, ...]  # question texts, in the order they were accepted
    concepts: tuple[str, ...]
    directions: tuple[str, ...]
    effect: float
    low: float
    high: float
    p: float
    images: int
    flip_rate: float
    examples: tuple[Effect, ...] = ()
    q: float = nan  # Benjamini–Yekutieli, with the single questions
    gain: Interval | None = None  # over the first step alone, on the same fresh pictures


@dataclass(frozen=True, slots=True)
class Agreement:
    """How one editor's effects compare with another's, over questions that have both.

    A screening editor's come from different pictures too, so this is a lower bound of what the editors share.
    """

    questions: int
    correlation: float  # Pearson's; nan below three questions
    rank_correlation: float  # Spearman's
    same_sign: float  # share


@dataclass(frozen=True, slots=True)
class Placebo:
    """What edits do that ask for nothing, as large as the run's median edit."""

    effect: float  # mean Δ log-odds
    low: float
    high: float
    p: float
    images: int
    size: float  # mean absolute change of the picture
    wanted: float  # that of the median edit
    area: float  # share of pixels visibly changed
    wanted_area: float
    weight: float  # of its guidance
    examples: tuple[Effect, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether it moves the score: p < 0.05, one test."""
        return self.p < 0.05


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What an edit must keep to count as having happened, for this run's editor and pictures."""

    presence: float  # presence that the concept must reach, or for a removal fall below one less this
    gain: float  # presence that it must gain
    outside: float  # most change outside its region
    others: float  # most presence change of any other concept


@dataclass(frozen=True, slots=True)
class Entanglement:
    """What else moved: mean presence change of each concept (column) by each question (row)."""

    questions: tuple[str, ...]  # "direction concept"
    concepts: tuple[str, ...]
    change: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked of a run; stored in run.json and compared on resume."""

    classifier: str
    target: str
    versus: str | None
    corpus: str
    corpus_hash: str
    editor: str
    judge: str
    segmenter: str | None
    images: tuple[str, ...]  # content hashes, in order
    names: tuple[str, ...]  # file names, for people
    seeds: int
    search: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # editor settings, row counts, versions
    budget: int | None = None
    screen: str | None = None  # the editor of the race, where it is another
    second: str | None = None  # the editor of the second opinion


@dataclass(frozen=True, slots=True)
class Result:
    """Everything in result.json."""

    request: Request
    score_mean: float  # mean score of the reconstructions
    concepts: tuple[ConceptResult, ...]  # ranked by |effect|, measured first
    joint: JointPath | None
    drift: Drift
    cost: Cost
    notes: tuple[str, ...]
    truth: dict[str, float] | None = None  # true effects by "direction concept", in worlds that have them
    agreement: Agreement | None = None  # of the screening editor with the confirming one
    schema: int = SCHEMA_VERSION
    placebo: Placebo | None = None
    gate: GateLimits | None = None
    entanglement: Entanglement | None = None
    second: Agreement | None = None  # of a second editor with the first

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON (nan becomes None in the store)."""
        return asdict(self)
