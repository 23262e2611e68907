"""What the app says of a job: a line, a bar, the tree as it fills in. What a person typed is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from markupsafe import Markup, escape

from diffexplain.errors import RunError
from diffexplain.records import RACING, Effect
from diffexplain.store import RESULT, read_result, read_rows
from diffexplain.web.jobs import Job

WORDS = {"waiting": "waits", "running": "runs", "stopped": "is stopped", "finished": "is finished",
         "failed": "failed"}  # fmt: skip

BAR = Markup('<span style="display:inline-block;height:.7em;width:{}em;background:{}"></span>')


def status(job: Job, before: int) -> Markup:
    """Where a job stands, in a line and a bar."""
    text = f"{job.name} {WORDS[job.state]}"
    if job.state == "waiting":
        text += f": {before} run{'s' if before != 1 else ''} must end before it; you may close this page"
    elif job.state == "running":
        text += f": {job.what or 'starting'} {job.done} of {job.total}" if job.total else ": starting"
    elif job.state == "failed":
        text += f": {job.said}"
    elif job.state == "stopped":
        text += "; what is done is kept, Resume goes on"
    share = 1.0 if job.state == "finished" else job.done / job.total if job.total else 0.0
    bar = Markup('<progress max="1" value="{}" style="width:100%;accent-color:#0a5cad"></progress>').format(
        f"{share:.3f}"
    )
    return Markup('<p id="job-state" data-state="{}" role="status">{}</p>{}').format(job.state, text, bar)


def tree(folder: Path) -> Markup:
    """The concepts measured so far, under their parents: mean Δ over rows, and how many rows."""
    try:
        if (folder / RESULT).exists():
            measured = [c for c in read_result(folder).concepts if c.status == "measured"]
            found = {
                (c.concept, c.direction): (c.effect, f"{c.images} pictures, q {c.q:.3f}") for c in measured
            }
        else:
            found = _means(read_rows(folder))
    except RunError:
        return Markup("<p>Nothing is measured yet.</p>")
    return _listed(found)


def _means(rows: Iterable[Effect]) -> dict[tuple[str, str], tuple[float, str]]:
    changes: dict[tuple[str, str], list[float]] = {}
    raced: set[tuple[str, str]] = set()
    for row in rows:
        if row.eligible and " + " not in row.concept and row.stage not in ("placebo", "slide"):
            changes.setdefault((row.concept, row.direction), []).append(row.change)
            if row.stage not in RACING:
                raced.add((row.concept, row.direction))
    return {
        key: (sum(of) / len(of), f"{len(of)} edits" + ("" if key in raced else ", still racing"))
        for key, of in changes.items()
    }


def _listed(found: dict[tuple[str, str], tuple[float, str]]) -> Markup:
    if not found:
        return Markup("<p>Nothing is measured yet.</p>")
    largest = max(abs(mean) for mean, _ in found.values()) or 1.0
    lines, told = [], set[str]()
    for (concept, direction), (mean, about) in sorted(found.items()):
        for path in (p for p in _down_to(concept) if p not in told):
            told.add(path)
            lines.append(_line(path, Markup("<b>{}</b>").format(path.rpartition("/")[2])))
        bar = BAR.format(f"{8 * abs(mean) / largest:.2f}", "#0a5cad" if mean > 0 else "#a84300")
        said = Markup("{} <b>{}</b> {} <small>{}</small>").format(
            "+ add" if direction == "add" else "− remove", f"{mean:+.2f}", bar, about
        )
        lines.append(_line(concept + "/", said))
    return Markup('<ul id="tree" style="list-style:none;padding:0">{}</ul>').format(Markup("").join(lines))


def _down_to(concept: str) -> list[str]:
    """The paths of a concept and all above it, from the top."""
    parts = concept.split("/")
    return ["/".join(parts[: k + 1]) for k in range(len(parts))]


def _line(path: str, said: Markup) -> Markup:
    """A line of the tree, as far in as its path is deep."""
    return Markup('<li style="padding-left:{}em">{}</li>').format(f"{1.2 * path.count('/'):.1f}", said)


def failed(error: Exception) -> Markup:
    """An error as a line."""
    return Markup('<p class="problem" role="alert">{}</p>').format(escape(str(error)))
