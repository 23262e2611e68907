"""The report: order, missing numbers, truth, escaping, sizes, determinism."""

from __future__ import annotations

import html
import io
import json
import re
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffexplain.errors import RunError
from diffexplain.records import Agreement, ConceptResult, Result
from diffexplain.report import write_report
from diffexplain.report.album import LADDER, Album, choose, encode
from diffexplain.report.axis import Axis
from diffexplain.report.page import hero, page
from diffexplain.report.rows import Node, rows, tree
from diffexplain.report.wording import answer
from tests import factories
from tests.factories import concept_result, effect

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def finished() -> tuple[Result, factories.Pictures]:
    return factories.run()


@pytest.fixture(scope="module")
def markup(finished: tuple[Result, factories.Pictures]) -> str:
    return page(*finished)


def data_of(markup: str) -> dict[str, Any]:
    """What the page's script reads."""
    embedded = re.search(r'(?s)id="data">(.*?)</script>', markup)
    assert embedded
    read: dict[str, Any] = json.loads(embedded[1])
    return read


def text_of(markup: str) -> str:
    """What a reader sees, roughly."""
    body = re.sub(r"(?s)<(style|script)\b.*?</\1>", "", markup)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))


def asked(*concepts: ConceptResult, **more: object) -> str:
    return page(factories.result(concepts, **more), picture)  # type: ignore[arg-type]


def picture(name: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (len(name), 40, 90)).save(out, "PNG")
    return out.getvalue()


def test_answer_links_to_its_rows(finished: tuple[Result, factories.Pictures], markup: str) -> None:
    result = finished[0]
    anchors = [part.anchor for s in answer(result, rows(result)) for part in s if part.anchor]
    assert len(anchors) == 3
    assert all(markup.count(f'id="{a}"') == 1 and f'href="#{a}"' in markup for a in anchors)


def test_page_when_nothing_was_measured() -> None:
    markup = text_of(
        asked(concept_result("hat", status="ruled out"), concept_result("b", status="not eligible"))
    )
    assert "ruled out early, not estimated" in markup
    assert "not eligible: no image where it could be added" in markup
    assert "The strongest effects" not in markup


def test_page_of_an_empty_result() -> None:
    markup = text_of(asked())
    assert "Nothing was asked, so there is no answer." in markup
    assert "What was asked, and what it cost" in markup


def test_rows_are_ranked_by_size_then_race_then_name() -> None:
    concepts = [
        concept_result("none", status="not eligible"),
        concept_result("b", status="ruled out", race=0.1),
        concept_result("a", status="ruled out", race=-0.4),
        concept_result("small", effect=0.2),
        concept_result("broken", effect=nan),
        concept_result("large", effect=-2.0),
    ]
    ranked = rows(factories.result(concepts))
    assert [r.result.concept for r in ranked] == ["large", "small", "broken", "a", "b", "none"]
    assert [r.rank for r in ranked] == [1, 2, 0, 0, 0, 0]


def test_tree_nests_paths_and_sorts_siblings_by_size() -> None:
    concepts = [
        concept_result("hair/colour/red", effect=0.3, q=0.01),
        concept_result("hair/colour/black", effect=-0.9, q=0.01),
        concept_result("hair/style", effect=0.5, q=0.5),
        concept_result("hair/style", "remove", effect=-0.6, q=0.5),
        concept_result("sticker/star", effect=2.0, q=0.01),
        concept_result("sticker/dot", status="ruled out"),
    ]
    roots = tree(rows(factories.result(concepts)))

    def outline(nodes: list[Node]) -> list[object]:
        return [(n.name, outline(n.children)) if n.children else n.name for n in nodes]

    assert outline(roots) == [
        ("sticker", ["star", "dot"]),
        ("hair", [("colour", ["black", "red"]), "style"]),
    ]
    hair = roots[1]
    assert [row.result.direction for row in hair.children[1].rows] == ["remove", "add"]
    assert hair.rows == []
    assert hair.strongest is not None
    assert hair.strongest.result.concept == "hair/colour/black"
    assert (hair.found_below, len(hair.below), hair.opened) == (2, 4, True)


def test_nan_never_reaches_the_page() -> None:
    row = effect("r", "e", presence=(nan, nan))
    row = replace(row, probability_before=nan, probability_after=nan)
    wide = replace(concept_result("a/b", effect=1.0, q=nan, half=inf, examples=[row]), p=nan, outside=nan)
    markup = asked(wide, concept_result("c", effect=nan), concept_result("d", status="ruled out"))
    assert not re.search(r"\b(nan|NaN|inf|None|Undefined)\b", text_of(markup))
    assert "nan" not in "".join(re.findall(r'style="[^"]*"', markup))


def test_axis_shows_zero_and_no_interval_flattens_it() -> None:
    axis = Axis.over([1.0, 2.0], [-50.0, 50.0, inf])
    assert axis.low < 0 < axis.high < 4
    bar = axis.bar(2.0, -50.0, 50.0)
    assert (bar.low, bar.high, bar.cut_low, bar.cut_high) == (0.0, 100.0, True, True)
    assert bar.start == pytest.approx(axis.zero)
    assert any(value == 0 and at == pytest.approx(axis.zero) for value, at in axis.ticks())
    assert Axis.over([]).at(0.0) == pytest.approx(50.0)
    assert Axis.over([nan, 0.0]).zero == pytest.approx(50.0)


@pytest.mark.parametrize("size", [1e-6, 0.03, 0.7, 1.0, 4.2, 9000.0])
def test_axis_has_a_few_ticks(size: float) -> None:
    assert 2 <= len(list(Axis.over([-size, size / 2]).ticks())) <= 7


def test_truth_stands_beside_the_estimate_only_where_it_is_known() -> None:
    concepts = [
        concept_result("hat", effect=1.0, q=0.01),
        concept_result("hat", "remove", effect=-0.5, q=0.01),
        concept_result("bag", status="ruled out", race=0.3),
    ]
    known = asked(*concepts, truth={"add hat": 1.234, "add bag": 0.777})
    assert known.count('class="diamond"') == 2
    assert "+1.23" in text_of(known)
    assert "+0.78" in text_of(known)
    unknown = asked(*concepts)
    assert 'class="diamond"' not in unknown
    assert "true effect" not in text_of(unknown).lower()


def test_a_screened_run_says_how_far_the_two_editors_agree() -> None:
    screened = replace(
        factories.result([concept_result("hat", effect=1.0, q=0.01)], screen="pocket-turbo"),
        agreement=Agreement(7, 0.91, 0.8, 1.0),
    )
    shown = text_of(page(screened, picture))
    assert "pocket-turbo" in shown
    assert "over 7 questions, on other pictures: correlation 0.91, of ranks 0.80, same sign 1.00" in shown
    assert "Screen" not in text_of(asked(concept_result("hat", effect=1.0, q=0.01)))


def test_a_failed_edit_is_not_called_no_influence() -> None:
    few = concept_result("hat", effect=0.01, q=0.9, success=0.2, examples=[effect("r", "e")])
    assert "of the edits happened: an effect near zero says little here" in text_of(asked(few))


def test_user_text_stays_text() -> None:
    hostile = [
        concept_result(f"x/{IMAGE}", effect=2.0, q=0.01, examples=[effect("r", "e", concept=SCRIPT)]),
        concept_result(SCRIPT, effect=-1.0, q=0.01),
    ]
    markup = asked(
        *hostile, target=SCRIPT, versus=IMAGE, classifier=SCRIPT, names=(SCRIPT,), notes=(IMAGE,),
        search={SCRIPT: IMAGE}, settings={"a": [SCRIPT]},
    )  # fmt: skip
    assert "alert(1)" in markup
    assert SCRIPT not in markup
    assert "<img src=x" not in markup
    assert markup.count("</script>") == 2
    assert IMAGE in text_of(markup)


def test_each_picture_is_embedded_once(markup: str) -> None:
    data = data_of(markup)
    uris = data["pictures"]
    used = {int(n) for n in re.findall(r'data-picture="(\d+)"', markup)}
    for gallery in data["galleries"].values():
        used |= {
            pair[when] for series in gallery["series"] for pair in series for when in ("before", "after")
        }
    assert used == set(range(len(uris)))
    assert len(set(uris)) == len(uris) == markup.count("data:image/webp")
    assert len(markup) < 5_000_000


def test_page_asks_for_nothing_from_outside(markup: str) -> None:
    assert "default-src 'none'; img-src data:" in markup
    assert not re.search(r'(src|href)="(?!#|data:)', markup)
    assert "url(" not in markup
    assert "http" not in re.sub(r"http-equiv", "", text_of(markup))


def test_large_pictures_are_shrunk_to_the_budget() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    tight = choose([out.getvalue()], count=300, budget=6_000_000)
    assert tight in LADDER[2:]
    assert choose([picture("a")], count=300, budget=6_000_000) == LADDER[0]
    with Image.open(io.BytesIO(encode(out.getvalue(), tight))) as shown:
        assert max(shown.size) == tight.side
    assert choose([], 0, 100) == LADDER[0]


def test_album_numbers_pictures_in_order_of_use() -> None:
    album = Album(picture)
    assert [album.number(n) for n in ("b", "a", "b")] == [0, 1, 0]
    assert (album.ratio(), len(album.uris()), len(album)) == ("8 / 8", 2, 2)


def test_hero_shows_both_sides_and_no_concept_with_its_own_sub_type() -> None:
    pair = [effect("r", "e")]
    concepts = [
        concept_result("hat/red", effect=3.0, q=0.01, examples=pair),
        concept_result("hat", effect=2.9, q=0.01, examples=pair),
        concept_result("bag", effect=2.0, q=0.01, examples=pair),
        concept_result("tie", effect=1.9, q=0.01, examples=pair),
        concept_result("tie", "remove", effect=-0.5, q=0.01, examples=pair),
        concept_result("pin", effect=-0.4, q=0.2, examples=pair),
    ]
    shown = hero(rows(factories.result(concepts)))
    effects = [(row.result.concept, row.result.effect) for row, _ in shown]
    assert effects == [("hat/red", 3.0), ("bag", 2.0), ("tie", 1.9), ("tie", -0.5)]
    assert hero(rows(factories.result([concept_result("hat", effect=1.0, q=0.01)]))) == []


def test_same_result_gives_the_same_bytes(
    finished: tuple[Result, factories.Pictures], markup: str, tmp_path: Path
) -> None:
    path = write_report(*finished, tmp_path / "report.html")
    assert path == tmp_path / "report.html"
    assert path.read_bytes() == markup.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_title_replaces_only_the_title(tmp_path: Path) -> None:
    path = write_report(factories.result(), picture, tmp_path / "r.html", title="Night run <3>")
    markup = path.read_text("utf-8")
    assert "<title>Night run &lt;3&gt;</title>" in markup
    assert "<h1>Which meanings drive pocket:hired towards hired?</h1>" in markup


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere.*cannot be written"):
        write_report(factories.result(), picture, tmp_path / "nowhere" / "report.html")
