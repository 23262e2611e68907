"""The frozen records that flow through runs: requests, rows, results; one file a kind of run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from diffexplain.records.explanation import (
    JOIN,
    PLACEBO,
    RACING,
    SCHEMA_VERSION,
    Agreement,
    Ask,
    ConceptResult,
    Cost,
    Direction,
    Drift,
    Effect,
    Entanglement,
    GateLimits,
    Interval,
    JointPath,
    Placebo,
    Question,
    Request,
    Result,
    Stage,
    Status,
)
from diffexplain.records.spurious import Looked, SpuriousRequest, SpuriousResult
from diffexplain.records.synthesis import (
    Comparison,
    Origin,
    Restart,
    Sample,
    SynthesisCost,
    SynthesisRequest,
    SynthesisResult,
    TargetResult,
    Word,
)


class Kind(NamedTuple):
    """What a run folder of one kind holds."""

    request: Any
    row: Any
    result: Any
    pictures: tuple[str, ...]  # fields of a row that name pictures


#: name in run.json -> kind of run.
KINDS: Mapping[str, Kind] = {
    "explanation": Kind(Request, Effect, Result, ("reconstruction", "edited")),
    "synthesis": Kind(SynthesisRequest, Sample, SynthesisResult, ("picture",)),
    "spurious": Kind(SpuriousRequest, Looked, SpuriousResult, ("picture", "masked")),
}

__all__ = [
    "JOIN",
    "KINDS",
    "PLACEBO",
    "RACING",
    "SCHEMA_VERSION",
    "Agreement",
    "Ask",
    "Comparison",
    "ConceptResult",
    "Cost",
    "Direction",
    "Drift",
    "Effect",
    "Entanglement",
    "GateLimits",
    "Interval",
    "JointPath",
    "Kind",
    "Looked",
    "Origin",
    "Placebo",
    "Question",
    "Request",
    "Restart",
    "Result",
    "Sample",
    "SpuriousRequest",
    "SpuriousResult",
    "Stage",
    "Status",
    "SynthesisCost",
    "SynthesisRequest",
    "SynthesisResult",
    "TargetResult",
    "Word",
]
