"""The corpus: a tree of concepts of any depth, read from YAML and checked once.

A path such as `facial hair/beard/long` is a concept's identity everywhere. Concepts under an
`exclusive` node (a slot) exclude each other; `absent` says what a slot looks like when it is empty.
"""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

import yaml
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from diffexplain.errors import CorpusError
from diffexplain.records import JOIN, Direction

MAX_DEPTH = 32  # levels
MAX_NODES = 200_000
MAX_SLOT = 1_000  # leaves that exclude each other: each of them names all the others
_DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
_BUNDLED = files("diffexplain").joinpath("corpora")


@dataclass(frozen=True, slots=True)
class Concept:
    """One node of the tree, with everything it has from the nodes above it."""

    path: str
    name: str
    depth: int  # 0 at the top of the tree
    prompt: str  # full text; empty: an inner node without words, its leaves stand in
    phrase: str  # its clause in a caption; empty: it has none
    own_prompt: str  # the full text where it was stated whole
    parent: str | None
    children: tuple[str, ...]
    leaves: tuple[str, ...]  # at or under it
    directions: tuple[Direction, ...]  # of an inner node, unless stated: those of any of its leaves
    slot: str | None  # the nearest exclusive node, at or above it
    absent_prompt: str | None  # full text of that slot's absence
    absent: str | None  # the clause of it
    hidden_by: tuple[str, ...]  # it cannot be seen while one of these is there
    replaces: tuple[str, ...]  # what adding it necessarily takes away
    whole_image: bool  # locality is not judged
    protected: bool

    @property
    def is_leaf(self) -> bool:
        """Whether nothing is under it."""
        return not self.children


#: stands over the roots, since a node hands down what it has
_TOP = Concept("", "", -1, "", "", "", None, (), (), (), None, None, None, (), (), False, False)


@dataclass(frozen=True)
class Corpus:
    """The concept tree of a domain: `path in corpus`, `corpus[path]`; iterating gives the paths."""

    name: str
    domain: str
    prompt: str  # template of prompts, with {phrase} in it
    neutral: str  # generic prompt of the domain
    concepts: Mapping[str, Concept] = field(hash=False, repr=False)  # in document order
    roots: tuple[str, ...]
    #: what `restrict` left out: not asked about, but still looked up (it may hide what is asked)
    outside: Mapping[str, Concept] = field(default_factory=dict, hash=False, repr=False)

    @cached_property
    def hash(self) -> str:
        """blake2b of the content, order included."""
        tree = [astuple(c) for c in self.concepts.values()], sorted(map(astuple, self.outside.values()))
        content = json.dumps([self.name, self.domain, self.prompt, self.neutral, self.roots, tree])
        return blake2b(content.encode(), digest_size=16).hexdigest()

    def __getitem__(self, path: str) -> Concept:
        """The concept at a path. Raises CorpusError, with close matches."""
        return self.concepts.get(path) or self.outside.get(path) or self._unknown(path)

    def __contains__(self, path: object) -> bool:
        return path in self.concepts

    def __iter__(self) -> Iterator[str]:
        return iter(self.concepts)

    def __len__(self) -> int:
        return len(self.concepts)

    def walk(self) -> Iterator[Concept]:
        """Every concept, a parent before its children, in document order."""
        return iter(self.concepts.values())

    def leaves(self) -> tuple[Concept, ...]:
        """The concepts with nothing under them."""
        return tuple(c for c in self.walk() if c.is_leaf)

    def children(self, path: str) -> tuple[Concept, ...]:
        """The concepts right under a path. Raises CorpusError for an unknown path."""
        return tuple(self[p] for p in self[path].children)

    def slot_leaves(self, slot: str) -> tuple[Concept, ...]:
        """The leaves that exclude each other in a slot. Raises CorpusError if it is not one."""
        if self[slot].slot != slot:
            raise CorpusError(f"corpus {self.name!r}: {slot!r} is no slot; mark it `exclusive: true`")
        return tuple(self[p] for p in self[slot].leaves)

    def restrict(self, paths: str | Iterable[str]) -> Corpus:
        """Just the subtrees at these paths. Raises CorpusError for an unknown path, or no path."""
        chosen = {paths} if isinstance(paths, str) else set(paths)
        unknown = sorted(chosen.difference(self))
        if unknown or not chosen:
            self._unknown(unknown[0] if unknown else "")
        inside = {p: c for p, c in self.concepts.items() if not chosen.isdisjoint((p, *_ancestors(p)))}
        roots = tuple(p for p in inside if chosen.isdisjoint(_ancestors(p)))
        outside = {p: c for p, c in {**self.outside, **self.concepts}.items() if p not in inside}
        return replace(self, concepts=inside, roots=roots, outside=outside)

    def _unknown(self, path: str) -> NoReturn:
        close = [p for p in self if p.endswith(f"/{path}")] or get_close_matches(path, self)
        cure = f"did you mean {close[:3]}?" if close else f"its roots are {list(self.roots)}"
        raise CorpusError(f"corpus {self.name!r} has no concept {path!r}; {cure}")


def available() -> tuple[str, ...]:
    """The names of the bundled corpora."""
    return tuple(sorted(f.name[:-5] for f in _BUNDLED.iterdir() if f.name.endswith(".yaml")))


def load_corpus(name_or_path: str | Path | Corpus) -> Corpus:
    """A bundled corpus by its name, or one from a YAML file. Raises CorpusError that says where."""
    if isinstance(name_or_path, Corpus):
        return name_or_path
    source, bundled = str(name_or_path), available()
    file = _BUNDLED.joinpath(f"{source}.yaml") if name_or_path in bundled else Path(source)
    try:
        text = file.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:
        cure = f"give a YAML file in UTF-8 or one of the bundled: {', '.join(bundled)}"
        raise _wrong(source, f"{getattr(error, 'strerror', error)}; {cure}") from None
    return parse_corpus(text, source)


def parse_corpus(text: str, source: str = "text") -> Corpus:
    """A corpus from YAML text; `source` names it in errors. Raises CorpusError if it is malformed."""
    content: object = None
    try:
        content = _parsed(text)
        document = _Document.model_validate(content)
        grown = [c for node in document.concepts for c in _grown(node, _TOP, document.prompt)]
        _check_paths(grown)
    except ValidationError as error:
        raise _wrong(source, _described(error, content)) from None
    except CorpusError as error:
        raise _wrong(source, str(error)) from None
    roots = tuple(c.path for c in grown if c.parent is None)
    concepts = {c.path: c for c in grown}
    return Corpus(document.name, document.domain, document.prompt, document.neutral, concepts, roots)


def tree_text(corpus: Corpus) -> str:
    """The tree for people: one indented line a concept, with its directions and its prompt."""
    lines = [f"{corpus.name}: {corpus.domain}, {len(corpus)} concepts, {len(corpus.leaves())} leaves"]
    for concept in corpus.walk():
        indent = "  " * (1 + sum(path in corpus for path in _ancestors(concept.path)))
        signs = "".join({"add": "+", "remove": "−"}[d] for d in concept.directions)
        signs += " one of" * (concept.slot == concept.path)
        lines.append(f"{indent}{concept.name}  {signs}  {concept.prompt}".rstrip())
    return "\n".join(lines)


def _wrong(source: str, message: str) -> CorpusError:
    line = " ".join(f"corpus {source}: {message}".split())
    return CorpusError(line if len(line) <= 600 else f"{line[:300]}…{line[-299:]}")


def _ancestors(path: str) -> tuple[str, ...]:
    parts = path.split("/")
    return tuple("/".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))


class _Loader(yaml.SafeLoader):
    """Safe YAML that neither drops the first of two equal keys in silence nor merges mappings."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        seen = {"<<"}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                why = "merges mappings; write them out" if key.value == "<<" else "is there twice"
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} {why}", key.start_mark)
            seen.add(key.value)


def _parsed(text: str) -> dict[str, Any]:
    try:
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise CorpusError(f"{where}not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(content, dict):
        raise CorpusError(f"must be a mapping with {', '.join(_Document.model_fields)}")
    _check_shape(content.get("concepts"), iter(range(MAX_NODES)))
    return content


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


_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^\P{Cc}*$")]


class _Node(BaseModel, strict=True, extra="forbid", frozen=True):  # None: not stated
    name: _Text
    phrase: _Text | None = None
    prompt: _Text | None = None
    exclusive: bool = False
    absent: _Text | None = None
    directions: Annotated[list[Direction], Field(min_length=1)] | None = None
    hidden_by: list[_Text] = []
    replaces: list[_Text] = []
    whole_image: bool | None = None
    protected: bool | None = None
    children: list[_Node] = []


class _Document(BaseModel, strict=True, extra="forbid", frozen=True):
    name: _Text
    domain: _Text
    prompt: Annotated[_Text, Field(pattern=r"\{phrase\}")]
    neutral: _Text
    concepts: Annotated[list[_Node], Field(min_length=1)]


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
    got, known = reprlib.repr(first["input"]), (_Node if path else _Document).model_fields
    problem = {
        "extra_forbidden": f"unknown; known are {', '.join(known)}",
        "missing": "missing",
        "string_type": f"must be text, not {got}; put it in quotes",
    }.get(first["type"], f"{first['msg']}, not {got}")
    return (f"{path!r}, " if path else "") + f"key {key!r}: {problem}"


def _grown(node: _Node, above: Concept, template: str) -> list[Concept]:
    """The concept of a node, then those under it."""
    path = f"{above.path}/{node.name}".lstrip("/")
    if "/" in node.name or JOIN in f" {node.name} ":
        raise CorpusError(f"{path!r}: {node.name!r} has '/' or {JOIN!r} in it, which join paths; rename it")
    if node.absent and not node.exclusive:
        raise CorpusError(f"{path!r}, key 'absent': only a slot has it; add `exclusive: true`")
    phrase = node.phrase or ("" if node.children else node.name)
    absent = template.replace("{phrase}", node.absent) if node.absent else None
    stated = tuple(d for d in _DIRECTIONS if d in (node.directions or above.directions))
    concept = Concept(
        path=path,
        name=node.name,
        depth=above.depth + 1,
        prompt=node.prompt or (template.replace("{phrase}", phrase) if phrase else ""),
        phrase="" if node.prompt and not node.phrase else phrase,
        own_prompt=node.prompt or "",
        parent=above.path or None,
        children=tuple(f"{path}/{child.name}" for child in node.children),
        leaves=(),  # known below
        directions=stated,
        slot=path if node.exclusive else above.slot,
        absent_prompt=absent if node.exclusive else above.absent_prompt,
        absent=node.absent if node.exclusive else above.absent,
        hidden_by=_joined(above.hidden_by, node.hidden_by),
        replaces=_joined(above.replaces, node.replaces),
        whole_image=above.whole_image if node.whole_image is None else node.whole_image,
        protected=above.protected if node.protected is None else node.protected,
    )
    below = [c for child in node.children for c in _grown(child, concept, template)]
    possible = _DIRECTIONS if concept.absent_prompt or not concept.slot else _DIRECTIONS[:1]
    leaves = {c.path: c.directions for c in below if c.is_leaf} or {path: possible}
    if node.exclusive:  # its leaves replace each other, whatever slots lie between
        if len(leaves) > MAX_SLOT:
            raise CorpusError(f"{path!r} has {len(leaves):,} leaves; a slot may have {MAX_SLOT:,}; split it")
        below = [replace(c, replaces=_joined(c.replaces, leaves, c)) if c.is_leaf else c for c in below]
    offered = tuple(d for d in _DIRECTIONS if any(d in directions for directions in leaves.values()))
    return [replace(concept, leaves=tuple(leaves), directions=stated or offered), *below]


def _joined(paths: Iterable[str], more: Iterable[str], but: Concept = _TOP) -> tuple[str, ...]:
    """Each path once, but for one. Shares memory where nothing is added."""
    return tuple(p for p in dict.fromkeys((*paths, *more)) if p != but.path) if more else tuple(paths)


def _check_paths(concepts: Sequence[Concept]) -> None:
    """Every path is there once; what hides or is replaced is there, in another branch."""
    path, times = Counter(c.path for c in concepts).most_common(1)[0]
    if times > 1:
        raise CorpusError(f"{path!r} is there {times} times; rename one")
    known = {c.path: (c.path, *_ancestors(c.path)) for c in concepts}
    for c in concepts:
        for path in (*c.hidden_by, *c.replaces):
            if path in known[c.path] or c.path in known.get(path, (c.path,)):
                where = f"{c.path!r}, key {'hidden_by' if path in c.hidden_by else 'replaces'!r}"
                raise CorpusError(f"{where}: {path!r} is no concept in another branch; give a full path")
