"""The commands as a person types them."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffexplain.cli import app
from tests.unit.study.folders import explained


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["study", *map(str, words)])
    return done.exit_code, done.output


def test_build_writes_a_study_and_its_page(tmp_path: Path) -> None:
    runs = explained(tmp_path / "one"), explained(tmp_path / "other", seed=1)
    code, said = run(
        "build", *runs, "--out", tmp_path / "study", "--items", 2, "--static", 3, "--contact", "Ann"
    )
    assert code == 0, said
    assert "a reader sees 8 pages" in said  # attribute, rating, side: two each, and two checks
    assert "Questions and complaints: Ann" in (tmp_path / "study" / "page.html").read_text("utf-8")
    code, said = run("analyse", tmp_path / "study")
    assert code == 2
    assert "nobody answered yet" in said


def test_plan_says_how_many() -> None:
    code, said = run("plan", "accuracy", "--expected", 0.5)
    assert code == 0
    assert said.startswith("7 people (56 answers)")


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (("plan", "accuracy", "--expected", 0.25), "other than 0.25"),
        (("serve", "nowhere"), "diffexplain study build"),
        (("build", "nowhere", "--out", "/dev/null/x"), "choose another folder"),
    ],
)
def test_mistakes_are_one_line(words: tuple[object, ...], cure: str) -> None:
    code, said = run(*words)
    assert code == 2
    assert cure in said
    assert said.strip().count("\n") == 0
