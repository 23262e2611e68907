"""Every error a user can cause, each one line that names the argument, the value and the cure.

DiffexplainError
├── InputError            something asked for is wrong (exit code 2)
│   ├── ClassifierError   no such classifier or label; NaN, wrong shape, or it raised
│   ├── CorpusError       unknown corpus, duplicate path, cycle, unknown key
│   ├── EditorError       unknown editor or judge; pictures that it cannot reconstruct
│   ├── ImageError        no such folder, empty folder, not an image
│   └── ModelError        a language model cannot be reached, or its answer is unusable
├── RunError              the run folder holds another run, is in use, or its disk is full
└── MissingExtra          an optional dependency is not installed
"""

from __future__ import annotations


class DiffexplainError(Exception):
    """Base of all errors raised on purpose."""

    def __str__(self) -> str:
        """One line, whatever is quoted in it."""
        return " ".join(super().__str__().splitlines())


class InputError(DiffexplainError, ValueError):
    """Something asked for is wrong."""


class ClassifierError(InputError):
    """The classifier or its label does not exist, or its answer is unusable."""


class CorpusError(InputError):
    """The corpus does not exist or is malformed."""


class EditorError(InputError):
    """The editor or judge does not exist, or does not fit the pictures."""


class ImageError(InputError):
    """A picture or picture folder cannot be used."""


class ModelError(InputError):
    """A language model cannot be reached, or what it answers is unusable."""


class RunError(DiffexplainError):
    """The run folder cannot be used or written."""


class MissingExtra(DiffexplainError, ImportError):
    """An optional dependency is missing: `pip install 'diffexplain[extra]'`."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'diffexplain[{extra}]'")
