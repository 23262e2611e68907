"""`explain`, `demo`, `report`: what moves a classifier, by editing pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffexplain.cli.console import errors, group, progress, settings, slug, stoppable, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from diffexplain.planning import Plan
    from diffexplain.records import Result

commands = group()

EXPLAIN_EXAMPLES = """
Examples:

- `diffexplain explain pocket:hired --images portraits/ --target hired --out runs/hired`

- `diffexplain explain timm:resnet50.a1_in1k --images dogs/ --target "golden retriever"
  --editor stable-diffusion-v1-5/stable-diffusion-v1-5 --corpus pets.yaml --out runs/dogs`

- `diffexplain explain timm:resnet50.a1_in1k --images dogs/ --target "golden retriever"
  --editor sd-1.5 --screen sd-turbo --corpus pets.yaml --out runs/dogs-screened`

- `diffexplain explain mymodule:score --images scans/ --corpus scans.yaml --dry-run`
"""


@commands.command(epilog=EXPLAIN_EXAMPLES)
def explain(
    classifier: Annotated[
        str,
        typer.Argument(
            help="pocket:NAME, timm:NAME[@FILE], torchvision:NAME, hf:NAME, clip:NAME, onnx:FILE, http://…; "
            "pt2:FILE, torchscript:FILE and package.module:function run what the file says"
        ),
    ],
    images: Annotated[Path, typer.Option(help="folder of pictures, or one picture")],
    target: Annotated[
        str | None, typer.Option(help="label to explain; may be left out for two labels")
    ] = None,
    versus: Annotated[str | None, typer.Option(help="explain the target against this label alone")] = None,
    labels: Annotated[str | None, typer.Option(help="a,b,c or a file with one label a line")] = None,
    classifier_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="a setting of the classifier: size=224")
    ] = None,
    corpus: Annotated[str, typer.Option(help="bundled name or YAML file of concepts")] = "avatars",
    editor: Annotated[
        list[str] | None,
        typer.Option(
            help="pocket, pocket-turbo, sd-turbo, sdxl, …, ORG/NAME on the hub or a folder; "
            "ledits:, turbo:, flow: or instruct: before it chooses the method; given twice, the second is "
            "asked for its opinion of what the first found [default: pocket]"
        ),
    ] = None,
    editor_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="a setting of the editor: steps=20")
    ] = None,
    screen: Annotated[
        str | None, typer.Option(help="a faster editor for the race; --editor confirms what survives")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="pocket or clip:NAME; the editor names a default")] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="world:avatars, pocket, clipseg:ORG/NAME, clipseg:FOLDER, none; the editor names a default"
        ),
    ] = None,
    search: Annotated[str, typer.Option(help="race (beam search) or exhaustive")] = "race",
    beam: Annotated[int, typer.Option(help="concepts kept at each level")] = 8,
    budget: Annotated[int | None, typer.Option(help="edits in all")] = None,
    seeds: Annotated[int, typer.Option(help="noises per image")] = 1,
    strength: Annotated[float, typer.Option(help="of every edit; 1 is the editor's own")] = 1.0,
    slide: Annotated[
        list[float] | None,
        typer.Option(help="another strength at which the report shows the strongest pairs; may be repeated"),
    ] = None,
    direction: Annotated[list[str] | None, typer.Option(help="add, remove; both when not given")] = None,
    out: Annotated[Path | None, typer.Option(help="run folder [default: runs/CLASSIFIER-TARGET]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    accept_drift: Annotated[
        bool, typer.Option("--accept-drift", help="go on although the editor does not fit")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    on: Annotated[
        str, typer.Option(help="here; ray: workers on this machine or RAY_ADDRESS; ray://HOST:PORT")
    ] = "here",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the plan and its cost, load no model")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Edit pictures along a tree of concepts and rank the concepts by how far they move the score."""
    from diffexplain import api

    directions = tuple(direction or ("add", "remove"))
    first, *others = editor or ["pocket"]
    if len(others) > 1:
        raise typer.BadParameter("given more than twice: give one, or two to compare", param_hint="--editor")
    common: dict[str, Any] = {
        "corpus": corpus, "editor": first, "screen": screen, "method": search, "beam": beam,
        "budget": budget, "seeds": seeds, "directions": directions, "slides": tuple(slide or ()),
    }  # fmt: skip
    with errors():
        common["editor_options"] = settings(editor_option or [])
        if dry_run:
            _show_plan(api.foresee(str(images), second=bool(others), **common), as_json)
            return
        folder = out or Path("runs") / slug(f"{classifier}-{target or 'default'}")
        with progress(quiet=as_json) as tell, stoppable(folder):
            answer = api.explain(
                classifier,
                str(images),
                target=target,
                versus=versus,
                labels=labels,
                classifier_options=settings(classifier_option or []),
                judge=judge,
                segmenter=segmenter,
                strength=strength,
                out=folder,
                resume=resume,
                accept_drift=accept_drift,
                device=device,
                on=on,
                progress=tell,
                second=others[0] if others else None,
                **common,
            )
        _show(answer.result, folder, as_json)


@commands.command()
def demo(
    out: Annotated[Path, typer.Option(help="run folder; made anew")] = Path("runs/demo"),
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Explain the bundled `pocket:hired` on 16 avatars and show the true effects beside the estimates."""
    import shutil

    from diffexplain import api, demonstration

    with errors():
        if (out / "run.json").is_file():
            shutil.rmtree(out)
        pictures = demonstration.portraits(out.parent / f"{out.name}-images")
        with progress(quiet=as_json) as tell, stoppable(out):
            answer = api.explain(
                demonstration.CLASSIFIER,
                str(pictures),
                target=demonstration.TARGET,
                beam=demonstration.BEAM,
                out=out,
                progress=tell,
                truth=demonstration.truth,
            )
        _show(answer.result, out, as_json)


REPORT_EXAMPLES = """
Examples:

- `diffexplain report runs/hired --gradcam --regions`

- `diffexplain report runs/hired --beside runs/hired-synthesis --beside runs/audit-pocket-hired`
"""


@commands.command(epilog=REPORT_EXAMPLES)
def report(
    run: Annotated[Path, typer.Argument(help="a finished run folder")],
    gradcam: Annotated[
        bool, typer.Option("--gradcam", help="add Grad-CAM of the pictures shown; the run keeps it")
    ] = False,
    regions: Annotated[
        bool, typer.Option("--regions", help="add where each concept may act; the run keeps it")
    ] = False,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="OTHER",
            help="show another answer about the classifier beside it: a folder of `synthesize`, `spurious`, "
            "`audit` or `mitigate`; may be repeated; a page written without it has none",
        ),
    ] = None,
) -> None:
    """Write `report.html` of a finished run again, from its rows."""
    from diffexplain.api.reporting import add_gradcam, add_regions, answers_beside, rewrite_report

    with errors():
        answers_beside(run, beside or ())  # a wrong one is said before the work
        if gradcam:
            add_gradcam(run)
        if regions:
            add_regions(run)
        typer.echo(f"report: {rewrite_report(run, beside or ())}")


def _show_plan(plan: Plan, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps(asdict(plan)))
        return
    seconds = (
        "unknown until the editor is downloaded"
        if plan.seconds != plan.seconds
        else f"about {plan.seconds:.0f}"
    )
    rows = {
        "images": f"{plan.images}, of which {plan.report_images} for the report",
        "concepts": f"{plan.concepts}; about {plan.questions} measured outside the race",
        "edits": f"about {plan.edits}",
        "UNet evaluations": f"about {plan.evaluations}",
        "seconds": seconds,
        "disk": f"about {plan.bytes / 1e6:.1f} MB",
        "detectable": f"effects above {plan.detectable:.2f} standard deviations of Δ (q < 0.05)",
    }
    for name, value in rows.items():
        typer.echo(f"{name:>18}  {value}")
    for warning in plan.warnings:
        typer.echo(f"{'note':>18}  {warning}")


def _show(result: Result, folder: Path, as_json: bool) -> None:
    """The top ten as a table, then where the report is."""
    if as_json:
        typer.echo((folder / "result.json").read_text(encoding="utf-8"))
        return
    from rich.table import Table
    from rich.text import Text

    console = terminal()
    for note in result.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    asked = f"What moves {result.request.classifier} towards {result.request.target}"
    table = Table(title=Text(asked))
    for name in ("concept", "", "effect", "95 % interval", "q", "flips", "happened", "images"):
        table.add_column(name, justify="left" if name in ("concept", "") else "right")
    truth = result.truth
    if truth is not None:
        table.add_column("true effect", justify="right")
    for c in [c for c in result.concepts if c.status == "measured"][:10]:
        cells: list[str | Text] = [
            Text(c.concept), c.direction, f"{c.effect:+.2f}", f"{c.low:+.2f} … {c.high:+.2f}", f"{c.q:.3f}",
            f"{c.flip_rate:.0%}", f"{c.success_rate:.0%}", str(c.images),
        ]  # fmt: skip
        if truth is not None:
            known = truth.get(f"{c.direction} {c.concept}")
            cells.append("" if known is None else f"{known:+.2f}")
        table.add_row(*cells)
    console.print(table)
    if result.joint:
        j = result.joint
        console.print(
            Text(f"together: {' and '.join(j.steps)}: {j.effect:+.2f} ({j.low:+.2f} … {j.high:+.2f})")
        )
    if (agreed := result.agreement) and agreed.questions:
        console.print(
            f"screened by {result.request.screen}: over {agreed.questions} concepts its effects correlate "
            f"with the confirmed ones by {agreed.correlation:.2f}, {agreed.same_sign:.0%} have the same sign"
        )
    _show_controls(result, console)
    cost = result.cost
    console.print(f"{cost.edits} edits, {cost.evaluations} UNet evaluations, {cost.seconds:.0f} s")
    console.print(Text(f"report: {folder / 'report.html'}"), soft_wrap=True)


def _show_controls(result: Result, console: Console) -> None:
    """What the run could have found, what a placebo does, and what a second editor says."""
    from statistics import median

    least = [c.detectable for c in result.concepts if c.status == "measured" and c.detectable == c.detectable]
    if least:
        console.print(
            f"detectable with power 0.8 at q < 0.05: {min(least):.2f} to {max(least):.2f} log-odds by "
            f"concept, half of them {median(least):.2f} or less"
        )
    if p := result.placebo:
        console.print(
            f"placebo, as large as the median edit: {p.effect:+.2f} ({p.low:+.2f} … {p.high:+.2f}), "
            f"{p.images} images"
        )
    if (agreed := result.second) and agreed.questions:
        alone = sum(c.supported is False for c in result.concepts)
        console.print(
            f"second opinion of {result.request.second}: over {agreed.questions} questions its effects "
            f"correlate by {agreed.correlation:.2f}, {agreed.same_sign:.0%} have the same sign; "
            f"{alone} found by one editor only"
        )
