"""Other answers as parts of a page, as notebook fragments, tables and forests."""

from __future__ import annotations

from dataclasses import asdict, replace
from math import isnan
from pathlib import Path
from typing import cast

import pytest

from diffexplain.api.answers import Audit, Mitigation, SpuriousReport
from diffexplain.classifiers.modules import ModuleClassifier
from diffexplain.errors import InputError, RunError
from diffexplain.report import sections, wording
from diffexplain.report.beside import Section
from tests import factories
from tests.unit.report import answers
from tests.unit.report.answers import SCRIPT

NETWORK = cast("ModuleClassifier", None)  # a mitigation shows itself without it


def cells(part: Section, table: int = 0) -> dict[str, tuple[str, ...]]:
    """A table by the first cell of each row."""
    return {row[0]: tuple(map(spaced, row[1:])) for row in part.tables[table].rows}


def spaced(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_synthesis_tells_its_score_beside_the_plain_prompts() -> None:
    (part,) = sections.synthesis_sections(answers.synthesis(factories.Pictures()))
    rows = cells(part)
    assert rows["the optimised prompt"][0] == wording.signed(3.1)
    assert rows["the plain prompt"] == (wording.signed(-0.4), "25 %")
    assert "a picture of one" in part.tables[0].caption
    assert [plate.badge for plate in part.plates] == [wording.signed(3.1)] * 2
    told = " ".join(part.paragraphs)
    assert "nearest words are blazer" in told
    assert "In real words: a blue suit." in told
    assert "Note: drawn by a small model" in told


def test_units_that_carry_most_are_pictured_first() -> None:
    units, shortcuts = sections.spurious_sections(answers.spurious(factories.Pictures()))
    assert list(cells(units)) == [f"head.drop:{i}" for i in range(4)]
    shown = [plate.caption.partition(",")[0] for plate in units.plates]
    assert list(dict.fromkeys(shown)) == ["head.drop:1", "head.drop:3", "head.drop:0"]
    assert shortcuts.title == "Shortcuts of hired"
    assert cells(shortcuts)["+background/colour/blue"][0] == wording.signed(1.2)
    without = replace(answers.spurious(factories.Pictures()), shortcuts=())
    assert len(sections.spurious_sections(without)) == 1


def test_an_audit_tells_gaps_shares_and_its_reader() -> None:
    edits, counts = sections.audit_sections(answers.audit())
    assert cells(edits)["+skin tone/dark"][2:6] == (
        "0.002", "−0.70", "−0.02", "−0.75 (−1.10 to −0.40)"
    )  # fmt: skip
    assert cells(edits)["−sticker/star"][3:6] == (wording.NOTHING,) * 3
    assert "skin tone matters: q 0.003, largest gap −0.80" in " ".join(edits.paragraphs)
    assert "Note: few pictures" in edits.paragraphs
    assert [t.caption for t in counts.tables[:2]] == [
        f"{x}, against plain prompt" for x in ("hired", "rejected")
    ]
    assert cells(counts)["skin tone: light"] == ("80 %", "70 % to 90 %", "50 %", "0.31", "0.004")
    assert cells(counts)["skin tone: dark"][-2:] == ("", "")
    assert cells(counts, 2)["skin tone: dark"] == ("20", "75 %", "light (5)")


def test_an_audit_has_only_the_parts_that_it_measured() -> None:
    (edits,) = sections.audit_sections(answers.audit(shares=()))
    (counts,) = sections.audit_sections(answers.audit(gaps=(), readings=()))
    assert (edits.title, counts.title) == ("Audit by edits: skin tone", "Audit by counts: skin tone")
    assert len(counts.tables) == 2
    (nothing,) = sections.audit_sections(answers.audit(gaps=(), shares=()))
    assert nothing.paragraphs == ("Nothing could be measured.", "Note: few pictures")


def test_a_mitigation_stands_before_and_after() -> None:
    (part,) = sections.mitigation_sections(answers.mitigation())
    assert list(cells(part)) == ["before", "after"]
    assert "10 % of the shortcut’s gap is left, 1.0 points" in spaced(part.paragraphs[0])
    assert "units 3, 7 damped" in part.paragraphs[0]


# -- in a notebook --------------------------------------------------------------------------------------


def test_answers_show_themselves_without_script() -> None:
    keep = factories.Pictures()
    hostile = [
        Audit(answers.audit(SCRIPT), None),
        SpuriousReport(answers.spurious(keep, SCRIPT, SCRIPT), None, keep.stored),
        Mitigation(answers.mitigation(SCRIPT), NETWORK, None),
    ]
    for answer in hostile:
        shown = answer._repr_html_()
        assert "<script" not in shown
        assert "&lt;script&gt;" in shown
        assert "<table" in shown
    assert hostile[1]._repr_html_().count("data:image/webp") == 6  # two of each of three units
    assert "few pictures" in hostile[0]._repr_html_()


def test_tables_have_one_row_each() -> None:
    audit = Audit(answers.audit(), None)
    shares = audit.to_frame()
    assert shares[["label", "attribute", "against"]].to_numpy().tolist() == [
        ["hired", "skin tone", "plain"], ["rejected", "skin tone", "plain"],
    ]  # fmt: skip
    assert audit.to_frame("gaps").set_index("concept").loc["skin tone/dark", "gap"] == -0.8
    assert len(Audit(answers.audit(shares=()), None).to_frame()) == 2  # its edits
    units = SpuriousReport(answers.spurious(factories.Pictures()), None).to_frame().set_index("unit")
    assert len(units) == 4
    assert units.loc["head.drop:1", ["share", "by_intervention", "words"]].tolist() == [0.7, "core", "tie"]
    assert isnan(units.loc["head.drop:0", "share"])
    both = Mitigation(answers.mitigation(), NETWORK, None).to_frame().set_index("when")
    assert both["gap"].to_dict() == {"before": 2.0, "after": 0.2}
    with pytest.raises(InputError, match="the table of an audit is of shares or gaps"):
        audit.to_frame("units")


def test_forests_draw_a_line_a_row() -> None:
    audit = Audit(answers.audit(), None)
    report = SpuriousReport(answers.spurious(factories.Pictures()), None)
    mitigation = Mitigation(answers.mitigation(), NETWORK, None)
    drawn = {
        "+ skin tone/dark": audit.plot("gaps"),
        "hired: skin tone/light": audit.plot(),
        "head.drop:2": report.plot(),
        "+ background/colour/blue": report.plot("shortcuts"),
        "before": mitigation.plot(),
        "after": mitigation.plot("accuracy"),
    }
    for name, figure in drawn.items():
        assert name in [text.get_text() for text in figure.axes[0].texts]
    points = [x for line in drawn["+ skin tone/dark"].axes[0].lines if len(x := line.get_xdata()) == 1]
    assert sorted(x[0] for x in points) == [-0.8, 0.1]
    hollow = [
        x.get_markerfacecolor() for x in drawn["+ skin tone/dark"].axes[0].lines if x.get_marker() == "o"
    ]
    assert hollow.count("white") == 1  # the star, which is undecided
    with pytest.raises(InputError, match="an audit is drawn as shares or gaps"):
        audit.plot("forest")
    with pytest.raises(RunError, match="figure gaps: an audit without any"):
        Audit(answers.audit(gaps=()), None).plot("gaps")


# -- read back ------------------------------------------------------------------------------------------


def test_an_audit_is_read_back_from_folder_and_file(tmp_path: Path) -> None:
    folder = answers.folders(tmp_path)["audit"]
    assert Audit.read(folder) == Audit.read(folder / "audit.json") == Audit(answers.audit(), folder)


@pytest.mark.parametrize("text", ["{}", "[1]", "not json", '{"classifier": 3}'])
def test_what_is_no_audit_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "audit.json").write_text(text, "utf-8")
    with pytest.raises(RunError, match=r"holds no AuditResult .*: give the file that `audit`"):
        Audit.read(tmp_path)
    with pytest.raises(RunError, match="no finished answer here"):
        Audit.read(tmp_path / "nowhere")


def test_the_strongest_value_differs_most() -> None:
    row = replace(answers.audit().shares[0], shares=(0.5, 0.2), reference_shares=(0.5, 0.6))
    assert row.values[row.strongest] == "dark"
    assert "strongest" not in asdict(row)
