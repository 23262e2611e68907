"""From what a model says to the JSON that was asked for: found, mended where it can be, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Shape = TypeVar("Shape", bound=BaseModel)
_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_BACK = 24  # entries that are given up at most where an answer breaks off
_DEEPEST = 64  # brackets within brackets
_LOOSE_COMMA = re.compile(r",\s*([\]}])")


class Unusable(ValueError):
    """Why an answer cannot be used, in words that the model can act on."""


def read_answer(text: str, shape: type[Shape]) -> tuple[Shape, bool]:
    """The first JSON object in a text, of a shape; and whether it is whole. Raises Unusable.

    Words around it, code fences and thoughts are skipped; loose commas are taken out; what breaks off is
    cut back to its last whole entry and closed.
    """
    spoken, problem = _THOUGHT.sub(" ", text), "it holds no JSON object"
    for start in [m.start() for m in re.finditer(r"\{", spoken)][:8]:
        for value, whole in _readings(spoken[start:]):
            try:
                return shape.model_validate(value), whole
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(map(str, first["loc"])) or "the whole"
                problem = f"{where}: {first['msg']}"
                if whole:
                    raise Unusable(problem) from None
    raise Unusable(problem)


def _readings(text: str) -> Iterator[tuple[dict[str, Any], bool]]:
    """What a text begins with: the object as it stands, or its whole entries where it breaks off."""
    tidy = _LOOSE_COMMA.sub(r"\1", text)
    for candidate in (text, tidy):
        value = _decoded(candidate)
        if value is not None:
            if value:
                yield value, True
            return
    for end, brackets in reversed(_whole_ends(tidy)[-_BACK:]):
        value = _decoded(tidy[:end].rstrip().rstrip(",") + "".join(reversed(brackets)))
        if value:
            yield value, False


def _decoded(text: str) -> dict[str, Any] | None:
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _whole_ends(text: str) -> list[tuple[int, str]]:
    """Where an entry ends, with the brackets that are open there, as their closing ones."""
    ends: list[tuple[int, str]] = []
    stack, quoted, skip = "", False, False
    for i, letter in enumerate(text):
        if skip:
            skip = False
        elif quoted:
            skip = letter == "\\"
            quoted = letter != '"'
        elif letter == '"':
            quoted = True
        elif letter in "[{":
            if len(stack) >= _DEEPEST:
                return []
            stack += "]" if letter == "[" else "}"
            ends.append((i + 1, stack))
        elif letter in "]}":
            stack = stack[:-1]
            ends.append((i + 1, stack))
            if not stack:
                break
        elif letter == ",":
            ends.append((i, stack))
    return ends
