"""The Python face of everything: images → inversions → edits → scores → effects → ranking → report."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from diffexplain.classifiers import load_classifier
from diffexplain.corpus import Corpus, load_corpus
from diffexplain.driving import Bench, Benches, Progress, drive, files
from diffexplain.editors import Edit, Editor, EditorShape, editor_shape, load_editor
from diffexplain.editors.loading import FITTING
from diffexplain.effects import Subject, Tools, invert, prepare
from diffexplain.errors import EditorError, InputError
from diffexplain.images import Pictures, pictures, rounded
from diffexplain.judges import load_judge, load_segmenter
from diffexplain.planning import Plan, plan
from diffexplain.ranking import agreement, joint_path, rank
from diffexplain.records import ConceptResult, Cost, Drift, Effect, JointPath, Request, Result
from diffexplain.report import write_report
from diffexplain.rows import FewerRows, choose_device
from diffexplain.search import MINIMUM, Method, Outcome, SearchOptions, search, split
from diffexplain.store import MemoryRun, Run
from diffexplain.targets import Target, choose_target

#: mean absolute pixel change by inversion alone above which an editor does not fit the pictures.
DRIFT_LIMIT = 0.05


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer of `explain`: ranked concepts with intervals, and where the run lies."""

    result: Result
    folder: Path | None

    @property
    def concepts(self) -> tuple[ConceptResult, ...]:
        """One result a question, measured ones first, by |effect|."""
        return self.result.concepts

    @property
    def joint(self) -> JointPath | None:
        """The best joint combination, if any step beat the one before."""
        return self.result.joint

    @property
    def drift(self) -> Drift:
        """How far inversion alone moved the pictures."""
        return self.result.drift

    @property
    def report(self) -> Path | None:
        """The page to open."""
        return self.folder / "report.html" if self.folder else None

    def top(self, n: int = 10) -> tuple[ConceptResult, ...]:
        """The n strongest measured concepts."""
        return tuple(c for c in self.result.concepts if c.status == "measured")[:n]


def explain(
    classifier: Any,
    images: Any,
    *,
    target: str | int | None = None,
    versus: str | None = None,
    corpus: str | Path | Corpus = "avatars",
    editor: Any = "pocket",
    editor_options: Mapping[str, Any] | None = None,
    screen: Any = None,
    judge: Any = None,
    segmenter: Any = None,
    method: Method = "race",
    beam: int = 8,
    budget: int | None = None,
    seeds: int = 1,
    strength: float = 1.0,
    directions: Sequence[str] = ("add", "remove"),
    joint_steps: int = 3,
    out: str | Path | None = None,
    resume: bool = False,
    accept_drift: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
    truth: Callable[[Target, Sequence[ConceptResult]], Mapping[str, float]] | None = None,
) -> Explanation:
    """Which concepts drive a classifier, how much, and how sure (after DiffEx, Kazimi et al., CVPR 2025).

    `classifier`: a spec, module or function; `images`: a folder, files or tensors; `target`: a label,
    `versus` another one; `corpus`: a bundled name or YAML file; `editor`, `judge`, `segmenter`: specs;
    `editor_options` win over the editor's own. `screen`: a faster editor that makes the race's edits, while
    all that is reported is made by `editor`, on other pictures; how far the two agree is reported.
    `method`: "race" searches with beam `beam`, "exhaustive" asks everything of every image.
    `budget`: edits in all. `seeds`: noises per image. `out`: the run folder (kept in memory when None).
    `truth(target, results)` adds a column of known effects ("direction concept" -> log-odds).

    Raises InputError (wrong argument, with its cure) and RunError (run folder).
    """
    started = time.monotonic()
    tell = progress or (lambda what, done, total: None)
    options = search_options(method, beam, budget, directions, joint_steps, screened=screen is not None)
    _check_counts(seeds=seeds, beam=beam)
    if not (math.isfinite(strength) and strength > 0):
        raise InputError(f"strength {strength:g}: give a number above 0; 1 is the editor's own")
    tree = load_corpus(corpus)
    shape = editor_shape(editor, **(editor_options or {}))
    screening = editor_shape(screen) if screen is not None else None
    on = choose_device(device)
    segments = load_segmenter(segmenter if segmenter is not None else shape.default_segmenter, device=on)
    model = load_classifier(classifier, device=on)
    aim = choose_target(model, target, versus)
    given = pictures(images, size=shape.size) if shape.size else None
    if given and screening:
        _check_screen(screening, shape, given, options)
    tell("loading models", 0, 1)
    editing = load_editor(editor, device=on, **(editor_options or {}))
    given = given or pictures(images, size=editing.size)
    judging = load_judge(judge if judge is not None else editing.default_judge, device=on)
    tools = Tools(aim, editing, judging, segments, tree, strength)
    fast = tools if screen is None else replace(tools, editor=load_editor(screen, device=on))
    if screen is not None:
        _check_screen(fast.editor, editing, given, options)
    request = _request(tools, fast, given, seeds, options)
    with _opened(out, request, resume) as run:
        run.record_inputs(files(run, dict(zip(given.hashes, given.pixels, strict=True))))
        with _fewer_rows() as told:
            report = _bench(tools, run, given, seeds, accept_drift, tell)
            race = report if fast is tools else _bench(fast, run, given, seeds, accept_drift, tell)
        benches = Benches(race, report)
        raced = frozenset(split(given.hashes, options.method)[0])
        expected = plan(tree, given.hashes, seeds, options, shape).edits if progress else 0

        def eligible(image: int, seed: int, concept: str, direction: Any) -> bool:
            bench = race if image in raced else report
            return bench.subject.eligible(tree, image, seed, concept, direction)

        rounds = search(tree, given.hashes, seeds, eligible, options)
        with _fewer_rows() as more:
            rows, outcome = drive(rounds, run, benches, expected, tell)
        result = conclude(request, benches, rows, outcome, given, time.monotonic() - started)
        result = replace(result, notes=tuple(dict.fromkeys((*result.notes, *told, *more))))
        if truth is not None:
            tell("measuring the truth", 0, 1)
            result = replace(result, truth=dict(truth(aim, result.concepts)))
        run.write_result(result)
        if isinstance(run, Run):
            write_report(result, run.picture, run.path / "report.html")
        return Explanation(result, run.path if isinstance(run, Run) else None)


def foresee(
    images: Any,
    *,
    corpus: str | Path | Corpus = "avatars",
    editor: Any = "pocket",
    editor_options: Mapping[str, Any] | None = None,
    screen: Any = None,
    method: Method = "race",
    beam: int = 8,
    budget: int | None = None,
    seeds: int = 1,
    directions: Sequence[str] = ("add", "remove"),
    joint_steps: int = 3,
) -> Plan:
    """What `explain` with these options would cost and could find; loads no model."""
    options = search_options(method, beam, budget, directions, joint_steps, screened=screen is not None)
    _check_counts(seeds=seeds, beam=beam)
    shape: EditorShape = editor_shape(editor, **(editor_options or {}))
    given = pictures(images, size=shape.size or 512)
    screening = editor_shape(screen) if screen is not None else None
    if screening:
        _check_screen(screening, shape, given, options)
    sized = replace(shape, size=shape.size or 512)
    return plan(load_corpus(corpus), given.hashes, seeds, options, sized, screening)


def search_options(
    method: str,
    beam: int,
    budget: int | None,
    directions: Sequence[str],
    joint_steps: int,
    *,
    screened: bool = False,
) -> SearchOptions:
    """Check what was asked of the search. Raises InputError."""
    if method not in ("race", "exhaustive"):
        raise InputError(f"search method {method!r}: choose race or exhaustive")
    if budget is not None and budget < 1:
        raise InputError(f"budget {budget}: give a positive number of edits")
    unknown = [d for d in directions if d not in ("add", "remove")]
    if unknown or not directions:
        raise InputError(f"direction {', '.join(unknown) or '(none)'}: choose add, remove or both")
    options = SearchOptions(
        method=method,  # type: ignore[arg-type]
        beam=beam,
        budget=budget,
        directions=tuple(directions),  # type: ignore[arg-type]
        joint_steps=joint_steps,
    )
    return options.screened() if screened else options


def conclude(
    request: Request,
    benches: Benches,
    rows: Sequence[Effect],
    outcome: Outcome,
    given: Pictures,
    seconds: float,
) -> Result:
    """Rank the rows and say what a reader must know."""
    tools, subject = benches.report.tools, benches.report.subject
    concepts = rank(rows, outcome, tools.corpus)
    screened = benches.race is not benches.report
    used = (benches.race, benches.report) if screened else (benches.report,)
    inversions = sum(len(b.subject.scores) for b in used)
    base = sum(b.tools.editor.evaluations(Edit(0)) * len(b.subject.scores) for b in used)
    return Result(
        request=request,
        score_mean=float(subject.scores.mean()),
        concepts=concepts,
        joint=joint_path(rows, outcome),
        drift=subject.drift,
        cost=Cost(
            edits=len(rows),
            inversions=inversions,
            evaluations=base + sum(r.evaluations for r in rows),
            seconds=seconds,
        ),
        agreement=agreement(concepts) if screened else None,
        notes=(*_warnings(concepts, subject, tools), *outcome.notes, *given.notes, *given.skipped),
    )


def _bench(
    tools: Tools, run: Run | MemoryRun, given: Pictures, seeds: int, accept_drift: bool, tell: Progress
) -> Bench:
    """Every picture inverted by an editor, checked for drift, and read."""
    tell("inverting", 0, len(given) * seeds)
    inverted = invert(tools, given, seeds)
    _check_drift(tools.editor.name, given, inverted.reconstructions, seeds, accept_drift)
    subject = prepare(tools, given, seeds, inverted)
    run.record_inputs(files(run, dict(zip(subject.hashes, subject.reconstructions, strict=True))))
    return Bench(tools, subject)


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


def _check_screen(
    screen: EditorShape | Editor, editor: EditorShape | Editor, given: Pictures, options: SearchOptions
) -> None:
    """Raises InputError unless there is a race to screen in, and both editors take the same pictures."""
    race, _ = split(given.hashes, options.method)
    if not race:
        raise InputError(
            f"screen {screen.name!r}: only the race is screened; search by race and give at least "
            f"{MINIMUM} images, here are {len(given)}"
        )
    if screen.size and editor.size and screen.size != editor.size:
        raise InputError(
            f"screen {screen.name!r} makes pictures of {screen.size} pixels and the editor {editor.name!r} "
            f"of {editor.size}: choose two of one size"
        )


def _opened(out: str | Path | None, request: Request, resume: bool) -> Run | MemoryRun:
    return MemoryRun() if out is None else Run.open(Path(out), request, resume=resume)


def _request(tools: Tools, fast: Tools, given: Pictures, seeds: int, options: SearchOptions) -> Request:
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
            "strength": tools.strength,
            "rows": tools.editor.rows,
            "labels": list(tools.target.classifier.labels),
            "version": version("diffexplain"),
        },
        budget=options.budget,
        screen=fast.editor.name if screened else None,
    )


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} {value}: give a whole number of at least 1")


def _check_drift(editor: str, given: Pictures, reconstructions: Any, seeds: int, accept: bool) -> None:
    originals = rounded(given.pixels).repeat_interleave(seeds, dim=0)
    drift = float((reconstructions - originals).abs().mean())
    if drift > DRIFT_LIMIT and not accept:
        raise EditorError(
            f"editor {editor!r} cannot reconstruct these pictures: without any edit they change by "
            f"{drift:.3f} on average (limit {DRIFT_LIMIT}); use an editor that fits ({FITTING}), "
            "or --accept-drift to go on"
        )


def _warnings(concepts: Sequence[ConceptResult], subject: Subject, tools: Tools) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = []
    failed = [c for c in concepts if c.status == "measured" and c.success_rate < 0.5]
    if failed:
        names = ", ".join(c.concept for c in failed[:5]) + (" …" if len(failed) > 5 else "")
        found.append(
            f"{len(failed)} concepts mostly failed to appear, so a small effect means little: {names}"
        )
    effects = [abs(c.effect) for c in concepts if c.status == "measured"]
    largest = max(effects, default=0.0)
    if subject.drift.score > 0.5 and subject.drift.score > 0.5 * largest:
        found.append(
            f"reconstruction alone moves the score by {subject.drift.score:.2f} log-odds on average; "
            "effects are measured from the reconstruction, but read them with care"
        )
    if tools.segmenter is None:
        found.append("no segmenter was given, so locality of the edits was not checked")
    measured = [c for c in concepts if c.status == "measured"]
    if measured and all(math.isnan(c.q) or c.q >= 0.05 for c in measured):
        found.append("no effect passes q < 0.05: nothing here is more than chance could do")
    return found
