"""Labels as a person gives them, and whether they fit a network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from diffexplain.classifiers.base import first_line
from diffexplain.errors import ClassifierError

Labels = str | Path | Sequence[str] | Mapping[str, Any]
_FILES = (".txt", ".csv", ".json", ".yaml", ".yml")


def label_names(given: Labels | None) -> tuple[str, ...] | None:
    """Labels from a sequence, `a,b,c`, or a file: one a line, or JSON or YAML (a list, {index: label}).

    Of any other mapping the keys are the labels (their values are prompts). Raises ClassifierError.
    """
    found = read_labels(given)
    if found is None:
        return None
    names = _in_order(found) if isinstance(found, Mapping) else [str(name) for name in found]
    if not names or not all(names):
        raise ClassifierError(
            f"labels {str(given)[:80]!r} hold no label or an empty one; give a,b,c or a file"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ClassifierError(f"labels name {twice[0]!r} twice; give each class a name of its own")
    return tuple(names)


def read_labels(given: Labels | None) -> Sequence[str] | Mapping[str, Any] | None:
    """What was given, its file read. Raises ClassifierError for a file that is missing or no labels."""
    if not isinstance(given, str | Path):
        return given
    path = Path(given)
    if not (isinstance(given, Path) or path.suffix.lower() in _FILES):
        return [part.strip() for part in given.split(",")]
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() in (".json", ".yaml", ".yml"):
            found = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
        else:
            found = [line.strip() for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ClassifierError(f"labels file {str(path)!r} cannot be read: {first_line(error)}") from error
    if not isinstance(found, list | dict):
        raise ClassifierError(
            f"labels file {str(path)!r} holds {type(found).__name__}; give a list of labels"
        )
    return found


def unique(names: Iterable[Any]) -> tuple[str, ...]:
    """A library's names; the second of two that are alike gets its index (ImageNet has two cranes)."""
    found: list[str] = []
    for index, name in enumerate(str(n) for n in names):
        found.append(f"{name} ({index})" if name in found else name)
    return tuple(found)


def fitting(
    labels: Sequence[str], outputs: int | None, name: str, head: str | None = None
) -> tuple[str, ...]:
    """The labels, if a network of so many outputs (None: unknown) can have them. Raises ClassifierError."""
    allowed = {outputs, 2 if outputs == 1 and head in (None, "softmax") else outputs}
    if outputs is None or len(labels) in allowed:
        return tuple(labels)
    wanted = "1 or 2" if len(allowed) == 2 else str(outputs)
    raise ClassifierError(
        f"{len(labels)} labels were given for {name!r}, which has {outputs} outputs; give {wanted} "
        "(--labels a,b,c or a file with one a line)"
    )


def _in_order(found: Mapping[Any, Any]) -> list[str]:
    """Labels of {index: label}, else the keys."""
    try:
        return [str(found[key]) for key in sorted(found, key=int)]
    except (TypeError, ValueError):
        return [str(key) for key in found]
