"""The Python face of everything the command line can do; one file a question, each wires the floors below."""

from diffexplain.api.answers import Audit, Explanation, Mitigation, SpuriousReport
from diffexplain.api.auditing import audit
from diffexplain.api.checking import Checkup, check
from diffexplain.api.comparison import compare
from diffexplain.api.explanation import explain, foresee
from diffexplain.api.merging import merge
from diffexplain.api.mining import foresee_mining, mine_corpus
from diffexplain.api.mitigation import mitigate
from diffexplain.api.planning import foresee_synthesis, needed
from diffexplain.api.reporting import add_gradcam, add_regions, rewrite_report
from diffexplain.api.spurious import find_spurious, foresee_spurious
from diffexplain.api.studying import analyse_study, build_study, people_needed
from diffexplain.api.synthesis import Synthesis, list_units, synthesize

__all__ = [
    "Audit",
    "Checkup",
    "Explanation",
    "Mitigation",
    "SpuriousReport",
    "Synthesis",
    "add_gradcam",
    "add_regions",
    "analyse_study",
    "audit",
    "build_study",
    "check",
    "compare",
    "explain",
    "find_spurious",
    "foresee",
    "foresee_mining",
    "foresee_spurious",
    "foresee_synthesis",
    "list_units",
    "merge",
    "mine_corpus",
    "mitigate",
    "needed",
    "people_needed",
    "rewrite_report",
    "synthesize",
]
