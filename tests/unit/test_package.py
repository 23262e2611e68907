import ast
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/diffexplain"
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "timm", "gradio", "ray"}

IMPORT_ALL = """
import pathlib, pkgutil, sys
import diffexplain
assert pathlib.Path(diffexplain.__file__).is_relative_to(sys.prefix), diffexplain.__file__
def stop(name): raise
for module in pkgutil.walk_packages(diffexplain.__path__, "diffexplain.", onerror=stop):
    __import__(module.name)
from diffexplain.corpus import available, load_corpus
assert "avatars" in available()
for name in available():
    assert len(load_corpus(name)), name
"""


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def normal(requirement: str) -> str:
    """The distribution's normalised name (PEP 503)."""
    name = re.match(r"[\w.-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return {normal(r) for group in (project["dependencies"], *extras) for r in group} - {"diffexplain"}


def imports(node: ast.AST) -> Iterator[str]:
    """Top-level names imported at or under `node` when it runs: not those for type checkers only."""
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.Import(names=names):
            yield from (a.name.partition(".")[0] for a in names)
        case ast.ImportFrom(module=str(module), level=0):
            yield module.partition(".")[0]
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


@pytest.mark.parametrize("command", [("-c", "import diffexplain"), ("-m", "diffexplain", "--help")])
def test_starts_without_the_heavy_libraries(command: tuple[str, ...]) -> None:
    lines = run(sys.executable, "-X", "importtime", *command, cwd=PACKAGE.parent).stderr.splitlines()
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "diffexplain" in loaded
    assert not loaded & HEAVY


def test_every_import_is_declared() -> None:
    distributions = packages_distributions()
    for file in PACKAGE.rglob("*.py"):
        for name in set(imports(ast.parse(file.read_text()))) - sys.stdlib_module_names - {"diffexplain"}:
            providers = {normal(d) for d in distributions.get(name, [])}
            assert providers & declared(), f"{file.relative_to(ROOT)} imports {name}, from {providers or '?'}"


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"#.*|[\w.-]+==[\w.]+", line) for line in lines)
    assert declared() <= {normal(line) for line in lines if not line.startswith("#")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("*.whl"))


def test_wheel_holds_the_data(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    kept = {p for p in PACKAGE.rglob("*") if p.is_file() and p.parent.name != "__pycache__"}
    assert {p.relative_to(PACKAGE.parent).as_posix() for p in kept} <= inside


@pytest.mark.slow
def test_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel, cwd=tmp_path)
    # a path in a .pth file does not run the .pth files there: the editable install stays out of reach
    borrowed = next((tmp_path / "venv").glob("lib/python*/site-packages")) / "borrowed.pth"
    borrowed.write_text(sysconfig.get_path("purelib"))
    run(python, "-I", "-c", IMPORT_ALL, cwd=tmp_path)
