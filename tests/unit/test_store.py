"""The run folder on a real disk: kills, locks, a full disk, damage, and what comes back after them."""

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffexplain.errors import RunError
from diffexplain.records import (
    SCHEMA_VERSION,
    ConceptResult,
    Cost,
    Drift,
    Effect,
    JointPath,
    Request,
    Result,
    Sample,
    SynthesisCost,
    SynthesisRequest,
    SynthesisResult,
)
from diffexplain.store import MemoryRun, Run, read_picture, read_request, read_result, read_rows
from tests import factories

NAN = math.nan


def png(text: bytes = b"") -> bytes:
    """What looks like a PNG to its last bytes."""
    return b"\x89PNG\r\n\x1a\n" + text + b"\x00\x00\x00\x00IEND\xaeB`\x82"


REQUEST = Request(
    classifier="pocket:hired",
    target="hired",
    versus=None,
    corpus="avatars",
    corpus_hash="c0ffee",
    editor="pocket",
    judge="pocket",
    segmenter=None,
    images=("a1", "b2", "c3"),
    names=("übung.png", "b\udcff.png", "c.png"),
    seeds=2,
    search={"beam": 4, "directions": ("add", "remove"), "margin": 0.1 + 0.2},
    settings={"rows": {"unet": 16}, "version": "0.1.0"},
    budget=None,
)


def effect(batch: int = 0, number: int = 0) -> Effect:
    return Effect(
        image="a1",
        seed=number,
        concept="facial hair/beard",
        direction="add",
        edited_as="facial hair/beard/long",
        strength=1.0,
        stage="report",
        eligible=True,
        score_before=-0.1,
        score_after=1 / 3,
        probability_before=0.4,
        probability_after=0.6,
        presence_before=NAN,
        presence_after=0.9,
        outside=NAN,
        reconstruction="base",
        edited=f"p{batch}x{number}",
        evaluations=40,
        batch=batch,
    )


def result(request: Request = REQUEST) -> Result:
    concept = ConceptResult(
        concept="headwear/hat",
        direction="add",
        status="measured",
        effect=0.1 + 0.2,
        low=-math.inf,
        high=math.inf,
        effect_probability=NAN,
        p=1e-300,
        q=NAN,
        flip_rate=0.0,
        presence_gain=NAN,
        success_rate=1.0,
        outside=NAN,
        images=1,
        edits=2,
        race_effect=NAN,
        examples=(effect(), effect(1)),
    )
    joint = JointPath(("+a", "−b"), ("a", "b"), ("add", "remove"), 2.0, NAN, 3.0, 0.01, 8, 0.5, (effect(),))
    return Result(
        request=request,
        score_mean=-1.5,
        concepts=(concept, replace(concept, status="ruled out", examples=())),
        joint=joint,
        drift=Drift(0.01, 0.2, -0.1),
        cost=Cost(10, 3, 400, 1.25),
        notes=("a note, naïve",),
        truth={"add b": 2.5, "add headwear/hat": NAN},
    )


def pictures(rows: list[Effect]) -> dict[str, bytes]:
    return {"base": png()} | {row.edited: png(row.edited.encode()) for row in rows}


def same(a: object, b: object) -> bool:
    """Equal, nan being equal to nan, types too."""
    return repr(a) == repr(b)


def in_process(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code that may use this file's names, in another process."""
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_store import *\n"
    command = [sys.executable, "-c", start + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# --- what goes in comes out -------------------------------------------------------------------------


def test_a_run_keeps_rows_pictures_and_decisions_across_a_resume(tmp_path):
    rows = [effect(0, n) for n in range(3)]
    with Run.open(tmp_path / "new" / "run", REQUEST) as run:
        run.record_inputs({"a1": png(b"input")})
        run.append(0, rows, pictures(rows))
        run.append(7, [], {})
        run.note_round("level 2", {"kept": ("b", "a"), "bound": NAN})
        run.note_round("level 1", {"kept": []})
        run.append(1, [effect(1)], pictures([effect(1)]))
    with Run.open(tmp_path / "new" / "run", REQUEST, resume=True) as run:
        assert same(run.rows(), [*rows, effect(1)])
        assert run.batches() == {0, 1, 7}
        assert list(run.rounds().items()) == [
            ("level 2", {"kept": ["b", "a"], "bound": None}),
            ("level 1", {"kept": []}),
        ]
        assert run.picture("a1") == png(b"input")
        assert run.picture_path("p1x0") == run.path / "images" / "p1x0.png"
        assert run.picture_path("p1x0").read_bytes() == png(b"p1x0")
        assert run.has_picture("base")
        assert not run.has_picture("p9x9")
    assert read_picture(tmp_path / "new" / "run", "base") == png()


@pytest.fixture(params=["folder", "memory"])
def run(request, tmp_path):
    with Run.open(tmp_path / "run", REQUEST) if request.param == "folder" else MemoryRun() as opened:
        yield opened


def test_both_kinds_of_run_behave_alike(run):
    assert (run.rows(), run.batches(), run.rounds()) == ([], set(), {})
    run.record_inputs({"a1": png()})
    run.append(3, [effect(3)], pictures([effect(3)]))
    assert same(run.rows(), [effect(3)])
    assert run.batches() == {3}
    assert run.has_picture("a1")
    assert run.picture("p3x0") == png(b"p3x0")
    assert not run.has_picture("nowhere")
    with pytest.raises(RunError, match="nowhere"):
        run.picture("nowhere")
    run.rows().clear()
    run.batches().clear()
    assert len(run.rows()) == len(run.batches()) == 1
    run.write_result(result())
    assert same(run.result, result())
    run.close()
    run.close()


def test_a_batch_is_appended_once(run):
    run.append(3, [effect(3)], pictures([effect(3)]))
    with pytest.raises(RunError, match="batch 3 is kept already"):
        run.append(3, [effect(3, 1)], pictures([effect(3, 1)]))
    assert same(run.rows(), [effect(3)])


def test_rows_of_another_batch_are_refused(run):
    with pytest.raises(ValueError, match="2"):
        run.append(3, [effect(3), effect(2)], pictures([effect(3), effect(2)]))
    assert run.batches() == set()


def test_a_decision_may_be_noted_again_but_not_changed(run):
    run.note_round("1", {"kept": ("a",)})
    run.note_round("1", {"kept": ["a"]})
    with pytest.raises(RunError, match="round '1' was decided otherwise"):
        run.note_round("1", {"kept": ["b"]})
    assert run.rounds() == {"1": {"kept": ["a"]}}


def test_numbers_read_the_same_before_and_after_a_resume(tmp_path):
    import numpy as np

    row = replace(effect(), score_after=np.float32(0.1), seed=np.int64(3), eligible=np.bool_(True))
    with Run.open(tmp_path, REQUEST) as run:
        run.append(0, [row], pictures([row]))
        run.note_round("1", {"bound": np.float32(0.5)})
        before, rounds = run.rows(), run.rounds()
    with Run.open(tmp_path, REQUEST, resume=True) as run:
        assert same(run.rows(), before)
        assert run.rounds() == rounds == {"1": {"bound": 0.5}}
    assert before[0].score_after == float(np.float32(0.1))


def test_a_folder_run_refuses_rows_without_their_pictures(tmp_path):
    with Run.open(tmp_path, REQUEST) as run:
        with pytest.raises(ValueError, match="p0x0"):
            run.append(0, [effect()], {"base": png()})
        assert run.batches() == set()
        run.record_inputs({"base": png()})
        run.append(0, [effect()], {"p0x0": png()})
        run.append(1, [replace(effect(1), reconstruction="", edited="")], {})
        assert len(run.rows()) == 2


def test_a_picture_that_is_there_is_not_written_again(tmp_path):
    with Run.open(tmp_path, REQUEST) as run:
        run.record_inputs({"a1": b"first"})
        run.record_inputs({"a1": b"second"})
        assert run.picture("a1") == b"first"


@pytest.mark.parametrize("left", [0, 9, -1])
def test_a_picture_that_a_power_cut_left_short_is_made_again_with_its_batch(tmp_path, left):
    with Run.open(tmp_path, REQUEST) as run:
        for batch in range(3):
            run.append(batch, [effect(batch)], pictures([effect(batch)]))
    file = tmp_path / "images" / "p1x0.png"
    file.write_bytes(file.read_bytes()[:left])
    with Run.open(tmp_path, REQUEST, resume=True) as run:
        assert run.batches() == {0, 2}
        assert same(run.rows(), [effect(0), effect(2)])
        assert not run.has_picture("p1x0")
        run.append(1, [effect(1)], pictures([effect(1)]))
    with Run.open(tmp_path, REQUEST, resume=True) as run:
        assert run.batches() == {0, 1, 2}
        assert run.picture("p1x0") == png(b"p1x0")


@pytest.mark.parametrize("kind", ["of tomorrow", 5, None, ["explanation"]])
def test_a_kind_of_run_that_is_not_known_is_one_line(tmp_path, kind):
    Run.open(tmp_path, REQUEST).close()
    file = tmp_path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"kind": kind}))
    for read in (read_rows, read_request, read_result, lambda folder: Run.open(folder, REQUEST, resume=True)):
        with pytest.raises(RunError, match="a run of kind"):
            read(tmp_path)


def test_a_hash_cannot_lead_out_of_the_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    with Run.open(tmp_path / "run", REQUEST) as run, pytest.raises(ValueError, match="content hash"):
        run.picture("../../secret")
    with pytest.raises(ValueError, match="content hash"):
        read_picture(tmp_path / "run", "../../secret")


KINDS = {
    "str": st.text(),
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(),
    "bool": st.booleans(),
    "Stage": st.sampled_from(["race", "report", "joint race", "joint report"]),
}
EFFECTS = st.builds(Effect, **{f.name: KINDS[f.type] for f in fields(Effect)} | {"batch": st.just(0)})


@settings(max_examples=40, deadline=None)
@given(st.lists(EFFECTS, max_size=4))
def test_any_row_survives_the_database(tmp_path_factory, rows):
    rows = [replace(row, reconstruction="", edited="") for row in rows]
    folder = tmp_path_factory.mktemp("run")
    with Run.open(folder, REQUEST) as run:
        run.append(0, rows, {})
    with Run.open(folder, REQUEST, resume=True) as run:
        expected = [asdict(row) for row in rows]
        for found, row in zip((asdict(row) for row in run.rows()), expected, strict=True):
            assert found.keys() == row.keys()
            for name, value in row.items():
                assert type(found[name]) is type(value)
                assert found[name] == value or (value != value and found[name] != found[name])


# --- the result -------------------------------------------------------------------------------------


def test_a_result_comes_back_whole_with_nan_for_what_is_no_number(tmp_path):
    with Run.open(tmp_path, REQUEST) as run:
        run.write_result(result())
    text = (tmp_path / "result.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert "0.30000000000000004" in text
    data = json.loads(text)
    assert list(data) == sorted(data)
    assert data["schema"] == SCHEMA_VERSION
    lists = replace(REQUEST, search=REQUEST.search | {"directions": ["add", "remove"]})
    expected = result(lists)
    assert same(read_result(tmp_path), expected)
    assert same(read_request(tmp_path), lists)


def test_a_result_without_joint_path_and_truth_comes_back(tmp_path):
    with Run.open(tmp_path, REQUEST) as run:
        run.write_result(replace(result(), joint=None, truth=None, concepts=()))
    back = read_result(tmp_path)
    assert (back.joint, back.truth, back.concepts) == (None, None, ())


@pytest.fixture
def finished(tmp_path) -> Path:
    with Run.open(tmp_path, REQUEST) as run:
        run.write_result(result())
    return tmp_path


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "null",
        lambda text: text.replace('"edits"', '"edit"', 1),
        lambda text: text.replace('"cost": {', '"cost": 3, "x": {', 1),
        lambda text: text.replace('"score_mean": -1.5', '"score_mean": "low"'),
        lambda text: text.replace('"images": 1', '"images": "one"'),
        lambda text: text.replace('"status": "measured"', '"status": "guessed"'),
        lambda text: "\udcff" + text,
    ],
    ids=["half", "empty", "list", "null", "key", "record", "number", "count", "word", "bytes"],
)
def test_a_damaged_result_is_one_line(finished, damage):
    file = finished / "result.json"
    text = damage(file.read_text())
    assert text != file.read_text()
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=r"result\.json: is damaged") as caught:
        read_result(finished)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_result, read_request])
def test_another_schema_is_named(finished, read):
    for name in ("result.json", "run.json"):
        data = json.loads((finished / name).read_text())
        (finished / name).write_text(json.dumps(data | {"schema": 99}))
    with pytest.raises(RunError, match=f"schema 99, not {SCHEMA_VERSION}"):
        read(finished)
    with pytest.raises(RunError, match="schema 99"):
        Run.open(finished, REQUEST, resume=True)


@pytest.mark.parametrize("read", [read_result, read_request])
def test_a_folder_without_a_result_says_so(tmp_path, read):
    with pytest.raises(RunError, match=r"\.json: cannot be read"):
        read(tmp_path)
    with pytest.raises(RunError, match="No such file"):
        read(tmp_path / "nowhere")


def test_run_json_tells_versions_and_when(tmp_path):
    Run.open(tmp_path, REQUEST).close()
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["versions"]["numpy"] == __import__("numpy").__version__
    assert about["versions"].keys() >= {"torch", "diffusers", "transformers", "timm"}
    assert about["created"].endswith("+00:00")


# --- whose folder is it -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"target": "rejected"}, "target: 'hired' there, 'rejected' asked"),
        ({"versus": "rejected", "seeds": 3}, "versus: None there, 'rejected' asked"),
        ({"images": ("a1", "b2", "d4")}, "images.2: 'c3' there, 'd4' asked"),
        ({"images": ("a1", "b2")}, "images.2: 'c3' there, None asked"),
        ({"search": REQUEST.search | {"beam": 8}}, "search.beam: 4 there, 8 asked"),
        ({"settings": {"rows": {"unet": 8}, "version": "0.1.0"}}, "settings.rows.unet: 16 there, 8 asked"),
        ({"budget": 100}, "budget: None there, 100 asked"),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_another_run_is_refused_by_its_first_difference(tmp_path, change, named, resume):
    Run.open(tmp_path, REQUEST).close()
    with pytest.raises(RunError) as caught:
        Run.open(tmp_path, replace(REQUEST, **change), resume=resume)
    assert str(caught.value) == f"--out {tmp_path}: holds another run ({named}): choose another --out"
    Run.open(tmp_path, REQUEST).close()  # the lock was let go, nothing was changed


@pytest.mark.parametrize("begun", ["rows", "result"])
def test_the_same_run_again_needs_resume(tmp_path, begun):
    with Run.open(tmp_path, REQUEST) as run:
        if begun == "rows":
            run.append(0, [effect()], pictures([effect()]))
        else:
            run.write_result(result())
    with pytest.raises(
        RunError, match="holds this run already: --resume continues it, or choose another --out"
    ):
        Run.open(tmp_path, REQUEST)
    with Run.open(tmp_path, REQUEST, resume=True) as run:
        assert len(run.rows()) == (begun == "rows")


def test_a_run_that_never_measured_may_begin_again_and_a_new_one_may_be_resumed(tmp_path):
    Run.open(tmp_path / "run", REQUEST).close()
    Run.open(tmp_path / "run", REQUEST).close()
    Run.open(tmp_path / "other", REQUEST, resume=True).close()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        Run.open(tmp_path, REQUEST)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file: is a file: choose a folder"):
        Run.open(tmp_path / "file", REQUEST)
    with pytest.raises(RunError, match="cannot be used"):
        Run.open(tmp_path / "file" / "below", REQUEST)


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="needs /proc, which nobody can write, root included"
)
def test_a_place_that_cannot_be_written():
    with pytest.raises(RunError, match=r"--out /proc/run: cannot be used .*choose another --out"):
        Run.open("/proc/run", REQUEST)


def test_a_folder_without_write_permission(tmp_path):
    tmp_path.chmod(0o555)
    me = os.geteuid()
    try:
        if me == 0:
            os.seteuid(65534)  # root may write everywhere
        with pytest.raises(RunError, match=r"cannot be used .Permission denied.: mend it or choose another"):
            Run.open(tmp_path, REQUEST)
    finally:
        os.seteuid(me)
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("name", ["run.json", "effects.sqlite"])
def test_a_damaged_run_is_one_line(tmp_path, name):
    Run.open(tmp_path, REQUEST).close()
    (tmp_path / name).write_text("{not what it was" * 100)
    with pytest.raises(RunError, match=r"is damaged|not a database"):
        Run.open(tmp_path, REQUEST, resume=True)


def test_rows_of_another_edition_are_one_line(tmp_path):
    Run.open(tmp_path, REQUEST).close()
    with sqlite3.connect(tmp_path / "effects.sqlite") as db:
        db.execute("ALTER TABLE effects RENAME COLUMN outside TO elsewhere")
    db.close()
    with pytest.raises(RunError, match="no such column: outside"):
        Run.open(tmp_path, REQUEST, resume=True)


def test_rows_of_an_older_version_open_with_what_they_lack_unknown(tmp_path):
    rows = [effect()]
    with Run.open(tmp_path, REQUEST) as run:
        run.append(0, rows, pictures(rows))
    with sqlite3.connect(tmp_path / "effects.sqlite") as db:
        for name in ("size", "area", "others"):
            db.execute(f"ALTER TABLE effects DROP COLUMN {name}")
    db.close()
    (read,) = read_rows(tmp_path)
    assert read.score_after == rows[0].score_after
    assert math.isnan(read.size)
    assert read.others == ""
    with Run.open(tmp_path, REQUEST, resume=True) as run:
        more = [effect(batch=1, number=1)]
        run.append(1, more, pictures(more))
    assert [r.batch for r in read_rows(tmp_path)] == [0, 1]


# --- two at once ------------------------------------------------------------------------------------


HOLD = """
    run = Run.open(sys.argv[1], REQUEST, resume=True)
    print("open", flush=True)
    sys.stdin.read() if len(sys.argv) < 3 else signal.pause()
"""


def test_two_processes_cannot_use_one_folder(tmp_path):
    other = in_process(HOLD, tmp_path, "wait")
    try:
        assert other.stdout.readline() == "open\n", other.stderr.read()
        for resume in (False, True):
            with pytest.raises(RunError, match=f"in use by process {other.pid}: wait for it, or choose"):
                Run.open(tmp_path, REQUEST, resume=resume)
        assert read_request(tmp_path).target == "hired"  # reading is free
    finally:
        other.kill()
        other.communicate()
    Run.open(tmp_path, REQUEST, resume=True).close()  # the lock died with its process


def test_the_lock_holds_within_a_process_and_ends_with_close(tmp_path):
    with Run.open(tmp_path, REQUEST):
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
            Run.open(tmp_path, REQUEST)
        child = os.fork()
        if child == 0:  # a forked worker keeps the file open, as a data loader's would
            signal.pause()
            os._exit(0)
    try:
        Run.open(tmp_path, REQUEST).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# --- kills and full disks ---------------------------------------------------------------------------


def fill(run: Run) -> None:
    """Append batches of twenty rows for ever, telling which are done."""
    print("open", flush=True)
    for batch in range(len(run.batches()), 10**6):
        rows = [effect(batch, n) for n in range(20)]
        run.append(batch, rows, pictures(rows))
        print(batch, flush=True)


def check(folder: Path) -> int:
    """Reopen a run that ended badly; all batches must be whole. How many there are."""
    with Run.open(folder, REQUEST, resume=True) as run:
        batches = run.batches()
        assert batches == set(range(len(batches)))
        assert same(run.rows(), [effect(b, n) for b in sorted(batches) for n in range(20)])
        for row in run.rows():
            assert run.picture(row.edited) == png(row.edited.encode())
            assert run.picture(row.reconstruction) == png()
        assert not list((folder / "images").glob("*.tmp"))
        return len(batches)


def test_a_killed_run_loses_one_batch_at_most(tmp_path):
    for round_number in range(3):
        worker = in_process("fill(Run.open(sys.argv[1], REQUEST, resume=True))", tmp_path)
        told = -1
        assert worker.stdout.readline() == "open\n", worker.stderr.read()
        for _ in range(3 + round_number):
            told = int(worker.stdout.readline())
        worker.send_signal(signal.SIGKILL)
        told = max([told, *(int(line) for line in worker.stdout.read().split("\n")[:-1])])
        worker.communicate()
        assert worker.returncode == -signal.SIGKILL
        assert check(tmp_path) in (told + 1, told + 2)  # what was told is kept; one more may be


@pytest.mark.parametrize("moment", ["picture", "INSERT INTO effects", "INSERT INTO batches", "COMMIT"])
def test_a_kill_in_the_middle_of_a_batch_leaves_none_of_it(tmp_path, moment):
    worker = in_process(
        """
        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)
        run = Run.open(sys.argv[1], REQUEST)
        for batch in (0, 1):
            rows = [effect(batch, n) for n in range(20)]
            if batch == 1 and sys.argv[2] == "picture":
                Path.replace = die
            elif batch == 1:
                run._db.set_trace_callback(lambda sql: sql.startswith(sys.argv[2]) and die())
            run.append(batch, rows, pictures(rows))
        """,
        tmp_path,
        moment,
    )
    worker.communicate()
    assert worker.returncode == -signal.SIGKILL
    assert bool(list((tmp_path / "images").glob("*.tmp"))) == (moment == "picture")
    assert check(tmp_path) == 1


def test_a_full_disk_is_one_line_and_the_run_goes_on_after_room_is_made(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=10000", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk here; the next test fills a file instead")
    try:
        (disk / "ballast").write_bytes(b"x" * 1_000_000)
        with Run.open(disk / "run", REQUEST) as run:
            with pytest.raises(RunError) as caught:
                fill(run)
            assert str(caught.value) == f"disk full at --out {disk}/run: free space, then --resume"
            done = len(run.batches())
            assert done > 0
            room = shutil.disk_usage(disk).free
            (disk / "more ballast").write_bytes(bytes(room))
            with pytest.raises(RunError, match=r"^disk full"):  # also where no picture is in the way
                run.append(
                    done, [replace(effect(done, n), reconstruction="", edited="") for n in range(500)], {}
                )
            assert len(run.batches()) == done
            with pytest.raises(RunError, match=r"^disk full"):
                run.note_round("1", {"kept": "x" * 500_000})
            assert run.rounds() == {}
            with pytest.raises(RunError, match="disk full"):
                run.write_result(replace(result(), notes=("x" * 2_000_000,)))
            assert not (disk / "run" / "result.json").exists()
        (disk / "ballast").unlink()
        (disk / "more ballast").unlink()
        assert check(disk / "run") == done
    finally:
        subprocess.run(["umount", str(disk)], check=True)


LIMITED = """
    import resource
    run = Run.open(sys.argv[1], REQUEST)
    room = (run.path / "effects.sqlite-wal").stat().st_size + 30_000
    if sys.argv[2] == "pictures":
        pictures = lambda rows: {"base": png()} | {row.edited: bytes(10 * room) for row in rows}
    run.append(0, [], {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    done = 1
    try:
        while True:
            rows = [effect(done, n) for n in range(20)]
            run.append(done, rows, pictures(rows))
            done += 1
    except RunError as error:
        print(error)
    assert run.batches() == set(range(done))
    assert not list(run.path.glob("images/*.tmp"))
    print(done)
"""


@pytest.mark.parametrize("what", ["rows", "pictures"])
def test_a_file_that_cannot_grow_is_one_line_and_no_half_batch(tmp_path, what):
    worker = in_process(LIMITED, tmp_path, what)
    out, err = worker.communicate()
    assert worker.returncode == 0, err
    message, done = out.splitlines()
    assert message.startswith(f"disk full at --out {tmp_path}: free space")
    with Run.open(tmp_path, REQUEST, resume=True) as run:
        assert run.batches() == set(range(int(done)))
        assert len(run.rows()) == 20 * (int(done) - 1)
    assert (int(done) > 1) == (what == "rows")


def test_a_row_that_fails_takes_its_batch_back(tmp_path):
    with Run.open(tmp_path, REQUEST) as run:
        with pytest.raises(OverflowError):
            run.append(0, [effect(), replace(effect(), seed=2**70)], pictures([effect()]))
        run.append(0, [effect()], pictures([effect()]))
    with Run.open(tmp_path, REQUEST, resume=True) as run:
        assert same(run.rows(), [effect()])


def test_the_rows_can_be_read_with_plain_sql_while_the_run_is_open(tmp_path):
    with Run.open(tmp_path, REQUEST) as run:
        run.append(0, [effect()], pictures([effect()]))
        with sqlite3.connect(tmp_path / "effects.sqlite") as reader:
            names = [column[1] for column in reader.execute("PRAGMA table_info(effects)")]
            assert names == [f.name for f in fields(Effect)]
            assert reader.execute("SELECT concept, score_after, outside FROM effects").fetchall() == [
                ("facial hair/beard", 1 / 3, None)
            ]
            assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        reader.close()


def test_importing_loads_no_model_library():
    heavy = "{'torch', 'numpy', 'diffusers', 'transformers', 'PIL'} & set(sys.modules)"
    code = f"import sys, diffexplain.store; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_of_another_kind_keeps_its_own_rows_and_result(tmp_path):
    asked = SynthesisRequest("c", ("hired",), "pocket", "a person", ("a person",), "pocket", None, (), (), 2)
    rows = [Sample("hired", "optimised", 0, seed, 1.5, True, NAN, f"pic{seed}", 0) for seed in (1, 2)]
    with Run.open(tmp_path, asked) as run:
        run.append(0, rows, {"pic1": png(b"1"), "pic2": png(b"2")})
        run.note_round("hired/0", {"curve": [2.0, 1.0]})
    with Run.open(tmp_path, asked, resume=True) as run:
        assert [r.picture for r in run.rows()] == ["pic1", "pic2"]
        assert math.isnan(run.rows()[0].second)
        assert run.rounds() == {"hired/0": {"curve": [2.0, 1.0]}}
        run.write_result(SynthesisResult(asked, (), SynthesisCost(1, 2, 3.0), ("a note",)))
    assert read_result(tmp_path).notes == ("a note",)
    assert read_request(tmp_path) == asked
    assert [r.seed for r in read_rows(tmp_path)] == [1, 2]
    with pytest.raises(RunError, match="holds a run of synthesis"):
        Run.open(tmp_path, REQUEST, resume=True)


def test_a_store_whose_errors_cannot_be_read_is_damaged(tmp_path: Path) -> None:
    with Run.open(tmp_path / "run", factories.request()) as run:
        run.append(0, [], {})
    file = tmp_path / "run" / "effects.sqlite"
    file.write_bytes(file.read_bytes().replace(b"CREATE TABLE effects", b"CR\x80ATE TABLE effects"))
    for read in (read_rows, lambda folder: Run.open(folder, factories.request(), resume=True)):
        with pytest.raises(RunError, match="is damaged"):
            read(tmp_path / "run")
