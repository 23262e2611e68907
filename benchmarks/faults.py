"""What a run survives, by force: kill -9, full disks, dying servers, damaged files, crowds, long runs, fuzz.

Runs are `diffexplain explain` processes with tiny models of the real classes on one thread, killed at random
moments. A run's answer is result.json without its seconds, all rows, and every picture.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks import guided, harness
from benchmarks.ground import Ground, answer, batches, draw, made, rows, server

SEED = 9
VISITORS = 50


def measure(quick: bool) -> Mapping[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as name:
        ground = made(Path(name))
        killed = kills(ground, 5 if quick else 50)
        others = {case.__name__: case(ground) for case in CASES}
        for case, said in others.items():
            print(f"{case}: {said or 'survived'}", file=sys.stderr)
        return {
            **killed,
            "results_equal": killed["results_equal"] and not any(others.values()),
            "faults": {case: said or "survived" for case, said in others.items()},
            "memory_growth": long_run(ground, 500) if quick else long_pocket_run(ground, 10_000),
            "visitors_lost": visitors(Path(name) / "web", VISITORS),
            **fuzzed(20 if quick else 2000, 500 if quick else 30_000),
        }


# -- kill -9 -----------------------------------------------------------------------------------------


def kills(ground: Ground, number: int) -> dict[str, Any]:
    """Kill a run at random moments and resume it, until it was killed so often; many runs if need be."""
    expected, calls, seconds = _uninterrupted(ground)
    rng = random.Random(SEED)
    done = lost = repeated = runs = 0
    equal = True
    while done < number:
        out = ground.folder / f"killed-{runs}"
        runs += 1
        while not (out / "result.json").exists():
            log, before = ground.folder / "calls.log", rows(out)
            kept = batches(out)
            log.unlink(missing_ok=True)
            process = ground.start(ground.words(out, "--resume"), CALLS=str(log))
            process.join(rng.uniform(0, seconds) if done < number else 300)
            done += _killed(process)
            scored = len(log.read_text().splitlines()) - calls if log.exists() else 0
            repeated = max(repeated, scored - (batches(out) - kept))
            after = rows(out)
            lost += sum(row not in after for row in before)
        equal = equal and answer(out) == expected
        shutil.rmtree(out)
    return {
        "kills": done,
        "runs": runs,
        "results_equal": equal,
        "rows_lost": lost,
        "batches_repeated_max": repeated,
    }


def _uninterrupted(ground: Ground) -> tuple[dict[str, Any], int, float]:
    """What the run should say, how often it scores before the first batch, and how long it takes."""
    out, log = whole(ground), ground.folder / "calls.log"
    log.unlink(missing_ok=True)
    again = ground.folder / "timed"
    started = time.monotonic()
    code, said = ground.run(ground.words(again), CALLS=str(log))
    seconds = time.monotonic() - started
    if code or answer(again) != answer(out):
        raise RuntimeError(f"two plain runs differ: {said}")
    calls = len(log.read_text().splitlines()) - batches(again)
    shutil.rmtree(again)
    return answer(out), calls, seconds


def whole(ground: Ground) -> Path:
    """The folder of an uninterrupted run."""
    out = ground.folder / "whole"
    if not out.exists():
        code, said = ground.run(ground.words(out))
        if code:
            raise RuntimeError(said)
    return out


def _killed(process: Any) -> bool:
    """Whether there was still something to kill."""
    alive = bool(process.is_alive())
    process.kill()
    process.join()
    return alive and process.exitcode == -signal.SIGKILL


def _half(ground: Ground, out: Path, least: int = 3) -> None:
    """A run that was killed when it had kept some batches."""
    process = ground.start(ground.words(out))
    while batches(out) < least and process.is_alive():
        time.sleep(0.005)
    _killed(process)


# -- other faults: each says what went wrong, or nothing -----------------------------------------------


def _continued(ground: Ground, out: Path, *more: str, **options: Any) -> str:
    """Resume a run; what is not as it should be."""
    code, said = ground.run(ground.words(out, "--resume", *more, **options))
    if code:
        return f"resume ended with {code}: {said.strip()}"
    return "" if answer(out) == answer(whole(ground)) else "another answer"


def _refused(code: int, said: str, *words: str) -> str:
    """A mistake is one line and exit code 2."""
    lines = said.splitlines()
    good = code == 2 and len(lines) == 1 and lines[0].startswith("diffexplain: ")
    good = good and all(word in lines[0] for word in words)
    return "" if good else f"exit code {code}: {said.strip()}"


def full_disk(ground: Ground) -> str:
    """A file may not grow beyond a size; then it may."""
    out = ground.folder / "full"
    code, said = ground.run(ground.words(out), MOST_BYTES="40000")
    return _refused(code, said, "disk full", "--resume") or _continued(ground, out)


def dying_server(ground: Ground) -> str:
    """A server that is away for a moment is asked again; one that is away for long ends the run in a line."""
    common = {"target": "bright", "labels": "dark,bright"}
    options = ["--classifier-option", "backoff=0.05", "--classifier-option"]
    with server() as steady:
        patient, out = ground.folder / "patient", ground.folder / "impatient"
        steady.away_after(8, refusals=6)
        code, said = ground.run(ground.words(patient, *options, "retries=8", classifier=steady.url, **common))
        if code or steady.refusals:
            return f"a short absence: {said or 'was not noticed'}"
        words = ground.words(out, *options, "retries=1", classifier=steady.url, **common)
        steady.away_after(8, refusals=10**6)
        if wrong := _refused(*ground.run(words), steady.url):
            return f"a long absence: {wrong}"
        steady.away_after(0, refusals=0)
        code, said = ground.run([*words, "--resume"])
        return (
            "" if code == 0 and _same_but_notes(out, patient) else f"its return: {said or 'another answer'}"
        )


def corrupt_image(ground: Ground) -> str:
    """A damaged picture in the middle of the folder is left out, and said."""
    folder, out = ground.folder / "with-a-bad-one", ground.folder / "corrupt"
    shutil.copytree(ground.folder / "pictures", folder)
    (folder / "0003-torn.png").write_bytes((folder / "0003.png").read_bytes()[:70])
    code, said = ground.run(ground.words(out, images=folder))
    if code:
        return said
    notes = json.loads((out / "result.json").read_text())["notes"]
    if not any(note.startswith("0003-torn.png: ") for note in notes):
        return "it is not said"
    return "" if _same_but_notes(out, whole(ground)) else "another answer"


def truncated(ground: Ground) -> str:
    """The last bytes of a file are gone, as after a power cut."""
    found = []
    for name, share in (("effects.sqlite-wal", 0.7), ("picture", 0.5)):
        out = ground.folder / f"truncated-{name}-{share}"
        _half(ground, out)
        file = out / name if name != "picture" else max((out / "images").iterdir(), key=_born)
        os.truncate(file, int(share * file.stat().st_size))
        found += [f"{name}: {wrong}"] if (wrong := _continued(ground, out)) else []
    out = ground.folder / "truncated-whole"
    shutil.copytree(whole(ground), out)
    os.truncate(out / "result.json", 500)
    found += [f"result.json: {wrong}"] if (wrong := _continued(ground, out)) else []
    for name in ("run.json", "effects.sqlite"):
        os.truncate(out / name, (out / name).stat().st_size // 2)
        wrong = _refused(*ground.run(ground.words(out, "--resume")), str(out))
        found += [f"{name}: {wrong}"] if wrong else []
    return "; ".join(found)


def _born(file: Path) -> int:
    return file.stat().st_mtime_ns


def two_processes(ground: Ground) -> str:
    """The second one is told in a line who uses the folder."""
    out = ground.folder / "shared"
    first = ground.start(ground.words(out))
    while not batches(out) and first.is_alive():
        time.sleep(0.005)
    wrong = _refused(*ground.run(ground.words(out, "--resume")), "in use by process", str(first.pid))
    first.join(300)
    if wrong or first.exitcode:
        return wrong or f"the first one ended with {first.exitcode}"
    return "" if answer(out) == answer(whole(ground)) else "another answer"


def older_folder(ground: Ground) -> str:
    """Without the newest columns and fields: its report is written; to go on with it is refused, with why."""
    out = ground.folder / "older"
    shutil.copytree(whole(ground), out)
    with closing(sqlite3.connect(out / "effects.sqlite")) as database:
        for name in ("size", "area", "others"):
            database.execute(f"ALTER TABLE effects DROP COLUMN {name}")
    run = json.loads((out / "run.json").read_text())
    run["request"]["settings"]["version"] = "0.0.9"
    del run["request"]["second"], run["request"]["screen"], run["kind"]
    (out / "run.json").write_text(json.dumps(run))
    result = json.loads((out / "result.json").read_text())
    for name in ("placebo", "gate", "entanglement", "second"):
        del result[name]
    (out / "result.json").write_text(json.dumps(result))
    code, said = ground.run(["report", str(out)])
    if code:
        return f"its report: {said}"
    if wrong := _refused(*ground.run(ground.words(out, "--resume")), "settings.version", "0.0.9"):
        return wrong
    (out / "run.json").write_text(json.dumps({**run, "kind": "of tomorrow"}))
    return _refused(*ground.run(ground.words(out, "--resume")), "of tomorrow")


CASES: tuple[Callable[[Ground], str], ...] = (
    full_disk,
    dying_server,
    corrupt_image,
    truncated,
    two_processes,
    older_folder,
)


def _same_but_notes(one: Path, other: Path) -> bool:
    found, expected = answer(one), answer(other)
    for each in (found, expected):
        each["result"]["notes"] = []
    return found == expected


# -- long runs ----------------------------------------------------------------------------------------


def long_run(ground: Ground, edits: int) -> float:
    """Growth of a run's memory after its first fifth, as a share; tiny models."""
    pictures = draw(ground.folder / "many", -(-edits // 8) + 8)
    quick = ("--editor-option", "rows=32", "--editor-option", "steps=2")
    words = ground.words(ground.folder / "long", *quick, images=pictures, budget=edits)
    return _growth(ground, words, edits)


def long_pocket_run(ground: Ground, edits: int) -> float:
    """The same with the bundled models, on avatars; most of an hour."""
    from diffexplain.images import encode_png
    from diffexplain.worlds import avatars

    folder = ground.folder / "avatars"
    folder.mkdir()
    for i, picture in enumerate(avatars.render(avatars.sample(edits // 40, SEED), 64)):
        (folder / f"{i:04d}.png").write_bytes(encode_png(picture))
    words = [
        "explain", "pocket:hired", "--images", str(folder), "--target", "hired", "--budget", str(edits),
        "--editor", "pocket-turbo", "--search", "exhaustive", "--out", str(ground.folder / "long-pocket"),
    ]  # fmt: skip
    return _growth(ground, words, edits)


def _growth(ground: Ground, words: list[str], edits: int) -> float:
    """Resident memory at the end beside that at a fifth of the way: the median of ten looks at each."""
    out = Path(words[words.index("--out") + 1])
    process = ground.start(words)
    seen: list[tuple[int, int]] = []
    while process.is_alive():
        size = resident(process.pid)
        if (there := len(rows(out))) and size:
            seen.append((there, size))
        time.sleep(0.05 if edits < 5000 else 1)
    process.join()
    assert process.exitcode == 0, (ground.folder / f"said-{process.pid}").read_text()
    most = max(done for done, _ in seen)
    warm = [size for done, size in seen if done >= most / 5][:10]
    last = [size for done, size in seen if done < most][-10:]
    print(
        f"{most} edits, {np.median(warm) / 2**20:.0f} MB then {np.median(last) / 2**20:.0f} MB",
        file=sys.stderr,
    )
    return float(np.median(last) / np.median(warm) - 1)


def resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


# -- a crowd ------------------------------------------------------------------------------------------


def visitors(root: Path, number: int) -> int:
    """How many of so many visitors at once never see their run finished; the runs are stubs.

    One who is told that the queue is full comes back later, as the page says.
    """
    from diffexplain.errors import InputError
    from diffexplain.web import jobs as module

    root.mkdir(parents=True)
    picture = draw(root / "upload", 1) / "0000.png"
    ran: list[str] = []

    def stub(classifier: str, images: str, *, out: Path, progress: Callable[..., None], **_: Any) -> None:
        out.mkdir()
        progress("editing", 0, 1)
        time.sleep(0.005)
        (out / module.RESULT).write_text(json.dumps({"of": len(list(Path(images).iterdir()))}))
        ran.append(out.name)

    def visit(i: int) -> None:
        question = module.Question("pocket:hired", f"target {i}")
        while True:
            try:
                job = queue.submit(question, [picture])
                break
            except InputError:
                time.sleep(rng.uniform(0, 0.05))
        while job.state not in ("finished", "failed", "stopped"):
            queue.before(job)
            queue.current()
            queue.names()
            time.sleep(0.005)
        if job.state == "finished" and queue.find(job.name).question == question:
            served.append(job.name)

    rng, served, failed = random.Random(SEED), list[str](), list[BaseException]()
    with (
        patch.object(module.api, "explain", stub),
        patch.object(threading, "excepthook", lambda args: failed.append(args.exc_value)),
    ):
        queue = module.Jobs(root / "runs")
        crowd = [threading.Thread(target=visit, args=(i,), daemon=True) for i in range(number)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join(120)
        queue.close()
    for error in failed:
        print(f"a visitor saw {error!r}", file=sys.stderr)
    return number - len(set(served) & set(ran))


# -- fuzz ---------------------------------------------------------------------------------------------


def fuzzed(examples: int, runs: int) -> dict[str, int]:
    """The properties of `tests/unit/test_fuzz.py` on so many cases each; two guided by coverage too."""
    from tests.unit import test_fuzz

    cases = failures = 0
    for name in test_fuzz.PROPERTIES:
        done, error = test_fuzz.tried(name, examples)
        cases += done
        failures += error is not None
        if error is not None:
            print(f"{name}: {error}", file=sys.stderr)
    for name in ("corpora", "pictures"):
        done, said = guided.tried(name, runs)
        cases += done
        failures += bool(said)
        if said:
            print(f"{name}, guided: {said}", file=sys.stderr)
    return {"fuzz_cases": cases, "fuzz_failures": failures}


if __name__ == "__main__":
    harness.run("faults", __doc__ or "", measure)
