"""A reader study in a real Chromium: whole sessions, served and from a file, then analysed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffexplain.study import StudyOptions, analyse_study, build_study, serving, write_static
from diffexplain.study.answers import read_answers
from diffexplain.study.server import StudyServer
from tests.unit.study.folders import explained, synthesised

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
HOSTILE = ('"><img src=x onerror=alert(1)>', "<script>alert(1)</script>", "hat/<b>red</b>", "beard", "scarf")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    yield from opened(browser)


@pytest.fixture
def other(browser: Browser) -> Iterator[Page]:
    yield from opened(browser)


def opened(browser: Browser) -> Iterator[Page]:
    """A page of a person of its own; what goes wrong on it fails the test."""
    context = browser.new_context(viewport={"width": 1100, "height": 900}, accept_downloads=True)
    context.set_default_timeout(120_000)
    faults: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: dialog.accept())
    page.on(
        "request",
        lambda r: None if re.match(r"(http://127.0.0.1|file:|data:|blob:)", r.url) else faults.append(r.url),
    )
    yield page
    context.close()
    assert faults == []


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    runs = [explained(root / "a"), explained(root / "b", 1), synthesised(root / "c")]
    build_study(runs, root / "study", options=StudyOptions(items=1, pairs=2, checks=1))
    return root / "study"


@pytest.fixture
def server(study: Path) -> Iterator[StudyServer]:
    (study / "answers.sqlite").unlink(missing_ok=True)
    with serving(study, port=0) as running:
        yield running


def choose(page: Page) -> None:
    """Answer all questions of a page: a check as it says, the others by their first choice."""
    said = page.locator("main").inner_text()
    wanted = re.search(r"Please choose (\d)", said)
    for group in page.locator("fieldset").all():
        choices = group.locator("label.choice")
        (choices.nth(int(wanted[1]) - 1) if wanted else choices.first).click()
    page.locator("#next:not([disabled])").wait_for()


def turn(page: Page) -> None:
    """Go to the next page, and wait until it stands."""
    now = page.locator("main").inner_text()
    page.click("#next")
    later = "old => ![old, '', undefined].includes(document.getElementById('main')?.innerText)"
    page.wait_for_function(later, arg=now)


def answer_all(page: Page) -> None:
    while page.locator("#next").count():
        choose(page)
        turn(page)


def test_a_full_session_is_answered_and_analysed(page: Page, server: StudyServer, study: Path) -> None:
    page.goto(server.url)
    assert "voluntary" in page.locator(".consent").inner_text()
    page.click("#agree")
    page.locator("fieldset").first.wait_for()
    pictures = page.locator("main img")
    pictures.first.evaluate("img => img.decode()")
    assert pictures.first.evaluate("img => img.naturalWidth") == 48
    answer_all(page)
    assert len(page.locator("#code").inner_text()) == 8
    found = analyse_study(study)
    assert (found.people.began, found.people.counted) == (1, 1)
    assert {t.kind for t in found.rows} == {"attribute", "share", "rating", "side"}


def test_no_answer_is_lost_on_reload(page: Page, server: StudyServer, study: Path) -> None:
    page.goto(server.url)
    page.click("#agree")
    page.locator("fieldset").first.wait_for()
    choose(page)
    chosen = page.locator(":checked").evaluate_all("all => all.map(e => e.value)")
    page.reload()
    page.locator("fieldset").first.wait_for()
    assert page.locator(":checked").evaluate_all("all => all.map(e => e.value)") == chosen
    turn(page)
    assert "Page 2 of" in page.locator("main").inner_text()
    page.go_back()
    page.goto(page.url)
    page.locator("fieldset, #agree").first.wait_for()
    answers = read_answers(study)[1]
    assert {a.page for a in answers} == {0}


def test_two_readers_at_once(page: Page, other: Page, server: StudyServer, study: Path) -> None:
    for each in (page, other):
        each.goto(server.url)
        each.click("#agree")
        each.locator("fieldset").first.wait_for()
    assert page.url != other.url
    while page.locator("#next").count() or other.locator("#next").count():
        for each in (page, other):
            if each.locator("#next").count():
                choose(each)
                turn(each)
    found = analyse_study(study)
    assert found.people.counted == 2
    assert {t.booklet for t in found.rows} == {0, 1}


def test_who_stops_is_forgotten(page: Page, server: StudyServer, study: Path) -> None:
    page.goto(server.url)
    page.click("#agree")
    page.locator("fieldset").first.wait_for()
    choose(page)
    page.click("#withdraw")
    page.locator("#agree").wait_for()
    assert read_answers(study)[1] == []


def test_a_session_without_a_server_is_saved_as_a_file(page: Page, study: Path, tmp_path: Path) -> None:
    (study / "answers.sqlite").unlink(missing_ok=True)
    file = write_static(study, tmp_path / "page.html", 4)
    page.goto(file.as_uri() + "#3")
    page.click("#agree")
    choose(page)
    page.reload()
    assert page.locator(":checked").count() >= 1
    answer_all(page)
    with page.expect_download() as download:
        page.click("#save")
    saved = tmp_path / "answers.json"
    download.value.save_as(saved)
    found = analyse_study(study, [saved])
    assert found.people.counted == 1
    assert {t.booklet for t in found.rows} == {2}


def test_hostile_labels_stay_text(page: Page, tmp_path: Path) -> None:
    run = explained(tmp_path / "run", concepts=HOSTILE, target=HOSTILE[0])
    build_study([run], tmp_path / "study", title=HOSTILE[1], consent=HOSTILE[0],
                options=StudyOptions(kinds=("attribute", "rating"), items=5, checks=0))  # fmt: skip
    with serving(tmp_path / "study", port=0) as running:
        page.goto(running.url)
        assert page.title() == HOSTILE[1]
        assert page.locator(".consent").inner_text() == HOSTILE[0]
        page.click("#agree")
        page.locator("fieldset").first.wait_for()
        assert HOSTILE[0] in page.locator("main").inner_text()
        for _ in range(2):
            choose(page)
            turn(page)
        assert page.locator("[onerror]").count() == 0
        page.wait_for_load_state("networkidle")  # a server that ends resets what it has not answered


@pytest.mark.parametrize("width", [390, 1100])
def test_fits_the_screen_and_has_no_serious_accessibility_fault(
    page: Page, server: StudyServer, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(server.url)
    for _ in range(3):
        found = axe.Axe().run(page).response["violations"]
        assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        if page.locator("#agree").count():
            page.click("#agree")
            page.locator("fieldset").first.wait_for()
        else:
            choose(page)
            turn(page)
