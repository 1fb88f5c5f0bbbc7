"""Tables that fit a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_tracebacker.text.columns import cut, width
from wsgi_tracebacker.text.screens.grid import Column, fit, line

COLUMNS = (
    Column("N", is_right=True),
    Column("PATH", least=6),
    Column("NOTE", least=5, rank=2),
    Column("ID", rank=1),
)
ROW = ("12", "/checkout/4711", "charging the card", "7f3a")

#: What takes one column of a terminal, two, and none.
texts = st.text(st.sampled_from("aé漢🙂\u0301"), max_size=20)


def test_a_table_of_any_width_is_not_cut() -> None:
    """Each column is as wide as its widest cell."""
    assert fit(COLUMNS, [ROW], None) == [2, 14, 17, 4]


def test_columns_of_a_high_rank_are_left_out_first() -> None:
    """NOTE before ID, and the first column always stays."""
    assert [bool(taken) for taken in fit(COLUMNS, [ROW], 23)] == [True, True, True, True]
    assert [bool(taken) for taken in fit(COLUMNS, [ROW], 20)] == [True, True, False, True]
    assert [bool(taken) for taken in fit(COLUMNS, [ROW], 11)] == [True, True, False, False]
    assert [bool(taken) for taken in fit(COLUMNS, [ROW], 2)] == [True, False, False, False]


def test_extra_columns_make_room_for_one_that_would_be_cut_short() -> None:
    """Those of a high rank, the highest first; a narrow terminal cuts it all the same."""
    columns = (COLUMNS[0], COLUMNS[1]._replace(good=14), Column("STATE", rank=3), Column("CLIENT", rank=6))
    row = ("12", "/checkout/4711", "running", "203.0.113.7")
    assert fit(columns, [row], 40) == [2, 14, 7, 11]
    assert fit(columns, [row], 39) == [2, 14, 7, 0]
    assert fit(columns, [row], 26) == [2, 13, 7, 0]


def test_an_optional_column_is_there_only_if_a_row_has_something_in_it() -> None:
    """Whatever the width, and its room goes to the others."""
    columns = (COLUMNS[0], COLUMNS[1], COLUMNS[2]._replace(is_optional=True), COLUMNS[3])
    empty = ("12", "/checkout/4711", "-", "7f3a")
    for room in (None, 40):
        assert fit(columns, [empty, ("1", "/", "", "-")], room) == [2, 14, 0, 4]
        assert fit(columns, [empty, ROW], room)[2] > 0
    assert fit(columns, [], None) == [1, 4, 0, 2]


def test_columns_that_can_be_cut_share_what_is_left() -> None:
    """Those that need less leave the rest to the others."""
    assert fit(COLUMNS, [ROW], 40) == [2, 14, 14, 4]
    assert fit(COLUMNS, [("1", "/", "x" * 50, "7")], 40) == [1, 4, 27, 2]


def test_a_line_has_its_cells_in_columns() -> None:
    """Numbers to the right, and what was cut off is marked where it was."""
    assert line(COLUMNS, ROW, [4, 8, 0, 4]) == "  12  /checko…  7f3a"
    assert cut("shop/orders.py:71", 8, keep_end=True) == "…s.py:71"


@given(text=texts, room=st.integers(0, 20), cuts_begin=st.booleans())
def test_a_text_is_never_wider_than_its_room(text: str, room: int, cuts_begin: bool) -> None:
    """Also with characters that take two columns, or none."""
    assert width(cut(text, room, keep_end=cuts_begin)) <= max(room, 0)


@given(rows=st.lists(st.tuples(texts, texts, texts, texts), max_size=5), room=st.integers(30, 120))
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, ...]], room: int) -> None:
    """Whatever the cells are; the first column has numbers, which are not cut."""
    rows = [("1", *row[1:3], "7f3a") for row in rows]
    widths = fit(COLUMNS, rows, room)
    assert all(width(line(COLUMNS, row, widths)) <= room for row in rows)


@pytest.mark.parametrize("room", [0, 1, -3])
def test_no_room_is_no_error(room: int) -> None:
    """A terminal may be one column wide, or none while it is resized."""
    assert len(fit(COLUMNS, [ROW], room)) == 4
