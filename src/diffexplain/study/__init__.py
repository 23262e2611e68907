"""Reader studies made from runs: blinded questionnaires, a small server, the analysis, and how many people.

A study is a folder: study.json (items, right answers, methods), pictures/ and, once served, answers.sqlite.
"""

from diffexplain.study.analysis import Analysis, analyse_study, fleiss_kappa
from diffexplain.study.booklets import booklet
from diffexplain.study.building import CONSENT, build_study
from diffexplain.study.pages import write_static
from diffexplain.study.power import People, people_needed
from diffexplain.study.records import KINDS, Study, StudyOptions
from diffexplain.study.server import PORT, serving

__all__ = [
    "CONSENT",
    "KINDS",
    "PORT",
    "Analysis",
    "People",
    "Study",
    "StudyOptions",
    "analyse_study",
    "booklet",
    "build_study",
    "fleiss_kappa",
    "people_needed",
    "serving",
    "write_static",
]
