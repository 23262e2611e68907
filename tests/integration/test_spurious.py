"""`spurious` as a user has it: a run, its page, shortcuts of an explain run, and what goes wrong."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffexplain.api.reporting import rewrite_report
from diffexplain.api.spurious import SpuriousReport, find_spurious, foresee_spurious
from diffexplain.cli import app
from diffexplain.errors import InputError
from diffexplain.images import encode_png
from diffexplain.store import read_result, read_rows
from diffexplain.worlds import avatars as world

MEMBER, LABEL, UNIT = "pocket:zoo/hat-pink-00", "hat", "head.drop:21"
SYNTHESIS = {"steps": 0, "restarts": 1, "candidates": 6, "tokens": 1, "pool": 2, "seeds": 2}
QUICK = {"pictures": 8, "tries": 1, "rounds": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hats")
    hats = [a._replace(headwear="hat") for a in world.sample(12, 550_000)]
    for i, image in enumerate(world.render(hats, 64)):
        (folder / f"{i}.png").write_bytes(encode_png(image))
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, images: Path) -> SpuriousReport:
    out = tmp_path_factory.mktemp("runs") / "hat"
    return find_spurious(
        MEMBER, LABEL, object="a hat", units=[UNIT], images=str(images), corpus="avatars", out=out,
        hard=False, synthesis_options=SYNTHESIS, options=QUICK,
    )  # fmt: skip


def test_a_unit_has_both_lines_of_evidence(done: SpuriousReport) -> None:
    (unit,) = done.units
    assert (unit.unit, unit.pictures) == (UNIT, 8)
    assert unit.low <= unit.presence <= unit.high
    assert done.result.calibration.plain > done.result.calibration.neutral
    causal = done.result.target
    assert causal is not None
    assert causal.images >= 6
    # a hat is what this classifier looks at: without it its score falls, without a placebo it stays
    assert causal.no_object.low > 1
    assert abs(causal.no_placebo.value) < causal.no_object.value / 2
    assert unit.verdict in ("core", "undecided")


def test_scores_are_of_the_pictures_that_are_kept(done: SpuriousReport) -> None:
    from diffexplain.classifiers import load_classifier
    from diffexplain.images import decode_png
    from diffexplain.store import read_picture
    from diffexplain.targets import choose_target

    assert done.folder is not None
    row = next(r for r in read_rows(done.folder) if r.look == "no object")
    image = decode_png(read_picture(done.folder, row.picture))
    score = choose_target(load_classifier(MEMBER), LABEL).score(image[None])
    assert float(score[0]) == pytest.approx(row.score, abs=1e-5)


def test_the_folder_holds_everything_and_the_page_can_be_written_again(done: SpuriousReport) -> None:
    assert done.folder is not None
    kept = read_result(done.folder)
    assert repr(kept.units) == repr(done.units)  # nan is not equal to itself
    looks = {r.look for r in read_rows(done.folder)}
    assert looks == {"unit", "plain", "neutral", "base", "no object", "no placebo", "object only"}
    page = (done.folder / "report.html").read_text()
    assert "Does pocket:zoo/hat-pink-00 look at" in page
    assert UNIT in page
    assert rewrite_report(done.folder).read_text() == page
    assert json.loads((done.folder / "run.json").read_text())["kind"] == "spurious"


def test_it_shows_itself_in_a_notebook(done: SpuriousReport) -> None:
    shown = done._repr_html_()
    assert shown.count("data:image/webp") == len(done.units[0].examples[:4]) > 0
    assert "<script" not in shown
    table = done.to_frame().set_index("unit")
    assert table.loc[UNIT, "presence"] == done.units[0].presence
    assert UNIT in [text.get_text() for text in done.plot().axes[0].texts]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--object", "a zebra on a bicycle"], "so it cannot judge this class"),
        (["--held-out", "4"], "give at least 6 pictures"),
        (["--irrelevant", "background"], "irrelevant names concepts of an explain run"),
        (["--segmenter", "world:avatars"], "cannot say whether an object is there"),
        (["--unit", "head.drop:9999"], "channels 0 to"),
        (["--target", "coat"], "'coat' is not a label"),
        (["--top", "0"], "top 0"),
        (["--gallery", __file__], "name a new file"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    asked = ["spurious", MEMBER, "--held-out", "8", "--out", str(tmp_path / "run"), *words]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_cost_is_said_beforehand_and_counts_everything() -> None:
    asked = {"hard": False, "synthesis_options": SYNTHESIS | {"candidates": 0}, "options": QUICK}
    one, two = (foresee_spurious(top=n, **asked) for n in (1, 2))
    assert (one.targets, two.targets) == (1, 2)
    # four steps each: 8 plain and 8 neutral pictures, 8 redrawn four times (each try of both, base, placebo)
    # and the unit's prompt and what it set out from, each on a pool of 2
    assert one.evaluations == 4 * (8 * 4 + 2 * 8 + 8 * 4 + 2 * 2)
    assert two.evaluations - one.evaluations == 4 * (8 * 4 + 2 * 2)
    more = foresee_spurious(top=1, **asked, images=world.render(world.sample(16, 0), 64))
    assert more.evaluations - one.evaluations == 4 * 8 * 4
    words = ["spurious", MEMBER, "--top", "1", "--held-out", "8", "--no-hard", "--option", "steps=0"]
    shown = CliRunner().invoke(app, [*words, "--dry-run", "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["targets"] == 1


def test_too_few_real_pictures_are_refused() -> None:
    images = world.render(world.sample(3, 0), 64)
    with pytest.raises(InputError, match="3 are too few for an interval; give at least 8"):
        find_spurious(MEMBER, LABEL, images=images, options=QUICK)
