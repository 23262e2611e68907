"""The report in a real Chromium: opened from a file, network cut, hostile labels, phone width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffexplain.records import Result
from diffexplain.report import write_report
from tests import factories
from tests.factories import concept_result

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
if not CHROMIUM.exists():
    pytest.skip("no /usr/bin/chromium: run `make browser`", allow_module_level=True)
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: the test extra has it"
)

pytestmark = pytest.mark.browser
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SCRIPT = "<script>alert(1)</script>"
LONG = "a long group of words/a longer second one/Donaudampfschifffahrtsgesellschaft/" + "x" * 90
IMAGE = '"><img src=x onerror=alert(1)>'


@dataclass
class Watched:
    """A page and everything that went wrong on it."""

    page: Page
    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def open(self, path: Path) -> Page:
        """Open a file and wait until its first pictures stand."""
        self.page.goto(path.as_uri(), wait_until="domcontentloaded")
        return self.page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=list(ARGUMENTS), timeout=120_000
        )
        yield launched
        launched.close()


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    context.set_default_timeout(120_000)
    seen = Watched(context.new_page())
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    seen.page.on("console", lambda message: seen.faults.append(message.text))
    seen.page.on("pageerror", lambda error: seen.faults.append(str(error)))
    seen.page.on("dialog", lambda dialog: (seen.faults.append("dialog"), dialog.dismiss()))
    yield seen
    context.close()
    assert [url[:60] for url in seen.requests if not url.startswith(("file:", "data:"))] == []
    assert seen.faults == []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(*factories.run(), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, pictures = factories.run()
    pairs = run.concepts[0].examples
    concepts = [
        concept_result(f"odd/{IMAGE}", effect=3.0, q=0.001, success=0.3, examples=pairs),
        concept_result(SCRIPT, effect=-1.4, half=9, q=0.001, examples=pairs[:1]),
        concept_result(LONG, effect=0.4, q=0.3, examples=pairs[:2]),
        concept_result("hat", status="ruled out", race=0.4),
    ]  # fmt: skip
    result: Result = factories.result(
        concepts, target=SCRIPT, versus=IMAGE, classifier="hf:an-organisation/" + "a-long-name_" * 12,
        names=(SCRIPT,), notes=(SCRIPT, IMAGE), settings={IMAGE: SCRIPT, "path": "/" + "deep" * 40},
    )  # fmt: skip
    return write_report(result, pictures, tmp_path_factory.mktemp("hostile") / "r.html", title=SCRIPT)


def expand(page: Page) -> None:
    """Open the groups, then the concepts."""
    page.click("#expand")
    page.click("#expand")


def wide(page: Page) -> int:
    """How far the page reaches beyond the screen."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def test_opens_offline_with_its_pictures(watched: Watched, report: Path) -> None:
    page = watched.open(report)
    assert page.locator("h1").inner_text() == "Which meanings drive pocket:hired towards hired?"
    first = page.locator(".hero img").first
    first.evaluate("img => img.src ? img.decode() : new Promise(done => { img.onload = done; })")
    assert first.evaluate("img => img.naturalWidth") == 64
    assert watched.requests[0].startswith("file:")


def test_tree_expands_and_pictures_come_when_opened(watched: Watched, report: Path) -> None:
    page = watched.open(report)
    leaf = page.locator("details.leaf:not(.own)", has_text="round").first
    assert not leaf.locator(".pairs").is_visible()
    assert leaf.locator(".pairs img[src]").count() == 0
    leaf.locator("> summary").focus()
    page.keyboard.press("Enter")
    leaf.locator(".pairs").wait_for(state="visible")
    page.wait_for_function("e => e.querySelectorAll('.pairs img[src]').length > 1", arg=leaf.element_handle())
    page.click("#collapse")
    assert page.locator("#tree details[open]").count() == 0
    expand(page)
    assert page.locator("#tree details:not([open])").count() == 0


def test_citation_opens_the_tree_down_to_its_row(watched: Watched, report: Path) -> None:
    page = watched.open(report)
    page.click("#collapse")
    link = page.locator(".answer a").first
    row = page.locator(str(link.get_attribute("href")))
    assert not row.is_visible()
    link.click()
    row.wait_for(state="visible")


def test_hostile_labels_stay_text(watched: Watched, hostile: Path) -> None:
    page = watched.open(hostile)
    expand(page)
    assert page.locator("img[onerror], img[src='x']").count() == 0
    assert page.locator("script").count() == 2
    assert IMAGE in page.locator("#tree").inner_text()
    assert page.title() == SCRIPT


@pytest.mark.parametrize("which", ["report", "hostile"])
@pytest.mark.parametrize("width", [390, 700, 1130, 1280])
def test_no_sideways_scrolling(
    watched: Watched, which: str, width: int, request: pytest.FixtureRequest
) -> None:
    watched.page.set_viewport_size({"width": width, "height": 844})
    page = watched.open(request.getfixturevalue(which))
    assert wide(page) == 0
    expand(page)
    assert wide(page) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_fault(watched: Watched, report: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    watched.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page = watched.open(report)
    found = axe.Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
