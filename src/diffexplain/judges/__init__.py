"""Judges: does a picture show what a prompt says (CLIP), and where may a concept act (segmenter)."""

from diffexplain.judges.clip import Judge, load_judge
from diffexplain.judges.regions import Segmenter, load_segmenter

__all__ = ["Judge", "Segmenter", "load_judge", "load_segmenter"]
