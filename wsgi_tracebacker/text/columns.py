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


def cut(text: str, columns: int, *, keep_end: bool = False) -> str:
    """The text in so many columns; a longer one loses its end, or else its beginning, for an ellipsis."""
    if width(text) <= columns:
        return text
    if columns <= 0:
        return ""
    kept: list[str] = []
    left = columns - 1
    for character in reversed(text) if keep_end else text:
        left -= width(character)
        if left < 0:
            break
        kept.append(character)
    return f"…{''.join(reversed(kept))}" if keep_end else f"{''.join(kept)}…"


def wrap(text: str, columns: int, most_lines: int, *, keep_end: bool = False) -> list[str]:
    """The text in lines of so many columns, broken between words; what does not fit is cut, and ends in an ellipsis."""
    lines: list[str] = []
    words = text.split(" ")
    for number, word in enumerate(words):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width(longer) <= columns:
            lines[-1] = longer
        elif len(lines) < most_lines:
            lines.append(cut(word, columns, keep_end=keep_end))
        else:
            lines[-1] = cut(f"{lines[-1]} {' '.join(words[number:])}", columns)
            break
    return lines


def wrap_all(text: str, columns: int, between: str = " ") -> list[str]:
    """The text in lines of so many columns, broken between words; a word that is longer is a line of its own.

    :param between: what stands between two words; ``", "`` breaks it between its parts.
    """
    lines: list[str] = []
    for word in text.split(between):
        longer = f"{lines[-1]}{between}{word}" if lines else word
        if lines and width(longer) <= columns:
            lines[-1] = longer
        else:
            if lines:
                lines[-1] += between.rstrip()
            lines.append(word)
    return lines


def share(wanted: Sequence[int], least: Sequence[int], available: int) -> list[int]:
    """The widths of columns that share so many: as wide as wanted if all fit, else first those that need the least."""
    widths = [min(least_one, wanted_one) for least_one, wanted_one in zip(least, wanted, strict=True)]
    while sum(widths) > available and max(widths) > 1:
        # Words that are too long for all of them: the widest gives way, and its words are cut.
        widths[widths.index(max(widths))] -= 1
    left = available - sum(widths)
    while left > 0 and widths != list(wanted):
        growing = [index for index, taken in enumerate(widths) if taken < wanted[index]]
        step = max(1, left // len(growing))
        for index in growing[:left]:
            more = min(step, wanted[index] - widths[index])
            widths[index] += more
            left -= more
    return widths
