"""`synthesize` and `units`: what classes and hidden units want to see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffexplain.cli.console import errors, group, progress, settings, slug, stoppable, terminal

if TYPE_CHECKING:
    from diffexplain.api.planning import SynthesisPlan
    from diffexplain.records import SynthesisResult

commands = group()

EXAMPLES = """
Examples:

- `diffexplain synthesize pocket:bearded --target bearded --out runs/bearded`

- `diffexplain synthesize timm:resnet50.a1_in1k --target padlock --unit layer4:476 --unit layer4:top5
  --images padlocks/ --editor sd-turbo --out runs/padlock`

- `diffexplain synthesize pocket:hired --target hired --images portraits/ --compare pixels --compare attack
  --second pocket:awarded`

- `diffexplain synthesize pocket:awarded --target awarded --corpus avatars`

- `diffexplain synthesize mymodule:score --target sick --black-box 4000`
"""

UNITS_EXAMPLES = """
Examples:

- `diffexplain units pocket:hired --images portraits/ --target hired`

- `diffexplain units timm:resnet50.a1_in1k --images padlocks/ --target padlock --layer layer4 --top 10`
"""


@commands.command(epilog=EXAMPLES)
def synthesize(
    classifier: Annotated[str, typer.Argument(help="a classifier with gradients: pocket:, timm:, hf:, …")],
    target: Annotated[list[str] | None, typer.Option(help="label; may be given several times")] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(help="LAYER:NUMBER, LAYER:lowNUMBER or LAYER:topK; may be given several times"),
    ] = None,
    versus: Annotated[str | None, typer.Option(help="the targets against this label alone")] = None,
    against: Annotated[
        str | None, typer.Option(help="a classifier that should not put the pictures in the target")
    ] = None,
    editor: Annotated[
        str,
        typer.Option(help="whose model draws: pocket-turbo, sd-turbo, sdxl, ORG/NAME or a folder"),
    ] = "pocket-turbo",
    editor_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="of the sampling: steps=4")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="of the optimisation: tokens=8, steps=100, mode=full, …"),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="whose phrases prompts may set out from: a name or YAML file")
    ] = None,
    plain: Annotated[
        str | None, typer.Option(help="the prompt to beat, {} for the label [default: a picture of a {}]")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="real pictures of the domain")] = None,
    second: Annotated[str | None, typer.Option(help="a classifier that is not optimised against")] = None,
    judge: Annotated[str | None, typer.Option(help="pocket or clip:NAME; the editor names a default")] = None,
    held_out: Annotated[int, typer.Option(help="pictures that a prompt is judged by")] = 32,
    hard: Annotated[bool, typer.Option(help="find a prompt of real words too")] = True,
    language_model: Annotated[
        str | None, typer.Option(help="masked language model whose words fill that prompt (DEXTER)")
    ] = None,
    describe: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="vision-language model that says what the pictures share: openai:MODEL@BASE-URL (key from "
            "DIFFEXPLAIN_API_KEY) or transformers:NAME",
        ),
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="also by pixels, natural, decoder or attack")
    ] = None,
    black_box: Annotated[
        int | None, typer.Option(metavar="QUERIES", help="search without gradients, with this many queries")
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="a file that keeps pictures of written prompts for later runs")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run folder [default: runs/CLASSIFIER-synthesis]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the cost, load no model")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Optimise prompts so that the pictures made from them show what a class or hidden unit wants to see."""
    from diffexplain.api import planning, synthesis
    from diffexplain.synthesis.blackbox import BlackBoxOptions

    with errors():
        common: dict[str, Any] = {
            "units": unit or [], "editor": editor, "editor_options": settings(editor_option or []),
            "options": settings(option or []), "corpus": corpus, "held_out": held_out,
            "hard": hard, "methods": compare or [],
        }  # fmt: skip
        if dry_run:
            show_plan(planning.foresee_synthesis(target or [], **common), as_json)
            return
        folder = out or Path("runs") / slug(f"{classifier}-synthesis")
        budget = BlackBoxOptions(queries=black_box) if black_box is not None else None
        with progress(quiet=as_json) as tell, stoppable(folder):
            answer = synthesis.synthesize(
                classifier,
                target,
                versus=versus,
                against=against,
                plain=plain,
                images=str(images) if images else None,
                second=second,
                judge=judge,
                language_model=language_model,
                black_box=budget,
                describe=describe,
                gallery=gallery,
                out=folder,
                resume=resume,
                device=device,
                progress=tell,
                **common,
            )
        _show(answer.result, folder, as_json)


@commands.command(epilog=UNITS_EXAMPLES)
def units(
    classifier: Annotated[str, typer.Argument(help="a classifier with gradients: pocket:, timm:, hf:, …")],
    images: Annotated[Path, typer.Option(help="folder of pictures")],
    target: Annotated[str | None, typer.Option(help="label; may be left out for two labels")] = None,
    layer: Annotated[str | None, typer.Option(help="a layer's name [default: the last pooled one]")] = None,
    top: Annotated[int, typer.Option(help="how many")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """List the units that carry a class (mean activation times weight) and the pictures that excite them."""
    from dataclasses import asdict

    from diffexplain.api import synthesis

    with errors():
        found, names = synthesis.list_units(
            classifier, str(images), target=target, layer=layer, top=top, device=device
        )
    if as_json:
        typer.echo(json.dumps([{**asdict(u), "exciting": [names[i] for i in u.exciting]} for u in found]))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"Units of {classifier} that carry {target or 'the target'}"))
    for name in ("unit", "carries", "activation", "most excited by"):
        table.add_column(name, justify="right" if name in ("carries", "activation") else "left")
    for u in found:
        shown = Text(", ".join(names[i] for i in u.exciting[:4]))
        table.add_row(u.name, f"{u.contribution:+.2f}", f"{u.activation:.2f}", shown)
    terminal().print(table)


def show_plan(plan: SynthesisPlan, as_json: bool) -> None:
    """What a run would cost, a line a number."""
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps(asdict(plan)))
        return
    known = plan.seconds == plan.seconds
    rows = {
        "targets": f"{plan.targets}",
        "iterations": f"at most {plan.iterations}",
        "pictures": f"about {plan.pictures}",
        "UNet evaluations": f"at most {plan.evaluations}",
        "seconds": f"about {plan.seconds:.0f}" if known else "unknown until the editor is downloaded",
        "disk": f"about {plan.bytes / 1e6:.1f} MB",
    }
    for name, value in rows.items():
        typer.echo(f"{name:>18}  {value}")


def _show(result: SynthesisResult, folder: Path, as_json: bool) -> None:
    """A row a target, then where the report is."""
    if as_json:
        typer.echo((folder / "result.json").read_text(encoding="utf-8"))
        return
    from rich.table import Table
    from rich.text import Text

    console = terminal()
    for note in result.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    table = Table(title=Text(f"What {result.request.classifier} wants to see, on held-out seeds"))
    for name in ("target", "score", "95 % interval", "over the plain prompt", "in the class", "words"):
        table.add_column(name, justify="left" if name in ("target", "words") else "right")
    for t in result.targets:
        words = " ".join(near[0].token for near in t.restarts[t.chosen].words if near)
        gain = f"{t.gain:+.2f} ({t.gain_low:+.2f} … {t.gain_high:+.2f})"
        share = f"{t.share:.0%}" if t.kind == "class" else ""
        cells: list[str | Text] = [
            Text(t.target),
            f"{t.score:+.2f}",
            f"{t.low:+.2f} … {t.high:+.2f}",
            gain,
            share,
            Text(words),
        ]
        table.add_row(*cells)
    console.print(table)
    for t in result.targets:
        if t.hard_prompt:
            console.print(Text(f"{t.target} in real words: {t.hard_prompt}"))
        if t.caption:
            console.print(Text(f"{t.target}, as {result.request.settings['describe']} sees it: {t.caption}"))
    cost = result.cost
    console.print(f"{cost.iterations} iterations, {cost.evaluations} UNet evaluations, {cost.seconds:.0f} s")
    console.print(Text(f"report: {folder / 'report.html'}"), soft_wrap=True)
