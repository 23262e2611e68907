"""`spurious`: does a class look at its object, or at what only comes with it?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffexplain.cli.console import errors, group, progress, settings, slug, stoppable, terminal
from diffexplain.cli.synthesis import show_plan

if TYPE_CHECKING:
    from diffexplain.records.spurious import SpuriousResult

commands = group()

EXAMPLES = """
Examples:

- `diffexplain spurious pocket:zoo/smile-blue-90 --target smile --out runs/smile`

- `diffexplain spurious timm:resnet50.a1_in1k --target padlock --object padlock --images padlocks/
  --editor sd-turbo --segmenter groundingdino:IDEA-Research/grounding-dino-tiny+facebook/sam2.1-hiera-tiny`

- `diffexplain spurious pocket:hired --target hired --object "a blazer" --run runs/hired
  --irrelevant "background,skin tone"`
"""


@commands.command(epilog=EXAMPLES)
def spurious(
    classifier: Annotated[str, typer.Argument(help="a classifier with gradients: pocket:, timm:, hf:, …")],
    target: Annotated[str | None, typer.Option(help="label; may be left out for two labels")] = None,
    object_: Annotated[
        str | None, typer.Option("--object", help="words for what the class is of [default: the label]")
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option(help="LAYER:NUMBER, LAYER:lowNUMBER or LAYER:topK; may be given several times"),
    ] = None,
    top: Annotated[int, typer.Option(help="units of the layer, where none is given")] = 5,
    layer: Annotated[str | None, typer.Option(help="a layer's name [default: the last pooled one]")] = None,
    images: Annotated[Path | None, typer.Option(help="real pictures of the class")] = None,
    editor: Annotated[str, typer.Option(help="whose model draws, as `synthesize` takes it")] = "pocket-turbo",
    segmenter: Annotated[
        str | None,
        typer.Option(help="pocket, clipseg:NAME, groundingdino:NAME+SAM2, owlv2:NAME, endpoint:MODEL@URL"),
    ] = None,
    judge: Annotated[str | None, typer.Option(help="pocket or clip:NAME; the editor names a default")] = None,
    corpus: Annotated[str | None, typer.Option(help="concepts to name what a unit sees")] = None,
    run: Annotated[Path | None, typer.Option(help="an `explain` run, to look for shortcuts in")] = None,
    irrelevant: Annotated[
        str, typer.Option(help="concepts of that run that should not matter, comma-separated")
    ] = "",
    plain: Annotated[str | None, typer.Option(help="prompt that asks for the object, {} for it")] = None,
    neutral: Annotated[str | None, typer.Option(help="prompt that asks for nothing in particular")] = None,
    held_out: Annotated[int, typer.Option(help="pictures that a unit is judged by")] = 48,
    confidence: Annotated[float, typer.Option(help="of the intervals that verdicts follow from")] = 0.95,
    margin: Annotated[float, typer.Option(help="log-odds from which an effect makes a shortcut")] = 0.5,
    hard: Annotated[bool, typer.Option(help="find a prompt of real words for each unit too")] = True,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="of the synthesis: steps=8, restarts=1, …")
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="a file that keeps pictures of written prompts for later runs")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="run folder [default: runs/CLASSIFIER-spurious]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the cost, load no model")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Tell units that see the class's object from those that see what only comes with it, or abstain."""
    from diffexplain import api

    with errors():
        common: dict[str, Any] = {
            "top": top, "images": str(images) if images else None, "editor": editor, "corpus": corpus,
            "hard": hard, "synthesis_options": settings(option or []),
            "options": {"pictures": held_out, "confidence": confidence, "margin": margin},
        }  # fmt: skip
        if dry_run:
            show_plan(api.foresee_spurious(unit or [], **common), as_json)
            return
        place = out or Path("runs") / slug(f"{classifier}-spurious")
        with progress(quiet=as_json) as tell, stoppable(place):
            answer = api.find_spurious(
                classifier,
                target,
                object=object_,
                units=unit or [],
                layer=layer,
                segmenter=segmenter,
                judge=judge,
                explanation=run,
                irrelevant=irrelevant,
                plain=plain,
                neutral=neutral,
                gallery=gallery,
                out=place,
                resume=resume,
                device=device,
                progress=tell,
                **common,
            )
        if as_json:
            typer.echo((place / "result.json").read_text(encoding="utf-8"))
        else:
            _show(answer.result, place)


def _show(result: SpuriousResult, place: Path) -> None:
    """A row a unit, a row a shortcut, then where the page is."""
    from rich.table import Table
    from rich.text import Text

    console = terminal()
    for note in result.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    r, c = result.request, result.calibration
    table = Table(title=Text(f"Do units of {r.classifier} see {r.object!r}? ({c.threshold:.0%} decides)"))
    for name in ("unit", "verdict", "object present", "share of variance", "words"):
        table.add_column(name)
    for u in result.units:
        share = (
            f"{u.causal.share.value:.0%} ({u.causal.share.low:.0%}–{u.causal.share.high:.0%})"
            if u.causal
            else ""
        )
        table.add_row(
            Text(u.unit), u.verdict, f"{u.presence:.0%} ({u.low:.0%}–{u.high:.0%}): {u.by_presence}",
            f"{share}: {u.causal.verdict}" if u.causal else "", Text(" ".join(u.words)),
        )  # fmt: skip
    console.print(table)
    if result.shortcuts:
        table = Table(title="Shortcuts among the concepts")
        for name in ("concept", "", "effect", "95 % interval", "q", "in all", "why"):
            table.add_column(name)
        for s in result.shortcuts:
            table.add_row(
                Text(s.concept), s.direction, f"{s.effect:+.2f}", f"{s.low:+.2f} … {s.high:+.2f}",
                f"{s.q:.3f}", f"{s.in_all.value:+.2f}" if s.in_all else "", s.why,
            )  # fmt: skip
        console.print(table)
    console.print(Text(f"report: {place / 'report.html'}"), soft_wrap=True)
