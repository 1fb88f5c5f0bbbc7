"""Fits a table into so many columns of a terminal: which of its columns are shown, and how wide each is.

Used where a screen has a width that the table must not exceed; ``columns`` aligns tables that may be of any width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.text.columns import cut, width

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Between two columns.
GAP = 2

#: What a cell has in which nothing is known.
UNKNOWN = "-"


#: Columns of this rank and higher are extra: good to have where there is room.
EXTRA_RANK = 4


class Column(NamedTuple):
    """One column of a table."""

    title: str
    #: The narrowest that it may become; 0: it is never cut.
    least: int = 0
    #: Extra columns are left out where it would become narrower than this.
    good: int = 0
    #: Numbers are aligned to the right.
    is_right: bool = False
    #: Columns with a higher rank are left out first where there is no room for all.
    rank: int = 0
    #: What is cut off: the begin of a file's path, the end of everything else.
    cuts_begin: bool = False
    #: It is left out where no row has anything in it.
    is_optional: bool = False


def fit(columns: Sequence[Column], cells: Sequence[Sequence[str]], available: int | None) -> list[int]:
    """The width of each column, 0 for one that is left out; ``available`` None: as wide as they are.

    Columns that can be cut share what the others leave: the narrow ones get all that they need.
    """
    by_column = list(zip(*cells, strict=True)) or [()] * len(columns)
    natural = [
        0 if column.is_optional and set(texts) <= {"", UNKNOWN} else max(map(width, (column.title, *texts)))
        for column, texts in zip(columns, by_column, strict=True)
    ]
    if available is None:
        return natural
    # What a column must have, in any case.
    needed = [max(min(n, c.least), len(c.title)) if c.least else n for c, n in zip(columns, natural, strict=True)]
    shown = [index for index in range(len(columns)) if natural[index]]
    shown.sort(key=lambda index: columns[index].rank)
    good = [max(least, min(n, c.good)) for c, n, least in zip(columns, natural, needed, strict=True)]

    def has_room(widths: Sequence[int]) -> bool:
        return sum(widths[index] + GAP for index in shown) - GAP <= available

    while len(shown) > 1 and columns[shown[-1]].rank >= EXTRA_RANK and not has_room(good):
        shown.pop()
    while len(shown) > 1 and not has_room(needed):
        shown.pop()
    widths = [needed[index] if index in shown else 0 for index in range(len(columns))]
    rest = available - sum(widths) - GAP * (len(shown) - 1)
    growing = [index for index in shown if widths[index] < natural[index]]
    while growing and rest > 0:
        share = max(1, rest // len(growing))
        for index in growing:
            more = min(share, natural[index] - widths[index], rest)
            widths[index] += more
            rest -= more
        growing = [index for index in growing if widths[index] < natural[index]]
    return widths


def line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    """One row: its cells, cut or padded to these widths."""
    shown = (
        place(column, cell, columns_taken)
        for column, cell, columns_taken in zip(columns, cells, widths, strict=True)
        if columns_taken
    )
    return (" " * GAP).join(shown)


def place(column: Column, cell: str, columns_taken: int) -> str:
    """One cell in exactly so many columns of the terminal."""
    cell = cut(cell, columns_taken, keep_end=column.cuts_begin)
    space = " " * (columns_taken - width(cell))
    return space + cell if column.is_right else cell + space
