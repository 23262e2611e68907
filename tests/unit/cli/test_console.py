"""What is printed on the terminal is not obeyed by it."""

from __future__ import annotations

import pytest
from rich.table import Table
from rich.text import Text

from diffexplain.cli.console import printable, terminal

HOSTILE = "\x1b]0;owned\x07\x9b2Jred"


def test_control_characters_become_visible() -> None:
    assert printable(HOSTILE) == "�]0;owned��2Jred"
    assert printable("a\nüñ → 中") == "a\nüñ → 中"


def test_tables_text_and_plain_lines_hold_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    console = terminal()
    table = Table(title=Text(HOSTILE))
    table.add_column("label")
    table.add_row(Text(HOSTILE))
    for shown in (table, Text(f"note: {HOSTILE}", style="yellow"), HOSTILE):
        console.print(shown)
    said = capsys.readouterr().out
    assert said.count("red") == 4
    assert not {"\x1b", "\x07", "\x9b"} & set(said)


def test_styles_still_reach_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal().print(Text(HOSTILE, style="yellow"))
    said = capsys.readouterr().out
    assert "\x1b[33m�]0;owned" in said
    assert "\x1b]" not in said
