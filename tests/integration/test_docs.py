"""What the docs say exists: their corpora load, their options are offered, their links and code hold."""

import ast
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import diffexplain as dx
from diffexplain.cli import app
from diffexplain.corpus import parse_corpus
from diffexplain.records import ConceptResult, Cost, Drift, Effect, JointPath, Result

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = ("start", "method", "corpus", "classifiers", "run-folder", "avatars")
NAMES = [str(path.relative_to(ROOT / "docs")) for path in DOCS]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link can point at in a page, as GitHub names headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table(page: str, heading: str) -> set[str]:
    """The names in code in the first column of the first table after a heading."""
    text = (ROOT / "docs" / page).read_text("utf-8").split(f"{heading}\n", 1)[1]
    rows = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert rows, heading
    return {name for row in rows[0].splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_the_pages_are_there() -> None:
    assert {f"{page}.md" for page in PAGES} <= set(NAMES)


def test_corpus_examples_load() -> None:
    examples = blocks(ROOT / "docs/corpus.md", "yaml")
    assert examples
    for text in examples:
        corpus = parse_corpus(text, "docs/corpus.md")
        assert len(corpus.leaves()) > 1
        assert corpus.restrict(["coat", "muzzle"]).roots == ("coat", "muzzle")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "zensical.toml", folder)
    return folder


def told(folder: Path, *command: str | Path) -> tuple[int, str]:
    """A command's exit code and all that it says, without colours."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)


def test_the_site_is_built_and_asks_nothing_of_others(checkout: Path) -> None:
    pytest.importorskip("zensical", reason="zensical is not installed: the docs extra has it")
    code, said = told(checkout, sys.executable, "docs/website.py")
    assert code == 0, said[-3000:]
    site = checkout / "build/site"
    pages = {str(path.relative_to(site).with_suffix(".md")) for path in site.rglob("*.html")}
    assert {*NAMES, "quickstart.md"} <= pages
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        listed = 'class="md-nav__link md-nav__link--active"' in text  # it is in the menu
        assert listed or page.name == "404.html", page
        asked = re.findall(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?(\w+:)?//""", text)
        assert asked == [], page
    reference = "".join(path.read_text("utf-8") for path in (site / "reference").glob("*.html"))
    assert [name for name in dx.__all__ if f'id="{name.lower()}"' not in reference] == []
    offered = set().union(*options(get_command(app)).values()) - {"--help"}
    assert [o for o in offered if o.startswith("--") and f"<code>{o}</code>" not in reference] == []
    (checkout / "build/docs/web.md").write_text("[nowhere](start.md#nowhere)\n", "utf-8")
    code, said = told(checkout / "build", Path(sys.executable).with_name("zensical"), "build", "--strict")
    assert code != 0
    assert "anchor does not exist" in said


def options(command: Any, *words: str) -> dict[str, set[str]]:
    """Every command by its words, and the options that it offers."""
    found = {" ".join(words): {o for p in command.params for o in (*p.opts, *p.secondary_opts)}}
    for name, below in getattr(command, "commands", {}).items():
        found |= options(below, *words, name)
    return found


def test_every_option_of_explain_is_in_the_start() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", (ROOT / "docs/start.md").read_text("utf-8")))
    offered = {o for o in options(get_command(app))["explain"] if o.startswith("--")}
    assert offered
    assert offered <= named | {"--help"}, offered - named


@pytest.mark.parametrize("page", DOCS, ids=NAMES)
def test_every_option_is_offered(page: Path) -> None:
    offered = set().union(*options(get_command(app)).values())
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page.read_text("utf-8")))
    assert named <= offered | {"--help"}, named - offered


@pytest.mark.parametrize("page", DOCS, ids=NAMES)
def test_relative_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [page for page in DOCS if page.parent.name != "how-to"], ids=str)
def test_python_examples_use_what_exists(page: Path) -> None:
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dx":
                assert node.attr in dx.__all__
            if isinstance(node, ast.ImportFrom):
                for name in (alias.name for alias in node.names):
                    if not hasattr(import_module(str(node.module)), name):
                        import_module(f"{node.module}.{name}")


@pytest.mark.parametrize(
    ("heading", "record"),
    [
        ("## `result.json`", Result),
        ("An entry of `concepts`:", ConceptResult),
        ("## A row of `effects`", Effect),
    ],
)
def test_every_key_is_described(heading: str, record: type) -> None:
    assert table("run-folder.md", heading) == set(record.__dataclass_fields__)


@pytest.mark.parametrize("record", [JointPath, Drift, Cost])
def test_every_part_of_the_result_is_described(record: type) -> None:
    text = (ROOT / "docs/run-folder.md").read_text("utf-8")
    assert [name for name in record.__dataclass_fields__ if f"`{name}`" not in text] == []
