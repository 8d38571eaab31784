"""Foreign text made safe for JSON, for a log line, and for a terminal."""

import pytest

from proxy.core.text import escape_unprintable, replace_surrogates, replace_unprintable


def test_lone_surrogates_become_question_marks() -> None:
    assert replace_surrogates("a\udce9b é") == "a?b é"


@pytest.mark.parametrize(
    ("text", "line"), [("plain é", "plain é"), ("a\nb\x1b[31m", r"a\nb\x1b[31m"), ("a\u2028b\ud800", r"a\u2028b\ud800")]
)
def test_unprintable_characters_are_escaped_into_one_line(text: str, line: str) -> None:
    assert escape_unprintable(text) == line


def test_a_terminals_text_keeps_only_line_ends_and_tabs() -> None:
    assert replace_unprintable("a\tb\n\x1b[2J\r") == "a\tb\n\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}"
