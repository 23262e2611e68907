"""`corpus`: concept trees: shown, checked, compared, joined, cut, mined."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from diffexplain.cli.console import errors, group

if TYPE_CHECKING:
    from diffexplain.corpus import Document

Out = Annotated[Path | None, typer.Option(help="file to write; on the screen when left out")]
Name = Annotated[str, typer.Argument(help="bundled name or YAML file")]


class _ShortForm(TyperGroup):
    """`corpus` alone lists, `corpus NAME` shows."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = args[0] if args else ""
        if not args:
            args = ["list"]
        elif not first.startswith("-") and first not in self.commands:
            args = ["show", *args]
        return super().parse_args(ctx, args)


commands = group()
corpus = group(
    name="corpus",
    cls=_ShortForm,
    help="Concept trees: show, check, compare, join, cut and mine them. `corpus NAME` is `corpus show NAME`.",
)
commands.add_typer(corpus)


@corpus.command("list")
def list_() -> None:
    """The names of the bundled corpora, with what each is about."""
    from diffexplain.corpus import available, load_corpus

    with errors():
        for name in available():
            tree = load_corpus(name)
            typer.echo(f"{name:<14}{len(tree.leaves()):>4} leaves  {tree.domain}")


@corpus.command()
def show(name: Name) -> None:
    """A corpus as a tree: each concept with its directions (+ add, − remove) and its prompt."""
    from diffexplain.corpus import load_corpus, tree_text

    with errors():
        typer.echo(tree_text(load_corpus(name)))


@corpus.command()
def validate(files: Annotated[list[str], typer.Argument(help="YAML files or bundled names")]) -> None:
    """Check files; what is valid but probably a mistake is said too. Exit code 2 at the first that is not."""
    from diffexplain.corpus import findings, load_corpus

    with errors():
        for name in files:
            tree = load_corpus(name)
            levels = 1 + max(concept.depth for concept in tree.walk())
            typer.echo(
                f"{name}: valid, {len(tree)} concepts, {len(tree.leaves())} leaves, {levels} levels, "
                f"{sum(leaf.protected for leaf in tree.leaves())} protected"
            )
            for finding in findings(tree):
                typer.echo(f"  note: {finding}")


@corpus.command()
def diff(old: Name, new: Name) -> None:
    """What changed from one corpus to another: − gone, + new, ~ stated otherwise. Exit code 1 if anything."""
    from diffexplain.corpus import difference, load_document

    with errors():
        lines = difference(load_document(old), load_document(new))
    for line in lines:
        typer.echo(line)
    if lines:
        raise typer.Exit(1)


@corpus.command()
def merge(
    files: Annotated[list[str], typer.Argument(help="bundled names or YAML files, two or more")],
    out: Out = None,
) -> None:
    """Join corpora. Where two state the same thing otherwise, the first wins, and that is said."""
    from diffexplain.corpus import load_document, merged
    from diffexplain.errors import InputError

    with errors():
        if len(files) < 2:
            raise InputError("corpus merge: name at least two corpora")
        whole, gave_way = merged(*(load_document(name) for name in files))
        for line in gave_way:
            typer.echo(f"note: {line}", err=True)
        _give(whole, out)


@corpus.command()
def prune(
    file: Name,
    paths: Annotated[list[str], typer.Argument(help="paths such as `hair/colour`")],
    keep: Annotated[bool, typer.Option("--keep", help="keep just these subtrees")] = False,
    out: Out = None,
) -> None:
    """Cut subtrees out of a corpus, or with --keep everything else."""
    from diffexplain.corpus import kept, load_document, pruned

    with errors():
        document = load_document(file)
        _give(kept(document, paths) if keep else pruned(document, paths), out)


@corpus.command()
def schema() -> None:
    """The JSON Schema of corpus files, by which editors complete and check them."""
    from diffexplain.corpus import schema as text

    typer.echo(text(), nl=False)


MINE_EXAMPLES = """
Examples:

- `diffexplain corpus mine --images birds/ --domain birds
  --model openai:Qwen/Qwen2.5-VL-7B-Instruct@http://127.0.0.1:8000/v1 --out mybirds.yaml`

- `diffexplain corpus mine --images birds/ --domain birds --words words.txt --out mybirds.yaml`
"""


@corpus.command(epilog=MINE_EXAMPLES)
def mine(
    images: Annotated[Path, typer.Option(help="folder of sample pictures")],
    domain: Annotated[str, typer.Option(help="what they show, in a few words: birds")],
    out: Annotated[Path, typer.Option(help="YAML file to write")],
    model: Annotated[
        str | None,
        typer.Option(
            help="openai:MODEL@BASE-URL of any OpenAI-compatible server (key from DIFFEXPLAIN_API_KEY), "
            "or transformers:ORG/NAME"
        ),
    ] = None,
    words: Annotated[
        Path | None, typer.Option(help="candidates, one a line, sifted by CLIP; no model is asked")
    ] = None,
    judge: Annotated[
        str, typer.Option(help="CLIP of the clean-up: clip:NAME, pocket, or none")
    ] = "clip:openai/clip-vit-large-patch14",
    sample: Annotated[int, typer.Option(help="pictures looked at")] = 32,
    prompt: Annotated[str, typer.Option(help="template with {phrase} [default: of the subject]")] = "",
    neutral: Annotated[str, typer.Option(help="prompt with nothing said [default: of the subject]")] = "",
    price: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="dollars for a million tokens in and out")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="folder of kept calls [default: OUT without .yaml, with .mining]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what it would cost, ask nothing")] = False,
) -> None:
    """Make a corpus for a domain from pictures of it, by a model that sees or by CLIP and a word list."""
    from diffexplain import api

    with errors():
        dollars = _prices(price)
        if model is not None:
            expected = api.foresee_mining(str(images), domain=domain, sample=sample)
            typer.echo(f"expected: about {expected.said(dollars)}", err=True)
        if dry_run:
            return
        mined, usage = api.mine_corpus(
            str(images),
            domain=domain,
            out=out,
            model=model,
            words=words,
            judge=judge,
            run=run,
            sample=sample,
            prompt=prompt,
            neutral=neutral,
            device=device,
            told=lambda what, so_far: typer.echo(f"{what}: {so_far.said(dollars)}", err=True),
        )
        for drop in mined.dropped:
            typer.echo(f"dropped {drop.path}: {drop.why}", err=True)
        if model is not None:
            typer.echo(f"used: {usage.said(dollars)}", err=True)
        typer.echo(f"corpus: {out}, {len(mined.corpus.leaves())} leaves, {len(mined.dropped)} terms dropped")


def _give(document: Document, out: Path | None) -> None:
    """Write a document that is a valid corpus, or show it."""
    from diffexplain.corpus import grow, written
    from diffexplain.errors import InputError

    grow(document)
    if out is None:
        typer.echo(written(document), nl=False)
        return
    try:
        out.write_text(written(document), "utf-8")
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror}); choose another") from None
    typer.echo(f"corpus: {out}")


def _prices(text: str | None) -> tuple[float, float] | None:
    from diffexplain.errors import InputError

    if text is None:
        return None
    try:
        into, out = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"price {text!r}: give dollars for a million tokens in and out, such as 2.5,10"
        ) from None
    if not (0 <= into < 1e6 and 0 <= out < 1e6):
        raise InputError(f"price {text!r}: give two numbers from 0")
    return into, out
