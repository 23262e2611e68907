"""The frozen records that flow through runs: requests, rows, results; one file a kind of run."""

from diffexplain.records.explanation import (
    JOIN,
    RACING,
    SCHEMA_VERSION,
    Agreement,
    Ask,
    ConceptResult,
    Cost,
    Direction,
    Drift,
    Effect,
    JointPath,
    Question,
    Request,
    Result,
    Stage,
    Status,
)

__all__ = [
    "JOIN",
    "RACING",
    "SCHEMA_VERSION",
    "Agreement",
    "Ask",
    "ConceptResult",
    "Cost",
    "Direction",
    "Drift",
    "Effect",
    "JointPath",
    "Question",
    "Request",
    "Result",
    "Stage",
    "Status",
]
