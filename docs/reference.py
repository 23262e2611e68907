"""The reference, made from signatures, docstrings and the comments beside fields: one page a kind of name."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from typer.main import get_command

import diffexplain
from diffexplain.cli import app

#: page -> its heading, and what it holds.
PAGES = {
    "questions": ("Questions", "What one can ask, and what comes back: `import diffexplain as dx`."),
    "parts": ("Parts", "What a question is made of: classifiers, corpora, editors, judges, pictures."),
    "records": ("Records", "What a run asked and found; `result.json` holds the same names."),
    "errors": ("Errors", "The message names the argument, the value and the cure."),
}  # fmt: skip


def pages() -> dict[str, str]:
    """Every page of the reference as Markdown, by its file's name."""
    made = {"commands": _commands()}
    names: dict[str, list[str]] = {page: [] for page in PAGES}
    for name in diffexplain.__all__:
        names[_page(name)].append(name)
    for page, (heading, about) in PAGES.items():
        parts = [f"# {heading}\n\n{about}", *(_entry(name) for name in names[page])]
        made[page] = "\n\n".join(parts) + "\n"
    return made


def _page(name: str) -> str:
    home = diffexplain._HOMES[name].split(".")[0]
    known = {"records": "records", "errors": "errors", "store": "records"}
    parts = ("classifiers", "corpus", "editors", "judges", "images")
    return known.get(home) or ("parts" if home in parts else "questions")


def _entry(name: str) -> str:
    """A public name: what it is called with, what it says, its fields and methods."""
    value = getattr(diffexplain, name)
    said = [f"## {name}"]
    if inspect.isclass(value):
        plain = is_dataclass(value) or issubclass(value, Exception)
        said += [] if plain else [_code(f"class {name}", value)]
        said += [_docstring(value)]
        said += [_fields(value)] if is_dataclass(value) else []
        said += [_member(f"{name}.{at}", member) for at, member in _members(value)]
    else:
        said += [_code(f"def {name}", value), _docstring(value)]
    return "\n\n".join(part for part in said if part)


def _member(name: str, member: Any) -> str:
    """A method or property of a class."""
    function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    given, returned = ([], "") if isinstance(member, property) else _signature(function)
    called = name if isinstance(member, property) else f"{name}({', '.join(given)}){returned}"
    return f"`{called}`: {_docstring(function)}"


def _members(value: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class itself defines and describes."""
    for name, member in vars(value).items():
        kinds = (property, classmethod, staticmethod)
        told = isinstance(member, kinds) or inspect.isfunction(member)
        if told and not name.startswith("_") and inspect.getdoc(member):
            yield name, member


def _code(lead: str, value: Callable[..., Any]) -> str:
    """A signature, one argument a line where it is long."""
    given, returned = _signature(value)
    line = f"{lead}({', '.join(given)}){returned}"
    if len(line) > 88:
        line = f"{lead}(\n" + "".join(f"    {one},\n" for one in given) + f"){returned}"
    return f"```python\n{line}\n```"


def _signature(value: Callable[..., Any]) -> tuple[list[str], str]:
    """What a call is given, and what comes back."""
    signature = inspect.signature(value)
    kept = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    given = [_parameter(p) for p in kept]
    kinds = [p.kind for p in kept]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        given.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    back = signature.return_annotation
    return given, "" if back in (inspect.Signature.empty, "None", None) else f" -> {back}"


def _parameter(p: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(p.kind, "")
    kind = "" if p.annotation is inspect.Parameter.empty else f": {p.annotation}"
    default = "" if p.default is inspect.Parameter.empty else f"{' = ' if kind else '='}{_plain(p.default)}"
    return f"{stars}{p.name}{kind}{default}"


def _plain(default: Any) -> str:
    return f"{default.__name__}" if callable(default) else repr(default)


def _docstring(value: Any) -> str:
    """Text as Markdown: angle brackets stay text, and code that a docstring indents stays code."""
    text = inspect.getdoc(value) or ""
    if is_dataclass(value) and text.startswith(f"{value.__name__}("):
        return ""
    spoken = [part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(text.split("`"))]
    return "`".join(spoken)


def _fields(value: type) -> str:
    """A dataclass's fields as a table; what each is stands in the comment beside it."""
    comments = _comments(value)
    kinds = {f.name: str(f.type).replace("|", "\\|") for f in fields(value)}
    rows = [f"| `{name}` | `{kind}` | {_cell(comments.get(name, ''))} |" for name, kind in kinds.items()]
    return "\n".join(["| field | type | |", "|---|---|---|", *rows]) if rows else ""


def _comments(value: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(value))
    return dict(re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


# -- the command line ---------------------------------------------------------------------------------------


def _commands() -> str:
    about = "Each has `--help` with the same. Mistakes are one line and exit code 2."
    return "\n\n".join(["# Commands", about, *_below(get_command(app), "diffexplain")]) + "\n"


def _below(command: Any, name: str) -> Iterator[str]:
    for word, one in getattr(command, "commands", {}).items():
        if hasattr(one, "commands"):
            yield from _below(one, f"{name} {word}")
        elif not one.hidden:
            yield _command(one, f"{name} {word}")


def _command(command: Any, name: str) -> str:
    asked = [_argument(p) for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([name, *asked, "[OPTIONS]"])
    said = [f"## {name.removeprefix('diffexplain ')}", f"```text\n{usage}\n```", _help(command.help)]
    rows = [_option(p) for p in command.params if p.name != "help"]
    table = ["| | | |", "|---|---|---|", *rows]
    said += ["\n".join(table)] if rows else []
    return "\n\n".join(part for part in said if part)


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{o}`" for o in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{_argument(parameter)}`"
    default = parameter.default
    shown = default not in (None, False, "", ()) and not callable(default)
    told = f"`{_cell(str(default))}`" if shown else ""
    return f"| {names} | {_cell(getattr(parameter, 'help', '') or '')} | {told} |"


def _argument(parameter: Any) -> str:
    return (parameter.metavar or parameter.name.upper()) + ("…" if parameter.nargs == -1 else "")


def _help(text: str | None) -> str:
    return re.sub(r"<", "&lt;", inspect.cleandoc(text or "").replace("\f", "").replace("\b", ""))
