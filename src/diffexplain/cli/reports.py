"""`figure`, `compare`, `merge`, `export`: what one does with finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffexplain.cli.console import errors, group, progress, terminal

if TYPE_CHECKING:
    from diffexplain.report.contrast import Contrast

commands = group()


@commands.command()
def figure(
    run: Annotated[Path, typer.Argument(help="a finished run folder")],
    kind: Annotated[
        str | None,
        typer.Option(help="hierarchy (default), grid, pairs or forest; units, of a synthesis"),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="pdf, svg or png")] = "pdf",
    out: Annotated[Path | None, typer.Option(help="file [default: RUN/KIND.FORMAT]")] = None,
) -> None:
    """Draw a figure for a paper: text and lines as vectors, fonts embedded."""
    from diffexplain.report.drawing import save_figure
    from diffexplain.report.figures import figure_of
    from diffexplain.store import read_kind

    with errors():
        drawn = figure_of(run, kind)
        usual = "units" if read_kind(run) == "synthesis" else "hierarchy"
        typer.echo(f"figure: {save_figure(drawn, out or run / f'{kind or usual}.{form}')}")


@commands.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="a finished run folder")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="another one")],
    out: Annotated[Path | None, typer.Option(help="write a page there as well, such as compare.html")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the comparison as JSON")] = False,
) -> None:
    """Which effects changed from one run to another, with intervals on the difference."""
    import json
    from dataclasses import asdict

    from diffexplain import api
    from diffexplain.report.export import plain

    with errors():
        found = api.compare(first, second, out=out)
        if as_json:
            typer.echo(json.dumps(plain(asdict(found))))
            return
        _show(found, out)


@commands.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="finished run folders, the shards")],
    out: Annotated[Path, typer.Option(help="a new run folder")],
    corpus: Annotated[str | None, typer.Option(help="where the runs' was a YAML file")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress bar")] = False,
) -> None:
    """Make one run of shards: exhaustive runs of one question, each about other pictures.

    Example: `diffexplain merge runs/a runs/b runs/c --out runs/all`
    """
    from diffexplain import api

    with errors(), progress(quiet) as tell:
        found = api.merge(runs, out=out, corpus=corpus, progress=tell)
    asked, measured = found.result.request, [c for c in found.concepts if c.status == "measured"]
    sure = sum(c.q < 0.05 for c in measured)
    typer.echo(f"merged: {len(asked.images)} pictures, {found.result.cost.edits} edits")
    typer.echo(f"{sure} of {len(measured)} effects at q < 0.05")
    typer.echo(f"report: {found.report}")


@commands.command()
def export(
    run: Annotated[Path, typer.Argument(help="a finished run folder")],
    form: Annotated[str, typer.Option("--format", help="parquet, csv, coco, fiftyone or mlflow")] = "csv",
    out: Annotated[
        Path | None, typer.Option(help="a new folder [default: RUN/FORMAT]; not for mlflow")
    ] = None,
    tracking: Annotated[
        str | None, typer.Option(help="mlflow: the store's URI [default: MLFLOW_TRACKING_URI]")
    ] = None,
    experiment: Annotated[str, typer.Option(help="mlflow: the experiment's name")] = "diffexplain",
) -> None:
    """Write a run for other tools: tables, COCO, FiftyOne's layout, or a run in MLflow."""
    from diffexplain.report import export as exporting
    from diffexplain.report.finished import Finished

    with errors():
        done = Finished.read(run)
        if form == "mlflow":
            files = [run / name for name in ("report.html", "result.json") if (run / name).is_file()]
            number = exporting.log_to_mlflow(done, tracking, experiment=experiment, files=files)
            typer.echo(f"mlflow run: {number}")
            return
        typer.echo(f"export: {exporting.export(done, form, out or run / form)}")


def _show(found: Contrast, out: Path | None) -> None:
    """The ten largest changes as a table."""
    from rich.table import Table
    from rich.text import Text

    console = terminal()
    for name, a, b in found.differing:
        console.print(Text(f"{name.replace('_', ' ')}: {a} → {b}"))
    table = Table(title="Effects in log-odds, largest difference first")
    for name in ("concept", "", "first", "second", "difference", "95 %", "q", "images"):
        table.add_column(name, justify="left" if name in ("concept", "") else "right")
    for c in found.changes[:10]:
        cells = (
            c.direction, f"{c.first:+.2f}", f"{c.second:+.2f}", f"{c.difference:+.2f}",
            f"{c.low:+.2f} … {c.high:+.2f}", f"{c.q:.3f}",
            f"{c.images}" + ("" if c.paired else " (not paired)"),
        )  # fmt: skip
        table.add_row(Text(c.concept), *cells)
    console.print(table)
    changed = sum(c.found for c in found.changes)
    console.print(f"{changed} of {len(found.changes)} effects changed at q < 0.05")
    if alone := len(found.first_only) + len(found.second_only):
        console.print(f"{alone} more were measured in one run alone: an exhaustive search compares all")
    if out is not None:
        console.print(Text(f"page: {out}"), soft_wrap=True)
