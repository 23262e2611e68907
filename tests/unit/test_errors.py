"""Errors are one line, whatever they quote."""

import pytest

from diffexplain import errors


@pytest.mark.parametrize("kind", [errors.InputError, errors.RunError, errors.CorpusError])
def test_an_error_is_one_line(kind: type[errors.DiffexplainError]) -> None:
    assert str(kind("option a\nb\r\nc\u2028d: unknown")) == "option a b c d: unknown"


def test_a_missing_extra_names_itself() -> None:
    assert (
        str(errors.MissingExtra("web", "gradio")) == "gradio is not installed: pip install 'diffexplain[web]'"
    )
