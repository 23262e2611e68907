"""`check`: is a classifier loaded, fed and read as it should be?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffexplain.cli.console import errors, group, settings, slug, terminal

if TYPE_CHECKING:
    from diffexplain.api.checking import Checkup

commands = group()

CHECK_EXAMPLES = """
Examples:

- `diffexplain check pocket:hired --images portraits/ --size 64`

- `diffexplain check onnx:model.onnx --images photos/ --labels labels.txt
  --classifier-option size=224 --classifier-option mean=[0.485,0.456,0.406]
  --classifier-option std=[0.229,0.224,0.225]`

- `diffexplain check https://host/predict --images photos/ --classifier-option token_env=MY_TOKEN`

`pt2:`, `torchscript:` and `package.module:function` run what their file says: name only files that you trust.
"""


@commands.command(epilog=CHECK_EXAMPLES)
def check(
    classifier: Annotated[
        str,
        typer.Argument(
            help="pocket:, timm:, torchvision:, hf:, clip:, onnx:, pt2:, torchscript:, http(s)://… or "
            "package.module:function; pt2, torchscript and functions run what their file says"
        ),
    ],
    images: Annotated[Path, typer.Option(help="folder of pictures")],
    labels: Annotated[str | None, typer.Option(help="a,b,c or a file with one label a line")] = None,
    classifier_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="a setting of the classifier: size=224")
    ] = None,
    size: Annotated[int, typer.Option(help="side of the pictures it is asked about")] = 256,
    limit: Annotated[int, typer.Option(help="pictures it is asked about")] = 12,
    out: Annotated[
        Path | None, typer.Option(help="page to write [default: runs/check-CLASSIFIER.html]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
) -> None:
    """Examine a classifier on a few pictures: its answers, and the usual faults in how it is fed and read."""
    from dataclasses import asdict

    from diffexplain import api

    with errors():
        made = api.check(
            classifier,
            str(images),
            labels=labels,
            options=settings(classifier_option or []),
            size=size,
            limit=limit,
            out=out or Path("runs") / f"check-{slug(classifier)}.html",
            device=device,
        )
    if as_json:
        typer.echo(json.dumps(asdict(made), default=str))
    else:
        _show(made)


def _show(made: Checkup) -> None:
    from rich.table import Table
    from rich.text import Text

    console = terminal()
    shown = ", ".join(made.labels[:12]) + (
        f", … ({len(made.labels)} in all)" if len(made.labels) > 12 else ""
    )
    console.print(Text(f"{made.classifier}: {shown}"))
    console.print(Text(f"head: {made.head}; preprocessing: {made.preprocessing}"))
    found = Table("", "finding", show_header=False)
    for f in made.findings:
        found.add_row(
            f.name, Text(f.says if f.good else f"warning: {f.says}", style="" if f.good else "yellow")
        )
    console.print(found)
    answers = Table("picture", "answers")
    for answer in made.answers:
        line = ", ".join(
            f"{label} {score:.3g}" if made.head == "regression" else f"{label} {score:.0%}"
            for label, score in answer.top
        )
        answers.add_row(Text(answer.picture), Text(line))
    console.print(answers)
    console.print(Text(f"page: {made.page}"), soft_wrap=True)
