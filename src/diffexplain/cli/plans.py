"""`plan`: how many pictures and seeds a wanted interval needs, from a pilot run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from diffexplain.cli.console import errors, group, terminal

commands = group()


@commands.command()
def plan(
    run: Annotated[Path, typer.Argument(help="the folder of a pilot run of `explain`")],
    width: Annotated[float, typer.Option(help="full width that a 95 % interval may have, in log-odds")] = 0.5,
    top: Annotated[int, typer.Option(help="questions to show, those that need most first")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="print the plan as JSON")] = False,
) -> None:
    """Say how many images, and seeds an image, an interval of a wanted width needs, from a pilot run.

    Example: `diffexplain plan runs/hired --width 0.5`
    """
    from dataclasses import asdict

    from diffexplain import api

    with errors():
        needs = api.needed(run, width)
    if as_json:
        typer.echo(json.dumps([asdict(n) for n in needs]))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Images for 95 % intervals {width:g} log-odds wide")
    table.add_column("question")
    for name in ("between images", "between seeds", "width in the pilot"):
        table.add_column(name, justify="right")
    for seeds in needs[0].images:
        table.add_column(f"images, {seeds} seed{'s' if seeds > 1 else ''}", justify="right")
    for n in needs[:top]:
        s = n.spread
        within = "one seed" if s.within != s.within else f"{s.within:.2f}"
        cells = (f"{s.between:.2f}", within, f"{n.width:.2f}", *map(str, n.images.values()))
        table.add_row(Text(f"{s.direction} {s.concept}"), *cells)
    console = terminal(110)
    console.print(table)
    most = {seeds: max(n.images[seeds] for n in needs) for seeds in needs[0].images}
    told = ", or ".join(f"{n} with {s} seed{'s' if s > 1 else ''}" for s, n in most.items())
    console.print(f"all {len(needs)} questions: {told}")
