"""`audit` and `mitigate` as a user calls them, on a member of the zoo, with the pocket editor."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import Result as Done
from PIL import Image
from typer.testing import CliRunner

import diffexplain as dx
from diffexplain import api, pocket
from diffexplain.api.reporting import rewrite_report
from diffexplain.cli import app
from diffexplain.editors import Editor, load_editor
from diffexplain.errors import ClassifierError, InputError
from diffexplain.worlds import avatars as world
from tests.tiny import pocket_turbo_of_few_rows

pytestmark = pytest.mark.timeout(900)

MEMBER, TWIN = "pocket:zoo/smile-blue-90", "pocket:zoo/smile-blue-00"
SLOT, SHORTCUT = "background/pattern", "background/pattern/stripes"


def diffexplain(*words: object) -> Done:
    return CliRunner().invoke(app, [str(w) for w in words], standalone_mode=True)


def saved(folder: Path, avatars: list[world.Avatar]) -> Path:
    folder.mkdir(parents=True)
    for i, picture in enumerate(world.render_bytes(avatars, 64)):
        Image.fromarray(picture).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Avatars by label, and a CSV that says their skin."""
    root = tmp_path_factory.mktemp("people")
    drawn = [a for a in world.sample(200, 590_000) if a.pattern == "none"]
    for label, smiling in (("smile", True), ("no smile", False)):
        saved(root / label, [a for a in drawn if world.present(a, "expression/mouth/smile") == smiling][:5])
    return root


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pocket_turbo_of_few_rows(tmp_path_factory.mktemp("editor") / "turbo")


def test_the_zoo_is_what_its_register_says() -> None:
    stated = pocket.zoo()
    members = stated["members"]
    assert stated["margin"] > 0
    for name, member in members.items():
        folder = pocket.classifier_folder(f"zoo/{name}")
        assert (folder / "model.safetensors").stat().st_size <= 300_000
        assert set(member["effects"]) == set(world.LEAVES)
        assert member["parameters"] <= 140_000
        twin = members.get(member["twin"])
        assert (member["strength"] == 0) == (member["twin"] is None)
        assert twin is None or twin["held_out"] == member["held_out"]


def test_a_members_stated_effect_is_its_true_one() -> None:
    stated = pocket.zoo()
    member = stated["members"]["smile-blue-90"]
    target = dx.load_classifier(MEMBER)
    avatars = world.sample(60, stated["truth_seed"] + 1)
    effect, error = world.true_effect(lambda x: target.logits(x)[:, 0].detach(), avatars, member["shortcut"])
    mean, own = member["effects"][member["shortcut"]]
    assert abs(effect - mean) < 4 * (error**2 + own**2) ** 0.5


def test_unknown_members_and_paths_are_refused() -> None:
    for name in ("zoo/nobody", "zoo/../classifiers/hired", "zoo/"):
        with pytest.raises(ClassifierError, match="there are "):
            pocket.classifier_folder(name)


def test_audit_by_edits_and_counts(people: Path, few: Path, tmp_path: Path) -> None:
    labelled = saved(tmp_path / "labelled", (drawn := world.sample(80, 591_000)))
    rows = [f"{i:03d}.png,{a.pattern}" for i, a in enumerate(drawn)]
    (labelled / "labels.csv").write_text("\n".join(["file,pattern", *rows]), encoding="utf-8")
    out = tmp_path / "run"
    asked = ("audit", MEMBER, "--attributes", "pattern", "--images", people / "smile", "--twin", TWIN,
             "--maximising", people, "--plain", people, "--labelled", labelled / "labels.csv",
             "--target", "smile", "--editor", few, "--out", out)  # fmt: skip
    done = diffexplain(*asked)
    assert done.exit_code == 0, done.output
    assert "fewer than 50 maximising pictures" in done.output
    result = json.loads((out / "audit.json").read_text())
    assert {g["concept"] for g in result["gaps"]} == {SHORTCUT, "background/pattern/dots"}
    assert all(g["images"] and g["low"] <= g["gap"] <= g["high"] for g in result["gaps"])
    assert [s["q"] for s in result["shares"]] == [1, 1]  # the same pictures on both sides
    assert result["readings"][0]["accuracy"] > 0.8
    again = diffexplain(*asked, "--resume", "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["gaps"] == result["gaps"]
    kept = dx.Audit.read(out)
    assert [g.gap for g in kept.gaps] == [g["gap"] for g in result["gaps"]]
    assert "+background/pattern/stripes" in kept._repr_html_()
    assert len(kept.to_frame("gaps")) == len(kept.plot("gaps").axes[0].texts) / 2  # a name and its numbers
    page = rewrite_report(out / "edits", out).read_text("utf-8")  # its own edits are an explain run
    assert "Audit by counts: background/pattern" in page


@pytest.fixture(scope="module")
def editor() -> Editor:
    return load_editor("pocket")


def test_mitigate_saves_a_classifier(people: Path, few: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = ("mitigate", MEMBER, "--images", people, "--shortcut", SHORTCUT, "--editor", few,
             "--out", out)  # fmt: skip
    done = diffexplain(*asked, "--option", "steps=10")
    assert done.exit_code == 0, done.output
    assert "pictures kept apart" in done.output
    tuned = dx.load_classifier(f"timm:{out}")
    assert tuned.labels == ("no smile", "smile")
    result = json.loads((out / "mitigation.json").read_text())
    assert result["training_images"] == 6
    assert result["held_out_images"] == 4
    damped = diffexplain(*asked, "--resume", "--method", "damp", "--unit", "3", "--json")
    assert json.loads(damped.stdout)["units"] == [3]
    images = world.render(world.sample(3, 1))
    with torch.no_grad():
        three = [dx.load_classifier(s).logits(images) for s in (MEMBER, f"timm:{out}")]
    assert not torch.allclose(*three)
    beyond = diffexplain(*asked, "--resume", "--method", "damp", "--unit", "9999")
    assert beyond.exit_code == 2
    assert "unit 9999 does not exist: the last layer reads units 0 to " in beyond.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("audit", MEMBER, "--attributes", "gender", "--images", "."), "'gender' is unknown to the reader"),
        (("audit", MEMBER, "--attributes", "sticker", "--draw", "1"), "draw 1: give at least 2 pictures"),
        (("audit", MEMBER, "--attributes", "sticker", "--margin", "-1"), "margin -1: give log-odds"),
        (("mitigate", MEMBER, "--images", "nowhere", "--shortcut", SHORTCUT), "one subfolder for each label"),
        (("mitigate", MEMBER, "--images", ".", "--shortcut", "halo"), "no concept 'halo'"),
        (("mitigate", "pocket:null", "--images", ".", "--shortcut", SHORTCUT), "gives scores only"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = diffexplain(*words, "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_wrong_files_are_named(people: Path, tmp_path: Path, editor: Editor) -> None:
    bad = tmp_path / "labels.csv"
    bad.write_text("name,skin\na,b\n", encoding="utf-8")
    with pytest.raises(InputError, match="needs a column `file`"):
        api.audit(MEMBER, attributes=["sticker"], maximising=people, editor=editor, labelled=bad)
    with pytest.raises(InputError, match="counts need a reference"):
        api.audit(MEMBER, attributes=["sticker"], maximising=people, editor=editor)
    with pytest.raises(InputError, match="no such label; labels are no smile, smile"):
        api.audit(MEMBER, attributes=["sticker"], maximising=people.parent, plain=people, editor=editor)


def test_pictures_of_the_classes_are_drawn_where_none_are_given(editor: Editor, tmp_path: Path) -> None:
    quick = {"steps": 0, "restarts": 1, "candidates": 4, "tokens": 1, "pool": 2, "seeds": 2}
    answer = api.audit(
        MEMBER, attributes=["sticker"], draw=4, synthesis_options=quick, editor=editor, out=tmp_path / "run"
    )
    rows = answer.result.shares
    assert {(r.label, r.against) for r in rows} == {("smile", "plain"), ("no smile", "plain")}
    assert all(sum(r.counts) == 4 == sum(r.reference_counts) for r in rows)
    assert any(note.startswith("fewer than 50 maximising pictures") for note in answer.result.notes)
    assert (tmp_path / "run" / "synthesis" / "report.html").exists()
