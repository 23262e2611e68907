"""`diffexplain plan` of a pilot in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffexplain.cli import app
from diffexplain.pilot import needs
from diffexplain.store import Run
from tests.factories import request
from tests.unit.test_pilot import pilot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = pilot(10, 2, 0.7, 0.4)
    with Run.open(tmp_path / "pilot", request(images=tuple(f"i{k}" for k in range(20)))) as run:
        run.append(0, rows, {})
    return tmp_path / "pilot"


def test_the_plan_of_a_pilot_is_shown(folder: Path) -> None:
    shown = CliRunner().invoke(app, ["plan", str(folder), "--width", "0.5"])
    assert shown.exit_code == 0, shown.output
    (need,) = needs(pilot(10, 2, 0.7, 0.4), 0.5, images=20)
    assert "add ball" in shown.output
    assert str(need.images[1]) in shown.output
    (said,) = json.loads(CliRunner().invoke(app, ["plan", str(folder), "--width", "0.5", "--json"]).output)
    assert said["images"] == {str(k): n for k, n in need.images.items()}


@pytest.mark.parametrize(("where", "width", "said"), [("pilot", "0", "width 0"), ("nowhere", "1", "nowhere")])
def test_what_cannot_be_planned_is_one_line(folder: Path, where: str, width: str, said: str) -> None:
    shown = CliRunner().invoke(app, ["plan", str(folder.parent / where), "--width", width])
    assert shown.exit_code == 2
    assert said in shown.stderr
    assert len(shown.stderr.strip().splitlines()) == 1
