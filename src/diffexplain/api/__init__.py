"""The Python face of everything the command line can do; one file a question, each wires the floors below."""

from diffexplain.api.answers import Explanation
from diffexplain.api.auditing import Audit, audit
from diffexplain.api.checking import Checkup, check
from diffexplain.api.comparison import compare
from diffexplain.api.explanation import explain, foresee
from diffexplain.api.mining import foresee_mining, mine_corpus
from diffexplain.api.mitigation import Mitigation, mitigate
from diffexplain.api.planning import foresee_synthesis, needed
from diffexplain.api.spurious import SpuriousReport, find_spurious
from diffexplain.api.studying import analyse_study, build_study, people_needed
from diffexplain.api.synthesis import Synthesis, list_units, synthesize

__all__ = [
    "Audit",
    "Checkup",
    "Explanation",
    "Mitigation",
    "SpuriousReport",
    "Synthesis",
    "analyse_study",
    "audit",
    "build_study",
    "check",
    "compare",
    "explain",
    "find_spurious",
    "foresee",
    "foresee_mining",
    "foresee_synthesis",
    "list_units",
    "mine_corpus",
    "mitigate",
    "needed",
    "people_needed",
    "synthesize",
]
