"""Aligns the cells of a table, also where characters take two columns of a terminal, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

#: Categories of characters that take no column: marks that stand on the character before them, and format characters,
#: such as the joiners within emoji.
_ZERO_WIDTH = ("Mn", "Me", "Cf")


def width(text: str) -> int:
    """How many columns of a terminal the text takes: East Asian wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    # Imported only for text that is not ASCII, because its tables take a megabyte.
    import unicodedata  # noqa: PLC0415

    total = 0
    for character in text:
        if unicodedata.category(character) not in _ZERO_WIDTH:
            total += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return total


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], right_aligned: Collection[str]) -> Iterator[str]:
    """Rows under their columns' names, ``-`` for None; the columns of numbers are aligned to the right."""
    cells = [list(columns)] + [["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = []
        for name, cell, columns_taken in zip(columns, row, widths, strict=True):
            space = " " * (columns_taken - width(cell))
            padded.append(space + cell if name in right_aligned else cell + space)
        yield "  ".join(padded).rstrip()
