import sys

import pytest

from diffexplain.cli import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("explain x", "missing option '--images'; see diffexplain explain --help"),
        ("explan x", "no such command 'explan'"),
        ("explain x --images y --beam z", "invalid value for '--beam'"),
    ],
)
def test_wrong_command_lines_are_one_line(
    words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["diffexplain", *words.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"diffexplain: {said}")


def test_help_is_shown_without_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["diffexplain"])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert "explain" in out + err
