"""What all commands share: errors in one line, a bar with the time left, Ctrl-C that keeps what is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

EXIT_INPUT, EXIT_INTERRUPTED = 2, 130


def group(**more: Any) -> typer.Typer:
    """Commands of one file; what they share in looks is said here once."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        **more,
    )


@contextmanager
def errors() -> Iterator[None]:
    """A user's mistake is one line on standard error and exit code 2, without a traceback."""
    from diffexplain.errors import DiffexplainError

    try:
        yield
    except DiffexplainError as error:
        typer.echo(f"diffexplain: {printable(str(error))}", err=True)
        raise typer.Exit(EXIT_INPUT) from None


def printable(text: str) -> str:
    """Text without what a terminal would obey: a label may hold escape sequences."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


def terminal(width: int = 120) -> Console:
    """Standard output for tables and text, as wide as a terminal, which obeys nothing that is in them."""
    import sys

    from rich.console import Console, RenderHook
    from rich.segment import Segment

    class Harmless:
        def __init__(self, inside: Any) -> None:
            self.inside = inside

        def __rich_console__(self, console: Console, options: Any) -> Iterator[Segment]:
            for text, style, control in console.render(self.inside, options):
                yield Segment(text if control else printable(text), style, control)

    class Hook(RenderHook):
        def process_renderables(self, renderables: list[Any]) -> list[Any]:
            return [Harmless(one) for one in renderables]

    console = Console(width=None if sys.stdout.isatty() else width)
    console.push_render_hook(Hook())
    return console


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """Ctrl-C keeps what is done."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(
            f"stopped; what is finished is kept in {folder}: the same command with --resume goes on", err=True
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar with the time left on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (
        TextColumn("{task.description:>20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _teller(bar)


def _teller(bar: Progress) -> Callable[[str, int, int], None]:
    tasks: dict[str, Any] = {}

    def tell(what: str, done: int, total: int) -> None:
        for name, task in tasks.items():
            if name != what:
                bar.update(task, visible=False)
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=total)

    return tell


def settings(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE, the value as JSON where it is that, else as text."""
    from diffexplain.errors import InputError

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise InputError(f"option {pair!r}: give KEY=VALUE, for instance steps=20")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def slug(text: str) -> str:
    """A folder name from any text."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip("-.")
