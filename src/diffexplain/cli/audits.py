"""`audit`, `mitigate`: for whom a classifier answers differently, and taking a shortcut out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffexplain.cli.console import errors, group, progress, settings, slug, stoppable, terminal

if TYPE_CHECKING:
    from diffexplain.records.audit import AuditResult, MitigationResult

commands = group()

AUDIT_EXAMPLES = """
Examples:

- `diffexplain audit pocket:zoo/closed-dark-90 --images portraits/ --attributes skin-tone
  --twin pocket:zoo/closed-dark-00 --out runs/skin`

- `diffexplain audit timm:FOLDER --attributes gender,age --corpus faces --editor sd-1.5 --images people/
  --maximising synthesised/ --plain plain/ --labelled labelled/labels.csv`
"""

MITIGATE_EXAMPLES = """
Example:

- `diffexplain mitigate pocket:zoo/smile-blue-90 --images by-label/ --shortcut background/colour/blue
  --out runs/mitigated`, then `timm:runs/mitigated` is a classifier like any other.
"""

Corpus = Annotated[str, typer.Option(help="bundled name or YAML file of concepts")]
Editor = Annotated[str, typer.Option(help="an editor, as `explain` takes it")]
Judge = Annotated[str | None, typer.Option(help="pocket or clip:NAME; the editor names a default")]
Segmenter = Annotated[str | None, typer.Option(help="as `explain` takes it; the editor names a default")]
Target = Annotated[str | None, typer.Option(help="label to explain; may be left out for two labels")]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in --out")]
AcceptDrift = Annotated[bool, typer.Option("--accept-drift", help="go on although the editor does not fit")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


@commands.command(epilog=AUDIT_EXAMPLES)
def audit(
    classifier: Annotated[str, typer.Argument(help="a classifier, as `explain` takes it")],
    attributes: Annotated[str, typer.Option(help="slots of the corpus, comma-separated: gender,age")],
    images: Annotated[Path | None, typer.Option(help="folder of real pictures, for edits of them")] = None,
    target: Target = None,
    corpus: Corpus = "avatars",
    editor: Editor = "pocket",
    judge: Judge = None,
    segmenter: Segmenter = None,
    twin: Annotated[str | None, typer.Option(help="a balanced classifier of the same labels")] = None,
    maximising: Annotated[
        Path | None, typer.Option(help="pictures that maximise each class: one subfolder a label")
    ] = None,
    plain: Annotated[Path | None, typer.Option(help="plain-prompt pictures: one subfolder a label")] = None,
    twin_maximising: Annotated[Path | None, typer.Option(help="as --maximising, made for the twin")] = None,
    labelled: Annotated[
        Path | None, typer.Option(help="CSV (file, attribute, …) that the reader is calibrated on")
    ] = None,
    draw: Annotated[
        int, typer.Option(help="draw so many pictures of each class, in place of --maximising; alone: 50")
    ] = 0,
    generator: Annotated[
        str, typer.Option(help="whose model draws them, as `synthesize` takes it")
    ] = "pocket-turbo",
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="of that synthesis: steps=8, restarts=1, …")
    ] = None,
    margin: Annotated[float, typer.Option(help="gap in log-odds that is tolerated")] = 0.0,
    seeds: Annotated[int, typer.Option(help="noises per image")] = 1,
    out: Annotated[Path | None, typer.Option(help="run folder [default: runs/audit-CLASSIFIER]")] = None,
    resume: Resume = False,
    accept_drift: AcceptDrift = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Count attributes in class-maximising pictures, and change them in real ones: who is treated how?"""
    from diffexplain import api

    with errors():
        place = out or Path("runs") / slug(f"audit-{classifier}")
        with progress(quiet=as_json) as tell, stoppable(place):
            answer = api.audit(
                classifier,
                None if images is None else str(images),
                attributes=[a for a in attributes.split(",") if a.strip()],
                target=target,
                corpus=corpus,
                editor=editor,
                judge=judge,
                segmenter=segmenter,
                twin=twin,
                maximising=maximising,
                plain=plain,
                twin_maximising=twin_maximising,
                labelled=labelled,
                draw=draw,
                generator=generator,
                synthesis_options=settings(option or []),
                margin=margin,
                seeds=seeds,
                out=place,
                resume=resume,
                accept_drift=accept_drift,
                device=device,
                progress=tell,
            )
        if as_json:
            typer.echo((place / "audit.json").read_text(encoding="utf-8"))
        else:
            _show_audit(answer.result, place)


@commands.command(epilog=MITIGATE_EXAMPLES)
def mitigate(
    classifier: Annotated[str, typer.Argument(help="a classifier whose network can be loaded")],
    images: Annotated[Path, typer.Option(help="pictures to learn from: one subfolder a label")],
    shortcut: Annotated[list[str], typer.Option(help="concept that should not matter; may be repeated")],
    target: Target = None,
    method: Annotated[str, typer.Option(help="damp, last-layer or all")] = "all",
    unit: Annotated[
        list[int] | None, typer.Option(help="unit to damp; may be repeated; chosen when not given")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="a setting: steps=400, keep=0.2")
    ] = None,
    corpus: Corpus = "avatars",
    editor: Editor = "pocket",
    judge: Judge = None,
    segmenter: Segmenter = None,
    out: Annotated[Path | None, typer.Option(help="run folder [default: runs/mitigate-CLASSIFIER]")] = None,
    resume: Resume = False,
    accept_drift: AcceptDrift = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Take a shortcut out of a classifier, save it, and report its effect and accuracy before and after."""
    from diffexplain import api

    with errors():
        place = out or Path("runs") / slug(f"mitigate-{classifier}")
        with progress(quiet=as_json) as tell, stoppable(place):
            answer = api.mitigate(
                classifier,
                str(images),
                shortcuts=shortcut,
                target=target,
                method=method,
                units=unit,
                options=settings(option or []),
                corpus=corpus,
                editor=editor,
                judge=judge,
                segmenter=segmenter,
                out=place,
                resume=resume,
                accept_drift=accept_drift,
                device=device,
                progress=tell,
            )
        if as_json:
            typer.echo((place / "mitigation.json").read_text(encoding="utf-8"))
        else:
            _show_mitigation(answer.result, place)


def _show_audit(result: AuditResult, place: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    console = terminal()
    for note in result.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    if result.gaps:
        against = f" beyond {result.twin}" if result.twin else ""
        table = Table(title=Text(f"What moves {result.classifier} towards {result.target}{against}"))
        for name in ("concept", "", "gap", "95 % interval", "q", "in all", "flips", "happened", "images"):
            table.add_column(name, justify="left" if name in ("concept", "") else "right")
        for g in result.gaps:
            table.add_row(
                Text(g.concept), g.direction, f"{g.gap:+.2f}", f"{g.low:+.2f} … {g.high:+.2f}", f"{g.q:.3f}",
                f"{g.in_all.value:+.2f}" if g.in_all else "",
                f"{g.flip_rate:.0%} ({g.flip_low:.0%}–{g.flip_high:.0%})", f"{g.success_rate:.0%}",
                str(g.images),
            )  # fmt: skip
        console.print(table)
        for a in result.attribute_gaps:
            verdict = "matters" if a.matters(result.margin) else "not shown to matter"
            within = f" beyond ±{result.margin:g}" if result.margin else ""
            console.print(Text(f"{a.attribute}: {verdict}{within}, q = {a.q:.3f}"))
    if result.shares:
        table = Table(title=Text(f"Attributes in pictures that maximise {result.classifier}'s classes"))
        for name in ("class", "attribute", "against", "V", "q", "largest difference"):
            table.add_column(name)
        for s in result.shares:
            i = s.strongest
            table.add_row(
                Text(s.label), Text(s.attribute), s.against, f"{s.effect_size:.2f}", f"{s.q:.3f}",
                Text(f"{s.values[i]}: {s.shares[i]:.0%} ({s.low[i]:.0%}–{s.high[i]:.0%}), "
                     f"there {s.reference_shares[i]:.0%}"),
            )  # fmt: skip
        console.print(table)
    console.print(Text(f"audit: {place / 'audit.json'}"), soft_wrap=True)


def _show_mitigation(result: MitigationResult, place: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    console = terminal()
    for note in result.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    table = Table(title=Text(f"{result.classifier}, {', '.join(result.shortcuts)}: {result.method}"))
    for name in ("", "shortcut's gap", "95 % interval", "flips", "balanced accuracy"):
        table.add_column(name, justify="left" if not name else "right")
    for name, s in (("before", result.before), ("after", result.after)):
        table.add_row(
            name, f"{s.gap:+.2f}", f"{s.low:+.2f} … {s.high:+.2f}", f"{s.flip_rate:.0%}",
            f"{s.accuracy:.1%} ({s.accuracy_low:.1%}–{s.accuracy_high:.1%})",
        )  # fmt: skip
    console.print(table)
    loss = json.dumps(round(result.accuracy_loss, 2))
    console.print(
        f"gap left: {result.effect_ratio:.0%}; accuracy lost: {loss} points, on {result.held_out_images} "
        f"pictures kept apart ({result.training_images} to learn from)"
    )
    console.print(Text(f"classifier: {place}"), soft_wrap=True)
