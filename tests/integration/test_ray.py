"""A real cluster of two nodes: answers in order whatever is lost; a run is the local one, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import diffexplain as dx
from diffexplain.cli import app
from diffexplain.errors import ClassifierError, DiffexplainError, InputError, MissingExtra, RunError
from diffexplain.execution import Here, check_place, hired
from diffexplain.rows import FewerRows
from diffexplain.store import read_rows
from tests.tiny import tiny_clip_folder, tiny_pipeline_folder

pytest.importorskip("ray", reason="ray is not installed: pip install 'diffexplain[ray]'")
pytestmark = pytest.mark.timeout(900)

SCORERS = """
def bright(images):
    return 60 * images.mean((1, 2, 3)) - 30


bright.labels = ("dark", "bright")
"""
TREE = """
name: blots
domain: blots of paint
prompt: "a blot with {phrase}"
neutral: a blot
concepts:
  - {name: shape, exclusive: true, absent: no shape, children: [{name: round}, {name: square}, {name: torn}]}
  - {name: paint, children: [{name: thick}, {name: thin}]}
"""


# -- jobs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Station:
    """Remembers nothing; says where it is."""

    notes: tuple[str, ...] = ("made by a stub",)


@dataclass(frozen=True)
class Doubling:
    """Twice a number; what happens on the way is told by name."""

    number: int
    what: str = ""
    mark: str = ""  # a file that is made by the first who comes
    placed: Callable[[], int] | None = None

    def started(self, station: Station) -> Callable[[], int]:
        assert station.notes
        if self.what == "lost" and (not self.mark or not Path(self.mark).exists()):
            Path(self.mark or os.devnull).write_text("was here")
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "wrong":
            raise ClassifierError("classifier 'x': wrong")
        if self.what == "missing":
            raise MissingExtra("onnx", "onnx")
        if self.what == "memory":
            warnings.warn(FewerRows("4 rows now"), stacklevel=1)
        factor = self.placed() if self.placed else 2
        return lambda: factor * self.number


def broken() -> Station:
    raise RunError("no model here")


@pytest.mark.parametrize("overlaps", [False, True])
def test_here_answers_in_order_and_takes_few_jobs_ahead(overlaps: bool) -> None:
    taken: list[int] = []
    workers = Here(Station(), overlaps=overlaps)
    answers = workers.answers(Doubling(taken.append(i) or i, placed=workers.place(3)) for i in range(9))
    found = []
    for answer in answers:
        found.append(answer)
        assert len(taken) - len(found) <= overlaps
    assert found == [3 * i for i in range(9)]


@pytest.mark.parametrize("on", ["", "there", "ray:", "ray://", "ray://host", "ray://host:port", "http://a:1"])
def test_other_places_are_refused(on: str) -> None:
    with pytest.raises(InputError, match=r"choose here, ray .* or ray://HOST:PORT"):
        check_place(on)


def test_a_cluster_that_is_not_there_is_one_line() -> None:
    with (
        pytest.raises(RunError, match=r"no cluster at 127\.0\.0\.1:1 .*ray start --head"),
        hired("ray://127.0.0.1:1", Station),
    ):
        pass


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head with one core; tests add nodes."""
    small = {"num_cpus": 1, "object_store_memory": 100_000_000}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
        made.small = small
        yield made
        made.shutdown()


@pytest.mark.slow
def test_answers_come_in_order_from_workers_that_are_lost(cluster: Any, tmp_path: Path) -> None:
    """Also: few jobs are taken ahead, placed values reach jobs, and what workers warn of is heard here."""
    node = cluster.add_node(**cluster.small)
    taken: list[int] = []

    def jobs(place: Callable[[int], Callable[[], int]]) -> Iterator[Doubling]:
        three = place(3)
        for i in range(40):
            taken.append(i)
            what = {5: "lost", 7: "memory"}.get(i, "")
            yield Doubling(i, what, str(tmp_path / "mark"), three)

    with hired(f"ray://{cluster.address}", Station) as workers:
        assert workers is not None
        workers.wait(2)
        found: list[int] = []

        def gather() -> None:
            for answer in workers.answers(jobs(workers.place)):
                found.append(answer)
                assert len(taken) - len(found) <= 9

        with pytest.warns(FewerRows, match="4 rows now"):
            gather()
        assert (tmp_path / "mark").exists()
        assert found == [3 * i for i in range(40)]
        assert workers.notes == ("made by a stub",)
        for what, kind, said in (
            ("wrong", ClassifierError, "classifier 'x': wrong"),
            ("missing", MissingExtra, "diffexplain[onnx]"),
            ("lost", RunError, "4 workers were lost at one batch"),
        ):
            with pytest.raises(kind) as caught:
                list(workers.answers(Doubling(i, what if i == 2 else "") for i in range(4)))
            assert said in str(caught.value)
            assert isinstance(caught.value, DiffexplainError)
        assert list(workers.answers(Doubling(i) for i in range(4))) == [0, 2, 4, 6]
    with (
        pytest.raises(RunError, match=r"no model here \(on worker "),
        hired(f"ray://{cluster.address}", broken) as workers,
    ):
        list(workers.answers([Doubling(1)]))
    cluster.remove_node(node)


# -- a run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Real tiny models, pictures, a corpus, and a module of a classifier."""
    folder = tmp_path_factory.mktemp("home")
    tiny_pipeline_folder(folder / "editor", settings={"options": {"steps": 3, "skip": 0.0, "rows": 8}})
    tiny_clip_folder(folder / "clip")
    (folder / "scorers.py").write_text(SCORERS)
    (folder / "tree.yaml").write_text(TREE)
    (folder / "pictures").mkdir()
    for i in range(10):
        pixels = np.random.default_rng(i).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((16, 16), Image.Resampling.NEAREST).save(
            folder / "pictures" / f"{i}.png"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder
        sys.modules.pop("scorers", None)


def explained(home: Path, out: Path, **more: Any) -> dict[str, Any]:
    """result.json of a run, but for the time that it took."""
    dx.explain(
        "scorers:bright", str(home / "pictures"), target="bright", corpus=home / "tree.yaml", seeds=2,
        editor=str(home / "editor"), judge=f"clip:{home / 'clip'}", method="exhaustive", budget=160,
        accept_drift=True, device="cpu", out=out, **more,
    )  # fmt: skip
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    result["cost"].pop("seconds")
    return result


@pytest.mark.slow
def test_a_node_killed_in_the_middle_changes_nothing(cluster: Any, home: Path, tmp_path: Path) -> None:
    """The same call, the same rows, bit for bit; and what Ray began is gone on with here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = explained(home, tmp_path / "here")
        nodes = [cluster.add_node(**cluster.small)]

        def tell(what: str, done: int, total: int) -> None:
            if what == "editing" and done >= 40 and nodes:
                cluster.remove_node(nodes.pop(), allow_graceful=False)

        found = explained(home, tmp_path / "there", on=f"ray://{cluster.address}", progress=tell)
        assert not nodes
        assert found == expected
        rows = read_rows(tmp_path / "here")
        assert len(rows) > 100
        assert repr(read_rows(tmp_path / "there")) == repr(rows)
        pictures = [sorted(p.name for p in (tmp_path / d / "images").iterdir()) for d in ("here", "there")]
        assert pictures[0] == pictures[1]
    finally:
        torch.set_num_threads(before)


def test_the_command_line_refuses_another_place(home: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        ["explain", "scorers:bright", "--images", str(home), "--on", "moon", "--out", str(tmp_path / "r")],
    )
    assert done.exit_code == 2
    assert "on 'moon': choose here, ray" in done.stderr
    assert not (tmp_path / "r").exists()
