"""A run in formats of other tools: CSV, Parquet, COCO, FiftyOne's on-disk layout, MLflow.

COCO and FiftyOne get the reconstructions and the edits as pictures; what an edit changed is an annotation:
the pixels that differ visibly from the reconstruction, its concept, and the scores.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

from diffexplain.errors import InputError, MissingExtra, RunError
from diffexplain.records import Effect
from diffexplain.report import regions, tables
from diffexplain.report.finished import Finished

#: numbers of an edit that other tools can sort and filter by.
_SCORES = (
    "score_before", "score_after", "probability_before", "probability_after", "presence_before",
    "presence_after", "change",
)  # fmt: skip


def export(run: Finished, form: str, folder: Path) -> Path:
    """Write a run into a new or empty folder as `csv`, `parquet`, `coco` or `fiftyone`; returns the folder.

    Raises InputError for another format, RunError when the folder holds something or cannot be written,
    MissingExtra when the format's package is not installed.
    """
    write = _FORMATS.get(form)
    if write is None:
        raise InputError(f"format {form!r}: choose {', '.join((*_FORMATS, 'mlflow'))}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"export folder {str(folder)!r} is not empty: choose a new one with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(run, folder)
    except OSError as problem:
        raise RunError(f"export folder {str(folder)!r} cannot be written: {problem.strerror}") from problem
    return folder


def _csv(run: Finished, folder: Path) -> None:
    """concepts.csv and effects.csv."""
    tables.concepts(run).to_csv(folder / "concepts.csv", index=False)
    tables.effects(run).to_csv(folder / "effects.csv", index=False)


def _parquet(run: Finished, folder: Path) -> None:
    """concepts.parquet and effects.parquet, with the request in the tables' metadata."""
    concepts, effects = tables.concepts(run), tables.effects(run)
    for name, table in (("concepts", concepts), ("effects", effects)):
        table.attrs["request"] = json.dumps(plain(asdict(run.result.request)))
        try:
            table.to_parquet(folder / f"{name}.parquet", index=False)
        except ImportError:
            raise MissingExtra("pyarrow", "tables") from None


def _coco(run: Finished, folder: Path) -> None:
    """annotations.json and images/, in COCO's format for object detection and segmentation."""
    names = _copied(run, folder / "images")
    numbers = {name: k for k, name in enumerate(names, 1)}
    labels = sorted({_label(e) for e in _pictured(run)})
    categories = {label: k for k, label in enumerate(labels, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name, number in numbers.items():
        height, width = regions.pixels(run.picture, name).shape[:2]
        images.append({"id": number, "file_name": f"{name}.png", "width": width, "height": height})
    for e in _pictured(run):
        mask = _mask(run, e)
        if (found := regions.box(mask)) is None:
            continue
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": numbers[e.edited],
                "category_id": categories[_label(e)],
                "bbox": list(found),
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": list(mask.shape), "counts": regions.run_lengths(mask)},
                "attributes": _attributes(e, run),
            }
        )
    request = run.result.request
    about = {
        "description": f"edits of pictures shown to {request.classifier}, target {request.target}",
        "version": str(request.settings.get("version", "")),
        "date_created": datetime.now(UTC).date().isoformat(),
    }
    kinds = [
        {"id": k, "name": label, "supercategory": label.partition(" ")[2].rpartition("/")[0]}
        for label, k in categories.items()
    ]
    _json(
        folder / "annotations.json",
        {"info": about, "licenses": [], "images": images, "annotations": annotations, "categories": kinds},
    )


def _fiftyone(run: Finished, folder: Path) -> None:
    """data/ and labels.json: FiftyOneImageDetectionDataset, boxes relative to the picture."""
    names = _copied(run, folder / "data")
    labels: dict[str, list[dict[str, Any]] | None] = dict.fromkeys(names)
    for e in _pictured(run):
        mask = _mask(run, e)
        height, width = mask.shape
        x, y, wide, high = regions.box(mask) or (0, 0, 0, 0)
        shape = [x / width, y / height, wide / width, high / height]
        entry = {"label": _label(e), "bounding_box": shape, "attributes": _attributes(e, run)}
        labels[e.edited] = [*(labels[e.edited] or []), entry]
    classes = sorted({_label(e) for e in _pictured(run)})
    _json(folder / "labels.json", {"classes": classes, "labels": labels})


_FORMATS: dict[str, Callable[[Finished, Path], None]] = {
    "csv": _csv, "parquet": _parquet, "coco": _coco, "fiftyone": _fiftyone,
}  # fmt: skip
FORMATS = (*_FORMATS, "mlflow")


def log_to_mlflow(
    run: Finished, tracking: str | None = None, *, experiment: str = "diffexplain", files: Sequence[Path] = ()
) -> str:
    """Log a run to MLflow: the request as parameters, effects as metrics, files as artifacts; returns its id.

    `tracking`: the store's URI, else MLflow's own choice (MLFLOW_TRACKING_URI). Sends nothing home.
    Raises MissingExtra without mlflow and RunError when the store cannot be used.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise MissingExtra("mlflow", "mlflow") from None
    try:
        client = MlflowClient(tracking_uri=tracking)
        there = client.get_experiment_by_name(experiment)
        within = there.experiment_id if there else client.create_experiment(experiment)
        request = run.result.request
        logged = client.create_run(within, run_name=f"{request.classifier} {request.target}")
        number = str(logged.info.run_id)
        for key, value in _parameters(run).items():
            client.log_param(number, key, value)
        for key, metric in _metrics(run):
            client.log_metric(number, key, metric)
        for file in files:
            client.log_artifact(number, str(file))
        client.set_terminated(number)
    except (MlflowException, OSError) as problem:
        said = str(problem).splitlines()[0]
        raise RunError(f"mlflow store {tracking or 'by default'!r} cannot be used: {said}") from problem
    return number


def _parameters(run: Finished) -> dict[str, str]:
    request = run.result.request
    named = ("classifier", "target", "versus", "corpus", "corpus_hash", "editor", "screen", "judge", "seeds")
    asked = {name: str(getattr(request, name)) for name in named}
    search = {f"search.{name}": str(value) for name, value in request.search.items()}
    return {**asked, "images": str(len(request.images)), **search}


def _metrics(run: Finished) -> Iterator[tuple[str, float]]:
    """MLflow takes letters, digits and a few signs in a key, so a concept's path is changed to fit."""
    for c in run.result.concepts:
        if c.status == "measured" and isfinite(c.effect):
            key = "".join(s if s.isalnum() or s in "_-. /" else "_" for s in f"{c.direction}/{c.concept}")
            yield f"effect/{key}"[:250], c.effect
            if isfinite(c.q):
                yield f"q/{key}"[:250], c.q
    cost = run.result.cost
    yield from (("edits", cost.edits), ("evaluations", cost.evaluations), ("seconds", cost.seconds))


def _pictured(run: Finished) -> list[Effect]:
    return [e for e in run.effects if e.reconstruction and e.edited]


def _copied(run: Finished, folder: Path) -> list[str]:
    """Write every reconstruction and edit once, lossless as the run keeps them; their names in order."""
    names = sorted({name for e in _pictured(run) for name in (e.reconstruction, e.edited)})
    folder.mkdir()
    for name in names:
        (folder / f"{name}.png").write_bytes(run.picture(name))
    return names


def _mask(run: Finished, e: Effect) -> regions.Mask:
    before = regions.pixels(run.picture, e.reconstruction)
    return regions.changed(before, regions.pixels(run.picture, e.edited))


def _label(e: Effect) -> str:
    return f"{e.direction} {e.concept}"


def _attributes(e: Effect, run: Finished) -> dict[str, Any]:
    told: dict[str, Any] = {
        "original": run.names.get(e.image, e.image),
        "reconstruction": e.reconstruction,
        "seed": e.seed,
        "stage": e.stage,
        "eligible": e.eligible,
        "succeeded": e.succeeded,
    }
    return told | {name: plain(getattr(e, name)) for name in _SCORES}


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(plain(value), allow_nan=False, indent=1), "utf-8")


def plain(value: Any) -> Any:
    """JSON's own values: nan and infinities are null."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
