"""What classes and hidden units want to see: objectives → prompts → held-out pictures → figures → report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffexplain import baselines
from diffexplain.api.planning import chosen_options
from diffexplain.classifiers import Classifier, WhiteBox, load_classifier
from diffexplain.corpus import Corpus
from diffexplain.driving import Progress
from diffexplain.editors import editor_shape
from diffexplain.editors.generator import Generator, load_generator
from diffexplain.errors import InputError
from diffexplain.images import Pictures, decode_png, encode_png, pictures, rounded
from diffexplain.metrics import clip_eyes
from diffexplain.mining import load_model
from diffexplain.records import (
    Origin,
    SynthesisCost,
    SynthesisRequest,
    SynthesisResult,
    TargetResult,
)
from diffexplain.report.synthesis import synthesis_fragment, write_synthesis_report
from diffexplain.rows import choose_device
from diffexplain.store import MemoryRun, Run
from diffexplain.synthesis import telling
from diffexplain.synthesis.blackbox import BlackBoxOptions, optimise_black_box
from diffexplain.synthesis.evaluation import Asked, Optimised, measured, pictures_of, samples
from diffexplain.synthesis.gallery import Gallery
from diffexplain.synthesis.keeping import caption, nearest, optimised, worded_prompt
from diffexplain.synthesis.optimisation import held_out_seeds, optimise
from diffexplain.synthesis.options import SynthesisOptions
from diffexplain.synthesis.units import Unit, carrying_units, last_pooled
from diffexplain.targets import (
    ClassObjective,
    DifferenceObjective,
    DirectionObjective,
    choose_objective,
    choose_target,
    units_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

METHODS: tuple[Origin, ...] = ("pixels", "natural", "decoder", "attack")


@dataclass(frozen=True, slots=True)
class Synthesis:
    """The answer of `synthesize`: what each target wants to see, with its figures, and where the run lies."""

    result: SynthesisResult
    folder: Path | None
    pictures: Mapping[str, bytes]  # PNG by content hash, of a run in memory

    @property
    def targets(self) -> tuple[TargetResult, ...]:
        """One result a class or unit, in the order asked."""
        return self.result.targets

    @property
    def report(self) -> Path | None:
        """The page to open."""
        return self.folder / "report.html" if self.folder else None

    def images(self, target: str) -> torch.Tensor:
        """The pictures shown for a target, (N, 3, H, W). Raises InputError: no such target."""
        found = next((t for t in self.targets if t.target == target), None)
        if found is None:
            raise InputError(f"no target {target!r}; here are {', '.join(t.target for t in self.targets)}")
        return torch.stack([decode_png(self._png(s.picture)) for s in found.examples])

    def to_frame(self) -> DataFrame:
        """One row a target, as a pandas table. Raises MissingExtra without pandas."""
        from diffexplain.report.tables import targets

        return targets(self.result)

    def plot(self, kind: str = "units") -> Figure:
        """A figure: units. Raises InputError for another kind, MissingExtra without matplotlib."""
        from diffexplain.report.unit_figure import unit_figure

        if kind != "units":
            raise InputError(f"kind {kind!r}: a synthesis is drawn as units")
        return unit_figure(self.result, self._png)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return synthesis_fragment(self.result, self._png)

    def _png(self, digest: str) -> bytes:
        from diffexplain.store import read_picture

        return read_picture(self.folder, digest) if self.folder else self.pictures[digest]


def synthesize(
    classifier: Any,
    targets: str | int | Sequence[str | int] | None = None,
    *,
    units: str | Sequence[str] = (),
    directions: Mapping[str, tuple[str, torch.Tensor]] | None = None,
    versus: str | None = None,
    against: Any = None,
    editor: Any = "pocket-turbo",
    editor_options: Mapping[str, Any] | None = None,
    options: SynthesisOptions | Mapping[str, Any] | None = None,
    corpus: str | Path | Corpus | None = None,
    plain: str | None = None,
    images: Any = None,
    second: Any = None,
    judge: str | None = None,
    held_out: int = 32,
    hard: bool = True,
    language_model: str | None = None,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] = (),
    black_box: BlackBoxOptions | None = None,
    describe: Any = None,
    gallery: Gallery | str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Synthesis:
    """What classes and units want to see (after DiffExplainer, Pennisi et al., CVIU 262, 2025).

    `targets`: labels; `units`: `LAYER:NUMBER` (`LAYER:lowNUMBER`: made low) or `LAYER:topK`, the K that
    carry the first target on `images`; `directions`: name -> (layer, vector); `versus`: the targets against
    this label; `against`: what this classifier does not put in the targets. `editor` names the diffusion
    model, `options` how prompts are optimised, `corpus` phrases that they may set out from, beside words.
    `plain`: the prompt to beat, with {} for the label.
    `images`: real pictures of the domain. `second`: a classifier that was not optimised against.
    `held_out`: pictures a prompt is judged by. `hard`: also a prompt of real words; `language_model`: and
    one that this masked language model finds likely. `methods`: pixels, natural, decoder, attack, to
    compare with, or those with options. `black_box`: search without gradients, with a budget. `describe`: a
    vision-language model that says what a target's pictures share (`openai:MODEL@BASE-URL`,
    `transformers:NAME`), or a function of the pictures (N, 3, H, W). `gallery`: a file in which the pictures
    of written prompts stay for later calls, of any classifier, with the same diffusion model.

    Raises InputError (wrong argument, with its cure) and RunError (run folder).
    """
    started = time.monotonic()
    tell = progress or (lambda what, done, total: None)
    shape = editor_shape(editor)
    chosen = chosen_options(options, shape.text, shape.word, corpus)
    compared = dict(methods) if isinstance(methods, Mapping) else {m: {} for m in methods}
    _check(held_out, compared, images)
    on = choose_device(device)
    model = load_classifier(classifier, device=on)
    if black_box is None and not isinstance(model, WhiteBox):
        raise InputError(
            f"classifier {model.name!r} gives no gradients; --black-box QUERIES searches without them"
        )
    twin = load_classifier(second, device=on) if second is not None else None
    other = load_classifier(against, device=on) if against is not None else None
    given = pictures(images, size=shape.size) if images is not None else None
    sees = load_model(describe, device=on) if isinstance(describe, str) else describe
    seer = None if sees is None else str(getattr(sees, "name", "a function"))
    words = partial(_plain, plain, chosen)
    asked = [
        *_classes(model, targets, versus, other, twin, words, bool(units or directions)),
        *_units(model, units, targets, given, words),
        *(
            Asked(DirectionObjective(model, layer, vector, name), "direction", words(chosen.word))
            for name, (layer, vector) in (directions or {}).items()
        ),
    ]
    drawn_before = Gallery.at(gallery)
    tell("loading models", 0, 1)
    generator = load_generator(editor, device=on, **(editor_options or {}))
    drawn_at_first = generator.evaluations
    eyes = clip_eyes(judge or shape.default_judge, device=on)
    request = _request(model, asked, generator, chosen, eyes_name=judge or shape.default_judge, twin=twin,
                       given=given, held_out=held_out, hard=hard, language_model=language_model,
                       methods=compared, black_box=black_box,
                       describe=seer)  # fmt: skip
    with MemoryRun("synthesis") if out is None else Run.open(Path(out), request, resume=resume) as run:
        if given:
            run.record_inputs({h: encode_png(p) for h, p in zip(given.hashes, given.pixels, strict=True)})
        find = (
            partial(optimise_black_box, black_box=black_box, options=chosen)
            if black_box
            else partial(optimise, options=chosen, gallery=drawn_before)
        )
        optima = optimised(run, asked, chosen, partial(find, generator), tell)
        seeds = held_out_seeds(held_out, chosen.seed)
        results = []
        for i, one in enumerate(asked):
            tell("drawing held-out pictures", i, len(asked))
            with_words = hard and not black_box
            worded = worded_prompt(run, i, one, optima[i], generator, chosen, with_words, language_model)
            found = Optimised(optima[i], nearest(generator, optima[i]), worded)
            if i not in run.batches():
                made = pictures_of(generator, one, found, chosen, seeds, drawn_before)
                made |= _compared(one, compared, generator, editor, given, seeds, on)
                rows, drawn = samples(one, made, seeds, i)
                run.append(i, rows, {name: encode_png(image) for name, image in drawn.items()})
            found = replace(found, caption=caption(run, i, found, _teller(sees, one, found)))
            kept = [r for r in run.rows() if r.batch == i]
            results.append(measured(one, found, kept, partial(_picture, run), eyes,
                                    given.pixels if given else None))  # fmt: skip
        tell("drawing held-out pictures", len(asked), len(asked))
        result = SynthesisResult(
            request,
            tuple(results),
            SynthesisCost(
                iterations=sum(o.iterations for each in optima for o in each),
                evaluations=generator.evaluations - drawn_at_first,
                seconds=time.monotonic() - started,
            ),
            tuple(_notes(results, model)),
        )
        run.write_result(result)
        if isinstance(run, Run):
            write_synthesis_report(result, run.picture, run.path / "report.html")
            return Synthesis(result, run.path, {})
        return Synthesis(result, None, {r.picture: run.picture(r.picture) for r in run.rows()})


def list_units(
    classifier: Any,
    images: Any,
    *,
    target: str | int | None = None,
    layer: str | None = None,
    top: int = 5,
    device: str = "auto",
) -> tuple[list[Unit], tuple[str, ...]]:
    """The units of a layer (the last pooled one) that carry a class, and the names of the pictures."""
    if top < 1:
        raise InputError(f"top {top}: give a whole number of at least 1")
    model = load_classifier(classifier, device=choose_device(device))
    given = pictures(images)
    where = layer or last_pooled(model)
    return carrying_units(model, where, rounded(given.pixels), target, top), given.names


# -- what is asked ------------------------------------------------------------------------------------


def _check(held_out: int, methods: Iterable[str], images: Any) -> None:
    if held_out < 2:
        raise InputError(f"held-out {held_out}: give at least 2 pictures, better 32")
    if unknown := [m for m in methods if m not in METHODS]:
        raise InputError(f"method {', '.join(unknown)}: choose {', '.join(METHODS)}")
    if "attack" in methods and images is None:
        raise InputError("method attack starts from real pictures: give images")


def _teller(sees: Any, one: Asked, found: Optimised) -> Callable[[torch.Tensor], str] | None:
    """What says in words what the pictures of a target share; None where nobody was asked to."""
    if sees is None or not hasattr(sees, "ask"):
        return sees  # type: ignore[no-any-return]
    near = [words[0].token for words in found.words[found.chosen] if words]
    return partial(
        telling.report, one.objective.name, ask=lambda messages: str(sees.ask(messages).text),
        words=list(dict.fromkeys(near)),
    )  # fmt: skip


def _plain(template: str | None, options: SynthesisOptions, label: str) -> str:
    return template.replace("{}", label) if template else f"{options.text} {label}".strip()


def _classes(
    model: Classifier,
    targets: str | int | Sequence[str | int] | None,
    versus: str | None,
    other: Classifier | None,
    twin: Classifier | None,
    words: Callable[[str], str],
    may_lack: bool,
) -> list[Asked]:
    """The classes asked for; the second of two labels where nothing is."""
    if targets is None and may_lack:
        return []
    found = []
    for label in [targets] if targets is None or isinstance(targets, str | int) else targets:
        target = choose_target(model, label, versus)
        second = ClassObjective(choose_target(twin, target.label)) if twin else None
        if other is not None:
            one: Any = DifferenceObjective(model, other, target.label)
            found.append(Asked(one, "difference", words(target.label), second))
        else:
            found.append(Asked(ClassObjective(target), "class", words(target.label), second))
    return found


def _units(
    model: Classifier,
    units: str | Sequence[str],
    targets: str | int | Sequence[str | int] | None,
    given: Pictures | None,
    words: Callable[[str], str],
) -> list[Asked]:
    found = []
    for spec in [units] if isinstance(units, str) else units:
        asked = units_of(spec)
        if asked.top:
            if given is None:
                raise InputError(f"unit {spec!r}: the top units are found on real pictures: give images")
            label = targets if targets is None or isinstance(targets, str | int) else targets[0]
            best = carrying_units(model, asked.layer, rounded(given.pixels), label, asked.top)
            names = [u.name for u in best]
        else:
            names = asked.names
        for name in names:
            found.append(Asked(choose_objective(model, unit=name), "unit", words("")))
    return found


def _request(
    model: Classifier,
    asked: Sequence[Asked],
    generator: Generator,
    options: SynthesisOptions,
    *,
    eyes_name: str,
    twin: Classifier | None,
    given: Pictures | None,
    held_out: int,
    black_box: BlackBoxOptions | None,
    **settings: Any,
) -> SynthesisRequest:
    return SynthesisRequest(
        classifier=model.name,
        targets=tuple(a.objective.name for a in asked),
        editor=generator.name,
        text=options.text,
        plain=tuple(a.plain for a in asked),
        judge=eyes_name,
        second=twin.name if twin else None,
        images=given.hashes if given else (),
        names=given.names if given else (),
        seeds=held_out,
        settings={
            "options": {**asdict(options), "phrases": list(options.phrases)},  # as JSON gives it back
            "editor": generator.settings(),
            "black_box": asdict(black_box) if black_box else None,
            "version": version("diffexplain"),
            **{k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()},
        },
    )


# -- what is done ------------------------------------------------------------------------------------


def _compared(
    one: Asked,
    methods: Mapping[str, Mapping[str, Any]],
    generator: Generator,
    editor: Any,
    given: Pictures | None,
    seeds: Sequence[int],
    device: torch.device,
) -> dict[tuple[Origin, int], torch.Tensor]:
    """Pictures by the methods that prompts are compared with, and the real ones."""
    found: dict[tuple[Origin, int], torch.Tensor] = {}
    for method in METHODS:
        if method not in methods:
            continue
        if method == "pixels":
            ascent: Any = baselines.PixelOptions(**{"size": generator.size, **methods[method]})
        elif method == "natural":
            ascent = baselines.NaturalOptions(**{"size": generator.size, **methods[method]})
        elif method == "decoder":
            decoder = baselines.load_decoder(editor, device=device)
            ascent = baselines.DecoderOptions(decoder, **{"size": generator.size, **methods[method]})
        elif given is not None:
            ascent = baselines.AttackOptions(given.pixels, **methods[method])
        made = baselines.maximise(one.objective, seeds=seeds, options=ascent, device=device)
        found[method, -1] = rounded(made)
    if given is not None:
        found["real", -1] = rounded(given.pixels)
    return found


def _picture(run: MemoryRun, digest: str) -> torch.Tensor:
    return decode_png(run.picture(digest))


def _notes(results: Sequence[TargetResult], model: Classifier) -> list[str]:
    """What a reader must know before believing the pictures."""
    found = []
    missed = [t.target for t in results if not t.reached]
    if missed:
        found.append(
            f"the optimised pictures of {', '.join(missed)} are no better than the plain prompt's on "
            "held-out seeds: they say nothing about it"
        )
    if any(t.restarts[t.chosen].stopped == "nan" for t in results):
        found.append("some optimisations ended early because the loss was no number")
    return found
