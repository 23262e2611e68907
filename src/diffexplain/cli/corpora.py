"""`corpus`: concept trees."""

from __future__ import annotations

from typing import Annotated

import typer

from diffexplain.cli.console import errors, group

commands = group()


@commands.command()
def corpus(
    name: Annotated[
        str | None, typer.Argument(help="bundled name or YAML file; all names when left out")
    ] = None,
) -> None:
    """Show a concept tree, or the names of the bundled ones; a file is checked on the way."""
    from diffexplain.corpus import available, load_corpus, tree_text

    with errors():
        typer.echo(tree_text(load_corpus(name)) if name else "\n".join(available()))
