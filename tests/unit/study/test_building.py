"""Studies from run folders: which rows are shown, what the file and the readers' page tell."""

import json
from pathlib import Path

import pytest

from diffexplain.errors import InputError, RunError
from diffexplain.records import Looked, SpuriousRequest
from diffexplain.store import Run
from diffexplain.study import Study, StudyOptions, build_study, write_static
from tests import factories
from tests.unit.study.folders import explained, squares, synthesised

OPTIONS = StudyOptions(items=3, pairs=2, checks=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    one, other = explained(root / "secret-ledits"), explained(root / "secret-flow", seed=1, editor="flow")
    return one, other, synthesised(root / "secret-synthesis")


@pytest.fixture(scope="module")
def built(runs: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "study"
    build_study(runs, folder, options=OPTIONS)
    return folder


def test_all_four_kinds_are_made_and_read_back(built: Path, runs: tuple[Path, ...]) -> None:
    study = Study.read(built)
    assert {item.kind for item in study.items} == {"attribute", "share", "rating", "side", "check"}
    assert study.methods == ("secret-ledits", "secret-flow", "secret-synthesis")
    names = {n for item in study.items for panel in item.panels for n in panel.pictures}
    assert {file.stem for file in (built / "pictures").iterdir()} == names


def test_right_answers_are_right_and_distractors_no_relatives(built: Path) -> None:
    for item in Study.read(built).items:
        if item.kind != "attribute":
            continue
        ask, concept = item.asks[0], item.unit.partition(" ")[2]
        assert ask.truth is not None
        assert ask.choices[ask.truth] == concept.replace("/", " › ")
        assert len(set(ask.choices)) == 4
        wrong = [c.replace(" › ", "/") for i, c in enumerate(ask.choices) if i != ask.truth]
        assert not [c for c in wrong if (c + "/").startswith(concept + "/") or concept.startswith(c + "/")]
        assert len(item.panels) == 2


def test_methods_show_the_same_input_pictures(built: Path) -> None:
    pairs: dict[str, set[tuple[str, ...]]] = {}
    for item in Study.read(built).items:
        if item.kind == "attribute":
            pairs.setdefault(item.unit, set()).add(tuple(p.pictures[0] for p in item.panels))
    assert all(len(shown) == 1 for shown in pairs.values())


def test_the_static_page_is_blind(built: Path, tmp_path: Path) -> None:
    page = write_static(built, tmp_path / "page.html", 6).read_text("utf-8")
    assert "secret" not in page
    assert '"truth"' not in page
    state = json.loads(page.split('id="state">')[1].split("</script>")[0])
    assert len(state["booklets"]) == 6


def test_same_seed_same_items(runs: tuple[Path, ...], built: Path, tmp_path: Path) -> None:
    again = build_study(runs, tmp_path / "again", options=OPTIONS)
    assert again.items == Study.read(built).items
    other = build_study(runs, tmp_path / "other", options=StudyOptions(items=3, pairs=2, checks=1, seed=1))
    assert other.items != again.items


def test_the_red_area_of_a_spurious_run_is_asked_about(tmp_path: Path) -> None:
    keep = factories.Pictures()
    made, base, red = squares(keep, 1, 3), squares(keep, 2, 3), squares(keep, 3, 3)
    rows = [Looked("unit", "layer4:7", i, 0.2, 1.0, 1.0, made[i], "") for i in range(3)]
    rows += [Looked("base", "", i, 0.2, 1.0, 1.0, base[i], red[i]) for i in range(3)]
    models = ("pocket", "pocket", "pocket")
    request = SpuriousRequest("pocket:hired", "hired", "a person", ("layer4:7",), *models, None, (), ())
    with Run.open(tmp_path / "run", request) as run:
        run.append(0, rows, keep.stored)
    study = build_study(
        [tmp_path / "run"], tmp_path / "study", options=StudyOptions(kinds=("share",), checks=0)
    )
    (item,) = study.items
    assert item.unit == "layer4:7"
    assert item.asks[0].text.startswith("What does the red area share")
    assert [set(panel.pictures) for panel in item.panels] == [set(made), set(red)]
    assert item.panels[1].heading == "with a red area"


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"names": ("a",)}, InputError, "1 names for 2 runs"),
        ({"names": ("a", "a")}, InputError, "two runs have one name"),
        ({"names": ("a | b", "c")}, InputError, "without"),
        ({"options": StudyOptions(kinds=("share",))}, InputError, "nothing to ask about share"),
    ],
)
def test_mistakes_say_the_cure(
    runs: tuple[Path, ...], tmp_path: Path, more: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        build_study(runs[:2], tmp_path / "study", **more)  # type: ignore[arg-type]


def test_folders_that_cannot_be_used(built: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="choose a new folder"):
        build_study([built], built)
    with pytest.raises(RunError, match="make one with"):
        Study.read(tmp_path)
    (tmp_path / "study.json").write_text('{"schema": 1}')
    with pytest.raises(RunError, match="is damaged"):
        Study.read(tmp_path)
    with pytest.raises(InputError, match="kind speed: choose from"):
        StudyOptions(kinds=("speed",))  # type: ignore[arg-type]
