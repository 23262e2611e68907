"""The Python face of everything: images → inversions → edits → scores → effects → ranking → report."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import get_num_threads, set_num_threads

from diffexplain.api.answers import Explanation
from diffexplain.api.checks import (
    check_counts,
    check_drift,
    check_screen,
    check_second,
    check_slides,
    search_options,
)
from diffexplain.api.ranked import Base, ranked
from diffexplain.classifiers import foresee_classifier, load_classifier, notes_of
from diffexplain.controls import ControlOptions, controlled, reserved
from diffexplain.corpus import Corpus, load_corpus
from diffexplain.driving import Bench, Benches, Progress, Station, drive, files, prepared
from diffexplain.editors import Edit, EditorShape, editor_shape, load_editor
from diffexplain.effects import Tools, invert, prepare
from diffexplain.errors import InputError
from diffexplain.execution import Workers, check_place, hired
from diffexplain.images import Pictures, pictures
from diffexplain.judges import load_judge, load_segmenter
from diffexplain.planning import Plan, plan
from diffexplain.records import ConceptResult, Cost, Effect, Request, Result
from diffexplain.report import write_report
from diffexplain.report.finished import Finished
from diffexplain.rows import FewerRows, choose_device
from diffexplain.search import Method, Outcome, SearchOptions, search, split
from diffexplain.store import MemoryRun, Run
from diffexplain.targets import Target, choose_target


def explain(
    classifier: Any,
    images: Any,
    *,
    target: str | int | None = None,
    versus: str | None = None,
    labels: Any = None,
    classifier_options: Mapping[str, Any] | None = None,
    corpus: str | Path | Corpus = "avatars",
    editor: Any = "pocket",
    editor_options: Mapping[str, Any] | None = None,
    second: Any = None,
    screen: Any = None,
    judge: Any = None,
    segmenter: Any = None,
    method: Method = "race",
    beam: int = 8,
    budget: int | None = None,
    seeds: int = 1,
    strength: float = 1.0,
    slides: Sequence[float] = (),
    directions: Sequence[str] = ("add", "remove"),
    joint_steps: int = 3,
    out: str | Path | None = None,
    resume: bool = False,
    accept_drift: bool = False,
    device: str = "auto",
    on: str = "here",
    progress: Progress | None = None,
    truth: Callable[[Target, Sequence[ConceptResult]], Mapping[str, float]] | None = None,
) -> Explanation:
    """Which concepts drive a classifier, how much, and how sure (after DiffEx, Kazimi et al., CVPR 2025).

    `classifier`: a spec, module or function; `images`: a folder, files or tensors; `target`: a label,
    `versus` another one; `labels` and `classifier_options`: where the classifier does not state its own, or
    another way to load it; `corpus`: a bundled name or YAML file; `editor`, `judge`, `segmenter`: specs;
    `editor_options` win over the editor's own. `screen`: a faster editor that makes the race's edits, while
    all that is reported is made by `editor`, on other pictures; how far the two agree is reported.
    `second`: another editor, asked the same of the same pictures; what only one of them finds is flagged.
    `method`: "race" searches with beam `beam`, "exhaustive" asks everything of every image.
    `budget`: edits in all. `seeds`: noises per image.`slides`: strengths, times `strength`, at which
    the report shows its strongest pairs too; these edits come on top of `budget`. `out`: the run folder (kept
    in memory when None).
    `on`: "here", "ray" (workers on this machine, or on the cluster of RAY_ADDRESS) or "ray://HOST:PORT".
    `truth(target, results)` adds a column of known effects ("direction concept" -> log-odds).

    Raises InputError (wrong argument, with its cure) and RunError (run folder).
    """
    started = time.monotonic()
    tell = progress or (lambda what, done, total: None)
    options = search_options(method, beam, budget, directions, joint_steps, screened=screen is not None)
    check_counts(seeds=seeds, beam=beam)
    check_place(on)
    if not (math.isfinite(strength) and strength > 0):
        raise InputError(f"strength {strength:g}: give a number above 0; 1 is the editor's own")
    check_slides(slides)
    foresee_classifier(classifier, labels=labels, **(classifier_options or {}))
    tree = load_corpus(corpus)
    shape = editor_shape(editor, **(editor_options or {}))
    screening = editor_shape(screen) if screen is not None else None
    place = choose_device(device)
    segments = load_segmenter(segmenter if segmenter is not None else shape.default_segmenter, device=place)
    model = load_classifier(classifier, device=place, labels=labels, **(classifier_options or {}))
    aim = choose_target(model, target, versus)
    given = pictures(images, size=shape.size) if shape.size else None
    if given and screening:
        check_screen(screening, shape, given, options)
    tell("loading models", 0, 1)
    editing = load_editor(editor, device=place, **(editor_options or {}))
    given = given or pictures(images, size=editing.size)
    judging = load_judge(judge if judge is not None else editing.default_judge, device=place)
    tools = Tools(aim, editing, judging, segments, tree, strength)
    fast = tools if screen is None else replace(tools, editor=load_editor(screen, device=place))
    if screen is not None:
        check_screen(fast.editor, editing, given, options)
    other = None if second is None else replace(tools, editor=load_editor(second, device=place))
    if other is not None:
        check_second(other.editor, editing)
    options = replace(options, reserve=reserved(budget, len(split(given.hashes, method)[1])))
    request = _request(tools, fast, given, seeds, options, other, slides)
    make = partial(
        _station, classifier, target, versus=versus, labels=labels, corpus=tree, strength=strength,
        classifier_options=dict(classifier_options or {}), editor=editor, screen=screen, second=second,
        editor_options=dict(editor_options or {}), judge=judge, device=device, threads=get_num_threads(),
        segmenter=segmenter if segmenter is not None else shape.default_segmenter,
    )  # fmt: skip
    with _opened(out, request, resume) as run, hired(on, make, threads=get_num_threads()) as workers:
        run.record_inputs(files(run, dict(zip(given.hashes, given.pixels, strict=True))))
        with _fewer_rows() as told:
            inverted = partial(_bench, run, given, seeds, accept_drift, tell, workers)
            report = inverted("report", tools)
            race = report if fast is tools else inverted("race", fast)
            opinion = None if other is None else inverted("second", other)
        benches = Benches(race, report, opinion)
        racing, reporting = split(given.hashes, options.method)
        raced = frozenset(racing)
        expected = (
            plan(tree, given.hashes, seeds, options, shape, second=second is not None, slides=slides).edits
            if progress
            else 0
        )

        def eligible(image: int, seed: int, concept: str, direction: Any) -> bool:
            bench = race if image in raced else report
            return bench.subject.eligible(tree, image, seed, concept, direction)

        rounds = controlled(
            search(tree, given.hashes, seeds, eligible, options),
            reporting,
            ControlOptions(second is not None, options.reserve if budget else None, tuple(slides)),
        )
        with _fewer_rows() as more:
            rows, outcome = drive(rounds, run, benches, expected, tell, workers)
        result = conclude(request, benches, rows, outcome, given, time.monotonic() - started)
        said = (*notes_of(model), *(workers.notes if workers else ()), *told, *more)
        result = replace(result, notes=tuple(dict.fromkeys((*result.notes, *said))))
        if truth is not None:
            tell("measuring the truth", 0, 1)
            result = replace(result, truth=dict(truth(aim, result.concepts)))
        run.write_result(result)
        if isinstance(run, Run):
            write_report(result, run.picture, run.path / "report.html", effects=rows)
        finished = Finished(result, tuple(rows), run.picture)
        return Explanation(result, run.path if isinstance(run, Run) else None, finished)


def foresee(
    images: Any,
    *,
    corpus: str | Path | Corpus = "avatars",
    editor: Any = "pocket",
    editor_options: Mapping[str, Any] | None = None,
    second: bool = False,
    screen: Any = None,
    method: Method = "race",
    beam: int = 8,
    budget: int | None = None,
    seeds: int = 1,
    directions: Sequence[str] = ("add", "remove"),
    joint_steps: int = 3,
    slides: Sequence[float] = (),
) -> Plan:
    """What `explain` with these options would cost and could find; loads no model.

    `second`: whether another editor is asked too; its edits are counted at the price of the first's.
    """
    options = search_options(method, beam, budget, directions, joint_steps, screened=screen is not None)
    check_counts(seeds=seeds, beam=beam)
    check_slides(slides)
    shape: EditorShape = editor_shape(editor, **(editor_options or {}))
    given = pictures(images, size=shape.size or 512)
    screening = editor_shape(screen) if screen is not None else None
    if screening:
        check_screen(screening, shape, given, options)
    sized = replace(shape, size=shape.size or 512)
    options = replace(options, reserve=reserved(budget, len(split(given.hashes, options.method)[1])))
    tree = load_corpus(corpus)
    return plan(tree, given.hashes, seeds, options, sized, screening, second=second, slides=slides)


def conclude(
    request: Request,
    benches: Benches,
    rows: Sequence[Effect],
    outcome: Outcome,
    given: Pictures,
    seconds: float,
) -> Result:
    """Rank the rows, count what they cost, and say what a reader must know."""
    subject = benches.report.subject
    used = [
        benches.report,
        *([benches.race] if request.screen else []),
        *([benches.second] if benches.second else []),
    ]
    base = sum(b.tools.editor.evaluations(Edit(0)) * len(b.subject.scores) for b in used)
    cost = Cost(
        edits=len(rows),
        inversions=sum(len(b.subject.scores) for b in used),
        evaluations=base + sum(r.evaluations for r in rows),
        seconds=seconds,
    )
    return ranked(
        request,
        benches.report.tools.corpus,
        rows,
        outcome,
        Base(float(subject.scores.mean()), subject.drift),
        cost,
        (*given.notes, *given.skipped),
    )


def _bench(
    run: Run | MemoryRun,
    given: Pictures,
    seeds: int,
    accept_drift: bool,
    tell: Progress,
    workers: Workers | None,
    name: str,
    tools: Tools,
) -> Bench:
    """Every picture inverted by an editor, checked for drift, and read."""
    tell("inverting", 0, len(given) * seeds)
    if workers:
        bench = prepared(workers, name, tools, given, seeds, tell)
        check_drift(tools.editor.name, given, bench.subject.reconstructions, seeds, accept_drift)
    else:
        inverted = invert(tools, given, seeds)
        check_drift(tools.editor.name, given, inverted.reconstructions, seeds, accept_drift)
        bench = Bench(tools, prepare(tools, given, seeds, inverted), name)
    subject = bench.subject
    run.record_inputs(files(run, dict(zip(subject.hashes, subject.reconstructions, strict=True))))
    return bench


def _station(
    classifier: Any,
    target: str | int | None,
    *,
    versus: str | None,
    labels: Any,
    classifier_options: Mapping[str, Any],
    corpus: Corpus,
    editor: Any,
    editor_options: Mapping[str, Any],
    screen: Any,
    second: Any,
    judge: Any,
    segmenter: Any,
    strength: float,
    device: str,
    threads: int,
) -> Station:
    """The same tools as here, in a worker elsewhere; as many threads, so that it computes the same."""
    set_num_threads(threads)
    place = choose_device(device)
    model = load_classifier(classifier, device=place, labels=labels, **classifier_options)
    editing = load_editor(editor, device=place, **editor_options)
    judging = load_judge(judge if judge is not None else editing.default_judge, device=place)
    regions = load_segmenter(segmenter, device=place)
    tools = Tools(choose_target(model, target, versus), editing, judging, regions, corpus, strength)
    others = {
        name: replace(tools, editor=load_editor(spec, device=place))
        for name, spec in (("race", screen), ("second", second))
        if spec is not None
    }
    return Station({"report": tools, **others}, place)


@contextmanager
def _fewer_rows() -> Iterator[list[str]]:
    """What was said inside of calls that memory did not hold, each once; other warnings pass."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FewerRows)
        yield said
    for warning in caught:
        if issubclass(warning.category, FewerRows):
            said += [str(warning.message)] if str(warning.message) not in said else []
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _opened(out: str | Path | None, request: Request, resume: bool) -> Run | MemoryRun:
    return MemoryRun() if out is None else Run.open(Path(out), request, resume=resume)


def _request(
    tools: Tools,
    fast: Tools,
    given: Pictures,
    seeds: int,
    options: SearchOptions,
    other: Tools | None,
    slides: Sequence[float],
) -> Request:
    screened = fast is not tools
    segmenter = tools.segmenter.name if tools.segmenter else None
    return Request(
        classifier=tools.target.classifier.name,
        target=tools.target.label,
        versus=tools.target.versus,
        corpus=tools.corpus.name,
        corpus_hash=tools.corpus.hash,
        editor=tools.editor.name,
        judge=tools.judge.name,
        segmenter=segmenter,
        images=given.hashes,
        names=given.names,
        seeds=seeds,
        search={k: list(v) if isinstance(v, tuple) else v for k, v in asdict(options).items()},
        settings={
            "editor": tools.editor.settings(),
            **({"screen": fast.editor.settings()} if screened else {}),
            **({"second": other.editor.settings()} if other else {}),
            "strength": tools.strength,
            **({"slides": list(slides)} if slides else {}),
            "rows": tools.editor.rows,
            "labels": list(tools.target.classifier.labels),
            "version": version("diffexplain"),
        },
        budget=options.budget,
        screen=fast.editor.name if screened else None,
        second=other.editor.name if other else None,
    )
