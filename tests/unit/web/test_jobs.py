"""What the app refuses, and what it finds again; runs themselves are in the browser test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from diffexplain.corpus import parse_corpus
from diffexplain.demonstration import portraits
from diffexplain.errors import InputError
from diffexplain.web import jobs as module
from diffexplain.web import showing
from diffexplain.web.app import OWN, App
from diffexplain.web.jobs import Job, Jobs, Question, plain_question
from tests.unit.study.folders import explained

QUESTION = Question("pocket:hired", "hired")


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path / "root")
    yield made
    made.close()


def picture(folder: Path, name: str = "a.png") -> Path:
    (folder / name).write_bytes(b"not a picture")
    return folder / name


@pytest.mark.parametrize(
    "spec",
    [
        "os:system",
        "timm:../secret",
        "timm:/etc",
        "onnx:model.onnx",
        "http://host/predict",
        "pt2:x",
        "",
        "hf:a/b/c",
    ],
)
def test_specs_that_run_code_or_read_files_are_refused(jobs: Jobs, spec: str) -> None:
    with pytest.raises(InputError, match="--classifier SPEC"):
        App(jobs).allowed(spec)


def test_specs_of_the_hubs_and_those_of_the_starter_pass(jobs: Jobs, tmp_path: Path) -> None:
    app = App(jobs, classifiers=("mine:score",))
    for spec in ("mine:score", "pocket:hired", "timm:resnet50.a1_in1k", "hf:org/name"):
        assert app.allowed(spec) == spec
    assert "pocket:hired" in app.classifiers


@pytest.mark.parametrize("name", ["..", ".", "../root", "/etc", "a/b", "asked", "", "nothing"])
def test_no_name_leads_out_of_the_root(jobs: Jobs, name: str) -> None:
    explained(jobs.root / "there")
    with pytest.raises(InputError, match="there is none of that name"):
        jobs.find(name)
    assert jobs.find("there").state == "finished"


def test_bad_pictures_fail_with_the_reason_and_the_queue_lives_on(jobs: Jobs, tmp_path: Path) -> None:
    first = jobs.submit(QUESTION, [picture(tmp_path)])
    second = jobs.submit(QUESTION, [picture(tmp_path, "b.png")])
    assert first.name != second.name
    for _ in range(600):
        if second.state == "failed":
            break
        module.threading.Event().wait(0.1)
    assert (first.state, second.state) == ("failed", "failed")
    assert first.said
    again = Jobs(jobs.root)  # another server over the same root
    assert again.find(first.name).question == QUESTION
    assert again.find(first.name).state == "stopped"
    again.close()


def test_uploads_have_limits(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for files, said in (
        ([], "drop at least one"),
        ([picture(tmp_path, "run.sh")], "PNG, JPEG"),
        ([picture(tmp_path)] * 300, "at most 256"),
    ):
        with pytest.raises(InputError, match=said):
            jobs.submit(QUESTION, files)
    monkeypatch.setattr(module, "MAX_TOTAL", 4)
    with pytest.raises(InputError, match="smaller or fewer"):
        jobs.submit(QUESTION, [picture(tmp_path)])
    with pytest.raises(InputError):
        jobs.submit(QUESTION, [picture(tmp_path)], corpus="concepts: [")
    assert jobs.names() == []


def test_two_visitors_at_one_moment_get_folders_of_their_own(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, copy, inner = picture(tmp_path), module.shutil.copyfile, []

    def slowly(*paths: Path) -> None:
        if not inner:  # the second comes while the first one's picture is copied
            inner.append("")
            inner[0] = jobs.submit(QUESTION, [file]).name
        copy(*paths)

    monkeypatch.setattr(module.shutil, "copyfile", slowly)
    assert jobs.submit(QUESTION, [file]).name != inner[0]


def test_budgets_are_whole() -> None:
    assert plain_question({"classifier": "c", "budget": 12.0}).budget == 12
    for budget in (0, 1.5, -3):
        with pytest.raises(InputError, match="whole number"):
            plain_question({"budget": budget})


def test_what_a_person_typed_is_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    job = Job(hostile, QUESTION, "failed", said=hostile)
    assert "<script>" not in showing.status(job, 0)
    assert "<script>" not in showing.failed(InputError(hostile))
    explained(tmp_path / "run", concepts=(hostile, f"a/{hostile}"))
    tree = showing.tree(tmp_path / "run")
    assert "<script>" not in tree
    assert "&lt;script&gt;" in tree


def test_the_tree_names_every_level_once(tmp_path: Path) -> None:
    explained(tmp_path / "run", concepts=("hair/colour/red", "hair/colour/blue", "hat"))
    tree = str(showing.tree(tmp_path / "run"))
    assert tree.count("<b>hair</b>") == tree.count("<b>colour</b>") == tree.count("<b>hat</b>") == 1
    assert tree.index("<b>colour</b>") < tree.index("<b>blue</b>") < tree.index("<b>red</b>")
    assert tree.count("+ add") == 3


WORDS = """facial hair/beard/full: a full beard
facewear/glasses/round: round glasses
background/colour/blue: a blue background
"""


def test_a_word_list_is_mined_into_a_corpus_to_edit(jobs: Jobs, tmp_path: Path) -> None:
    app, files = App(jobs), sorted(map(str, portraits(tmp_path / "p").iterdir()))[:6]
    corpus, text, said = app.mine(files, "portraits", WORDS, "pocket", "avatars", "")
    assert corpus == OWN
    tree = parse_corpus(text, "mined")
    assert {leaf.name for leaf in tree.leaves()} <= {"full", "round", "blue"}
    assert len(tree.leaves()) > 1
    assert said.startswith(f"{len(tree.leaves())} concepts")
    for words, judge, why in (("", "pocket", "--miner MODEL"), (WORDS, "clip:/etc", "choose pocket")):
        kept, same, told = app.mine(files, "portraits", words, judge, "avatars", "kept")
        assert (kept, same) == ("avatars", "kept")
        assert why in told
    with jobs.heavy:
        assert "A run is working" in app.mine(files, "portraits", WORDS, "pocket", "avatars", "")[2]


def test_a_tree_of_nothing_says_so(tmp_path: Path) -> None:
    assert "Nothing is measured yet" in showing.tree(tmp_path)
