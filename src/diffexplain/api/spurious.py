"""`find_spurious`: units → synthesis → presence of the object; interventions; shortcuts → one page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from math import nan
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from diffexplain.api.answers import Explanation, SpuriousReport
from diffexplain.api.auditing import folder
from diffexplain.api.planning import SynthesisPlan, foresee_synthesis, synthesis_plan
from diffexplain.api.shortcuts import explained, listed, shortcuts
from diffexplain.api.synthesis import synthesize
from diffexplain.classifiers import Classifier, load_classifier, white_box
from diffexplain.corpus import Corpus, load_corpus
from diffexplain.driving import Progress
from diffexplain.editors import EditorShape, editor_shape
from diffexplain.editors.generator import Generator, load_generator
from diffexplain.errors import InputError
from diffexplain.images import Pictures, pictures, rounded
from diffexplain.judges import load_judge
from diffexplain.records.spurious import (
    Calibration,
    Causal,
    Look,
    SpuriousRequest,
    SpuriousResult,
    UnitVerdict,
)
from diffexplain.report.spurious import write_spurious_report
from diffexplain.rows import choose_device
from diffexplain.spurious import (
    DRAWN,
    Album,
    Object,
    Removal,
    Shots,
    SpuriousOptions,
    area,
    as_floats,
    by_intervention,
    by_presence,
    calibrate,
    contents,
    joined,
    leaning,
    load_finder,
    notes,
    remove,
    surpassed,
)
from diffexplain.store import MemoryRun, Run
from diffexplain.synthesis import held_out_seeds
from diffexplain.synthesis.gallery import Gallery
from diffexplain.synthesis.units import carrying_units, last_pooled
from diffexplain.targets import Target, UnitObjective, choose_objective, choose_target, units_of

HUB_SEGMENTER = "clipseg:CIDAS/clipseg-rd64-refined"  # where the editor names none that can tell presence
#: what a unit wants is plainer than a class: its prompts are optimised briefly.
BRIEF: Mapping[str, Any] = MappingProxyType({"restarts": 1, "candidates": 64, "steps": 8})
SEEDS = 20  # names the seeds of pictures that belong to no unit
FEWEST = 8  # real pictures, below which interventions say nothing


def find_spurious(
    classifier: Any,
    target: str | int | None = None,
    *,
    object: str | None = None,
    units: str | Sequence[str] = (),
    top: int = 5,
    layer: str | None = None,
    images: Any = None,
    editor: str = "pocket-turbo",
    editor_options: Mapping[str, Any] | None = None,
    segmenter: Any = None,
    judge: Any = None,
    corpus: str | Path | Corpus | None = None,
    explanation: Explanation | str | Path | None = None,
    irrelevant: str | Sequence[str] = (),
    plain: str | None = None,
    neutral: str | None = None,
    hard: bool = True,
    synthesis_options: Mapping[str, Any] | None = None,
    options: SpuriousOptions | Mapping[str, Any] | None = None,
    gallery: Gallery | str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> SpuriousReport:
    """Which units of a class see its object, and which only what comes with it (after Pennisi et al. 2025).

    `object`: words for what the class is of (the label); `units`: `LAYER:NUMBER`, `LAYER:lowNUMBER` or
    `LAYER:topK`, else the `top` of the last pooled `layer` by activation × weight. `images`: real pictures
    of the class for the ranking and the interventions; else pictures of the plain prompt. `plain` and
    `neutral`: prompts that ask for the object ({} stands for it), and for nothing in particular. `corpus`:
    concepts to name what a unit sees. `explanation`: an `explain` run of the same classifier and target,
    whose concepts may be shortcuts; `irrelevant`: those that should not matter, wherever they are. `hard`:
    also look for a prompt of real words. `synthesis_options`: of SynthesisOptions, over BRIEF; `options`: of
    SpuriousOptions; `gallery`: as `synthesize` has it.

    Raises InputError: wrong arguments, too few pictures for the confidence asked (it says how many are
    needed), an object that the segmenter does not find in plain-prompt pictures. RunError: the run folder.
    """
    started, tell = time.monotonic(), progress or (lambda what, done, total: None)
    brief = {**BRIEF, **(synthesis_options or {})}
    chosen, shape, on = (
        SpuriousOptions.of(options),
        editor_shape(editor, **(editor_options or {})),
        choose_device(device),
    )
    model = load_classifier(classifier, device=on)
    aim = choose_target(white_box(model, "looking at its units"), target)
    told = explained(explanation, model, aim, irrelevant)
    tell("loading models", 0, 1)
    thing = _thing(object or aim.label, plain, shape, segmenter, on)
    generator = load_generator(editor, device=on, **(editor_options or {}))
    bench = _Bench(aim, generator, thing, _neutral(neutral, shape), chosen, Gallery.at(gallery))
    given = _given(images, generator.size)
    tell("calibrating", 0, 1)
    seeds = held_out_seeds(chosen.pictures, SEEDS)
    usual, other = bench.drawn(thing.prompt, seeds), bench.drawn(bench.neutral, seeds)
    calibration = calibrate(
        thing.areas(usual), thing.areas(other), chosen, segmenter=thing.segmenter.name, words=thing.words,
        prompt=thing.prompt, neutral_prompt=bench.neutral,
    )  # fmt: skip
    of_class = rounded(given.pixels) if given else usual
    names, gives = _units(model, aim, units, layer, top, of_class)
    tree = load_corpus(corpus) if corpus is not None else None
    judging = load_judge(judge if judge is not None else shape.default_judge, device=on)
    request = SpuriousRequest(
        classifier=model.name,
        target=aim.label,
        object=thing.words,
        units=names,
        editor=generator.name,
        segmenter=thing.segmenter.name,
        judge=judging.name,
        corpus=tree.name if tree else None,
        images=given.hashes if given else (),
        names=given.names if given else (),
        settings={
            "options": asdict(chosen),
            "synthesis": {**brief, "hard": hard},
            "editor": generator.settings(),
            "prompts": [thing.prompt, bench.neutral],
            "irrelevant": listed(irrelevant),
            "version": version("diffexplain"),
        },
    )
    with folder(out) as place, _opened(out, request, resume) as run:
        album = Album(run)
        album.look("plain", usual, thing.masks(usual), bench.scores(usual))
        album.look("neutral", other, thing.masks(other), bench.scores(other))
        removal = _removed(bench, of_class, calibration, seeds, tell)
        _keep_removal(album, bench, removal)
        made = synthesize(
            model, units=names, editor=editor, editor_options=editor_options, judge=_spec(judge),
            options=brief, corpus=tree, hard=hard, plain=bench.neutral, held_out=chosen.pictures,
            gallery=bench.gallery, device=device, out=place / "synthesis", progress=progress,
            resume=(place / "synthesis" / "run.json").exists(),
        )  # fmt: skip
        shots = Shots(made.targets, place / "synthesis")
        verdicts = []
        for i, (name, gain) in enumerate(zip(names, gives, strict=True)):
            tell("judging units", i, len(names))
            verdict = _judged(bench, album, shots, name, gain, calibration, removal, usual)
            if tree is not None:
                pair = shots.images(name, "optimised"), shots.images(name, "plain")
                verdict = replace(verdict, contents=contents(judging, tree, *pair))
            verdicts.append(verdict)
        found = tuple(shortcuts(told, aim, thing, chosen, tree)) if told else ()
        result = SpuriousResult(
            request=request,
            calibration=calibration,
            units=tuple(verdicts),
            target=_causal(bench, removal, lambda x: aim.score(x)),
            shortcuts=found,
            examples=tuple(r for r in album.rows if r.look != "unit" and r.pair in album.shown(r.look)),
            seconds=time.monotonic() - started,
            notes=tuple(notes(thing.words, calibration, removal, verdicts, found if told else None)),
        )
        album.append()
        run.write_result(result)
        if isinstance(run, Run):
            write_spurious_report(result, run.picture, run.path / "report.html")
            return SpuriousReport(result, run.path)
        shown = (r.masked for u in verdicts for r in u.examples)
        return SpuriousReport(result, None, {name: run.picture(name) for name in shown})


def foresee_spurious(
    units: str | Sequence[str] = (),
    *,
    top: int = 5,
    images: Any = None,
    editor: str = "pocket-turbo",
    editor_options: Mapping[str, Any] | None = None,
    corpus: str | Path | Corpus | None = None,
    hard: bool = True,
    synthesis_options: Mapping[str, Any] | None = None,
    options: SpuriousOptions | Mapping[str, Any] | None = None,
) -> SynthesisPlan:
    """What `find_spurious` with these options would cost at most; loads no model, and counts the pictures."""
    chosen, shape = SpuriousOptions.of(options), editor_shape(editor, **(editor_options or {}))
    made = foresee_synthesis(
        units=([units] if isinstance(units, str) else list(units)) or [f"layer:top{top}"], editor=editor,
        editor_options=editor_options, options={**BRIEF, **(synthesis_options or {})}, corpus=corpus,
        held_out=chosen.pictures, hard=hard,
    )  # fmt: skip
    given = len(pictures(images, size=shape.size or 512)) if images is not None else chosen.pictures
    redrawn = given * (2 * chosen.tries + 2)  # without the object and with it alone, each best of some
    shown = 2 * (2 * chosen.pictures + made.targets * chosen.pictures + 4 * given)  # with their masks
    drawn = 2 * chosen.pictures + chosen.rounds * redrawn
    return synthesis_plan(
        shape, made.targets, made.iterations, made.pictures + shown, made.evaluations + shape.steps * drawn
    )


# -- what is asked ------------------------------------------------------------------------------------


def _thing(words: str, plain: str | None, shape: EditorShape, segmenter: Any, on: torch.device) -> Object:
    """The object as the segmenter is asked for it: in the plain prompt's words, or alone."""
    default = shape.default_segmenter or HUB_SEGMENTER
    if default.startswith("world:"):  # knows where things would be, not whether they are there
        default = shape.default_judge if shape.default_judge == "pocket" else HUB_SEGMENTER
    loaded = load_finder(segmenter if segmenter is not None else default, device=on)
    prompt = plain.replace("{}", words) if plain else f"{shape.text} {words}"
    return Object(words, prompt, loaded)


def _neutral(given: str | None, shape: EditorShape) -> str:
    return given if given is not None else shape.text


def _given(images: Any, size: int) -> Pictures | None:
    if images is None:
        return None
    found = pictures(images, size=size)
    if len(found) < FEWEST:
        raise InputError(f"images: {len(found)} are too few for an interval; give at least {FEWEST}")
    return found


def _spec(judge: Any) -> str | None:
    return judge if isinstance(judge, str) else None


def _units(
    model: Classifier,
    aim: Target,
    units: str | Sequence[str],
    layer: str | None,
    top: int,
    images: torch.Tensor,
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The units to judge, and what each gives to the class where that was found out."""
    if top < 1:
        raise InputError(f"top {top}: give a whole number of at least 1")
    asked = [units] if isinstance(units, str) else list(units)
    if not asked:
        asked = [f"{layer or last_pooled(model)}:top{top}"]
    found: dict[str, float] = {}
    for spec in asked:
        wanted = units_of(spec)
        if wanted.top:
            best = carrying_units(model, wanted.layer, images, aim.label, wanted.top)
            found |= {u.name: u.contribution for u in best}
        else:
            found |= dict.fromkeys(wanted.names, nan)
    for name in found:
        choose_objective(model, unit=name)  # an unknown one is said before anything is drawn
    return tuple(found), tuple(found.values())


def _opened(out: str | Path | None, request: SpuriousRequest, resume: bool) -> Run | MemoryRun:
    return MemoryRun("spurious") if out is None else Run.open(Path(out), request, resume=resume)


# -- what is done -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Bench:
    """What every step uses."""

    aim: Target
    generator: Generator
    thing: Object
    neutral: str
    options: SpuriousOptions
    gallery: Gallery

    @property
    def prompt(self) -> str:
        """The plain prompt of the class."""
        return self.thing.prompt

    def drawn(self, prompt: str, seeds: Sequence[int]) -> torch.Tensor:
        """Pictures of a prompt, of 8 bits."""
        return self.gallery.images(self.generator, [prompt] * len(seeds), seeds)

    def scores(self, images: torch.Tensor) -> list[float]:
        """Log-odds of the class."""
        return [float(s) for s in self.aim.score(images)]


def _removed(
    bench: _Bench, images: torch.Tensor, calibration: Calibration, seeds: Sequence[int], tell: Progress
) -> Removal | None:
    """None where the segmenter says whether, but not where."""
    if not getattr(bench.thing.segmenter, "locates", True):
        return None
    tell("drawing over the object", 0, 1)
    more = held_out_seeds(len(images), SEEDS + 1)
    return remove(bench.generator, images, bench.thing, calibration.area, bench.neutral, bench.options, more)


def _keep_removal(album: Album, bench: _Bench, removal: Removal | None) -> None:
    if removal is None or not len(removal):
        return
    looks: list[tuple[Look, torch.Tensor, torch.Tensor]] = [
        ("base", removal.base, removal.masks),
        ("no object", removal.no_object, bench.thing.masks(removal.no_object)),
        ("no placebo", removal.no_placebo, removal.places),
        ("object only", removal.object_only, bench.thing.masks(removal.object_only)),
    ]
    for look, images, masks in looks:
        album.look(look, images, masks, bench.scores(images), index=removal.index)


def _causal(
    bench: _Bench, removal: Removal | None, read: Callable[[torch.Tensor], torch.Tensor]
) -> Causal | None:
    if removal is None or not len(removal):
        return None
    parts = (removal.base, removal.no_object, removal.no_placebo, removal.object_only)
    base, no_object, no_placebo, object_only = (as_floats(read(x)) for x in parts)
    return by_intervention(base, no_object, no_placebo, object_only, bench.options)


def _judged(
    bench: _Bench,
    album: Album,
    shots: Shots,
    name: str,
    contribution: float,
    calibration: Calibration,
    removal: Removal | None,
    usual: torch.Tensor,
) -> UnitVerdict:
    """Both lines of evidence on one unit; `usual`: pictures of the plain prompt."""
    objective = choose_objective(bench.aim.classifier, unit=name)
    if not isinstance(objective, UnitObjective):
        raise InputError(f"unit {name!r} is no unit; give LAYER:NUMBER")
    target, images = shots.target(name), shots.images(name, "optimised")
    masks = bench.thing.masks(images)
    rows = album.look(
        "unit", images, masks, bench.scores(images), unit=name,
        activations=[float(v) for v in objective.score(images)],
    )  # fmt: skip
    reached = target.reached and surpassed(
        as_floats(objective.score(images)), as_floats(objective.score(usual)), bench.options
    )
    rate, presence = by_presence(area(masks), calibration, bench.options, reached=reached)
    causal = _causal(bench, removal, objective.score)
    verdict, agree = joined(
        presence,
        causal.verdict if causal else "undecided",
        reached=reached,
        leaning=leaning(rate, calibration, causal) if causal else None,
    )
    near = [w[0].token for w in target.restarts[target.chosen].words if w]
    return UnitVerdict(
        unit=name,
        contribution=contribution,
        gain=target.gain,
        gain_low=target.gain_low,
        gain_high=target.gain_high,
        reached=reached,
        presence=rate.value,
        low=rate.low,
        high=rate.high,
        pictures=len(images),
        by_presence=presence,
        causal=causal,
        verdict=verdict,
        agree=agree,
        words=tuple(dict.fromkeys(near)),
        hard_prompt=target.hard_prompt,
        contents=(),
        examples=tuple(rows[:DRAWN]),
    )
