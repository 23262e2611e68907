"""The page of any finished run, written again from its folder; what is drawn over or stands beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffexplain.api.answers import MITIGATION, Audit, read_record
from diffexplain.classifiers import load_classifier
from diffexplain.corpus import Corpus, load_corpus
from diffexplain.errors import InputError
from diffexplain.images import decode_png, encode_png, hashes
from diffexplain.judges import load_segmenter
from diffexplain.records import JOIN, Effect, Request
from diffexplain.records.audit import MitigationResult
from diffexplain.report import Section, write_report
from diffexplain.report.finished import Finished
from diffexplain.report.overlays import Region, edit_key, known_overlays, pairs
from diffexplain.report.sections import (
    audit_sections,
    mitigation_sections,
    spurious_sections,
    synthesis_sections,
)
from diffexplain.report.spurious import write_spurious_report
from diffexplain.report.synthesis import write_synthesis_report
from diffexplain.rows import choose_device
from diffexplain.store import RUN, Run, read_kind, read_picture, read_request, read_result
from diffexplain.store.reading import picture_file
from diffexplain.targets import Target, choose_target

OTHER = 0.01  # log-odds by which a classifier that is loaded again may differ from the run's


@dataclass(frozen=True, slots=True)
class Beside:
    """Another answer about the classifier of an explain run, as its page shows it."""

    sections: tuple[Section, ...]
    pictures: Path  # the folder that has them


def rewrite_report(folder: str | Path, beside: str | Path | Sequence[str | Path] = ()) -> Path:
    """Write `report.html` again; returns its path.

    `beside`, of an explain run: folders of runs of `synthesize` and `find_spurious`, folders or JSON files of
    audits and mitigations; their answers are on this page, not on one that is written again without them.
    Raises RunError when the folder holds no finished run, InputError as `answers_beside`.
    """
    path = Path(folder)
    others = answers_beside(path, beside)
    if read_kind(path) == "synthesis":
        return write_synthesis_report(read_result(path), partial(read_picture, path), path / "report.html")
    if read_kind(path) == "spurious":
        return write_spurious_report(read_result(path), partial(read_picture, path), path / "report.html")
    done = Finished.read(path)
    over = known_overlays(done.result, done.effects, done.picture, done.overlays)
    if over != done.overlays:
        over.write(path)  # a world takes seconds to say where its concepts act
    return write_report(
        done.result,
        partial(_kept_picture, (path, *(other.pictures for other in others))),
        path / "report.html",
        effects=done.effects,
        beside=[section for other in others for section in other.sections],
        overlays=over,
    )


def answers_beside(folder: str | Path, beside: str | Path | Sequence[str | Path]) -> tuple[Beside, ...]:
    """Answers that a page can show beside an explain run's own; `beside` as `rewrite_report` takes it.

    Raises InputError: one is about another classifier, or the run is no explain run. RunError: there is none.
    """
    places = [beside] if isinstance(beside, str | Path) else list(beside)
    if not places:
        return ()
    if (kind := read_kind(folder)) != "explanation":
        raise InputError(
            f"beside: {str(folder)!r} is of kind {kind!r}; only an explain run shows other answers"
        )
    mine = read_request(folder).classifier
    return tuple(_answer(Path(place), mine) for place in places)


def _answer(place: Path, mine: str) -> Beside:
    """One answer, if it is about the classifier `mine`."""
    about, sections, pictures = _read_answer(place)
    if about != mine:
        raise InputError(
            f"beside {str(place)!r}: its classifier is {about!r}, the run's {mine!r}: give answers about one"
        )
    return Beside(sections, pictures)


def _read_answer(place: Path) -> tuple[str, tuple[Section, ...], Path]:
    """Which classifier an answer is about, its parts of a page, and where its pictures lie."""
    if (place / RUN).is_file():
        if (kind := read_kind(place)) == "explanation":
            raise InputError(
                f"beside {str(place)!r}: is of kind {kind!r}; `diffexplain compare` shows two such"
            )
        found = read_result(place)
        sections = synthesis_sections(found) if kind == "synthesis" else spurious_sections(found)
        return found.request.classifier, sections, place
    if place.name == MITIGATION or (place / MITIGATION).is_file():
        file = place / MITIGATION if place.is_dir() else place
        mitigated: MitigationResult = read_record(file, MitigationResult)
        return mitigated.classifier, mitigation_sections(mitigated), file.parent
    audited = Audit.read(place).result
    return audited.classifier, audit_sections(audited), place.parent if place.is_file() else place


def _kept_picture(folders: Sequence[Path], digest: str) -> bytes:
    """A picture from the first of these runs that has it. Raises RunError when none has."""
    held = (folder for folder in folders if picture_file(folder, digest).is_file())
    return read_picture(next(held, folders[0]), digest)


def add_gradcam(
    folder: str | Path,
    *,
    classifier: Any = None,
    classifier_options: Mapping[str, Any] | None = None,
    layer: str | None = None,
    device: str = "auto",
) -> Path:
    """Grad-CAM (Selvaraju et al. 2017) of the pictures that a run's report shows; writes the report again.

    The maps are kept in the run folder. `classifier`: where the run's own spec does not load it, with
    `classifier_options` as the run had. `layer`: the last one with places unless given. Raises InputError
    when it scores otherwise than in the run, ClassifierError for a black box, RunError, MissingExtra.
    """
    from diffexplain.report.gradcam import attention, drawn_over

    path, on = Path(folder), choose_device(device)
    done = Finished.read(path)
    edits = pairs(done.result)
    target = _target(done.result.request, classifier, classifier_options, on)
    _check_same(target, done, edits)
    names = list(dict.fromkeys(name for e in edits for name in (e.reconstruction, e.edited)))
    maps: dict[str, str] = {}
    kept: dict[str, bytes] = {}
    chosen = layer
    for some in _of_one_size(done, names):
        images = torch.stack([decode_png(done.picture(name)) for name in some])
        found, chosen = attention(target, images, chosen)
        drawn = drawn_over(images, found)
        maps |= dict(zip(some, hashes(drawn), strict=True))
        kept |= {maps[name]: encode_png(one) for name, one in zip(some, drawn, strict=True)}
    with Run.open(path, read_request(path), resume=True) as run:
        run.record_inputs(kept)
    replace(done.overlays, maps=maps, layer=chosen or "").write(path)
    return rewrite_report(path)


def add_regions(
    folder: str | Path,
    *,
    segmenter: Any = None,
    corpus: str | Path | Corpus | None = None,
    device: str = "auto",
) -> Path:
    """Where each concept may act, in the pictures that a run's report shows; writes the report again.

    As for locality: the segmenter's answer in the reconstruction or in the edit, by default the run's own.
    `corpus`: where the run's was a file. Raises InputError when there is no segmenter, RunError.
    """
    path = Path(folder)
    done = Finished.read(path)
    request = done.result.request
    spec = segmenter if segmenter is not None else request.segmenter
    finding = load_segmenter(spec, device=choose_device(device))
    if finding is None:
        raise InputError(f"segmenter {spec}: this run had none; name one, such as pocket")
    tree = load_corpus(corpus if corpus is not None else request.corpus)
    found: dict[str, Region] = {}
    for e in pairs(done.result):
        both = torch.stack([decode_png(done.picture(name)) for name in (e.reconstruction, e.edited)])
        parts = [part for part in e.edited_as.split(JOIN) if part in tree]
        if not parts or any(tree[part].whole_image for part in parts):
            continue
        where = [finding.regions(both, [part] * 2, [tree[part].prompt] * 2) for part in parts]
        found[edit_key(e)] = Region.of(torch.cat(where).any(0).numpy())
    replace(done.overlays, regions=found, segmenter=finding.name).write(path)
    return rewrite_report(path)


def _target(
    request: Request, classifier: Any, options: Mapping[str, Any] | None, device: torch.device
) -> Target:
    spec = classifier if classifier is not None else request.classifier
    labels = request.settings.get("labels")
    model = load_classifier(spec, device=device, labels=labels, **(options or {}))
    return choose_target(model, request.target, request.versus)


def _check_same(target: Target, done: Finished, edits: Sequence[Effect]) -> None:
    """Raises InputError when the classifier is not the one of the run."""
    some = list({e.reconstruction: e for e in edits}.values())[:4]
    for e in some:
        now = float(target.score(decode_png(done.picture(e.reconstruction))[None])[0])
        if abs(now - e.score_before) > OTHER:
            raise InputError(
                f"classifier {target.classifier.name}: scores {now:+.2f} where the run has "
                f"{e.score_before:+.2f}: give the one of the run, with its options"
            )


def _of_one_size(done: Finished, names: Sequence[str]) -> list[list[str]]:
    """Names of pictures in groups that can be stacked."""
    groups: dict[torch.Size, list[str]] = {}
    for name in names:
        groups.setdefault(decode_png(done.picture(name)).shape, []).append(name)
    return list(groups.values())
