"""The Python face of everything the command line can do; one file a question, each wires the floors below."""

from diffexplain.api.explanation import Explanation, explain, foresee

__all__ = ["Explanation", "explain", "foresee"]
