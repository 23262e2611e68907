"""Any classifier behind one small protocol; `load_classifier(spec)` finds the adapter."""

from diffexplain.classifiers.base import Classifier, WhiteBox, checked_logits, white_box
from diffexplain.classifiers.loading import load_classifier

__all__ = ["Classifier", "WhiteBox", "checked_logits", "load_classifier", "white_box"]
