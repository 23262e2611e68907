"""The bundled small models: where their folders lie. The code that loads them also loads hub models."""

from __future__ import annotations

from pathlib import Path

from diffexplain.errors import ClassifierError

ROOT = Path(__file__).parent


def classifiers() -> tuple[str, ...]:
    """Names of the bundled classifiers, `null` included."""
    return (*sorted(p.parent.name for p in (ROOT / "classifiers").glob("*/config.json")), "null")


def classifier_folder(name: str) -> Path:
    """The folder of a bundled classifier. Raises ClassifierError for an unknown name."""
    folder = ROOT / "classifiers" / name
    if not (folder / "config.json").is_file():
        raise ClassifierError(f"no classifier 'pocket:{name}'; there are {', '.join(classifiers())}")
    return folder
