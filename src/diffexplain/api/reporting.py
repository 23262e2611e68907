"""The page of any finished run, written again from its folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from diffexplain.report import write_report
from diffexplain.report.finished import Finished
from diffexplain.report.synthesis import write_synthesis_report
from diffexplain.store import read_kind, read_picture, read_result


def rewrite_report(folder: str | Path) -> Path:
    """Write `report.html` again; returns its path. Raises RunError when the folder holds no finished run."""
    path = Path(folder)
    if read_kind(path) == "synthesis":
        return write_synthesis_report(read_result(path), partial(read_picture, path), path / "report.html")
    done = Finished.read(path)
    return write_report(done.result, done.picture, path / "report.html", effects=done.effects)
