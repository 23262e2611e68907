"""`dx.explain` end to end with tiny real models: what it returns, what it keeps, and that it repeats."""

import json
import math
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result as Done
from PIL import Image
from typer.testing import CliRunner

import diffexplain as dx
from diffexplain.cli import app
from diffexplain.editors import Inversion
from diffexplain.images import decode_png, picture_hash
from diffexplain.statistics import benjamini_yekutieli, mean_effect
from diffexplain.store import Run
from tests.tiny import tiny_clip_folder, tiny_pipeline_folder

pytestmark = pytest.mark.timeout(900)

SCORERS = """
def bright(images):
    return 60 * images.mean((1, 2, 3)) - 30


def colour(images):
    return 60 * images.mean((2, 3))


bright.labels = ("dark", "bright")
colour.labels = ("red", "green", "blue")
"""
TREE = """
name: blots
domain: blots of paint
prompt: "a blot with {phrase}"
neutral: a blot
concepts:
  - name: shape
    exclusive: true
    absent: no shape
    children: [{name: round}, {name: square}, {name: torn}]
  - name: paint
    children: [{name: thick}, {name: thin, phrase: thin paint}]
"""
#: what result.json says of every concept, and of the run.
OF_A_CONCEPT = {
    "concept", "direction", "effect", "effect_probability", "low", "high", "p", "q", "flip_rate",
    "presence_gain", "success_rate", "images", "edits",
}  # fmt: skip
OF_A_RUN = {"schema", "request", "concepts", "joint", "drift", "cost", "notes", "truth"}


@dataclass(frozen=True)
class Home:
    """Real tiny models, sixteen pictures, a corpus, and a module of classifiers."""

    folder: Path
    editor: Path
    judge: Path

    @property
    def pictures(self) -> list[Path]:
        return sorted((self.folder / "pictures").iterdir())

    def options(self, **changes: Any) -> dict[str, Any]:
        """Keywords of `explain` that work."""
        return {
            "target": "bright", "corpus": self.folder / "tree.yaml", "editor": self.editor,
            "judge": f"clip:{self.judge}", "accept_drift": True, "device": "cpu", **changes,
        }  # fmt: skip

    def explain(
        self, classifier: Any = "scorers:bright", images: Any = None, **changes: Any
    ) -> dx.Explanation:
        given = str(self.folder / "pictures") if images is None else images
        return dx.explain(classifier, given, **self.options(**changes))

    def command(self, *flags: str, **changes: object) -> Done:
        """The same by the command line, in this process."""
        asked = {k: v for k, v in self.options(**changes).items() if k != "accept_drift" and v is not None}
        words = [word for name, value in asked.items() for word in (f"--{name}", str(value))]
        images = ["--images", str(self.folder / "pictures")]
        return CliRunner().invoke(app, ["explain", "scorers:bright", *images, *words, *flags])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("home")
    editor, judge = folder / "editor", folder / "clip"
    tiny_pipeline_folder(editor, settings={"options": {"steps": 4, "skip": 0.0, "rows": 16}})
    tiny_clip_folder(judge)
    (folder / "scorers.py").write_text(SCORERS)
    (folder / "tree.yaml").write_text(TREE)
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(16):
        four = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8))
        four.resize((32, 32), Image.Resampling.NEAREST).save(folder / "pictures" / f"{i:02d}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield Home(folder, editor, judge)
        sys.modules.pop("scorers", None)  # not there where one test runs alone


@pytest.fixture(scope="module")
def kept(home: Home) -> dx.Explanation:
    """A run in a folder that asks everything."""
    return home.explain(method="exhaustive", out=home.folder / "kept")


def run_folder(kept: dx.Explanation) -> Path:
    assert kept.folder is not None
    return kept.folder


def timeless(result: dx.Result) -> dict[str, Any]:
    """A result as JSON has it, but for the time that it took."""
    value = replace(result, cost=replace(result.cost, seconds=0.0)).as_dict()
    value: dict[str, Any] = json.loads(json.dumps(value, default=list))
    return value


def rows(folder: Path) -> list[sqlite3.Row]:
    with closing(sqlite3.connect(f"file:{folder / 'effects.sqlite'}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        return database.execute("SELECT * FROM effects ORDER BY rowid").fetchall()


def test_every_public_name_resolves() -> None:
    assert len(set(dx.__all__)) == len(dx.__all__)
    for name in dx.__all__:
        assert getattr(dx, name).__name__ == name
    assert set(dx.__all__) <= set(dir(dx))
    with pytest.raises(AttributeError, match="nosuch"):
        dx.nosuch  # noqa: B018


# -- what is returned and kept --------------------------------------------------------------------------


def test_result_json_says_what_was_asked_for(home: Home, kept: dx.Explanation) -> None:
    result = json.loads((run_folder(kept) / "result.json").read_text())
    assert set(result) >= OF_A_RUN
    assert result["schema"] == 1
    assert result["cost"].keys() == {"edits", "inversions", "evaluations", "seconds"}
    assert result["drift"].keys() == {"pixels", "score", "score_signed"}
    assert all(set(concept) >= OF_A_CONCEPT for concept in result["concepts"])
    request = result["request"]
    assert request["target"] == "bright"
    assert request["names"] == [path.name for path in home.pictures]
    asked = {(c["concept"], c["direction"]) for c in result["concepts"]}
    # shape is a slot with an absence, paint none: both can be added and removed, at every level
    tree = {"shape", "shape/round", "shape/square", "shape/torn", "paint", "paint/thick", "paint/thin"}
    assert asked == {(path, direction) for path in tree for direction in ("add", "remove")}
    assert dx.read_result(run_folder(kept)).as_dict().keys() == result.keys()


def test_measured_concepts_hold_together(kept: dx.Explanation) -> None:
    measured = [c for c in kept.concepts if c.status == "measured"]
    assert len(measured) >= 6
    sizes = [abs(c.effect) for c in measured]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) > 0.1  # random models do move the score
    assert kept.concepts[: len(measured)] == tuple(measured)
    assert kept.top(3) == tuple(measured[:3])
    for c in measured:
        assert c.low <= c.effect <= c.high
        assert 0 < c.p <= c.q <= 1
        assert 0 < c.images <= 16
        for share in (c.flip_rate, c.success_rate):
            assert 0 <= share <= 1
        assert c.examples
    for c in kept.concepts[len(measured) :]:
        assert all(math.isnan(v) for v in (c.effect, c.low, c.high, c.p, c.q))
    q = benjamini_yekutieli([c.p for c in kept.concepts])
    np.testing.assert_allclose([c.q for c in kept.concepts], q)


def test_effects_are_those_of_the_rows(kept: dx.Explanation) -> None:
    stored = rows(run_folder(kept))
    for c in (c for c in kept.concepts if c.status == "measured" and "/" in c.concept):
        question = (c.concept, c.direction, "report", 1)
        mine = [r for r in stored if (r["concept"], r["direction"], r["stage"], r["eligible"]) == question]
        changes = [r["score_after"] - r["score_before"] for r in mine]
        estimate = mean_effect(changes, [r["image"] for r in mine])
        assert (c.effect, c.low, c.high, c.p) == (estimate.mean, estimate.low, estimate.high, estimate.p)
        assert c.images == len({r["image"] for r in mine})


def test_store_holds_a_row_for_each_edit(kept: dx.Explanation) -> None:
    stored, cost, request = rows(run_folder(kept)), kept.result.cost, kept.result.request
    assert set(stored[0].keys()) == {field.name for field in fields(dx.Effect)}
    assert len(stored) == cost.edits > 0
    assert cost.inversions == 16
    spent = sum(r["evaluations"] for r in stored)
    assert cost.evaluations == spent + 4 * 16  # four steps to invert; the reconstruction costs none
    assert {r["image"] for r in stored} <= set(request.images)
    assert all(0 <= r["presence_after"] <= 1 for r in stored if r["stage"] != "placebo")
    assert kept.result.placebo is not None  # part of every run
    assert kept.result.placebo.images == 16


def test_pictures_decode_and_score_as_stored(kept: dx.Explanation) -> None:
    folder = run_folder(kept)
    stored = rows(folder)
    pictures = {p.stem: decode_png(p.read_bytes()) for p in (folder / "images").glob("*.png")}
    for name, picture in pictures.items():
        assert picture_hash(picture) == name
    assert set(kept.result.request.images) <= set(pictures)
    classifier = dx.load_classifier("scorers:bright")

    def scores(column: str) -> np.ndarray:
        return classifier.logits(torch.stack([pictures[r[column]] for r in stored])).numpy()

    for column, score in (("reconstruction", "score_before"), ("edited", "score_after")):
        np.testing.assert_allclose(scores(column), [r[score] for r in stored], rtol=1e-6, atol=1e-5)
    before = {r["image"]: r["score_before"] for r in stored}
    originals = classifier.logits(torch.stack([pictures[i] for i in before])).numpy()
    drift = np.abs(np.array(list(before.values())) - originals)
    assert len(before) == 16
    assert kept.drift.score == pytest.approx(drift.mean(), rel=1e-5)


def test_report_is_one_self_contained_page(home: Home, kept: dx.Explanation) -> None:
    assert kept.report is not None
    page = kept.report.read_text("utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "scorers:bright" in page
    assert kept.concepts[0].concept.rpartition("/")[2] in page
    assert "data:image/" in page
    for outside in ('src="http', "src='http", "url(http", '<link rel="stylesheet" href', "@import"):
        assert outside not in page
    again = CliRunner().invoke(app, ["report", str(run_folder(kept))])
    assert again.exit_code == 0, again.output
    assert kept.report.read_text("utf-8") == page


def test_in_memory_it_is_the_same_answer(home: Home, kept: dx.Explanation) -> None:
    found = home.explain(method="exhaustive")
    assert (found.folder, found.report) == (None, None)
    assert timeless(found.result) == timeless(kept.result)
    assert not list(home.folder.glob("runs"))


# -- it repeats -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["race", "exhaustive"])
def test_order_of_the_files_does_not_change_effects(home: Home, method: Any) -> None:
    there = home.explain(images=home.pictures, method=method).result
    back = home.explain(images=home.pictures[::-1], method=method).result
    assert back.request.names == there.request.names[::-1]
    assert timeless(back)["concepts"] == timeless(there)["concepts"]
    assert timeless(back)["joint"] == timeless(there)["joint"]


def test_race_reports_on_images_outside_the_race(home: Home) -> None:
    out = home.folder / "raced"
    found = home.explain(out=out)
    stored = rows(out)
    raced = {r["image"] for r in stored if "race" in r["stage"]}
    reported = {r["image"] for r in stored if "report" in r["stage"]}
    assert len(raced) == len(reported) == 8
    assert not raced & reported
    assert any(c.status == "measured" for c in found.concepts)
    assert all(c.images <= 8 for c in found.concepts)


def test_seeds_are_readings_of_one_image(home: Home) -> None:
    out = home.folder / "seeded"
    found = home.explain(seeds=2, method="exhaustive", images=home.pictures[:4], out=out)
    stored = rows(out)
    assert found.result.cost.inversions == 8
    assert {r["seed"] for r in stored} == {0, 1}
    assert all(c.images <= 4 for c in found.concepts)
    one = [r for r in stored if r["image"] == stored[0]["image"]]
    assert len({r["reconstruction"] for r in one if r["seed"] == 0}) == 1
    assert len({(r["concept"], r["direction"], r["edited"]) for r in one}) > len(one) // 2


def test_budget_bounds_the_edits(home: Home) -> None:
    found = home.explain(budget=20)
    assert found.result.cost.edits <= 20
    assert any("budget of 20 edits" in note for note in found.result.notes)


# -- shards ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(home: Home) -> list[Path]:
    """The question of `kept` about seven of its pictures, and about the nine others."""
    folders = [home.folder / "shard-0", home.folder / "shard-1"]
    for out, images in zip(folders, (home.pictures[:7], home.pictures[7:]), strict=True):
        home.explain(method="exhaustive", images=images, out=out)
    return folders


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Values within values, each by its whole name."""
    if isinstance(value, tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, below in value.items() for k, v in flat(below, f"{name}.{key}").items()}


def test_merged_shards_say_what_one_run_says(home: Home, kept: dx.Explanation, shards: list[Path]) -> None:
    tree, out = home.folder / "tree.yaml", home.folder / "merged"
    words = ["merge", *map(str, shards), "--out", str(out), "--corpus", str(tree)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "merged: 16 pictures" in done.output
    found = dx.Explanation.read(out)
    assert found.report is not None
    assert found.report.exists()
    one, all_ = found.result, kept.result
    assert one.request.images == all_.request.images
    assert (one.gate, one.score_mean) == (all_.gate, pytest.approx(all_.score_mean))
    assert one.drift.score == pytest.approx(all_.drift.score)
    assert one.entanglement == all_.entanglement
    merged, whole = (
        flat(tuple(asdict(replace(c, beyond_placebo=None, examples=())) for c in result.concepts))
        for result in (one, all_)
    )
    assert merged.keys() == whole.keys()
    for name, value in whole.items():  # other rows are drawn together, which rounds differently
        near = pytest.approx(value, rel=1e-5, abs=1e-8, nan_ok=True) if isinstance(value, float) else value
        assert merged[name] == near, name
    assert one.placebo is not None
    assert one.placebo.images == 16
    edits = [
        sum(r["stage"] != "placebo" for r in rows(folder)) for folder in (out, run_folder(kept), *shards)
    ]
    assert edits[0] == edits[1] == edits[2] + edits[3]
    assert one.cost.edits == sum(dx.read_result(shard).cost.edits for shard in shards)
    before = (out / "result.json").read_bytes()
    assert CliRunner().invoke(app, words).exit_code == 0  # again: nothing is there twice
    assert (out / "result.json").read_bytes() == before
    assert len(rows(out)) == len(found.finished.effects)


def test_a_merge_that_was_killed_goes_on(
    home: Home, shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, append = home.folder / "half", Run.append
    given: dict[str, Any] = {"out": out, "corpus": home.folder / "tree.yaml"}

    def third(run: Run, batch: int, *rest: Any) -> None:
        if batch == 3:
            raise KeyboardInterrupt
        append(run, batch, *rest)

    monkeypatch.setattr(Run, "append", third)
    with pytest.raises(KeyboardInterrupt):
        dx.merge(shards, **given)
    monkeypatch.undo()
    assert len(rows(out)) > 0
    found, whole = dx.merge(shards, **given), dx.merge(shards, **{**given, "out": home.folder / "unbroken"})
    assert timeless(found.result) == timeless(whole.result)


def test_what_does_not_fit_together_is_not_merged(
    home: Home, kept: dx.Explanation, shards: list[Path]
) -> None:
    tree, out = home.folder / "tree.yaml", home.folder / "unmerged"
    raced, other = home.folder / "shard-raced", home.folder / "shard-other"
    home.explain(images=home.pictures[:7], out=raced)
    home.explain("scorers:colour", target="red", method="exhaustive", images=home.pictures[:7], out=other)
    for runs, words in (
        (shards[:1], "at least two"),
        ([*shards, run_folder(kept)], "16 pictures are in two runs, such as 00.png"),
        ([shards[1], raced], "--search exhaustive"),
        ([shards[1], other], "classifier: scorers:colour and scorers:bright"),
        ([shards[1], home.folder], "no finished run|holds no run"),
    ):
        with pytest.raises(dx.DiffexplainError, match=words):
            dx.merge(runs, out=out, corpus=tree)
    with pytest.raises(dx.InputError, match="has changed since the runs"):
        dx.merge(shards, out=out, corpus="avatars")
    assert not out.exists()


def test_slides_are_shown_and_change_no_effect(home: Home, kept: dx.Explanation) -> None:
    slid = home.explain(method="exhaustive", slides=(0.5, 2.0))
    told = [[repr((c.concept, c.effect, c.q)) for c in found.concepts] for found in (slid, kept)]
    assert told[0] == told[1]
    more = [e for e in slid.finished.effects if e.stage == "slide"]
    assert {e.strength for e in more} == {0.5, 2.0}
    assert len(more) + kept.result.cost.edits == slid.result.cost.edits
    for wrong, said in (((1.0,), "other than 1"), ((2.0, 2.0), "different"), (range(2, 12), "at most 8")):
        with pytest.raises(dx.InputError, match=said):
            home.explain(slides=wrong)


# -- any classifier -------------------------------------------------------------------------------------


def test_functions_modules_and_arrays(home: Home) -> None:
    """The same model as a spec, a function and a torch module gives the same effects."""

    class Bright(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 60 * images.mean((1, 2, 3), keepdim=False)[:, None] - 30

    arrays = [np.asarray(Image.open(path)) for path in home.pictures[:3]]
    common: dict[str, Any] = {"method": "exhaustive", "directions": ("add",), "images": arrays}

    def bright(images: torch.Tensor) -> torch.Tensor:
        return 60 * images.mean((1, 2, 3)) - 30

    spec = home.explain("scorers:bright", **common)
    function = home.explain(bright, **common | {"target": "yes"})
    module = home.explain(dx.ModuleClassifier(Bright(), ("dark", "bright")), **common)
    for other in (function, module):
        assert [(c.concept, c.effect) for c in other.concepts if c.status == "measured"] == [
            (c.concept, pytest.approx(c.effect, abs=1e-4)) for c in spec.concepts if c.status == "measured"
        ]


def test_one_class_against_another(home: Home) -> None:
    common: dict[str, Any] = {"method": "exhaustive", "directions": ("add",), "images": home.pictures[:3]}
    there = home.explain("scorers:colour", target="red", versus="green", **common)
    back = home.explain("scorers:colour", target="green", versus="red", **common)
    effects = {c.concept: c.effect for c in there.concepts if c.status == "measured"}
    assert effects
    for c in back.concepts:
        if c.status == "measured":
            assert c.effect == pytest.approx(-effects[c.concept], abs=1e-9)


def test_progress_and_truth(home: Home) -> None:
    told: list[tuple[str, int, int]] = []
    found = home.explain(
        images=home.pictures[:3],
        method="exhaustive",
        progress=lambda what, done, total: told.append((what, done, total)),
        truth=lambda target, concepts: {f"{c.direction} {c.concept}": 1.5 for c in concepts},
    )
    edits = [step for step in told if step[0] == "editing"]
    assert edits[-1] == ("editing", found.result.cost.edits, found.result.cost.edits)
    assert [done for _, done, _ in edits] == sorted(done for _, done, _ in edits)
    assert found.result.truth is not None
    assert found.result.truth[f"{found.concepts[0].direction} {found.concepts[0].concept}"] == 1.5


# -- the command line -----------------------------------------------------------------------------------


def test_json_prints_the_result_and_nothing_else(home: Home, kept: dx.Explanation) -> None:
    out = home.folder / "by-json"
    done = home.command("--accept-drift", "--json", "--search", "exhaustive", out=out)
    assert done.exit_code == 0, done.stderr
    assert not done.stderr
    printed = json.loads(done.stdout)
    assert printed == json.loads((out / "result.json").read_text())
    assert timeless(dx.read_result(out)) == timeless(dx.read_result(run_folder(kept)))


def test_terminal_shows_the_top_ten_and_the_report(home: Home) -> None:
    out = home.folder / "shown"
    done = home.command("--accept-drift", "--search", "exhaustive", out=out)
    assert done.exit_code == 0, done.stderr
    result = dx.read_result(out)
    for c in [c for c in result.concepts if c.status == "measured"][:10]:
        line = next(x for x in done.stdout.splitlines() if f" {c.concept} " in x and f" {c.direction} " in x)
        assert f"{c.effect:+.2f}" in line
    assert f"report: {out / 'report.html'}" in done.stdout
    assert f"{result.cost.edits} edits" in done.stdout


def test_dry_run_loads_no_model(home: Home, tmp_path: Path) -> None:
    """It works on a pipeline folder without weights, with no classifier or judge to be found."""
    bare = tmp_path / "editor"
    shutil.copytree(home.editor, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    out = tmp_path / "run"
    asked = {"editor": bare, "judge": "clip:nowhere", "out": out, "target": None, "device": None}
    done = home.command("--dry-run", **asked)
    assert done.exit_code == 0, done.output
    assert not out.exists()
    printed = " ".join(done.stdout.split())
    for what in ("images 16, of which 8 for the report", "UNet evaluations", "seconds", "disk", "detectable"):
        assert what in printed

    exact = home.command("--dry-run", "--json", "--search", "exhaustive", **asked)
    plan = json.loads(exact.stdout)
    assert plan["images"] == plan["report_images"] == 16
    assert plan["concepts"] == 7
    assert plan["edits"] > 0
    assert plan["bytes"] > 0


def test_dry_run_says_when_images_are_too_few(home: Home) -> None:
    common = {"corpus": home.folder / "tree.yaml", "editor": home.editor}
    few = dx.foresee(home.pictures[:2], **common)
    assert any("2 images in the report are few" in warning for warning in few.warnings)
    enough = dx.foresee(home.pictures, directions=("add",), **common)
    assert not enough.warnings
    assert enough.detectable < few.detectable
    assert asdict(enough)["images"] == 16


# --- two speeds -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fast(home: Home) -> Path:
    """The same models in two steps."""
    folder = home.folder / "fast"
    return tiny_pipeline_folder(folder, settings={"options": {"steps": 2, "skip": 0.0, "rows": 8}})


def test_the_race_is_screened_and_only_confirmed_effects_are_reported(home: Home, fast: Path) -> None:
    answer = home.explain(screen=fast, out=home.folder / "screened", beam=2)
    made = rows(run_folder(answer))
    costs = {stage: {r["evaluations"] for r in made if r["stage"] == stage} for stage in ("race", "report")}
    assert costs == {"race": {2 * 2}, "report": {4 * 2}}  # steps · (source and one term)
    by_stage = {stage: {r["image"] for r in made if r["stage"] == stage} for stage in costs}
    assert by_stage["race"].isdisjoint(by_stage["report"])  # what is reported owes nothing to the screen
    alone = home.explain(beam=2)
    confirmed = {(c.concept, c.direction): c.effect for c in alone.concepts if c.status == "measured"}
    for concept in answer.concepts:
        if concept.status == "measured" and (concept.concept, concept.direction) in confirmed:
            assert concept.effect == confirmed[concept.concept, concept.direction]
    request = answer.result.request
    assert (request.editor, request.screen) == (str(home.editor), str(fast))
    assert request.settings["screen"]["steps"] == 2
    agreed = answer.result.agreement
    assert agreed is not None
    assert agreed.questions == sum(
        c.status == "measured" and not np.isnan(c.race_effect) for c in answer.concepts
    )
    assert alone.result.agreement is None
    assert answer.result.cost.inversions == 32


def test_a_screened_run_goes_on_where_it_was(home: Home, fast: Path) -> None:
    whole = home.explain(screen=fast, beam=2, out=home.folder / "whole")
    folder = home.folder / "cut"
    seen = 0

    def stop(what: str, done: int, total: int) -> None:
        nonlocal seen
        seen += what == "editing"
        if seen == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        home.explain(screen=fast, beam=2, out=folder, progress=stop)
    again = home.explain(screen=fast, beam=2, out=folder, resume=True)
    assert timeless(again.result) == timeless(whole.result)
    with pytest.raises(dx.RunError):
        home.explain(beam=2, out=folder, resume=True)  # another question


@pytest.mark.parametrize("changes", [dict(method="exhaustive"), dict(images=4)])
def test_without_a_race_there_is_nothing_to_screen(home: Home, fast: Path, changes: dict[str, Any]) -> None:
    options = dict(changes)
    if "images" in options:
        options["images"] = home.pictures[: options["images"]]
    with pytest.raises(dx.InputError, match="only the race is screened"):
        home.explain(screen=fast, **options)


def test_editors_of_two_sizes_do_not_screen_for_each_other(home: Home) -> None:
    with pytest.raises(dx.InputError, match="two of one size"):
        home.explain(screen="pocket")


def test_the_plan_counts_the_screen(home: Home, fast: Path) -> None:
    common = {"corpus": home.folder / "tree.yaml", "editor": home.editor}
    alone = dx.foresee(home.pictures, **common)
    screened = dx.foresee(home.pictures, screen=fast, **common)
    assert screened.edits == alone.edits
    assert screened.evaluations < alone.evaluations


def test_settings_of_the_editor_come_from_the_command_line(home: Home, fast: Path) -> None:
    out = home.folder / "set"
    done = home.command(
        "--editor-option", "steps=3", "--editor-option", "mask=none", "--accept-drift", "--screen", str(fast),
        beam=2, out=out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "screened by" in done.output
    settings = json.loads((out / "run.json").read_text())["request"]["settings"]["editor"]
    assert (settings["steps"], settings["mask"]) == (3, "none")
    wrong = home.command("--editor-option", "steps", out=home.folder / "never")
    assert wrong.exit_code == 2
    assert "give KEY=VALUE" in wrong.output


def test_one_batch_is_read_while_the_next_is_drawn(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does; the rows are the same to the last bit."""
    import threading

    from diffexplain import driving

    plain = home.explain(out=home.folder / "plain", beam=2)
    readers: set[int] = set()
    reading = driving.read

    def noted(*args: Any) -> Any:
        readers.add(threading.get_ident())
        return reading(*args)

    monkeypatch.setattr(Inversion, "on_gpu", property(lambda self: True))
    monkeypatch.setattr(driving, "read", noted)
    overlapped = home.explain(out=home.folder / "overlapped", beam=2)
    assert readers
    assert threading.get_ident() not in readers
    assert timeless(overlapped.result) == timeless(plain.result)
    assert [dict(r) for r in rows(run_folder(overlapped))] == [dict(r) for r in rows(run_folder(plain))]
