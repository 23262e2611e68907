"""Which meanings drive an image classifier's decision, how much, and how sure are we?

import diffexplain as dx
explanation = dx.explain("pocket:hired", "portraits/", target="hired", out="runs/hired")
for concept in explanation.top():
    print(concept.concept, concept.effect, concept.low, concept.high)
"""

from __future__ import annotations

import importlib
from typing import Any

#: public name -> module that holds it; loaded on first use, so importing stays light.
_HOMES = {
    "explain": "api",
    "foresee": "api",
    "Explanation": "api",
    "synthesize": "api",
    "foresee_spurious": "api",
    "foresee_synthesis": "api",
    "list_units": "api",
    "Synthesis": "api",
    "SynthesisOptions": "synthesis",
    "find_spurious": "api",
    "SpuriousReport": "api",
    "SpuriousOptions": "spurious",
    "audit": "api",
    "Audit": "api",
    "mitigate": "api",
    "Mitigation": "api",
    "Damped": "mitigation",
    "compare": "api",
    "merge": "api",
    "rewrite_report": "api",
    "add_gradcam": "api",
    "add_regions": "api",
    "check": "api",
    "Checkup": "api",
    "mine_corpus": "api",
    "foresee_mining": "api",
    "needed": "api",
    "build_study": "api",
    "analyse_study": "api",
    "people_needed": "api",
    "load_classifier": "classifiers",
    "ModuleClassifier": "classifiers.modules",
    "Preprocessing": "classifiers.preprocessing",
    "load_corpus": "corpus",
    "Corpus": "corpus",
    "load_editor": "editors",
    "load_generator": "editors.generator",
    "Edit": "editors",
    "Term": "editors",
    "Inversion": "editors",
    "load_judge": "judges",
    "load_images": "images",
    "AuditResult": "records.audit",
    "ConceptResult": "records",
    "Effect": "records",
    "JointPath": "records",
    "MitigationResult": "records.audit",
    "Question": "records",
    "Request": "records",
    "Result": "records",
    "SynthesisResult": "records",
    "DiffexplainError": "errors",
    "InputError": "errors",
    "RunError": "errors",
    "read_result": "store",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'diffexplain' has no attribute {name!r}")
    return getattr(importlib.import_module(f"diffexplain.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
