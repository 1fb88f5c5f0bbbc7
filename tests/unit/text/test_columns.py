"""Columns of a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_tracebacker.text.columns import cut, share, table, width, wrap, wrap_all


def test_a_table_is_aligned() -> None:
    """Columns of numbers end in one column, others begin in one, also beside wide characters."""
    lines = table(("N", "NAME", "X"), [(1, "漢字", "a"), (None, "b\n", None)], right_aligned=("N",))
    assert list(lines) == ["N  NAME  X", "1  漢字  a", r"-  b\n   -"]


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("漢字漢字", 5, "漢字…"), ("漢字漢字", 4, "漢…"), ("", 1, "")],
)
def test_cutting(text: str, columns: int, expected: str) -> None:
    """What is too long ends in an ellipsis, and a wide character is never halved."""
    assert cut(text, columns) == expected


def test_cutting_may_keep_the_end() -> None:
    """The end of a path says more than its beginning."""
    assert cut("/srv/shop/orders.py:71", 13, keep_end=True) == "…orders.py:71"


def test_wrapping_breaks_between_words() -> None:
    """Words that fit stay whole; what is left after the last line is cut."""
    assert wrap("a connection of QueuePool", 12, 3) == ["a connection", "of QueuePool"]
    assert wrap("a connection of QueuePool: all 15 are out", 12, 2) == ["a connection", "of QueuePoo…"]
    assert wrap("GET /averylongword/of/a/path", 8, 2) == ["GET", "/averyl…"]
    assert wrap("", 8, 2) == [""]


@given(st.text("ab 漢🛒"), st.integers(2, 20))
def test_wrapping_all_loses_nothing(text: str, columns: int) -> None:
    """Every word is there, and only a line of one word is too long."""
    lines = wrap_all(text, columns)
    assert " ".join(lines) == text
    assert all(width(line) <= columns or " " not in line for line in lines)


def test_a_line_of_facts_is_broken_between_them() -> None:
    """The comma stays behind the fact, and a fact is in one line."""
    assert wrap_all("8 of 8 busy, 3 wait, oldest 41 s", 22, between=", ") == ["8 of 8 busy, 3 wait,", "oldest 41 s"]


@given(st.text("ab 漢🛒"), st.integers(2, 20), st.integers(1, 4))
def test_wrapped_lines_fit(text: str, columns: int, most_lines: int) -> None:
    """Whatever the text, no line is too wide, and there are not too many."""
    lines = wrap(text, columns, most_lines)
    assert 1 <= len(lines) <= most_lines
    assert all(width(line) <= columns for line in lines)


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 20)), min_size=1, max_size=4), st.integers(80, 200))
def test_columns_share_what_there_is(columns: list[tuple[int, int]], available: int) -> None:
    """Each is as wide as it has to be and no wider than it wants; nothing is left over while one wants more."""
    wanted, least = [one for one, _ in columns], [other for _, other in columns]
    widths = share(wanted, least, available)
    assert sum(widths) <= available
    assert all(min(two) <= taken <= one for taken, one, two in zip(widths, wanted, columns, strict=True))
    assert widths == wanted or sum(widths) == available
