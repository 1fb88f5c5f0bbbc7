from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.hostile import within_bounds
from wsgi_tracebacker.wire.escape import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain = ordinary", "plain = ordinary"),
        ("größe 漢字 👩‍💻", "größe 漢字 👩‍💻"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\u2028\u2029\ufeff", r"\u2028\u2029\ufeff"),
        ("caf\udce9", r"caf\udce9"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_is_unsafe_is_written_as_in_a_string_literal(text: str, expected: str) -> None:
    """Only characters that can break a line, drive a terminal or reorder it are escaped."""
    assert printable(text) == expected


@given(st.text())
def test_nothing_unsafe_is_left(text: str) -> None:
    """Whatever goes in, what comes out is UTF-8 without control characters and stays as it is a second time."""
    shown = printable(text)
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in shown)
    assert not any(unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI") for c in shown)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["\x01", "a\x1b", "\u202e", "\udc80", "漢\x9b"])
def test_text_that_is_all_escapes_is_no_work(text: str) -> None:
    """An enemy's is nothing else, and there may be 32 MiB of it."""
    encoded = text.encode("utf-8", "surrogatepass") * 1_000_000
    text *= 1_000_000
    within_bounds(lambda _: printable(text), encoded, microseconds_a_byte=0.2, bytes_a_byte=40)
