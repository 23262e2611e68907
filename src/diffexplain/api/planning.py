"""What a run takes to be as sure as wanted, from a pilot."""

from __future__ import annotations

from pathlib import Path

from diffexplain.pilot import Need, needs
from diffexplain.store import read_request, read_rows


def needed(pilot: str | Path, width: float) -> list[Need]:
    """How many pictures and seeds each question's 95 % interval takes to be `width` log-odds wide.

    `pilot`: the folder of a run of `explain`; the questions that need most come first. Raises RunError when
    it is none, InputError for a width that is not above 0.
    """
    request = read_request(pilot)
    return needs(read_rows(pilot), width, images=len(request.images))
