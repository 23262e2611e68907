"""`audit`: for whom a classifier answers differently, by counts and by counterfactual edits."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from diffexplain.api.answers import AUDIT, Audit
from diffexplain.api.explanation import explain
from diffexplain.api.synthesis import synthesize
from diffexplain.auditing import (
    FEWEST,
    Attribute,
    attribute_gaps,
    attribute_shares,
    attributes,
    calibrated,
    fairness_gaps,
)
from diffexplain.classifiers import Classifier, load_classifier
from diffexplain.corpus import Corpus, load_corpus
from diffexplain.counterfactuals import Counterfactuals, Rebuilt, counterfactuals, rebuilt
from diffexplain.driving import Progress
from diffexplain.editors import load_editor
from diffexplain.errors import InputError, RunError
from diffexplain.images import load_images, pictures
from diffexplain.judges import Judge, load_judge
from diffexplain.records.audit import AttributeShares, AuditResult, FairnessGap, Reading, Reference
from diffexplain.rows import choose_device
from diffexplain.spurious import Shots
from diffexplain.store import read_picture, read_rows
from diffexplain.synthesis.gallery import Gallery
from diffexplain.targets import choose_target


def audit(
    classifier: Any,
    images: Any = None,
    *,
    attributes: Sequence[str],
    target: str | int | None = None,
    corpus: str | Path | Corpus = "avatars",
    editor: Any = "pocket",
    judge: Any = None,
    segmenter: Any = None,
    twin: Any = None,
    maximising: Any = None,
    plain: Any = None,
    twin_maximising: Any = None,
    labelled: str | Path | None = None,
    draw: int = 0,
    generator: str = "pocket-turbo",
    synthesis_options: Mapping[str, Any] | None = None,
    margin: float = 0.0,
    seeds: int = 1,
    out: str | Path | None = None,
    resume: bool = False,
    accept_drift: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Audit:
    """For whom does a classifier answer differently (after DiffExplainer, Pennisi et al. 2025).

    `attributes`: slots of the corpus. With `images` (real pictures): every value of them is put in and
    taken out by the editor, and the answer's gap and flips are measured, less those of `twin` where one
    is given. An attribute matters where there surely is a gap and it is larger than `margin` log-odds.

    With `maximising` (pictures that maximise each class): their attribute counts against those of `plain`
    (from plain prompts) and `twin_maximising`. Each is a folder with one subfolder a label, or a mapping
    of labels to pictures. With `draw`, or without any pictures, that many (50) are drawn for each class
    of the classifier and of the twin by `synthesize`, through the diffusion model of `generator`, and as
    many from the plain prompt. `labelled`: a CSV file (a column `file`, one an attribute) by which the
    judge's own confusion is corrected.

    Raises InputError: an attribute unknown to the reader, a negative margin, too few labelled pictures.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise InputError(f"margin {margin:g}: give log-odds of 0 or more")
    if draw < 0 or draw == 1:
        raise InputError(f"draw {draw}: give at least 2 pictures a class, better {FEWEST}, or 0 for none")
    tree = load_corpus(corpus)
    wanted = _attributes(tree, attributes)
    if draw and maximising is not None:
        raise InputError("draw and maximising are both given: draw pictures of the classes, or give them")
    if images is None and maximising is None:
        draw = draw or FEWEST
    on = choose_device(device)
    model = load_classifier(classifier, device=on)
    aim = choose_target(model, target) if images is not None else choose_target(model, target or 0)
    other = load_classifier(twin, device=on) if twin is not None else None
    editing = load_editor(editor, device=on)
    reader = load_judge(judge if judge is not None else editing.default_judge, device=on)
    notes: list[str] = []
    readings = _readings(labelled, reader, tree, wanted, editing.size)
    shares: tuple[AttributeShares, ...] = ()
    if maximising is not None or draw:
        if draw:
            how = {"held_out": draw, "editor": generator, "options": synthesis_options, "resume": resume,
                   "device": device, "gallery": Gallery(), "progress": progress}  # fmt: skip
            given, references = _drawn(model, other, out, how)
        else:
            given = by_label(maximising, editing.size, "maximising", model.labels)
            references = _references(plain, twin_maximising, editing.size, model.labels)
        shares = attribute_shares(reader, tree, wanted, given, references, readings)
        notes += _count_notes(given, readings)
    gaps: tuple[FairnessGap, ...] = ()
    if images is not None:
        with folder(out) as place:
            explain(
                model, images, target=aim.label, corpus=tree.restrict(a.name for a in wanted), editor=editing,
                judge=reader, segmenter=segmenter, method="exhaustive", seeds=seeds, joint_steps=1,
                out=place / "edits", resume=resume, accept_drift=accept_drift, device=device,
                progress=progress,
            )  # fmt: skip
            pairs, edited = kept_pairs(place / "edits"), kept_inputs(place / "edits")
        twin_aim = choose_target(other, aim.label) if other is not None else None
        gaps = fairness_gaps(aim, list(pairs.values()), wanted, twin=twin_aim, rebuilt=edited)
        notes += _edit_notes(gaps)
    result = AuditResult(
        classifier=model.name,
        target=aim.label,
        twin=other.name if other is not None else None,
        attributes=tuple(a.name for a in wanted),
        corpus=tree.name,
        judge=reader.name,
        margin=margin,
        readings=readings,
        shares=shares,
        gaps=gaps,
        attribute_gaps=attribute_gaps(gaps),
        notes=tuple(notes),
    )
    if out is not None:
        write_json(Path(out) / AUDIT, asdict(result))
    return Audit(result, Path(out) if out is not None else None)


def _attributes(tree: Corpus, names: Sequence[str]) -> tuple[Attribute, ...]:
    return attributes(tree, [names] if isinstance(names, str) else names)


def _drawn(
    model: Classifier, twin: Classifier | None, out: str | Path | None, how: Mapping[str, Any]
) -> tuple[Mapping[str, torch.Tensor], Mapping[Reference, Mapping[str, torch.Tensor]]]:
    """Pictures that maximise each class, those of the plain prompts, and the twin's, by `synthesize`."""
    found: dict[str, Mapping[str, torch.Tensor]] = {}
    with folder(out) as place:
        for name, one in {"synthesis": model, "twin-synthesis": twin}.items():
            if one is None:
                continue
            again = how["resume"] and (place / name / "run.json").exists()
            made = synthesize(one, list(one.labels), hard=False, out=place / name, **{**how, "resume": again})
            shots = Shots(made.targets, place / name)
            found[name] = {label: shots.images(label, "optimised") for label in one.labels}
            if one is model:
                found["plain"] = {label: shots.images(label, "plain") for label in one.labels}
    references: dict[Reference, Mapping[str, torch.Tensor]] = {"plain": found["plain"]}
    if twin is not None:
        references["twin"] = found["twin-synthesis"]
    return found["synthesis"], references


def _references(
    plain: Any, twin: Any, size: int, labels: Sequence[str]
) -> Mapping[Reference, Mapping[str, torch.Tensor]]:
    found: dict[Reference, Mapping[str, torch.Tensor]] = {}
    if plain is not None:
        found["plain"] = by_label(plain, size, "plain", labels)
    if twin is not None:
        found["twin"] = by_label(twin, size, "twin maximising", labels)
    if not found:
        raise InputError("counts need a reference: give plain pictures, the twin's maximising ones, or both")
    return found


def _count_notes(given: Mapping[str, torch.Tensor], readings: Sequence[Reading]) -> Iterator[str]:
    few = [f"{label} ({len(x)})" for label, x in given.items() if len(x) < FEWEST]
    if few:
        yield f"fewer than {FEWEST} maximising pictures: {', '.join(few)}; only large biases can show"
    if not readings:
        yield (
            "the reader was not calibrated, so shares are as read, errors and all: "
            "give labelled pictures to correct them"
        )
    for r in readings:
        if r.accuracy < 0.8:
            yield f"the reader is right about {r.attribute} in only {r.accuracy:.0%}; hence wide intervals"


def _edit_notes(gaps: Sequence[FairnessGap]) -> Iterator[str]:
    failing = dict.fromkeys(g.concept for g in gaps if g.success_rate < 0.5)
    if failing:
        yield f"edits of {', '.join(failing)} mostly failed: a small gap means little"


def _readings(
    labelled: str | Path | None, judge: Judge, tree: Corpus, wanted: Sequence[Attribute], size: int
) -> tuple[Reading, ...]:
    if labelled is None:
        return ()
    images, labels = read_labels(Path(labelled), size)
    known = {a.name: labels[n] for a in wanted for n in labels if _attributes(tree, [n])[0].name == a.name}
    return calibrated(judge, tree, wanted, images, known)


def read_labels(file: Path, size: int) -> tuple[torch.Tensor, Mapping[str, Sequence[str | None]]]:
    """Pictures and labels of a CSV file: a column `file`, relative to it, and one an attribute.

    An empty cell: cannot be seen. Raises InputError when it is no such file.
    """
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"labelled pictures {str(file)!r}: {error}; give a CSV file in UTF-8") from error
    if not rows or "file" not in rows[0] or len(rows[0]) < 2:
        raise InputError(f"labelled pictures {str(file)!r}: needs a column `file` and one for each attribute")
    parts = [load_images([file.parent / row["file"]], size=size).pixels for row in rows]
    names = [n for n in rows[0] if n and n != "file"]
    return torch.cat(parts), {n: [(row[n] or "").strip() or None for row in rows] for n in names}


def by_label(given: Any, size: int, what: str, labels: Sequence[str]) -> Mapping[str, torch.Tensor]:
    """Label -> pictures, from a mapping or a folder with one subfolder a label.

    Raises InputError when there is none, or a name is not among the classifier's `labels`.
    """
    if isinstance(given, str | Path):
        root = Path(given)
        found = {p.name: p for p in sorted(root.iterdir()) if p.is_dir()} if root.is_dir() else {}
        if not found:
            raise InputError(
                f"{what} pictures {str(root)!r}: give a folder with one subfolder for each label"
            )
        given = found
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"{what} pictures: give a folder, or a mapping of labels to pictures")
    unknown = sorted(set(given).difference(labels))
    if unknown:
        raise InputError(f"{what} pictures of {unknown[0]!r}: no such label; labels are {', '.join(labels)}")
    return {label: pictures(some, size=size).pixels for label, some in given.items()}


def kept_pairs(run: Path) -> Mapping[tuple[str, str], Counterfactuals]:
    """The edits of a finished `explain` run, as pairs."""
    return counterfactuals(read_rows(run), lambda digest: read_picture(run, digest))


def kept_inputs(run: Path) -> Rebuilt | None:
    """The pictures that a finished `explain` run edited, and their reconstructions."""
    return rebuilt(read_rows(run), lambda digest: read_picture(run, digest))


@contextmanager
def folder(out: str | Path | None) -> Iterator[Path]:
    """The run folder, or one that is gone afterwards."""
    if out is not None:
        yield Path(out)
        return
    with TemporaryDirectory(prefix="diffexplain-") as made:
        yield Path(made)


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """A record as JSON, nan as null. Raises RunError when it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_plain(value), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{file}: cannot be written ({error.strerror}); choose another --out") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
