"""Coverage-guided fuzzing (atheris, libFuzzer) of what strangers hand in: corpora and pictures.

`python -m benchmarks.guided corpora` or `pictures` goes on until a failure or Ctrl-C; it takes libFuzzer's
options, such as `-runs=100000`. Bytes are changed where that reaches code not reached before. The
properties are those of `tests/unit/test_fuzz.py`: only errors made on purpose come out, each of one line.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SEED = 9
CORPUS = """name: pets
domain: pets
prompt: "a pet with {phrase}"
neutral: a pet
concepts:
  - name: coat
    exclusive: true
    absent: no coat
    children:
      - {name: red, phrase: a red coat, directions: [add]}
      - &blue {name: blue, prompt: "a blue pet", hidden_by: [eyes/green], whole_image: true}
  - {name: eyes, protected: true, children: [{name: green}, {name: "x", replaces: [coat/red]}]}
"""


def tried(name: str, runs: int) -> tuple[int, str]:
    """How many cases of `corpora` or `pictures` were tried, and what failed, if anything did."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        for number, seed in enumerate(_seeds(name)):
            (seeds / str(number)).write_bytes(seed)
        options = [f"-runs={runs}", f"-seed={SEED}", "-timeout=20", "-max_len=4096", "-rss_limit_mb=8192"]
        options += [f"-artifact_prefix={folder}/", "-print_final_stats=1", str(seeds)]
        words = [sys.executable, "-m", "benchmarks.guided", name, *options]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    found = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
    return int(found[1]) if found else 0, "" if done.returncode == 0 else (done.stdout + done.stderr)[-3000:]


def _seeds(name: str) -> list[bytes]:
    from tests.unit.test_fuzz import encoded

    if name == "corpora":
        return [CORPUS.encode()]
    return [encoded(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")]


def main() -> None:
    """Fuzz one of them in this process, which libFuzzer ends."""
    import atheris

    if sys.argv[1:2] not in (["corpora"], ["pictures"]):
        raise SystemExit(f"usage: python -m benchmarks.guided corpora|pictures [-runs=N …]\n\n{__doc__}")
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["diffexplain", "yaml", "PIL"]):
        from tests.unit import test_fuzz

    def corpus(data: bytes) -> None:
        test_fuzz.a_corpus(data.decode("utf-8", "replace"))

    check: Callable[[bytes], None] = corpus if name == "corpora" else test_fuzz.a_picture

    def one(data: bytes) -> None:
        with test_fuzz.ours():
            check(data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
