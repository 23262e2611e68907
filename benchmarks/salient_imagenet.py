r"""Salient ImageNet (Singla & Feizi, ICLR 2022): are core and spurious units told apart as people did?

For those who have the robust ResNet-50, the annotations and pictures of each unit:

    python -m benchmarks.salient_imagenet --annotations FILE.csv --network FILE.safetensors \
        --images DIR --segmenter clipseg:CIDAS/clipseg-rd64-refined --json

`--annotations`: a CSV with columns class, feature, and either label (core, spurious or background and
separate object, as in the published file) or one column a worker (worker_1 … worker_5; spurious when at
least three of five do not say main object). `--images DIR/CLASS/FEATURE/*.png`: pictures synthesised for the
unit (`DIR/CLASS/plain/*.png`: plain-prompt pictures, which calibrate the threshold). `--words FILE.json`:
class -> words for its object; else the class's name. Where `--network` is given, units whose pictures do not
beat the plain ones' mean activation × weight are abstained from.

Balanced accuracy, κ, AUC, plain agreement, and the rule that always says core; the 15 classes with only
spurious features and the 15 without any apart.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from statsmodels.stats.inter_rater import cohens_kappa

from diffexplain.classifiers import Classifier
from diffexplain.classifiers.modules import ModuleClassifier
from diffexplain.errors import InputError
from diffexplain.images import load_images
from diffexplain.judges import Segmenter, load_segmenter
from diffexplain.mitigation import last_linear, network, read_units
from diffexplain.statistics import exact_interval

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WHOLE = 15  # classes of only, and of no, spurious features that are reported apart
SPURIOUS_VOTES = 3  # of five workers
THERE = 0.01  # share of a picture that the object must cover to be there
KEEP = 0.5  # of the plain pictures' presence, below which a unit is spurious


@dataclass(frozen=True, slots=True)
class Feature:
    """One annotated (class, unit)."""

    label: str
    unit: int
    spurious: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """What our rule says of one."""

    feature: Feature
    presence: float  # share of the unit's pictures with the object
    plain: float  # the same for plain prompts: the threshold is half of it
    verdict: str  # core, spurious or undecided


def annotations(file: Path) -> list[Feature]:
    """The annotated features. Raises InputError when it is no such file."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not {"class", "feature"} <= set(rows[0]):
        raise InputError(f"{file}: needs columns class, feature, and label or worker_1 … worker_5")
    return [Feature(r["class"].strip(), int(r["feature"]), _spurious(file, r)) for r in rows]


def _spurious(file: Path, row: Mapping[str, str]) -> bool:
    votes = [v.strip().lower() for k, v in row.items() if k.startswith("worker") and v]
    if votes:
        return sum(v not in ("main object", "main_object", "core") for v in votes) >= SPURIOUS_VOTES
    label = (row.get("label") or "").strip().lower()
    if label not in ("core", "spurious", "background", "separate object", "separate_object", "main object"):
        raise InputError(f"{file}: label {label!r} of {row['class']}; give core, spurious, or workers' votes")
    return label not in ("core", "main object")


def robust_network(file: Path, classes: Sequence[str]) -> ModuleClassifier:
    """A torchvision ResNet-50 with weights from safetensors, at 224 px."""
    from safetensors.torch import load_file
    from torchvision.models import resnet50

    state = {k.removeprefix("module.").removeprefix("model."): v for k, v in load_file(file).items()}
    model = resnet50(num_classes=len(state["fc.bias"]))
    model.load_state_dict(state)
    labels = [*classes, *(f"class {i}" for i in range(len(classes), len(state["fc.bias"])))]
    return ModuleClassifier(model, labels, name="robust", size=(224, 224), mean=MEAN, std=STD)


def judged(
    feature: Feature,
    folder: Path,
    segmenter: Segmenter,
    words: str,
    size: int,
    classifier: Classifier | None = None,
    row: int = 0,
) -> Judged:
    """Presence of the object in the unit's pictures against plain ones'; undecided where it cannot be said.

    Undecided: the object is seldom found in plain pictures; the unit's pictures do not move it more than
    plain ones; or the interval of the presence holds the threshold.
    """
    unit = load_images([folder / feature.label / str(feature.unit)], size=size).pixels
    plain = load_images([folder / feature.label / "plain"], size=size).pixels
    there, usual = (found(x, segmenter, words) for x in (unit, plain))
    threshold = KEEP * float(usual.mean())
    low, high = exact_interval(int(there.sum()), len(there))
    reached = classifier is None or activation(classifier, unit, feature.unit, row) > activation(
        classifier, plain, feature.unit, row
    )
    decided = reached and usual.mean() >= KEEP and not low < threshold < high
    verdict = "undecided" if not decided else "spurious" if there.mean() < threshold else "core"
    return Judged(feature, float(there.mean()), float(usual.mean()), verdict)


def found(images: torch.Tensor, segmenter: Segmenter, words: str) -> np.ndarray:
    """Whether the object covers a hundredth of each picture at least, (N,)."""
    where = segmenter.regions(images, [words] * len(images), [f"a photo of a {words}"] * len(images))
    return np.asarray(where.float().mean((1, 2)) >= THERE)


def activation(classifier: Classifier, images: torch.Tensor, unit: int, row: int) -> float:
    """Mean activation × weight of a unit towards a class."""
    _, layer = last_linear(network(classifier))
    return float(read_units(classifier, images)[:, unit].mean() * layer.weight[row, unit].detach())


def figures(rows: Sequence[Judged]) -> Mapping[str, Any]:
    """Agreement with people over the decided ones, beside the rule that always says core."""
    decided = [r for r in rows if r.verdict != "undecided"]
    truth = np.array([r.feature.spurious for r in decided])
    said = np.array([r.verdict == "spurious" for r in decided])
    every = np.array([r.feature.spurious for r in rows])
    both = 0 < truth.sum() < len(truth)
    score = np.array([r.plain - r.presence for r in rows])
    return {
        "features": len(rows),
        "abstained": 1 - len(decided) / len(rows) if rows else float("nan"),
        "agreement": float((truth == said).mean()) if decided else float("nan"),
        "balanced_accuracy": balanced(truth, said) if both else float("nan"),
        "kappa": kappa(truth, said) if both else float("nan"),
        "auc": auc(every, score) if 0 < every.sum() < len(every) else float("nan"),
        "always_core_agreement": float((~every).mean()) if rows else float("nan"),
        "always_core_balanced_accuracy": 0.5,
    }


def balanced(truth: np.ndarray, said: np.ndarray) -> float:
    """Mean of the shares right among spurious and among core ones."""
    return float((said[truth].mean() + (~said[~truth]).mean()) / 2)


def kappa(truth: np.ndarray, said: np.ndarray) -> float:
    """Cohen's."""
    table = [[np.sum((truth == t) & (said == s)) for s in (False, True)] for t in (False, True)]
    return float(cohens_kappa(np.array(table)).kappa)


def auc(truth: np.ndarray, score: np.ndarray) -> float:
    """How often a spurious one scores above a core one; ties count half."""
    rank = mannwhitneyu(score[truth], score[~truth]).statistic
    return float(rank / (truth.sum() * (~truth).sum()))


def classes_apart(rows: Sequence[Judged]) -> Mapping[str, Any]:
    """The first 15 classes with only spurious features, and the first 15 without any."""
    table: dict[str, list[Judged]] = {}
    for r in rows:
        table.setdefault(r.feature.label, []).append(r)
    only = [k for k, v in sorted(table.items()) if all(r.feature.spurious for r in v)][:WHOLE]
    none = [k for k, v in sorted(table.items()) if not any(r.feature.spurious for r in v)][:WHOLE]

    def share(names: Sequence[str], verdict: str) -> float:
        some = [r for k in names for r in table[k] if r.verdict != "undecided"]
        return float(np.mean([r.verdict == verdict for r in some])) if some else float("nan")

    return {
        "all_spurious_classes": len(only),
        "all_spurious_agreement": share(only, "spurious"),
        "no_spurious_classes": len(none),
        "no_spurious_agreement": share(none, "core"),
    }


def main(words: Sequence[str] | None = None) -> Mapping[str, Any]:
    """Parse the paths, judge every feature that has pictures, print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.salient_imagenet", description=__doc__)
    parser.add_argument("--annotations", required=True, type=Path)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--network", type=Path, help="safetensors of the robust ResNet-50")
    parser.add_argument("--words", type=Path, help="JSON: class -> words for its object")
    parser.add_argument("--segmenter", default="clipseg:CIDAS/clipseg-rd64-refined")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(words)
    features = annotations(asked.annotations)
    labels = list(dict.fromkeys(f.label for f in features))
    said = json.loads(asked.words.read_text(encoding="utf-8")) if asked.words else {}
    segmenter = load_segmenter(asked.segmenter)
    if segmenter is None:
        raise InputError("the protocol needs a segmenter: clipseg:ORG/NAME or clipseg:FOLDER")
    model = robust_network(asked.network, labels) if asked.network else None
    rows = [
        judged(
            f, asked.images, segmenter, said.get(f.label, f.label), asked.size, model, labels.index(f.label)
        )
        for f in features
        if (asked.images / f.label / str(f.unit)).is_dir()
    ]
    result = {**figures(rows), **classes_apart(rows)}
    for name, value in result.items():
        print(f"{name:<32} {value:.4g}")
    if asked.json:
        print(json.dumps({"name": "salient_imagenet", "figures": result}))
    return result


if __name__ == "__main__":
    main()
