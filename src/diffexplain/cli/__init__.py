"""The command line: parses what a person asked and shows what came out; no logic of its own."""

import sys
from typing import Any

import typer

from diffexplain.cli import (
    audits,
    classifiers,
    corpora,
    explanations,
    plans,
    reports,
    spurious,
    study,
    synthesis,
    web,
)
from diffexplain.cli.console import EXIT_INPUT, group

#: what Typer raises for a wrong command line.
UsageError: Any = typer.BadParameter.__mro__[1]

app = group(
    name="diffexplain",
    help="Which meanings drive an image classifier's decision, how much, and how sure are we?",
    no_args_is_help=True,
)
for part in (explanations, synthesis, spurious, corpora, classifiers, audits, plans, reports, study, web):
    app.add_typer(part.commands)


def main() -> None:
    """Entry point: one line for a user's mistake, no traceback."""
    try:
        code = app(prog_name="diffexplain", standalone_mode=False)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            place = error.ctx.command_path if error.ctx else "diffexplain"
            said = error.format_message().rstrip(".")
            typer.echo(f"diffexplain: {said[:1].lower()}{said[1:]}; see {place} --help", err=True)
        code = EXIT_INPUT
    sys.exit(code if isinstance(code, int) else 0)
