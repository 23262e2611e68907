"""What a model is asked while mining, and the shape of each answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from diffexplain.mining.endpoint import Message, text_part


class _Answer(BaseModel):
    """Keys that were not asked for are passed over, but a server that can is told to give none."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"additionalProperties": False})


class Group(_Answer):
    """A part or aspect, and what of it differs from picture to picture."""

    name: str
    kinds: list[str]


class Groups(_Answer):
    """The answer to `groups_asked`."""

    subject: str  # one thing of the domain: "a bird"
    groups: list[Group]


class Value(_Answer):
    """One way a kind can look."""

    name: str
    phrase: str


class Expanded(_Answer):
    """The values of one kind."""

    number: int
    one_at_a_time: bool
    absent: str  # how it looks when there is none; empty: there always is one
    values: list[Value]


class Expansion(_Answer):
    """The answer to `values_asked`."""

    kinds: list[Expanded]


class Objection(_Answer):
    """A term that should go, and why."""

    number: int
    why: Literal["not visible", "not editable"]


class Objections(_Answer):
    """The answer to `objections_asked`."""

    drop: list[Objection]


def groups_asked(domain: str, images: Sequence[dict[str, Any]]) -> list[Message]:
    """The group pass: parts and aspects in which the pictures differ."""
    text = (
        f"Here are {len(images)} pictures from a collection of {domain}. Which visible parts and aspects "
        "differ between pictures of such a collection? Sort them: a group is a part of the subject or an "
        "aspect of the picture (for a face: hair, mouth, background); its kinds are what can differ there "
        "(for hair: colour, length, style). Give 5 to 12 groups with 2 to 6 kinds each, in short lower-case "
        "nouns. Only what an eye sees in a single picture; no names of classes or species, no moods, no "
        "judgements of quality. As the subject, name one thing of the collection with its article."
    )
    return _question([*images, text_part(text)], Groups)


def values_asked(domain: str, subject: str, kinds: Sequence[str], most: int) -> list[Message]:
    """The expansion pass: the ways in which each kind can look, in words alone."""
    listed = "\n".join(f"{n}. {kind}" for n, kind in enumerate(kinds, start=1))
    text = (
        f"A picture editor shall change one thing at a time in pictures of {domain}. For each kind below, "
        f"list the ways it can look in such a picture: at least 2 and at most {most}, common ones first, "
        f'clearly different to the eye. Each has a short name and a noun phrase that ends the sentence "a '
        f'photo of {subject} with …" (for the colour of a hat: name red, phrase a red hat). Say for each '
        "kind whether only one of its values holds at a time, and, where it can be missing altogether, the "
        "phrase of its absence (for a hat: no hat); else leave that empty. Repeat the kind's number.\n\n"
        f"{listed}"
    )
    return _question([text_part(text)], Expansion)


def objections_asked(domain: str, images: Sequence[dict[str, Any]], terms: Sequence[str]) -> list[Message]:
    """The clean-up: which terms no eye sees, or no editor can put there without a wholly new picture."""
    listed = "\n".join(f"{n}. {term}" for n, term in enumerate(terms, start=1))
    text = (
        f"The pictures are samples of a collection of {domain}. Below are numbered things that somebody "
        "wants to put into, or take out of, single pictures of it. Object to those that are not visible "
        "(they cannot be seen in one picture, or belong to no such collection) and to those that are not "
        "editable (they would need another subject or a wholly new picture). Object to nothing else; an "
        f"empty list is a fine answer.\n\n{listed}"
    )
    return _question([*images, text_part(text)], Objections)


def _question(parts: list[dict[str, Any]], shape: type[BaseModel]) -> list[Message]:
    """The parts, then the shape in words too: not every server can hold a model to a schema."""
    schema = json.dumps(shape.model_json_schema())
    form = f"Answer with one JSON object and no other word. It must fit this JSON Schema: {schema}"
    return [{"role": "user", "content": [*parts, text_part(form)]}]
