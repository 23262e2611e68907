"""Figures, comparisons, exports and the notebook, from a real run and by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner
from typer.testing import Result as Told

from diffexplain.api.reporting import add_gradcam, rewrite_report
from diffexplain.classifiers import load_classifier
from diffexplain.cli import app
from diffexplain.errors import InputError
from diffexplain.images import decode_png
from diffexplain.records import Comparison, Effect, Result
from diffexplain.report.overlays import Overlays, edit_key
from diffexplain.store import Run, read_result, read_rows
from diffexplain.targets import choose_target
from tests import factories
from tests.tiny import pocket_turbo_of_few_rows
from tests.unit.report import answers
from tests.unit.study.folders import synthesised

ROOT = Path(__file__).parents[2]


def command(*words: object) -> Told:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "TERM": "dumb"})


def kept(folder: Path, result: Result, rows: list[Effect], pictures: factories.Pictures) -> Path:
    """A finished run folder as `explain` leaves it."""
    with Run.open(folder, result.request) as run:
        run.append(0, rows, pictures.stored)
        run.write_result(result)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result, rows, pictures = factories.measured(images=8, size=32)
    return kept(tmp_path_factory.mktemp("runs") / "first", result, rows, pictures)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures under another classifier, which ignores glasses."""
    result, rows, pictures = factories.measured(images=8, size=32)
    rows = [replace(e, score_after=e.score_before) if "glasses" in e.concept else e for e in rows]
    concepts = [
        replace(c, effect=0.0, low=-0.1, high=0.1) if "glasses" in c.concept else c for c in result.concepts
    ]
    result = replace(
        result, request=replace(result.request, classifier="pocket:awarded"), concepts=tuple(concepts)
    )
    return kept(tmp_path_factory.mktemp("runs") / "second", result, rows, pictures)


# -- the command line -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hierarchy", "grid", "pairs", "forest"])
def test_figure_embeds_its_fonts(folder: Path, tmp_path: Path, kind: str) -> None:
    told = command("figure", folder, "--kind", kind, "--out", tmp_path / "f.pdf")
    assert told.exit_code == 0, told.output
    pdf = (tmp_path / "f.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf  # TrueType, embedded
    assert b"/Type3" not in pdf


def test_figure_is_made_of_vectors_and_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        told = command("figure", folder, "--kind", "forest", "--format", "svg", "--out", tmp_path / name)
        assert told.exit_code == 0, told.output
    drawn = (tmp_path / "a.svg").read_text("utf-8")
    assert drawn.count("<path") > 50
    assert "<image" not in drawn
    assert (tmp_path / "b.svg").read_text("utf-8") == drawn


def test_figure_lies_in_the_run_by_default(folder: Path) -> None:
    assert command("figure", folder, "--kind", "forest", "--format", "png").exit_code == 0
    with Image.open(folder / "forest.png") as drawn:
        assert drawn.width > 1500  # 300 points an inch, two columns wide


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("figure", "RUN", "--kind", "cloud"), "figure kind 'cloud': choose hierarchy, grid, pairs, forest"),
        (("figure", "RUN", "--format", "gif"), "figure format 'gif': choose pdf, svg, png"),
        (("figure", "nowhere"), "no finished run here?"),
        (("export", "RUN", "--format", "xml"), "format 'xml': choose csv, parquet, coco, fiftyone, mlflow"),
        (("export", "RUN", "--out", "RUN"), "is not empty: choose a new one with --out"),
        (("compare", "RUN", "nowhere"), "no finished run here?"),
    ],
)
def test_mistakes_are_one_line(folder: Path, words: tuple[str, ...], said: str) -> None:
    told = command(*(folder if word == "RUN" else word for word in words))
    assert told.exit_code == 2
    assert said in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1


def test_report_shows_every_row(folder: Path) -> None:
    told = command("report", folder)
    assert told.exit_code == 0, told.output
    page = (folder / "report.html").read_text("utf-8")
    data = json.loads(page.split('id="data">', 1)[1].split("</script>", 1)[0])
    result, rows, _ = factories.measured(images=8, size=32)
    shown = sum(len(series) for gallery in data["galleries"].values() for series in gallery["series"])
    assert shown == len([e for e in rows if e.edited])
    assert result.concepts[0].concept in page


def test_compare_finds_the_concept_that_changed(folder: Path, second: Path, tmp_path: Path) -> None:
    told = command("compare", folder, second, "--out", tmp_path / "c.html", "--json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    changed = {c["concept"] for c in found["changes"] if c["q"] < 0.05}
    assert changed
    assert all("glasses" in concept for concept in changed)
    assert all(c["paired"] for c in found["changes"])
    assert found["differing"] == [["classifier", "pocket:hired", "pocket:awarded"]]
    page = (tmp_path / "c.html").read_text("utf-8")
    assert "What changes from pocket:hired to pocket:awarded?" in page
    table = command("compare", folder, second)
    assert f"{len(changed)} of {len(found['changes'])} effects changed at q < 0.05" in table.output


@pytest.fixture(scope="module")
def synthesis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `synthesize`: two targets with pictures and words, one with real pictures."""
    folder = synthesised(tmp_path_factory.mktemp("runs") / "synthesis")
    samples = read_rows(folder)
    drawn = [s for s in samples if s.origin == "optimised"]
    made = {name: tuple(s for s in drawn if s.target == name) for name in ("hired", "rejected")}
    real = Comparison("real", 1.0, 0.5, 0.5, 0.1, tuple(s for s in samples if s.origin == "real"))
    result = read_result(folder)
    targets = [replace(t, examples=made[t.target], hard_prompt="a $person$ & co") for t in result.targets]
    targets[0] = replace(targets[0], compared=(real,))
    with Run.open(folder, result.request, resume=True) as run:
        run.write_result(replace(result, targets=tuple(targets)))
    return folder


def test_a_synthesis_is_drawn_as_units(synthesis: Path, tmp_path: Path) -> None:
    told = command("figure", synthesis, "--format", "svg", "--out", tmp_path / "u.svg")
    assert told.exit_code == 0, told.output
    drawn = (tmp_path / "u.svg").read_text("utf-8")
    assert drawn.count("<image") == 12  # four of each target, and the real ones of the first
    assert command("figure", synthesis, "--kind", "units", "--format", "png").exit_code == 0
    with Image.open(synthesis / "units.png") as shown:
        assert shown.width > 1500
    told = command("figure", synthesis, "--kind", "units", "--out", tmp_path / "u.pdf")
    assert told.exit_code == 0, told.output
    assert b"/FontFile2" in (tmp_path / "u.pdf").read_bytes()
    told = command("figure", synthesis, "--kind", "grid")
    assert told.exit_code == 2
    assert "a synthesis is drawn as units" in told.stderr


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A small run whose scores are those of `pocket:hired`."""
    result, rows, pictures = factories.measured(images=8, size=32)
    strongest = result.concepts[0]
    target = choose_target(load_classifier("pocket:hired"), "hired")

    def score(name: str) -> float:
        return float(target.score(decode_png(pictures(name))[None])[0])

    examples = tuple(
        replace(e, score_before=score(e.reconstruction), score_after=score(e.edited))
        for e in strongest.examples[:2]
    )
    result = replace(result, concepts=(replace(strongest, examples=examples),))
    return kept(tmp_path / "scored", result, [e for e in rows if e.concept == strongest.concept], pictures)


def test_gradcam_and_regions_are_added_and_kept(scored: Path) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed: the baselines extra has it")
    told = command("report", scored, "--gradcam", "--regions")
    assert told.exit_code == 0, told.output
    over = Overlays.read(scored)
    first = read_result(scored).concepts[0].examples[0]
    assert set(over.maps) >= {first.reconstruction, first.edited}
    assert all((scored / "images" / f"{name}.png").is_file() for name in over.maps.values())
    region = over.regions[edit_key(first)]
    assert region.size == (32, 32)
    assert 0 < region.mask().mean() < 1
    assert command("report", scored).exit_code == 0  # a later report shows them too
    page = (scored / "report.html").read_text("utf-8")
    assert "Grad-CAM on the same pictures" in page
    assert json.loads(page.split('id="data">', 1)[1].split("</script>", 1)[0])["regions"]


def test_gradcam_refuses_another_classifier(folder: Path) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed: the baselines extra has it")
    with pytest.raises(InputError, match="give the one of the run"):
        add_gradcam(folder)  # whose scores are made up
    assert not (folder / "overlays.json").exists()


# -- other answers beside it ----------------------------------------------------------------------------


def test_other_answers_stand_beside_an_explain_run(folder: Path, tmp_path: Path) -> None:
    before = command("report", folder)
    assert before.exit_code == 0, before.output
    alone = (folder / "report.html").read_text("utf-8")
    others = answers.folders(tmp_path, target=answers.SCRIPT)
    told = command("report", folder, *(word for place in others.values() for word in ("--beside", place)))
    assert told.exit_code == 0, told.output
    page = (folder / "report.html").read_text("utf-8")
    for title in (
        f"Synthesised for {answers.SCRIPT}", "Does pocket:hired look at 'a person' when it says 'hired'?",
        "Shortcuts of hired", "Audit by edits: skin tone", "Audit by counts: skin tone",
        "Mitigation: before and after",
    ):  # fmt: skip
        assert f">{escape(title)}</h2>" in page
        assert f">{escape(title)}</h2>" not in alone
    assert answers.SCRIPT not in page
    pictures = [
        len(json.loads(x.split('id="data">', 1)[1].split("</script>", 1)[0])["pictures"])
        for x in (alone, page)
    ]
    assert pictures[1] == pictures[0] + 2 + 6  # of the class, of three units
    assert command("report", folder).exit_code == 0
    assert (folder / "report.html").read_text("utf-8") == alone


def test_answers_are_taken_from_files_and_one_by_one(folder: Path, tmp_path: Path) -> None:
    others = answers.folders(tmp_path)
    page = rewrite_report(folder, others["audit"] / "audit.json").read_text("utf-8")
    assert "Audit by edits: skin tone" in page
    (tmp_path / "kept.json").write_bytes((others["audit"] / "audit.json").read_bytes())
    assert rewrite_report(folder, [tmp_path / "kept.json"]).read_text("utf-8") == page
    assert "Mitigation" in rewrite_report(folder, [others["mitigation"] / "mitigation.json"]).read_text(
        "utf-8"
    )


def test_what_cannot_stand_beside_is_one_line(folder: Path, second: Path, tmp_path: Path) -> None:
    others = answers.folders(tmp_path, classifier="pocket:awarded")
    page = (folder / "report.html").read_bytes()
    for place in others.values():
        told = command("report", folder, "--beside", place)
        assert told.exit_code == 2
        assert "its classifier is 'pocket:awarded', the run's 'pocket:hired'" in told.stderr
        assert len(told.stderr.strip().splitlines()) == 1
    for words, said in (
        ((folder, "--beside", second), "is of kind 'explanation'; `diffexplain compare` shows two such"),
        ((others["synthesis"], "--beside", others["audit"]), "only an explain run shows other answers"),
        ((folder, "--beside", tmp_path), "no finished answer here?"),
        ((folder, "--beside", folder / "result.json"), "holds no AuditResult"),
    ):
        told = command("report", *words)
        assert told.exit_code == 2
        assert said in told.stderr
        assert len(told.stderr.strip().splitlines()) == 1
    assert (folder / "report.html").read_bytes() == page


# -- exports --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_tables_hold_every_number(
    folder: Path, tmp_path: Path, form: str, read: Callable[..., pd.DataFrame]
) -> None:
    assert command("export", folder, "--format", form, "--out", tmp_path / "t").exit_code == 0
    result, rows, _ = factories.measured(images=8, size=32)
    effects = read(tmp_path / "t" / f"effects.{form}")
    assert len(effects) == len(rows)
    assert effects["change"].tolist() == pytest.approx([e.change for e in rows])
    assert effects["file"].iloc[0].startswith("avatar_")
    concepts = read(tmp_path / "t" / f"concepts.{form}")
    assert concepts["concept"].tolist() == [c.concept for c in result.concepts]
    np.testing.assert_allclose(concepts["effect"], [c.effect for c in result.concepts])


def test_coco_annotates_what_was_edited(folder: Path, tmp_path: Path) -> None:
    assert command("export", folder, "--format", "coco", "--out", tmp_path / "coco").exit_code == 0
    coco = COCO(tmp_path / "coco/annotations.json")  # what people read it with
    made, images = coco.dataset, coco.imgs
    for image in made["images"]:
        with Image.open(tmp_path / "coco/images" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])
    (kind,) = coco.getCatIds(catNms=["add facewear/glasses/round"])
    assert coco.getAnnIds(catIds=[kind])
    assert len(made["annotations"]) > 20
    for one in made["annotations"]:
        mask = coco.annToMask(one)
        x, y, width, height = one["bbox"]
        assert mask.sum() == one["area"] == mask[y : y + height, x : x + width].sum()
        with Image.open(tmp_path / "coco/images" / images[one["image_id"]]["file_name"]) as after:
            edited = np.asarray(after).astype(int)
        with Image.open(tmp_path / "coco/images" / f"{one['attributes']['reconstruction']}.png") as before:
            differs = np.abs(edited - np.asarray(before)).max(axis=2) > 40
        assert (mask.astype(bool) == differs).all()


def test_fiftyone_layout(folder: Path, tmp_path: Path) -> None:
    assert command("export", folder, "--format", "fiftyone", "--out", tmp_path / "fo").exit_code == 0
    made = json.loads((tmp_path / "fo/labels.json").read_text("utf-8"))
    assert set(made) == {"classes", "labels"}
    assert {path.stem for path in (tmp_path / "fo/data").iterdir()} == set(made["labels"])
    boxes = [entry for entries in made["labels"].values() if entries for entry in entries]
    assert {entry["label"] for entry in boxes} == set(made["classes"])
    for entry in boxes:
        x, y, width, height = entry["bounding_box"]
        assert 0 <= x <= x + width <= 1
        assert 0 <= y <= y + height <= 1
    assert None in made["labels"].values()  # reconstructions carry no label


def test_mlflow_keeps_the_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts into ./mlruns
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    store = f"sqlite:///{tmp_path}/ml.db"
    (folder / "report.html").write_text("<p>", "utf-8")
    told = command("export", folder, "--format", "mlflow", "--tracking", store)
    assert told.exit_code == 0, told.output
    client = mlflow.MlflowClient(tracking_uri=store)
    logged = client.get_run(told.stdout.strip().rpartition(" ")[2])
    result = factories.measured(images=8, size=32)[0]
    top = result.concepts[0]
    assert logged.data.params["classifier"] == "pocket:hired"
    assert logged.data.metrics[f"effect/{top.direction}/{top.concept}"] == pytest.approx(top.effect)
    assert {file.path for file in client.list_artifacts(logged.info.run_id)} == {"report.html", "result.json"}


# -- the notebook ---------------------------------------------------------------------------------------

#: runs the code cells in one namespace as a kernel does; a cell shows its last value as in a notebook.
KERNEL = """
import ast, json, sys
space = {"__name__": "__main__"}
shown = []
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] != "code":
        continue
    body = ast.parse("".join(cell["source"]))
    last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
    exec(compile(body, cell["id"], "exec"), space)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), cell["id"], "eval"), space)
        show = getattr(value, "_repr_html_", None)
        shown.append([cell["id"], type(value).__name__, show() if show else repr(value)])
json.dump(shown, open("shown.json", "w"))
"""


@pytest.mark.timeout(900)  # some sixty real edits
@pytest.mark.slow
def test_quickstart_notebook_gives_an_answer(tmp_path: Path) -> None:
    book = (ROOT / "examples/quickstart.ipynb").read_text("utf-8")
    few = pocket_turbo_of_few_rows(tmp_path / "turbo")
    quicker = book.replace('\\"editor\\": \\"pocket\\"', f'\\"editor\\": \\"{few}\\"')
    assert quicker != book
    (tmp_path / "quickstart.ipynb").write_text(quicker, "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", KERNEL, "quickstart.ipynb"],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    shown = {cell: (kind, text) for cell, kind, text in json.loads((tmp_path / "shown.json").read_text())}
    assert shown["ask"][0] == "Explanation"
    assert "data:image/webp" in shown["ask"][1]
    assert "<script" not in shown["ask"][1]
    assert shown["forest"][0] == shown["pairs"][0] == "Figure"
    assert "background/colour/blue" in shown["table"][1]
    assert (tmp_path / "runs/quickstart/report.html").is_file()
