"""The bundled small models: where their folders lie. The code that loads them also loads hub models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffexplain.errors import ClassifierError

ROOT = Path(__file__).parent
ZOO = "zoo/"


def classifiers() -> tuple[str, ...]:
    """Names of the bundled classifiers, `null` included; those of the zoo are `zoo()`'s."""
    return (*_folders("classifiers"), "null")


def zoo() -> Mapping[str, Any]:
    """What `zoo.yaml` says: the margin, and of every member its recipe and its true effects, by name."""
    return _zoo()


@lru_cache(maxsize=1)
def _zoo() -> Mapping[str, Any]:
    import yaml

    found: Mapping[str, Any] = yaml.safe_load((ROOT / "zoo.yaml").read_text(encoding="utf-8"))
    return found


def classifier_folder(name: str) -> Path:
    """The folder of a bundled classifier, NAME or zoo/NAME. Raises ClassifierError for an unknown one."""
    if name.startswith(ZOO) and name.removeprefix(ZOO) in _folders("zoo"):
        return ROOT / name
    if name in _folders("classifiers"):
        return ROOT / "classifiers" / name
    known = _folders("zoo") if name.startswith(ZOO) else (*classifiers(), f"{ZOO}NAME")
    raise ClassifierError(f"no classifier 'pocket:{name}'; there are {', '.join(known)}")


def _folders(kind: str) -> tuple[str, ...]:
    return tuple(sorted(p.parent.name for p in (ROOT / kind).glob("*/config.json")))
