"""`mitigate`: take a shortcut out of a classifier, and measure what that did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffexplain import pocket
from diffexplain.api.answers import MITIGATION, Mitigation
from diffexplain.api.auditing import by_label, folder, kept_pairs, write_json
from diffexplain.api.explanation import explain
from diffexplain.classifiers import Classifier, load_classifier
from diffexplain.corpus import Corpus, load_corpus
from diffexplain.counterfactuals import Counterfactuals
from diffexplain.driving import Progress
from diffexplain.editors import load_editor
from diffexplain.errors import InputError
from diffexplain.images import Pictures, hashes
from diffexplain.mitigation import (
    Labelled,
    MitigationOptions,
    fine_tuned,
    flagged_units,
    folded,
    network,
    read_units,
    rewrapped,
    standing,
)
from diffexplain.records.audit import MitigationResult
from diffexplain.rows import choose_device
from diffexplain.targets import Target, choose_target

WEIGHTS = "model.safetensors"
HELD_OUT = 3  # one picture in three is kept for the report


def mitigate(
    classifier: Any,
    images: Any,
    *,
    shortcuts: Sequence[str],
    target: str | int | None = None,
    method: str = "all",
    units: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    corpus: str | Path | Corpus = "avatars",
    editor: Any = "pocket",
    judge: Any = None,
    segmenter: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    accept_drift: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Mitigation:
    """Take shortcuts out of a classifier by counterfactual pairs that the editor makes.

    `images`: a folder with one subfolder a label, or a mapping of labels to pictures; a third is kept for
    the report. `shortcuts`: concepts of the corpus whose change should not matter. `method`: "damp" holds
    the units that carry the shortcut (or the given `units`) at their mean level, "last-layer" and "all"
    fine-tune. `options`: more of MitigationOptions. Into `out` go the edits, `mitigation.json`, and the
    weights: a timm folder where the classifier is one, else a state dict.

    Raises InputError (wrong argument, too few pictures) and ClassifierError (no network to change).
    """
    chosen = MitigationOptions(method=method, units=tuple(units) if units else None, **(options or {}))  # type: ignore[arg-type]
    tree = load_corpus(corpus)
    concepts = [shortcuts] if isinstance(shortcuts, str) else list(shortcuts)
    asked = tree.restrict(concepts)
    on = choose_device(device)
    model = load_classifier(classifier, device=on)
    network(model)
    aim = choose_target(model, target)
    editing = load_editor(editor, device=on)
    data = _labelled(by_label(images, editing.size, "training", model.labels), model.labels)
    given = Pictures(data.images, data.names, data.names, (), ())
    with folder(out) as place:
        explain(
            model, given, target=aim.label, corpus=asked, editor=editing, judge=judge, segmenter=segmenter,
            method="exhaustive", joint_steps=1, out=place / "edits", resume=resume,
            accept_drift=accept_drift, device=device, progress=progress,
        )  # fmt: skip
        pairs = list(kept_pairs(place / "edits").values())
    training, kept = _split(data)
    learnt = [p.only(training.names) for p in pairs]
    shown = [p.only(kept.names) for p in pairs]
    changed, damped, notes = _changed(aim, [p for p in learnt if len(p)], training, chosen, progress)
    name = f"{model.name} mitigated"
    made = rewrapped(model, changed, name)
    before = standing(aim, shown, kept)
    after = standing(Target(made, aim.label, aim.versus), shown, kept)
    result = MitigationResult(
        classifier=model.name,
        target=aim.label,
        shortcuts=tuple(concepts),
        method=method,
        units=damped,
        before=before,
        after=after,
        effect_ratio=abs(after.gap) / abs(before.gap) if before.gap else float("nan"),
        accuracy_loss=100 * (before.accuracy - after.accuracy),
        training_images=len(training.names),
        held_out_images=len(kept.names),
        notes=notes,
    )
    if out is not None:
        save(model, changed, Path(out), classifier)
        write_json(Path(out) / MITIGATION, asdict(result))
    return Mitigation(result, made, Path(out) if out is not None else None)


def _labelled(given: Mapping[str, torch.Tensor], labels: Sequence[str]) -> Labelled:
    if len(given) < 2:
        raise InputError(f"pictures of {', '.join(given)} only: mitigation needs at least two classes")
    images = torch.cat(list(given.values()))
    classes = torch.cat([torch.full((len(x),), labels.index(label)) for label, x in given.items()])
    names = hashes(images)
    first = {name: i for i, name in reversed(list(enumerate(names)))}
    return Labelled(images, names, classes).rows(sorted(first.values()))


def _split(data: Labelled) -> tuple[Labelled, Labelled]:
    """Two thirds to learn from, a third to report on, class by class in the order of the hashes."""
    held: list[int] = []
    for k in sorted(set(data.classes.tolist())):
        of_class = sorted((data.names[i], i) for i in torch.nonzero(data.classes == k)[:, 0].tolist())
        held += [i for _, i in of_class[::HELD_OUT]]
    kept = set(held)
    training = [i for i in range(len(data.names)) if i not in kept]
    if not training:
        raise InputError(f"{len(data.names)} pictures: give at least 2 of every class")
    return data.rows(training), data.rows(sorted(kept))


def _changed(
    aim: Target,
    pairs: Sequence[Counterfactuals],
    training: Labelled,
    options: MitigationOptions,
    progress: Progress | None,
) -> tuple[nn.Module, tuple[int, ...], tuple[str, ...]]:
    """The changed network, the units damped, and what a reader must know."""
    if options.method != "damp":
        tell = (lambda done, total: progress("fine-tuning", done, total)) if progress else None
        return fine_tuned(aim, pairs, training, options, tell), (), ()
    if not pairs:
        raise InputError("no edit of the shortcut could be made in the training pictures; give more pictures")
    if options.units is None:
        units, level = flagged_units(aim, pairs, training)
    else:
        units, level = options.units, read_units(aim.classifier, training.images).mean(0)
        outside = [u for u in units if not 0 <= u < len(level)]
        if outside:
            raise InputError(
                f"unit {outside[0]} does not exist: the last layer reads units 0 to {len(level) - 1}"
            )
    notes = () if units else ("no unit carries the shortcut apart from the class: nothing was damped",)
    return folded(network(aim.classifier), units, level, options.keep), units, notes


def save(classifier: Classifier, changed: nn.Module, out: Path, spec: Any = None) -> None:
    """`model.safetensors` in the dtype it came in, and a timm `config.json` where the classifier has one."""
    from safetensors.torch import save_file

    original = network(classifier).state_dict()
    config = _timm_config(changed, classifier, spec)
    half = config is not None and isinstance(spec, str) and spec.startswith("pocket:")
    state = {
        k: (v.half() if half and v.is_floating_point() else v.to(original[k].dtype) if k in original else v)
        for k, v in changed.state_dict().items()
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in state.items()}, out / WEIGHTS)
    if config is not None:
        write_json(out / "config.json", config)


def _timm_config(changed: nn.Module, classifier: Classifier, spec: Any) -> dict[str, Any] | None:
    """That of the folder it came from; else what a timm model says of itself."""
    kind, _, rest = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    source = pocket.classifier_folder(rest) if kind == "pocket" else Path(rest) if kind == "timm" else None
    if source is not None and (source / "config.json").is_file():
        stated: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
        return stated
    own = getattr(changed, "pretrained_cfg", None)
    if not own or kind != "timm":
        return None
    shown = {k: own[k] for k in ("input_size", "mean", "std", "interpolation", "crop_pct") if k in own}
    return {
        "architecture": own["architecture"],
        "num_classes": len(classifier.labels),
        "label_names": list(classifier.labels),
        "pretrained_cfg": {**shown, "num_classes": len(classifier.labels)},
    }
