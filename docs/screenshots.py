"""The docs' pictures, from a real run in a real Chromium: `python docs/screenshots.py RUN`.

RUN is a finished run of `explain`, such as that of `diffexplain demo`. Writes WebP files below 120 KB beside
this file: the report (desktop, dark, phone, print, a concept opened), the web app, two pages of a study.
"""

from __future__ import annotations

import io
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).resolve().parent
MOST = 120_000  # bytes of a picture
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")


def keep(name: str, png: bytes) -> None:
    """A screenshot as WebP, of the best quality that is small enough."""
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGB")
    for quality in (92, 86, 80, 72, 64, 50):
        out = io.BytesIO()
        image.save(out, "WEBP", quality=quality, method=6)
        if out.tell() <= MOST:
            break
    (HERE / f"{name}.webp").write_bytes(out.getvalue())
    print(f"{name}.webp  {image.width}×{image.height}  {out.tell() / 1000:.0f} kB")


@contextmanager
def opened(browser: Browser, url: str, width: int, height: int, **options: Any) -> Iterator[Page]:
    """A page that has come to rest."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    page.goto(url)
    page.wait_for_timeout(1500)
    yield page
    context.close()


def report(browser: Browser, url: str) -> None:
    """The report as a reader sees it."""
    with opened(browser, url, 1280, 1220) as page:
        keep("report", page.screenshot())
        link = page.locator(".hero a").last
        link.click()
        leaf = page.locator(link.get_attribute("href") or "").locator("xpath=ancestor::details[1]")
        if not leaf.locator(".gallery .compare img").first.is_visible():
            leaf.locator("summary").first.click()
        leaf.locator(".gallery .compare img").first.wait_for()
        leaf.get_by_role("button", name="Show where it may act").first.click()
        page.wait_for_timeout(800)
        leaf.scroll_into_view_if_needed()
        keep("report-concept", leaf.screenshot())
    with opened(browser, url, 1280, 900, color_scheme="dark") as page:
        keep("report-dark", page.screenshot())
    with opened(browser, url, 390, 844, device_scale_factor=2, is_mobile=True) as page:
        keep("report-phone", page.screenshot())
    with opened(browser, url, 794, 1123, device_scale_factor=1.5) as page:  # A4 at 96 points an inch
        page.emulate_media(media="print")
        page.add_style_tag(content="body { padding: 12mm }")  # the paper's margin
        page.wait_for_timeout(500)
        keep("report-print", page.screenshot())


def app(browser: Browser, run: Path, root: Path) -> None:
    """The web app with the run in its list."""
    from diffexplain.web import serve

    shutil.copytree(run, root / "pocket-hired-hired-001")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    blocks = serve(root, port=port, block=False)
    try:
        with opened(browser, blocks.local_url, 1280, 1000) as page:
            page.locator("#filling li").first.wait_for()
            page.locator("#growing").get_by_text("The corpus as a tree").click()
            page.locator('#corpus-tree [data-path="facial hair"] [data-do=fold]').first.click()
            page.mouse.move(0, 0)
            page.wait_for_timeout(1000)
            keep("web", page.screenshot())
    finally:
        blocks.app_jobs.close()
        blocks.close()


def study(browser: Browser, run: Path, folder: Path) -> None:
    """The first questions of a study made from the run."""
    from diffexplain import api
    from diffexplain.api.studying import StudyOptions, serving

    api.build_study([run], folder, options=StudyOptions(checks=0))
    with serving(folder, port=0) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        with opened(browser, address, 900, 760) as page:
            page.click("#agree")
            page.wait_for_timeout(1000)
            keep("study", page.screenshot())


def main() -> None:
    """All of them."""
    run = Path(sys.argv[1]).resolve()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(ARGUMENTS))
        report(browser, (run / "report.html").as_uri())
        study(browser, run, Path(scratch) / "study")
        app(browser, run, Path(scratch) / "web")
        browser.close()


if __name__ == "__main__":
    main()
