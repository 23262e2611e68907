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
    "load_classifier": "classifiers",
    "ModuleClassifier": "classifiers.modules",
    "load_corpus": "corpus",
    "Corpus": "corpus",
    "load_editor": "editors",
    "Edit": "editors",
    "Term": "editors",
    "Inversion": "editors",
    "load_judge": "judges",
    "load_images": "images",
    "ConceptResult": "records",
    "Effect": "records",
    "JointPath": "records",
    "Question": "records",
    "Request": "records",
    "Result": "records",
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
