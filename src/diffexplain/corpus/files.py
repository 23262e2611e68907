"""Where corpora lie: the bundled ones by name, others by path; every error names the file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from diffexplain.corpus.document import MAX_BYTES, Document, read_document
from diffexplain.corpus.growing import grow
from diffexplain.corpus.tree import Corpus
from diffexplain.errors import CorpusError

_BUNDLED = files("diffexplain").joinpath("corpora")


def available() -> tuple[str, ...]:
    """The names of the bundled corpora."""
    return tuple(sorted(f.name[:-5] for f in _BUNDLED.iterdir() if f.name.endswith(".yaml")))


def load_corpus(name_or_path: str | Path | Corpus) -> Corpus:
    """A bundled corpus by its name, or one from a YAML file. Raises CorpusError that says where."""
    if isinstance(name_or_path, Corpus):
        return name_or_path
    return parse_corpus(_text(name_or_path), str(name_or_path))


def load_document(name_or_path: str | Path) -> Document:
    """What stands in a bundled corpus or a YAML file, checked as `load_corpus` does. Raises CorpusError."""
    return _checked(_text(name_or_path), str(name_or_path))[0]


def parse_corpus(text: str, source: str = "text") -> Corpus:
    """A corpus from YAML text; `source` names it in errors. Raises CorpusError if it is malformed."""
    return _checked(text, source)[1]


def _checked(text: str, source: str) -> tuple[Document, Corpus]:
    try:
        document = read_document(text)
        return document, grow(document)
    except CorpusError as error:
        raise _wrong(source, str(error)) from None


def _text(name_or_path: str | Path) -> str:
    source, bundled = str(name_or_path), available()
    file = _BUNDLED.joinpath(f"{source}.yaml") if name_or_path in bundled else Path(source)
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise _wrong(source, f"a corpus may have {MAX_BYTES / 1e6:.0f} MB; prune or split it")
        return content.decode("utf-8")
    except CorpusError:
        raise
    except (OSError, ValueError) as error:
        cure = f"give a YAML file in UTF-8 or one of the bundled: {', '.join(bundled)}"
        raise _wrong(source, f"{getattr(error, 'strerror', None) or error}; {cure}") from None


def _wrong(source: str, message: str) -> CorpusError:
    line = " ".join(f"corpus {source}: {message}".split())
    return CorpusError(line if len(line) <= 600 else f"{line[:300]}…{line[-299:]}")
