"""The documentation site, built by zensical: `python docs/website.py [FOLDER]`, by default in build/.

FOLDER/docs holds the pages as they are, the quickstart notebook as a page and the reference; FOLDER/site the
site, which needs no server. A link to nowhere ends the build.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import reference

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "examples/quickstart.ipynb"
SHOWN = (".md", ".webp")  # what the site takes from docs/
PLACE = "    # what is named nowhere here comes in this place\n"  # in the menu


def notebook(path: Path) -> str:
    """A notebook's cells as a page."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    return "\n\n".join(t if kind == "markdown" else f"```python\n{t}\n```" for t, kind in texts) + "\n"


def gather(folder: Path) -> None:
    """Put every page where zensical reads them."""
    pages = folder / "docs"
    shutil.rmtree(pages, ignore_errors=True)
    for file in sorted((ROOT / "docs").rglob("*")):
        if file.suffix in SHOWN:
            place = pages / file.relative_to(ROOT / "docs")
            place.parent.mkdir(parents=True, exist_ok=True)
            text = file.read_bytes()
            place.write_bytes(text.replace(f"../{NOTEBOOK}".encode(), b"quickstart.md"))
    (pages / "quickstart.md").write_text(notebook(ROOT / NOTEBOOK), "utf-8")
    (pages / "reference").mkdir(exist_ok=True)
    for name, text in reference.pages().items():
        (pages / "reference" / f"{name}.md").write_text(text, "utf-8")
    (folder / "zensical.toml").write_text(menu((ROOT / "zensical.toml").read_text("utf-8"), pages), "utf-8")


def menu(config: str, pages: Path) -> str:
    """The configuration with every page in its menu."""
    there = {file.relative_to(pages).as_posix() for file in pages.rglob("*.md")}
    rest = sorted(there - set(re.findall(r'"([\w/-]+\.md)"', config)))
    return config.replace(PLACE, "".join(f'    "{name}",\n' for name in rest))


def main() -> None:
    """Gather the pages and build the site."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"
    folder.mkdir(parents=True, exist_ok=True)
    gather(folder)
    zensical = Path(sys.executable).with_name("zensical")
    done = subprocess.run([zensical, "build", "--clean", "--strict"], cwd=folder, check=False)
    if done.returncode == 0:
        print(f"site: {folder / 'site' / 'index.html'}")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
