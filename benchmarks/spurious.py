"""Shortcuts, from units to mitigation: the figures of all parts in one object.

A part is a function `(quick) -> figures`. Audit and mitigation are those of `benchmarks.audit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import audit, harness

PARTS: tuple[Callable[[bool], Mapping[str, Any]], ...] = (
    audit.audit_figures,
    audit.coverage_figures,
    audit.mitigation_figures,
)


def measure(quick: bool) -> Mapping[str, Any]:
    """All parts' figures; two parts never share a key."""
    figures: dict[str, Any] = {}
    for part in PARTS:
        found = part(quick)
        if twice := sorted(set(found) & set(figures)):
            raise ValueError(f"two parts give {', '.join(twice)}")
        figures.update(found)
    return figures


if __name__ == "__main__":
    harness.run("spurious", __doc__ or "", measure)
