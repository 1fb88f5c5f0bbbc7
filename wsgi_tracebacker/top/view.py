"""What a view of ``wsgi-tb top`` consists of: columns, and rows that are sorted and filtered.

Pure. Every cell is escaped here: what an application, its client or a file name says is text and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.text.columns import cut, width
from wsgi_tracebacker.text.screens.grid import GAP, UNKNOWN, line
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from wsgi_tracebacker.analysis.live import Picture, WorkerReading
    from wsgi_tracebacker.model.groups import ServedRequest
    from wsgi_tracebacker.model.snapshot import Stack
    from wsgi_tracebacker.text.screens.grid import Column

#: What a row is sorted by in one column. None comes last, whatever the direction.
Value = float | str | None

#: How a row looks. Each look says something that a cell of the row says in words too.
PLAIN, QUIET, SLOW, STUCK = "plain", "quiet", "slow", "stuck"

#: From this age people notice a request; from the next one somebody waits. As in ``text.snapshot``.
_SLOW_SECONDS = 1.0
_STUCK_SECONDS = 10.0

#: Cells before a note.
_BEFORE_NOTE = 2


class Cell(NamedTuple):
    """What stands in one column of a row."""

    #: Safe to be written to a terminal.
    text: str
    value: Value


EMPTY = Cell("", None)


class Row(NamedTuple):
    """One row of a view."""

    #: What the row is about: the selection follows it.
    key: Hashable
    cells: tuple[Cell, ...]
    look: str = PLAIN
    #: Whose stacks are shown for it, the oldest first.
    requests: tuple[ServedRequest, ...] = ()
    #: The thread that the row is about, if that serves no request.
    idle: Stack | None = None
    #: The worker that the row is about, if it is about one.
    worker: WorkerReading | None = None
    #: What stands in the place of all cells from the third on: a sentence, which is longer than any of them.
    note: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple([cell.text for cell in self.cells])


class View(NamedTuple):
    """One way to look at a picture."""

    #: As ``--view`` has it.
    name: str
    #: As the screen has it.
    title: str
    columns: tuple[Column, ...]
    #: The second argument: idle threads too.
    make_rows: Callable[[Picture, bool], Iterable[Row]]
    #: The column that it is sorted by at first.
    sorted_by: int = 0


class Order(NamedTuple):
    """What rows are sorted by."""

    column: int
    is_descending: bool = True


def sorted_rows(
    view: View, picture: Picture, *, order: Order | None = None, words: Sequence[str] = (), with_idle: bool = False
) -> list[Row]:
    """The rows of a view, sorted; only those that have each of these words in a cell, whatever the case of letters."""
    order = order or Order(view.sorted_by)
    wanted = [word.casefold() for word in words]
    found = [row for row in view.make_rows(picture, with_idle) if _has(row, wanted)]
    known = [row for row in found if row.cells[order.column].value is not None]
    known.sort(key=lambda row: _sortable(row.cells[order.column].value), reverse=order.is_descending)
    return known + [row for row in found if row.cells[order.column].value is None]


def line_of(row: Row, columns: Sequence[Column], widths: Sequence[int], *, cuts_note: bool = True) -> str:
    """A row in these widths; with ``cuts_note`` its note is no longer than they are together."""
    shown = line(columns, row.texts, widths)
    if not row.note:
        return shown
    first = line(columns[:_BEFORE_NOTE], row.texts[:_BEFORE_NOTE], widths[:_BEFORE_NOTE]) + " " * GAP
    return first + (cut(row.note, max(0, width(shown) - width(first))) if cuts_note else row.note)


def _has(row: Row, words: Sequence[str]) -> bool:
    if not words:
        return True
    shown = "\n".join((*row.texts, row.note)).casefold()
    return all(word in shown for word in words)


def _sortable(value: Value) -> tuple[float, str]:
    return (0.0, value) if isinstance(value, str) else (value or 0.0, "")


# --------------------------------------------------------------------------------------------------------------- cells


def text(value: str | None) -> Cell:
    """A text of any origin; ``-`` for None."""
    return Cell(printable(value), value) if value else Cell(UNKNOWN, None)


def number(value: float | None, shown: Callable[[float], str] = str) -> Cell:
    """A number; ``-`` for None."""
    return Cell(UNKNOWN, None) if value is None else Cell(shown(value), value)


def percent(share: float) -> str:
    """A share of one CPU: ``37%``."""
    return f"{share:.0%}"


def look_of_age(seconds: float | None) -> str:
    if seconds is None or seconds < _SLOW_SECONDS:
        return PLAIN
    return SLOW if seconds < _STUCK_SECONDS else STUCK
