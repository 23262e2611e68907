"""Any classifier behind one small protocol; `load_classifier(spec)` finds the adapter."""

from diffexplain.classifiers.base import (
    Classifier,
    Head,
    WhiteBox,
    checked_logits,
    head_of,
    notes_of,
    white_box,
)
from diffexplain.classifiers.loading import foresee_classifier, load_classifier

__all__ = [
    "Classifier",
    "Head",
    "WhiteBox",
    "checked_logits",
    "foresee_classifier",
    "head_of",
    "load_classifier",
    "notes_of",
    "white_box",
]
