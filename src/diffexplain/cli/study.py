"""`study build`, `study serve`, `study analyse`, `study plan`: what people see in a run's pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffexplain.cli.console import errors, group, terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from diffexplain.study import Analysis

commands = group()
study = group(help="Blinded questionnaires from runs: build, serve, analyse, plan.", no_args_is_help=True)
commands.add_typer(study, name="study")

BUILD_EXAMPLES = """
Examples:

- `diffexplain study build runs/dogs --out study`

- `diffexplain study build runs/ledits runs/flow --name LEDITS++ --name FlowEdit --kind rating --kind side
  --items 12 --out study`

- `diffexplain study build runs/dogs --out study --static 40`
"""


@study.command(epilog=BUILD_EXAMPLES)
def build(
    runs: Annotated[list[Path], typer.Argument(help="finished run folders; each is a method")],
    out: Annotated[Path, typer.Option(help="a new folder for the study")] = Path("study"),
    name: Annotated[list[str] | None, typer.Option(help="of each run, in order [default: folder]")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="attribute, share, rating, side [default: all]"),
    ] = None,
    items: Annotated[int, typer.Option(help="pages of each kind that one reader sees")] = 8,
    choices: Annotated[int, typer.Option(help="attributes to choose from")] = 4,
    pairs: Annotated[int, typer.Option(help="before/after pairs on a page about the attribute")] = 3,
    checks: Annotated[int, typer.Option(help="attention checks")] = 2,
    seed: Annotated[int, typer.Option(help="of everything drawn by lot")] = 0,
    title: Annotated[
        str, typer.Option(help="what readers see at the top")
    ] = "Pictures and what changes them",
    consent: Annotated[Path | None, typer.Option(help="text file that readers agree to")] = None,
    contact: Annotated[str | None, typer.Option(help="who answers for the study; told to readers")] = None,
    static: Annotated[
        int | None, typer.Option(metavar="READERS", help="write page.html too, for this many readers")
    ] = None,
) -> None:
    """Make a blinded, randomised, counterbalanced questionnaire from runs."""
    from diffexplain import study as studies

    with errors():
        options = studies.StudyOptions(kinds=tuple(kind or studies.KINDS), items=items, choices=choices,  # type: ignore[arg-type]
                                       pairs=pairs, checks=checks, seed=seed)  # fmt: skip
        text = _text(consent) if consent else studies.CONSENT
        text += f"\nQuestions and complaints: {contact}" if contact else ""
        made = studies.build_study(runs, out, names=name or (), title=title, consent=text, options=options)
        for each in dict.fromkeys(item.kind for item in made.items):
            of = [item for item in made.items if item.kind == each]
            typer.echo(f"{each:>10}  {len({item.unit for item in of})} units, {len(of)} pages")
        typer.echo(f"study: {out}: a reader sees {len(studies.booklet(made, 0))} pages")
        if static is not None:
            typer.echo(f"page: {studies.write_static(out, out / 'page.html', static)}")


@study.command()
def serve(
    folder: Annotated[Path, typer.Argument(metavar="STUDY", help="a study folder")],
    host: Annotated[str, typer.Option(help="address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one")] = 8731,
    host_name: Annotated[
        list[str] | None, typer.Option(help="a name that readers call the server by, behind a proxy")
    ] = None,
) -> None:
    """Serve a study until Ctrl-C; answers go to answers.sqlite in its folder."""
    from diffexplain.study.server import StudyServer

    with errors():
        server = StudyServer(folder, host, port, tuple(host_name or ()))
        typer.echo(f"study: {server.url} (Ctrl-C ends it; what is answered is kept)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo(f"stopped; analyse with: diffexplain study analyse {folder}")
        finally:
            server.server_close()


@study.command()
def analyse(
    folder: Annotated[Path, typer.Argument(metavar="STUDY", help="a study folder")],
    answers: Annotated[list[Path] | None, typer.Argument(help="files that readers saved")] = None,
    csv: Annotated[Path | None, typer.Option(help="write single answers there")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the analysis as JSON")] = False,
) -> None:
    """Accuracy with exact intervals, χ², Wilcoxon, mixed models, Fleiss' κ; unblinds the study."""
    from diffexplain import study as studies

    with errors():
        found = studies.analyse_study(folder, answers or ())
        if csv is not None:
            _write_csv(found, csv)
        if as_json:
            typer.echo(json.dumps(found.as_dict()))
        else:
            _show(found)


@study.command()
def plan(
    kind: Annotated[str, typer.Argument(help="accuracy, preference or rating")],
    expected: Annotated[float, typer.Option(help="share of such answers, or difference in points")],
    chance: Annotated[float, typer.Option(help="accuracy: share that is right by guessing")] = 0.25,
    items: Annotated[int, typer.Option(help="pages of this kind that one reader sees")] = 8,
    alike: Annotated[float, typer.Option(help="correlation of one reader's answers")] = 0.1,
    spread: Annotated[float, typer.Option(help="rating: standard deviation of an answer, in points")] = 1.0,
    alpha: Annotated[float, typer.Option(help="of the two-sided test")] = 0.05,
    power: Annotated[float, typer.Option(help="chance to find what is expected")] = 0.8,
) -> None:
    """How many people do I need?"""
    from diffexplain.study import people_needed

    with errors():
        found = people_needed(kind, expected, chance=chance, items=items, alike=alike, spread=spread,  # type: ignore[arg-type]
                              alpha=alpha, power=power)  # fmt: skip
        typer.echo(
            f"{found.people} people ({found.answers} answers): power {found.power:.2f} at alpha {alpha:g}"
        )


def _text(path: Path) -> str:
    from diffexplain.errors import InputError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"--consent {path}: cannot be read: give a UTF-8 text file") from error


def _write_csv(found: Analysis, path: Path) -> None:
    from diffexplain.errors import RunError

    try:
        found.to_frame().to_csv(path, index=False)
    except OSError as error:
        raise RunError(f"--csv {path}: cannot be written ({error.strerror}): choose another file") from error


def _show(found: Analysis) -> None:
    from rich.text import Text

    console = terminal(130)
    people = found.people
    console.print(
        f"{people.began} began, {people.finished} finished, {people.counted} counted; "
        f"{people.seconds:.0f} s a page in the median"
    )
    for note in found.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    figures = [
        (f.ask, f.method, f"{f.value:.3f}", _interval(f.low, f.high), _number(f.chance), str(f.answers),
         str(f.readers)) for f in found.figures
    ]  # fmt: skip
    counts = [(c.method, choice, str(n)) for c in found.counts for choice, n in c.counts.items()]
    tests = [
        (f.test, f.ask, " − ".join(f.methods), _number(f.difference), _interval(f.low, f.high), f"{f.p:.4f}",
         f"{f.q:.4f}", str(f.n)) for f in found.findings
    ]  # fmt: skip
    agreements = [
        (a.ask, _number(a.kappa), _interval(a.low, a.high), str(a.items), f"{a.raters:.1f}")
        for a in found.agreements
    ]
    means = ("asked", "method", "mean", "95 %", "chance", "answers", "readers")
    _print(console, "Answers", means, figures)
    _print(console, "What the pictures share", ("method", "answer", "chosen"), counts)
    heads = ("test", "asked", "methods", "difference", "95 %", "p", "q", "n")
    _print(console, "Tests", heads, tests)
    _print(console, "Agreement (Fleiss' κ)", ("asked", "κ", "95 %", "items", "raters an item"), agreements)


def _print(console: Console, title: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(*heads, title=title)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _interval(low: float, high: float) -> str:
    return "" if low != low else f"{low:.3f} … {high:.3f}"


def _number(value: float) -> str:
    return "" if value != value else f"{value:.3f}"
