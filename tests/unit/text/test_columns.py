"""Columns of a table."""

from __future__ import annotations

from wsgi_tracebacker.text.columns import table


def test_a_table_is_aligned() -> None:
    """Columns of numbers end in one column, others begin in one, also beside wide characters."""
    lines = table(("N", "NAME", "X"), [(1, "漢字", "a"), (None, "b\n", None)], right_aligned=("N",))
    assert list(lines) == ["N  NAME  X", "1  漢字  a", r"-  b\n   -"]
