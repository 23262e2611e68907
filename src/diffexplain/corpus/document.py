"""What stands in a corpus file: read by the safe loader, checked once, written back.

JSON Schema of it: `schema`, shipped as `corpora/schema.json` for editors to complete and check by.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from diffexplain.errors import CorpusError
from diffexplain.records import Direction

MAX_DEPTH = 32  # levels
MAX_NODES = 20_000
MAX_BYTES = 4_000_000  # the YAML reader takes about 10 s a megabyte
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAMED = re.compile(r"""\bname["']?[ \t]*:""")

_NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]*$"  # as every dialect of JSON Schema reads it
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=_NO_CONTROL)]


class Node(BaseModel, strict=True, extra="forbid", frozen=True):  # None: not stated
    """A concept; without children it is a leaf."""

    name: Annotated[_Text, Field(description="last part of the path; no '/' and no ' + '")]
    phrase: Annotated[
        _Text | None, Field(description="what replaces {phrase}; a leaf's is its name when not given")
    ] = None
    prompt: Annotated[
        _Text | None, Field(description="the whole edit prompt, in place of template and phrase")
    ] = None
    exclusive: Annotated[bool, Field(description="a slot: the leaves under it exclude each other")] = False
    absent: Annotated[
        _Text | None, Field(description="what an empty slot looks like; makes removal from it possible")
    ] = None
    directions: Annotated[
        list[Direction] | None, Field(min_length=1, description="add, remove or both; holds below")
    ] = None
    hidden_by: Annotated[
        list[_Text], Field(description="full paths that hide the concept while they are there; holds below")
    ] = []
    replaces: Annotated[
        list[_Text], Field(description="full paths in other branches that adding it takes away; holds below")
    ] = []
    whole_image: Annotated[
        bool | None, Field(description="locality of the edit is not judged; holds below")
    ] = None
    protected: Annotated[bool | None, Field(description="a protected attribute; holds below")] = None
    children: Annotated[list[Node], Field(description="finer concepts")] = []


class Document(BaseModel, strict=True, extra="forbid", frozen=True, title="diffexplain corpus"):
    """A tree of concepts to ask about."""

    name: Annotated[_Text, Field(description="of the corpus")]
    domain: Annotated[_Text, Field(description="what the pictures show, for people")]
    prompt: Annotated[
        _Text, Field(pattern=r"\{phrase\}", description="template of every edit prompt; holds {phrase}")
    ]
    neutral: Annotated[_Text, Field(description="the prompt of a picture with nothing said")]
    concepts: Annotated[list[Node], Field(min_length=1, description="the roots of the tree")]
    sources: Annotated[
        list[_Text], Field(description="where the concepts come from; changes nothing in a run")
    ] = []


def read_document(text: str) -> Document:
    """A document from YAML text. Raises CorpusError that says where it is malformed."""
    content: object = None
    try:
        content = _parsed(text)
        return Document.model_validate(content)
    except ValidationError as error:
        raise CorpusError(_described(error, content)) from None


def restated(node: Node, **keys: object) -> Node:
    """The node with other keys, checked as if they had been read. Raises CorpusError."""
    content = {**node.model_dump(exclude_defaults=True), **keys}
    try:
        return Node.model_validate(content)
    except ValidationError as error:
        raise CorpusError(_described(error, content)) from None


def written(document: Document) -> str:
    """The document as YAML: a leaf on one line, only what is stated."""
    content: dict[str, Any] = document.model_dump(exclude_defaults=True)
    roots = content.pop("concepts")
    content = {**content, "concepts": [_leaf_last(node) for node in roots]}
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def schema() -> str:
    """The JSON Schema of a corpus file, as text."""
    made: dict[str, Any] = {"$schema": DIALECT, **Document.model_json_schema()}
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


class _Loader(yaml.SafeLoader):
    """Safe YAML that neither drops the first of two equal keys in silence nor merges mappings."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen = {"<<"}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                why = "merges mappings; write them out" if key.value == "<<" else "is there twice"
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} {why}", key.start_mark)
            seen.add(key.value)


class _Line(dict[str, Any]):
    """A mapping written on one line."""


class _Dumper(yaml.SafeDumper):
    """Safe YAML with leaves on one line, and lists indented under their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


_Dumper.add_representer(
    _Line, lambda dumper, line: dumper.represent_mapping("tag:yaml.org,2002:map", line, flow_style=True)
)


def _leaf_last(node: dict[str, Any]) -> dict[str, Any]:
    """A node as it is written: its own keys first, then its children; a leaf on one line."""
    if not node.get("children"):
        return _Line(node)
    own = {key: value for key, value in node.items() if key != "children"}
    return {**own, "children": [_leaf_last(child) for child in node["children"]]}


def _parsed(text: str) -> dict[str, Any]:
    named = len(_NAMED.findall(text))  # before the slow reading
    if len(text) > MAX_BYTES or named > MAX_NODES + 1:
        what = f"about {named:,} concepts" if named > MAX_NODES else f"{len(text) / 1e6:.1f} MB"
        limit = f"{MAX_NODES:,} concepts and {MAX_BYTES / 1e6:.0f} MB"
        raise CorpusError(f"has {what}; a corpus may have {limit}: prune or split it")
    try:
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise CorpusError(f"{where}not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(content, dict):
        raise CorpusError(f"must be a mapping with {', '.join(_required())}")
    _check_shape(content.get("concepts"), iter(range(MAX_NODES)))
    return content


def _required() -> list[str]:
    return [name for name, key in Document.model_fields.items() if key.is_required()]


def _check_shape(nodes: object, allowed: Iterator[int], above: tuple[int, ...] = ()) -> None:
    """Bound what aliases can make of a small file, before anything unfolds it."""
    for node in [n for n in nodes if isinstance(n, dict)] if isinstance(nodes, list) else ():
        name = reprlib.repr(node.get("name"))
        if id(node) in above:
            raise CorpusError(f"{name} contains itself through a YAML alias; write it out")
        if len(above) >= MAX_DEPTH:
            raise CorpusError(f"{name} is deeper than {MAX_DEPTH} levels; flatten the tree")
        if next(allowed, None) is None:
            raise CorpusError(f"{name} is one more than {MAX_NODES:,} concepts; split the corpus")
        _check_shape(node.get("children"), allowed, (*above, id(node)))


def _described(error: ValidationError, content: Any) -> str:
    """The first problem of a validation, with the concept and the key that have it."""
    first, path, key = error.errors(include_url=False)[0], "", ""
    for step in first["loc"]:
        if isinstance(content, list):
            content = content[int(step)]
            name = content.get("name") if isinstance(content, dict) else None
            path = f"{path}/{name if isinstance(name, str) else f'[{step}]'}".lstrip("/")
        else:
            key, content = str(step), content.get(step) if isinstance(content, dict) else None
    got, known = reprlib.repr(first["input"]), (Node if path else Document).model_fields
    problem = {
        "extra_forbidden": f"unknown; known are {', '.join(known)}",
        "missing": "missing",
        "string_type": f"must be text, not {got}; put it in quotes",
    }.get(first["type"], f"{first['msg']}, not {got}")
    return (f"{path!r}, " if path else "") + f"key {key!r}: {problem}"
