"""Any classifier behind one small protocol; `load_classifier(spec)` finds the adapter."""

from diffexplain.classifiers.base import Classifier, checked_logits
from diffexplain.classifiers.loading import load_classifier

__all__ = ["Classifier", "checked_logits", "load_classifier"]
