"""Reader studies: build them from run folders, serve them, analyse the answers, plan how many people."""

from diffexplain.study import (
    StudyOptions,
    analyse_study,
    build_study,
    people_needed,
    serving,
    write_static,
)

__all__ = ["StudyOptions", "analyse_study", "build_study", "people_needed", "serving", "write_static"]
