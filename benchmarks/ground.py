"""Where faults are made: real commands with tiny real models, forked so that each starts at once.

They come from a server that has the libraries loaded; what runs, and is killed, is the real command line.
"""

from __future__ import annotations

import base64
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "diffexplain.api",
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
        "transformers.models.clip.modeling_clip",
        "transformers.models.clip.image_processing_clip",
    ]
)
#: what the run scores with; it writes a line for each call, so that work done twice can be counted.
SCORERS = """
import os
from pathlib import Path


def bright(images):
    log = os.environ.get("CALLS")
    if log:
        with Path(log).open("a") as file:
            file.write("call\\n")
    return 60 * images.mean((1, 2, 3)) - 30


bright.labels = ("dark", "bright")
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
    children: [{name: thick}, {name: thin}]
"""


@dataclass(frozen=True)
class Ground:
    """A user's folder with tiny real models, pictures, a corpus and a classifier."""

    folder: Path

    def words(self, out: Path, *more: str, **options: Any) -> list[str]:
        """The command, with options changed."""
        given = {
            "images": self.folder / "pictures", "target": "bright", "corpus": self.folder / "tree.yaml",
            "editor": self.folder / "editor", "judge": f"clip:{self.folder / 'clip'}", "device": "cpu",
            "search": "exhaustive", "out": out, **options,
        }  # fmt: skip
        classifier = str(given.pop("classifier", "scorers:bright"))
        pairs = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        return ["explain", classifier, *pairs, "--accept-drift", *more]

    def start(self, words: list[str], **environment: str) -> Any:
        """The command as a process of its own."""
        process = PROCESSES.Process(target=command, args=(words, str(self.folder), environment), daemon=True)
        process.start()
        return process

    def run(self, words: list[str], **environment: str) -> tuple[int, str]:
        """The command to its end: exit code, and what it said on standard error."""
        process = self.start(words, **environment)
        process.join(300)
        process.kill()
        process.join()
        shutil.copyfile(self.folder / f"shown-{process.pid}", self.folder / "shown")
        return process.exitcode, (self.folder / f"said-{process.pid}").read_text()


def command(words: list[str], folder: str, environment: Mapping[str, str]) -> None:
    """What a process does: the command line, from the user's folder. It hears Ctrl-C, whoever started it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    for name, stream in (("shown", 1), ("said", 2)):
        os.dup2(os.open(f"{name}-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    import torch

    from diffexplain.cli import main

    torch.set_num_threads(1)
    if most := environment.get("MOST_BYTES"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), resource.RLIM_INFINITY))
    sys.argv = ["diffexplain", *words]
    main()


def made(folder: Path, pictures: int = 8, rows: int = 8) -> Ground:
    """The ground, in an empty folder."""
    from tests.tiny import tiny_clip_folder, tiny_pipeline_folder

    tiny_pipeline_folder(folder / "editor", settings={"options": {"steps": 4, "skip": 0.0, "rows": rows}})
    tiny_clip_folder(folder / "clip")
    (folder / "scorers.py").write_text(SCORERS)
    (folder / "tree.yaml").write_text(TREE)
    draw(folder / "pictures", pictures)
    return Ground(folder)


def draw(folder: Path, number: int) -> Path:
    """So many different pictures."""
    folder.mkdir(exist_ok=True)
    for i in range(number):
        pixels = np.random.default_rng(i).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((16, 16), Image.Resampling.NEAREST)
        picture.save(folder / f"{i:04d}.png")
    return folder


def answer(run: Path) -> dict[str, Any]:
    """All that a run says and keeps, but for the time that it took."""
    result = json.loads((run / "result.json").read_text())
    result["cost"].pop("seconds")
    pictures = {p.name: p.read_bytes() for p in (run / "images").iterdir()}
    return {"result": result, "rows": sorted(rows(run), key=str), "pictures": pictures}


def rows(run: Path) -> list[tuple[Any, ...]]:
    """The rows of a run, as they are kept; none where there is no store yet."""
    if not (run / "effects.sqlite").exists():
        return []
    with closing(sqlite3.connect(f"file:{run / 'effects.sqlite'}?mode=ro", uri=True)) as database:
        try:
            return database.execute("SELECT * FROM effects ORDER BY rowid").fetchall()
        except sqlite3.OperationalError:  # it is just being made
            return []


def batches(run: Path) -> int:
    """How many batches are kept."""
    return len({row[-4] for row in rows(run)})


# -- a server that can be away ---------------------------------------------------------------------------


class Served(ThreadingHTTPServer):
    """A classifier server that can be away: it takes a connection and ends it without a word."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self.left, self.refusals = 10**9, 0

    def away_after(self, answers: int, *, refusals: int) -> None:
        """Answer so many times, then refuse so many times."""
        self.left, self.refusals = answers if refusals else 10**9, refusals

    def away(self) -> bool:
        """Whether this request finds nobody."""
        self.left -= 1
        if self.left >= 0 or self.refusals <= 0:
            return False
        self.refusals -= 1
        return True


class _Answer(BaseHTTPRequestHandler):
    server: Served

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.away():
            self.close_connection = True
            return
        seen = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))) for image in body["images"]]
        logits = [0.2 * float(picture.mean()) - 25 for picture in seen]
        told = json.dumps({"scores": [[0.0, x] for x in logits]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def server() -> Iterator[Served]:
    """A classifier at an address of this machine."""
    made = Served()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()
        thread.join()
