"""The report in a real Chromium: opened from a file, network cut, hostile labels, phone width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from diffexplain.records import Result
from diffexplain.report import write_report
from diffexplain.report.comparing import write_comparison
from diffexplain.report.contrast import contrast
from diffexplain.report.finished import Finished
from diffexplain.report.overlays import Overlays, Region, edit_key, pairs
from tests import factories
from tests.factories import concept_result

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser
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
    result, effects, pictures = factories.measured(images=10)
    strong = replace(effects[0], strength=2.0, edited=effects[1].edited, score_after=9.0)
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(result, pictures, path, effects=[*effects, strong])


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result, effects, pictures = factories.measured(images=10)
    other = [replace(e, score_after=e.score_after + ("blazer" in e.concept)) for e in effects]
    request = replace(result.request, classifier=SCRIPT, names=(IMAGE,) * 10)
    found = contrast(
        Finished(result, tuple(effects), pictures),
        Finished(replace(result, request=request), tuple(other), pictures),
    )
    return write_comparison(found, pictures, pictures, tmp_path_factory.mktemp("compare") / "c.html")


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


def opened(page: Page, concept: str = "facewear/glasses/round") -> Locator:
    """A concept's gallery, opened as a reader does."""
    page.fill("#search", concept)
    leaf = page.locator(f'#tree li[data-path="{concept}"]')
    leaf.locator("summary").first.click()
    gallery = leaf.locator(".gallery").first
    gallery.locator(".compare img").first.wait_for(state="visible")
    return gallery


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
    assert not leaf.locator(".gallery").is_visible()
    assert leaf.locator(".gallery img").count() == 0
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


@pytest.mark.parametrize("which", ["report", "hostile", "comparison"])
@pytest.mark.parametrize("width", [390, 700, 1130, 1280])
def test_no_sideways_scrolling(
    watched: Watched, which: str, width: int, request: pytest.FixtureRequest
) -> None:
    watched.page.set_viewport_size({"width": width, "height": 844})
    page = watched.open(request.getfixturevalue(which))
    assert wide(page) == 0
    if page.locator("#expand").count():
        expand(page)
        assert wide(page) == 0


@pytest.mark.parametrize("which", ["report", "comparison"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_fault(
    watched: Watched, which: str, scheme: str, request: pytest.FixtureRequest
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    watched.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page = watched.open(request.getfixturevalue(which))
    if which == "report":
        opened(page)
    found = axe.Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_slider_drags_and_answers_the_keyboard(watched: Watched, report: Path) -> None:
    page = watched.open(report)
    gallery = opened(page)
    slider = gallery.get_by_role("slider").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box

    def cut() -> float:
        found = gallery.locator(".compare").evaluate("e => getComputedStyle(e).getPropertyValue('--cut')")
        return float(found.removesuffix("%"))

    assert cut() == 50
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], middle, steps=4)
    page.mouse.up()
    assert 75 < cut() < 85
    slider.press("Home")
    assert cut() == 0
    clip = gallery.locator(".compare .original img").evaluate("e => getComputedStyle(e).clipPath")
    assert clip.startswith("inset(0")


def test_all_pictures_of_a_concept_and_what_changed(watched: Watched, report: Path) -> None:
    page = watched.open(report)
    gallery = opened(page)
    effects = factories.measured(images=10)[1]
    count = sum(e.concept == "facewear/glasses/round" for e in effects)
    assert gallery.locator(".pairs li").count() == count > 3
    second = gallery.locator(".pairs button").nth(1)
    second.click()
    assert second.get_attribute("aria-pressed") == "true"
    gallery.locator(".inset canvas").first.wait_for(state="visible")  # glasses are a small change
    gallery.get_by_role("button", name="Show the difference").click()
    heat = gallery.locator("canvas.heat")
    heat.wait_for(state="visible")
    brightest = heat.evaluate(
        "c => Math.max(...c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    )
    assert brightest == 255
    assert "largest change" in str(heat.get_attribute("aria-label"))


def test_regions_and_maps_are_drawn_over_a_pair(watched: Watched, tmp_path: Path) -> None:
    result, effects, pictures = factories.measured(images=10)
    mask = np.zeros((64, 64), np.bool_)
    mask[20:30, 16:48] = True
    names = {name for e in pairs(result) for name in (e.reconstruction, e.edited)}
    regions = {edit_key(e): Region.of(mask) for e in pairs(result)}
    over = Overlays({name: name for name in names}, "layer4", regions, "pocket")
    page = watched.open(write_report(result, pictures, tmp_path / "r.html", effects=effects, overlays=over))
    gallery = opened(page)
    gallery.locator(".cam img[src]").nth(1).wait_for(state="visible")
    assert "layer4" in gallery.locator(".cam").inner_text()
    assert gallery.locator("canvas.region").count() == 0
    gallery.get_by_role("button", name="Show where it may act").click()
    veil = gallery.locator("canvas.region")
    veil.wait_for(state="visible")
    whole = "c => Array.from(c.getContext('2d').getImageData(0, 0, 64, 64).data)"
    shown = np.array(veil.evaluate(whole)).reshape(64, 64, 4)[..., 3]  # (H, W) how opaque
    assert ((shown > 0) == mask).all()
    assert shown[25, 16] == 255 > shown[25, 30]  # its outline, and inside


def test_strength_slider_moves_picture_and_score(watched: Watched, report: Path) -> None:
    first = factories.measured(images=10)[1][0]
    page = watched.open(report)
    gallery = opened(page, first.concept)
    slider = None
    for button in gallery.locator(".pairs button").all():
        button.click()
        slider = gallery.get_by_role("slider", name="strength of the edit")
        if slider.is_visible():
            break
    assert slider is not None
    shown = gallery.locator(".aside b").first
    before = shown.inner_text()
    slider.focus()
    slider.press("End")
    assert gallery.locator(".strength output").inner_text() == "2"
    page.wait_for_function(
        "([e, was]) => e.querySelector('.aside b').innerText !== was", arg=[gallery.element_handle(), before]
    )


def test_search_filter_and_sort(watched: Watched, report: Path) -> None:
    page = watched.open(report)
    lines = page.locator("#tree .line[id]")
    count = lines.count()
    page.fill("#search", "GLASSES round")
    visible = [line for line in lines.all() if line.is_visible()]
    assert len(visible) == 1
    assert page.locator("#matches").inner_text() == f"1 of {count} questions"
    page.fill("#search", "")
    page.select_option("#filter", "ruled out")
    states = {line.get_attribute("data-state") for line in lines.all() if line.is_visible()}
    assert states == {"ruled out"}
    page.select_option("#filter", "failed")
    assert all(line.get_attribute("data-failed") is not None for line in lines.all() if line.is_visible())
    page.select_option("#filter", "")
    page.select_option("#sort", "name")
    names = [str(item.get_attribute("data-path")) for item in page.locator("ul.roots > li").all()]
    assert names == sorted(names)
    page.select_option("#sort", "down")
    first = page.locator("ul.roots > li").first
    effects = [float(str(e.get_attribute("data-effect"))) for e in page.locator("#tree [data-effect]").all()]
    inside = [float(str(e.get_attribute("data-effect"))) for e in first.locator("[data-effect]").all()]
    assert min(inside) == min(effects)


def test_a_citation_is_found_although_filtered_away(watched: Watched, report: Path) -> None:
    page = watched.open(report)
    page.fill("#search", "no such concept")
    link = page.locator(".answer a").first
    link.click()
    page.locator(str(link.get_attribute("href"))).wait_for(state="visible")


def test_failed_and_hostile_concepts_open(watched: Watched, hostile: Path) -> None:
    page = watched.open(hostile)
    expand(page)
    gallery = page.locator(".gallery").first
    gallery.locator(".compare img").first.wait_for(state="visible")
    assert page.locator("img[onerror], img[src='x']").count() == 0


def test_comparison_shows_pairs_of_both_runs(watched: Watched, comparison: Path) -> None:
    page = watched.open(comparison)
    assert SCRIPT in page.locator("h1").inner_text()
    first = page.locator(".changes tbody tr").first
    assert first.locator("img").count() == 4
    assert "blazer" in first.inner_text()
    first.locator("img[src]").first.wait_for(state="visible")


def test_prints_to_pages(watched: Watched, report: Path) -> None:
    page = watched.open(report)
    opened(page)
    printed = page.pdf(format="A4", print_background=True)
    assert printed.startswith(b"%PDF")
    assert 2 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") <= 20
