"""Two runs side by side: which effects changed from one to the other."""

from __future__ import annotations

from pathlib import Path

from diffexplain.api.answers import Explanation
from diffexplain.report.comparing import write_comparison
from diffexplain.report.contrast import Contrast, contrast
from diffexplain.report.finished import Finished


def compare(
    first: Explanation | Path | str, second: Explanation | Path | str, *, out: Path | str | None = None
) -> Contrast:
    """Which effects differ between two runs of `explain`: two models, checkpoints, editors or targets.

    Each run is an `Explanation` or its folder. Differences are second − first in log-odds, paired by image
    where both runs edited it, with 95 % intervals and q over all questions that both measured. `out`: write
    the page there as well. Raises InputError (no question in common) and RunError (no finished run).
    """
    one, other = _finished(first), _finished(second)
    found = contrast(one, other)
    if out is not None:
        write_comparison(found, one.picture, other.picture, Path(out))
    return found


def _finished(run: Explanation | Path | str) -> Finished:
    return run.finished if isinstance(run, Explanation) else Finished.read(run)
