"""The records of `explain`: request, effect rows, results. No model in sight."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

SCHEMA_VERSION = 1

Direction = Literal["add", "remove"]
Stage = Literal["race", "report", "joint race", "joint report"]
Status = Literal["measured", "ruled out", "not eligible"]

#: stages whose edits a screening editor makes; the others are reported.
RACING: tuple[Stage, ...] = ("race", "joint race")

#: joins the concepts of one joint question, e.g. "facewear/glasses + expression/mouth/smile".
JOIN = " + "


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
    q: float  # Benjamini–Hochberg over all questions measured
    flip_rate: float
    presence_gain: float
    success_rate: float  # share of eligible edits that happened
    outside: float
    images: int  # eligible images behind the effect
    edits: int  # spent on this question, race included
    race_effect: float  # what the race saw; descriptive only
    examples: tuple[Effect, ...] = ()  # rows to show, strongest first


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


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the screening editor's effects compare with the confirmed ones, over questions that have both.

    They come from different pictures too, so this is a lower bound of what the editors share.
    """

    questions: int
    correlation: float  # Pearson's; nan below three questions
    rank_correlation: float  # Spearman's
    same_sign: float  # share


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

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON (nan becomes None in the store)."""
        return asdict(self)
