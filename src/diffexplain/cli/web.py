"""`web`: the app in a browser, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffexplain.cli.console import errors, group

commands = group()


@commands.command()
def web(
    root: Annotated[Path, typer.Option(help="folder of all runs of the app")] = Path("runs/web"),
    host: Annotated[str, typer.Option(help="address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen at")] = 7860,
    classifier: Annotated[
        list[str] | None, typer.Option(help="allow this spec too, such as package.module:function")
    ] = None,
    editor: Annotated[list[str] | None, typer.Option(help="offer this editor too")] = None,
    miner: Annotated[
        str | None, typer.Option(help="mine corpora by this model too: openai:MODEL@BASE-URL")
    ] = None,
    password_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="environment variable that holds a password")
    ] = None,
) -> None:
    """Explain in the browser: drop pictures, run, stop, resume, move a strength, get the report."""
    import os

    from diffexplain import web as app
    from diffexplain.errors import InputError

    with errors():
        password = os.environ.get(password_env) if password_env else None
        if password_env and not password:
            raise InputError(f"--password-env {password_env}: is not set: export it before the start")
        typer.echo(f"app: http://{host}:{port}/ (Ctrl-C ends it; runs are kept in {root})")
        app.serve(
            root, host=host, port=port, password=password, classifiers=classifier or (),
            editors=editor or (), miner=miner,
        )  # fmt: skip
