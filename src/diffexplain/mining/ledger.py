"""Every call to a model, kept in the run folder: what is answered is not asked again; all is counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from diffexplain.errors import ModelError, RunError
from diffexplain.mining.answers import Shape, Unusable, read_answer
from diffexplain.mining.endpoint import Answer, Message, Model, excerpt

TRIES = 3  # answers to one question before it is given up


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls cost."""

    calls: int = 0
    kept: int = 0  # of these, answered from the folder
    tokens_in: int = 0  # of new calls
    tokens_out: int = 0

    def plus(self, answer: Answer, *, kept: bool) -> Usage:
        """With one more answer."""
        if kept:
            return Usage(self.calls + 1, self.kept + 1, self.tokens_in, self.tokens_out)
        more_in, more_out = self.tokens_in + answer.tokens_in, self.tokens_out + answer.tokens_out
        return Usage(self.calls + 1, self.kept, more_in, more_out)

    def said(self, price: tuple[float, float] | None) -> str:
        """In words; `price` is dollars for a million tokens in and out."""
        cost = "price not given"
        if price is not None:
            cost = f"${(self.tokens_in * price[0] + self.tokens_out * price[1]) / 1e6:.4f}"
        kept = f" ({self.kept} of them kept from before)" if self.kept else ""
        return f"{self.calls} calls{kept}, {self.tokens_in:,} tokens in, {self.tokens_out:,} out, {cost}"


class Ledger:
    """Asks a model for JSON of a shape, and keeps each answer as a file of the run folder."""

    def __init__(
        self, model: Model, folder: Path, *, told: Callable[[str, Usage], None] = lambda what, usage: None
    ) -> None:
        self.model, self.folder, self.usage = model, folder, Usage()
        self._told = told
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"run folder {folder}: {error.strerror}; choose another with --run") from None

    def ask(self, messages: Sequence[Message], shape: type[Shape], what: str) -> Shape:
        """A whole answer of that shape. An unusable one is shown to the model with what is wrong, twice.

        Raises ModelError that says what came back; those answers are then put aside, so that the same
        command asks anew.
        """
        return self._asked(messages, shape, what, parts=False)[0]

    def ask_part(self, messages: Sequence[Message], shape: type[Shape], what: str) -> tuple[Shape, bool]:
        """As `ask`, but one that breaks off will do; and whether it is whole."""
        return self._asked(messages, shape, what, parts=True)

    def _asked(
        self, messages: Sequence[Message], shape: type[Shape], what: str, *, parts: bool
    ) -> tuple[Shape, bool]:
        said, problem, files = list(messages), "", list[Path]()
        for _ in range(TRIES):
            answer, file = self._answered(said, shape.model_json_schema(), what)
            files.append(file)
            try:
                value, whole = read_answer(answer.text, shape)
                if whole or parts:
                    return value, whole
                problem = "it breaks off before its end; say it shorter"
            except Unusable as error:
                problem = str(error)
            wrong = f"That cannot be used: {problem}. Answer with the whole JSON object and no other word."
            said += [
                {"role": "assistant", "content": answer.text[:4000] or "(nothing)"},
                {"role": "user", "content": wrong},
            ]
        for file in files:
            file.replace(file.with_suffix(".unusable"))
        raise ModelError(
            f"model {self.model.name}, {what}: no usable answer in {TRIES} tries ({problem}); "
            f"the last was {excerpt(answer.text)}; try again or choose a stronger model"
        )

    def _answered(
        self, messages: Sequence[Message], schema: Mapping[str, Any], what: str
    ) -> tuple[Answer, Path]:
        asked = json.dumps([self.model.name, messages, schema], sort_keys=True)
        file = self.folder / f"{blake2b(asked.encode(), digest_size=16).hexdigest()}.json"
        kept = _read(file)
        answer = kept or self.model.ask(messages, schema)
        if kept is None:
            _write(file, {"what": what, "model": self.model.name, "answer": asdict(answer)})
        self.usage = self.usage.plus(answer, kept=kept is not None)
        self._told(what, self.usage)
        return answer, file


def _read(file: Path) -> Answer | None:
    """A kept answer; one that is damaged counts as none."""
    try:
        return Answer(**json.loads(file.read_text("utf-8"))["answer"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, content: Mapping[str, Any]) -> None:
    """Completely or not at all."""
    half = file.with_suffix(".tmp")
    try:
        half.write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")
        half.replace(file)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise RunError(f"run folder {file.parent}: {error.strerror}; free space or choose another") from None
