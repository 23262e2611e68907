"""The records of `synthesize`: what was asked, a row for each picture made, what each target wants to see."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from diffexplain.records.explanation import SCHEMA_VERSION

#: how a picture came to be: by the optimised prompt, a plain or a random one, another method; or it is real.
Origin = Literal["optimised", "plain", "random", "hard", "pixels", "natural", "decoder", "attack", "real"]


@dataclass(frozen=True, slots=True)
class SynthesisRequest:
    """What was asked of a synthesis; stored in run.json and compared on resume."""

    classifier: str
    targets: tuple[str, ...]  # names of the objectives
    editor: str  # whose diffusion model makes the pictures
    text: str  # the fixed words ahead of the learned ones
    plain: tuple[str, ...]  # one plain prompt a target
    judge: str
    second: str | None  # a classifier that was not optimised against
    images: tuple[str, ...]  # content hashes of real pictures, if any
    names: tuple[str, ...]
    seeds: int  # held-out pictures a prompt
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """One row: a picture made for a target from a seed that the optimisation has not seen."""

    target: str
    origin: Origin
    restart: int  # of the optimisation; -1 where there is none
    seed: int
    score: float  # log-odds of a class, activation of a unit
    hit: bool  # whether the classifier puts it in the class; False for units
    second: float  # score by the second classifier; nan without one
    picture: str  # hash: a file in images/
    batch: int


@dataclass(frozen=True, slots=True)
class Word:
    """A real token near a learned one."""

    token: str
    distance: float  # 1 - cosine, 0 to 2


@dataclass(frozen=True, slots=True)
class Restart:
    """One optimisation of one target."""

    curve: tuple[float, ...]  # mean loss an iteration
    best: float  # least loss on the optimisation's own seeds, without augmentation
    score: float  # mean over held-out seeds
    words: tuple[tuple[Word, ...], ...]  # nearest real tokens of each learned one
    stopped: str  # why


@dataclass(frozen=True, slots=True)
class Comparison:
    """Pictures of another origin than the optimised prompt, and how like the domain they are."""

    origin: Origin
    score: float
    share: float  # put in the class
    second: float
    kid: float  # kernel distance to the real pictures; nan without
    examples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetResult:
    """What one class or unit wants to see, measured on held-out seeds."""

    target: str
    kind: Literal["class", "unit", "direction", "difference"]
    restarts: tuple[Restart, ...]
    chosen: int  # the restart of least loss; its pictures are shown
    score: float  # mean over held-out seeds
    low: float  # 95 % interval over seeds
    high: float
    gain: float  # over the plain prompt, paired by seed
    gain_low: float
    gain_high: float
    reached: bool  # whether the gain's interval lies above 0, or nearly all pictures are in the class
    share: float  # put in the class
    second: float
    diversity: float  # mean pairwise distance in CLIP's layers
    agreement: float  # of restarts: cosine of their pictures' mean CLIP features
    kid: float
    hard_prompt: str
    caption: str
    examples: tuple[Sample, ...] = ()
    compared: tuple[Comparison, ...] = ()


@dataclass(frozen=True, slots=True)
class SynthesisCost:
    """What a synthesis spent; evaluations and seconds are those of the call that ended it."""

    iterations: int
    evaluations: int  # of the UNet, backward passes not counted
    seconds: float


@dataclass(frozen=True, slots=True)
class SynthesisResult:
    """Everything in result.json of a synthesis."""

    request: SynthesisRequest
    targets: tuple[TargetResult, ...]
    cost: SynthesisCost
    notes: tuple[str, ...]
    schema: int = SCHEMA_VERSION

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON (nan becomes None in the store)."""
        return asdict(self)
