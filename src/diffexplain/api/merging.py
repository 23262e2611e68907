"""`merge`: runs of one question about different pictures become one run, as if it had asked about all."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import get_args

import numpy as np

from diffexplain.api.answers import Explanation
from diffexplain.api.ranked import Base, ranked
from diffexplain.corpus import Corpus, load_corpus
from diffexplain.driving import Progress
from diffexplain.errors import InputError
from diffexplain.ranking import last_placebo
from diffexplain.records import Cost, Direction, Drift, Effect, Question, Request, Result
from diffexplain.report import write_report
from diffexplain.report.finished import Finished
from diffexplain.search import Outcome
from diffexplain.store import Run

PICTURES = ("images", "names")  # what the requests of shards differ in


def merge(
    runs: Sequence[str | Path],
    *,
    out: str | Path,
    corpus: str | Path | Corpus | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """One run from shards: exhaustive runs of one question, each about pictures of its own.

    Effects, intervals, q, gate and report are computed anew from all rows, as if one run had asked about
    all pictures; only the placebo keeps the weight that each shard found for it. `corpus`: where the runs'
    was a file. A merge that was interrupted goes on when it is called again. All rows are held in memory,
    about 2 kB each. Raises InputError where the runs do not fit together, RunError.
    """
    if len(runs) < 2:
        raise InputError(f"runs ({len(runs)}): give the folders of at least two finished runs")
    parts = [Finished.read(run) for run in runs]
    _check_shards(parts, [str(run) for run in runs])
    tree = _corpus_of(parts[0].result.request, corpus)
    with Run.open(Path(out), _joint_request(parts), resume=True) as run:
        rows = _gathered(
            parts, [Path(one) for one in runs], run, progress or (lambda what, done, total: None)
        )
        result = ranked(
            _joint_request(parts),
            tree,
            rows,
            _outcome([p.result for p in parts], tree),
            _base([p.result for p in parts]),
            _cost([p.result for p in parts]),
            [f"merged from {len(parts)} runs: {', '.join(Path(one).name for one in runs)}"],
        )
        run.write_result(result)
        write_report(result, run.picture, run.path / "report.html", effects=rows)
        return Explanation(result, run.path, Finished(result, tuple(rows), run.picture))


def _check_shards(parts: Sequence[Finished], names: Sequence[str]) -> None:
    """Raises InputError unless the runs ask the same of different pictures, and ask everything."""
    first = parts[0].result.request
    for part, name in zip(parts, names, strict=True):
        asked = part.result.request
        if asked.search.get("method") != "exhaustive" or asked.budget is not None:
            raise InputError(
                f"run {name}: a race or a budget chooses its own questions; merge runs of "
                "`--search exhaustive` without a budget"
            )
        for key in (f.name for f in fields(Request) if f.name not in PICTURES):
            if (mine := getattr(asked, key)) != (theirs := getattr(first, key)):
                raise InputError(
                    f"run {name}: asks otherwise than {names[0]} ({_differing(key, mine, theirs)}); "
                    "merge runs of one question"
                )
    shown = Counter(image for part in parts for image in part.result.request.images)
    if twice := [image for image, times in shown.items() if times > 1]:
        file = next(part.names[twice[0]] for part in parts if twice[0] in part.names)
        raise InputError(
            f"{len(twice)} pictures are in two runs, such as {file}: give each picture to one shard alone"
        )


def _differing(key: str, mine: object, theirs: object) -> str:
    """The first thing in a field that differs, in words."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        inner = next(k for k in {**theirs, **mine} if mine.get(k) != theirs.get(k))
        return _differing(f"{key}.{inner}", mine.get(inner), theirs.get(inner))
    return f"{key}: {str(mine)[:80]} and {str(theirs)[:80]}"


def _corpus_of(request: Request, given: str | Path | Corpus | None) -> Corpus:
    tree = load_corpus(request.corpus if given is None else given)
    if tree.hash != request.corpus_hash:
        raise InputError(f"corpus {tree.name!r} has changed since the runs: give the one that they asked")
    return tree


def _joint_request(parts: Sequence[Finished]) -> Request:
    """The question of the shards, about all their pictures."""
    asked = [part.result.request for part in parts]
    return replace(
        asked[0],
        images=tuple(image for one in asked for image in one.images),
        names=tuple(name for one in asked for name in one.names),
    )


def _gathered(parts: Sequence[Finished], folders: Sequence[Path], run: Run, tell: Progress) -> list[Effect]:
    """All rows, kept in the run with their pictures; batches are counted on. What is there is not copied."""
    first, there = 0, run.batches()
    for number, (part, folder) in enumerate(zip(parts, folders, strict=True)):
        tell("merging", number, len(parts))
        _link(folder, run)
        kept = {id(row) for row in last_placebo(part.effects)}
        batches: dict[int, list[Effect]] = {}
        for row in part.effects:
            if row.stage != "placebo" or id(row) in kept:
                batches.setdefault(row.batch, []).append(row)
        for batch, rows in batches.items():
            if first + batch not in there:
                run.append(first + batch, [replace(row, batch=first + batch) for row in rows], {})
        first += 1 + max(batches, default=-1)
    tell("merging", len(parts), len(parts))
    return run.rows()


def _link(folder: Path, run: Run) -> None:
    """The shard's pictures in the run: the same files where the disk can do that, else copies."""
    for file in (folder / "images").glob("*.png"):
        if not run.has_picture(file.stem):
            try:
                os.link(file, run.picture_path(file.stem))
            except OSError:
                shutil.copyfile(file, run.picture_path(file.stem))


def _outcome(results: Sequence[Result], corpus: Corpus) -> Outcome:
    """What was asked by any shard, in the corpus' order; all of it was reported where it could be."""
    found = {(c.concept, c.direction) for result in results for c in result.concepts}
    directions: tuple[Direction, ...] = get_args(Direction)
    asked = [Question.single(path, d) for path in corpus for d in directions if (path, d) in found]
    measured = {(c.concept, c.direction) for r in results for c in r.concepts if c.status == "measured"}
    out = [q for q in asked if (q.concept, q.direction) not in measured]
    return Outcome(tuple(asked), tuple(q for q in asked if q not in out), ineligible=tuple(out))


def _base(results: Sequence[Result]) -> Base:
    """Means over all reconstructions."""
    weights = [len(r.request.images) for r in results]

    def mean(values: Sequence[float]) -> float:
        return float(np.average(values, weights=weights))

    drift = {f.name: mean([getattr(r.drift, f.name) for r in results]) for f in fields(Drift)}
    return Base(mean([r.score_mean for r in results]), Drift(**drift))


def _cost(results: Sequence[Result]) -> Cost:
    """The sum of what the shards spent."""
    spent = [asdict(r.cost) for r in results]
    return Cost(**{f.name: sum(one[f.name] for one in spent) for f in fields(Cost)})
