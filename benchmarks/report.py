"""The report page: its size, how soon it stands, and how it moves, in a real Chromium.

A run of 16 pictures and 45 concepts, every concept edited in every picture it fits, of rendered avatars at
512 pixels with a little noise; and a page of 500 concepts. Needs /usr/bin/chromium (`make browser`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import harness
from diffexplain.records import ConceptResult, Effect, Result
from diffexplain.report import write_report
from tests import factories

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
CONCEPTS, IMAGES, SIZE = 45, 16, 512
MANY = 500
TIMES = 3  # pages are opened; the median counts

#: seconds until the first pictures stand.
STANDING = """() => Promise.all([...document.querySelectorAll('.hero img')].map(
  (img) => img.src ? img.decode() : new Promise((done) => { img.onload = done; })))"""
#: the page scrolled end to end in two seconds: frames drawn, and the longest between two, in ms.
SCROLL = """() => new Promise((done) => {
  const begun = performance.now(), most = document.documentElement.scrollHeight;
  let frames = 0, longest = 0, last = begun;
  const step = (now) => {
    longest = Math.max(longest, now - last); last = now; frames += 1;
    scrollTo(0, most * (now - begun) / 2000);
    if (now - begun < 2000) requestAnimationFrame(step); else done([frames / 2, longest]);
  };
  requestAnimationFrame(step);
})"""
#: a word searched for, until the tree is sifted and drawn, in ms.
SEARCH = """() => new Promise((done) => {
  const box = document.getElementById('search'), begun = performance.now();
  box.value = 'glasses'; box.dispatchEvent(new Event('input'));
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begun)));
})"""


def measure(quick: bool) -> Mapping[str, Any]:
    """Sizes in MB (10⁶ bytes), times in s or ms."""
    from playwright.sync_api import sync_playwright

    size = 128 if quick else SIZE
    result, rows, pictures = factories.measured(images=IMAGES, size=size)
    result, rows = first(result, rows, CONCEPTS)
    small, few, drawn = factories.measured(images=IMAGES, size=64)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        begun = time.monotonic()
        page = write_report(result, pictures, Path(folder) / "report.html", effects=rows)
        written = time.monotonic() - begun
        many = write_report(*more(small, few, drawn, MANY), Path(folder) / "many.html", effects=())
        figures = {
            "mb": page.stat().st_size / 1e6,
            "pictures": len({name for e in rows for name in (e.reconstruction, e.edited)}),
            "write_s": written,
            **opened(browser, page, ""),
            "concepts_500_mb": many.stat().st_size / 1e6,
            **opened(browser, many, "concepts_500_"),
        }
        browser.close()
    return figures


def first(result: Result, rows: Sequence[Effect], count: int) -> tuple[Result, list[Effect]]:
    """The run with `count` questions, measured ones first, and their rows."""
    concepts = result.concepts[:count]
    asked = {(c.concept, c.direction) for c in concepts}
    return replace(result, concepts=concepts, truth=None), [
        r for r in rows if (r.concept, r.direction) in asked
    ]


def more(
    result: Result, rows: Sequence[Effect], pictures: factories.Pictures, count: int
) -> tuple[Result, factories.Pictures]:
    """The run with its measured questions repeated under other groups until there are `count`."""
    measured = [c for c in result.concepts if c.status == "measured"]
    concepts: list[ConceptResult] = []
    while len(concepts) < count:
        turn = len(concepts) // len(measured)
        at = measured[len(concepts) % len(measured)]
        concepts.append(replace(at, concept=f"group {turn}/{at.concept}"))
    return replace(result, concepts=tuple(concepts), truth=None, joint=None), pictures


def opened(browser: Browser, path: Path, prefix: str) -> dict[str, float]:
    """How a page opens, scrolls and searches."""
    times = []
    for _ in range(TIMES):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
        page = context.new_page()
        begun = time.monotonic()
        page.goto(path.as_uri(), wait_until="domcontentloaded")
        page.evaluate(STANDING)
        times.append(time.monotonic() - begun)
        if len(times) < TIMES:
            context.close()
    rate, longest = page.evaluate(SCROLL)
    search = page.evaluate(SEARCH)
    context.close()
    return {
        f"{prefix}open_s": sorted(times)[TIMES // 2],
        f"{prefix}scroll_frames_per_s": rate,
        f"{prefix}scroll_longest_frame_ms": longest,
        f"{prefix}search_ms": search,
    }


if __name__ == "__main__":
    harness.run("report", str(__doc__).partition("\n")[0], measure)
