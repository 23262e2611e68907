"""The command line: parses what a person asked and shows what came out; no logic of its own."""

from diffexplain.cli import corpora, explanations
from diffexplain.cli.console import group

app = group(
    name="diffexplain",
    help="Which meanings drive an image classifier's decision, how much, and how sure are we?",
    no_args_is_help=True,
)
for part in (explanations, corpora):
    app.add_typer(part.commands)


def main() -> None:
    """Entry point: one line for a user's mistake, no traceback."""
    app()
