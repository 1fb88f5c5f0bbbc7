"""A widget that shows the rows of a view, one line each, and moves a selection that follows its row.

It draws the visible lines only, so a screen costs the same for ten rows and for a thousand. Textual's own DataTable
takes a quarter of a second to exchange 256 rows of ten cells. Text becomes segments, which know no markup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from wsgi_tracebacker.text.screens.grid import GAP, fit, line
from wsgi_tracebacker.top.view import PLAIN, QUIET, SLOW, STUCK, line_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual import events

    from wsgi_tracebacker.text.screens.grid import Column
    from wsgi_tracebacker.top.view import Order, Row

_STYLES = {
    PLAIN: Style(),
    QUIET: Style(dim=True),
    SLOW: Style(color="yellow"),
    STUCK: Style(color="red", bold=True),
}
_TITLES = Style(bold=True, reverse=True)
_SELECTED = Style(reverse=True)


class RowsTable(ScrollView, can_focus=True):
    """The rows under their columns' titles, which stay at the top."""

    DEFAULT_CSS = "RowsTable { height: 1fr; overflow-x: hidden; scrollbar-size-vertical: 1; }"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "move_page(-1)", show=False),
        Binding("pagedown", "move_page(1)", show=False),
        Binding("home,g", "move_to(0)", show=False),
        Binding("end,G", "move_to(-1)", show=False),
        Binding("enter", "open", show=False),
        # Not the application's: the screen's own binding, which moves the focus, would come first.
        Binding("tab", "app.next_view(1)", show=False),
        Binding("shift+tab", "app.next_view(-1)", show=False),
    ]

    class Moved(Message):
        """The selection is on another row, or its row has changed."""

    class Opened(Message):
        """The selected row is to be opened or closed."""

    class TitleClicked(Message):
        """The rows are to be sorted by a column."""

        def __init__(self, column: int) -> None:
            super().__init__()
            self.column = column

    def __init__(self) -> None:
        super().__init__()
        self._columns: Sequence[Column] = ()
        self._rows: Sequence[Row] = ()
        self._widths: list[int] = []
        self._index = 0
        #: The key of the selected row; None until somebody moves: then the first row is selected, whichever it is.
        self._key: object = None

    @property
    def selected(self) -> Row | None:
        return self._rows[self._index] if self._rows else None

    @property
    def row_count(self) -> int:
        return len(self._rows)

    @property
    def shown_columns(self) -> list[int]:
        """Those that there is room for."""
        return [index for index, taken in enumerate(self._widths) if taken]

    def show(self, columns: Sequence[Column], rows: Sequence[Row], order: Order) -> None:
        """Show other rows. The selection stays on the row with the same key, or else where it is."""
        mark = "▼" if order.is_descending else "▲"
        titles = list(columns)
        titles[order.column] = titles[order.column]._replace(title=f"{titles[order.column].title}{mark}")
        self._columns, self._rows = titles, rows
        found = next((index for index, row in enumerate(rows) if row.key == self._key), None)
        if found is not None:
            self._index = found
        elif self._key is None:
            self._index = 0
        else:
            self._index = max(0, min(self._index, len(rows) - 1))
            self._key = rows[self._index].key if rows else self._key
        self._lay_out()
        self._keep_visible()
        self.refresh()
        self.post_message(self.Moved())

    def forget_selection(self) -> None:
        """Select the first row: another view has other rows."""
        self._key = None
        self.scroll_to(y=0, animate=False)

    def follow_selection(self) -> None:
        """From now on the selection stays on this row, wherever it goes."""
        row = self.selected
        self._key = None if row is None else row.key

    def _lay_out(self) -> None:
        width = self.scrollable_content_region.width
        self._widths = fit(self._columns, [row.texts for row in self._rows], width) if self._columns else []
        self.virtual_size = Size(width, len(self._rows) + 1)

    def _keep_visible(self) -> None:
        # The titles take the first line of what is visible.
        visible = max(1, self.scrollable_content_region.height - 1)
        top = self.scroll_offset.y
        if self._index < top:
            self.scroll_to(y=self._index, animate=False)
        elif self._index >= top + visible:
            self.scroll_to(y=self._index - visible + 1, animate=False)

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if y == 0:
            return _strip(line(self._columns, [column.title for column in self._columns], self._widths), _TITLES, width)
        index = y - 1 + self.scroll_offset.y
        if index >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        row = self._rows[index]
        style = self.rich_style + _STYLES[row.look] + (_SELECTED if index == self._index else Style())
        return _strip(line_of(row, self._columns, self._widths), style, width)

    def on_resize(self) -> None:
        self._lay_out()
        self._keep_visible()
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            column = self._column_at(event.x)
            if column is not None:
                self.post_message(self.TitleClicked(column))
            return
        index = event.y - 1 + self.scroll_offset.y
        if index < len(self._rows):
            is_second = index == self._index and self._key is not None
            self._select(index)
            if is_second:
                self.post_message(self.Opened())

    def _column_at(self, x: int) -> int | None:
        begin = 0
        for index, width in enumerate(self._widths):
            if width and begin <= x < begin + width + GAP:
                return index
            begin += width + GAP if width else 0
        return None

    def action_move(self, lines: int) -> None:
        self._select(self._index + lines)

    def action_move_page(self, pages: int) -> None:
        self._select(self._index + pages * max(1, self.scrollable_content_region.height - 2))

    def action_move_to(self, index: int) -> None:
        self._select(index if index >= 0 else len(self._rows) - 1)

    def action_open(self) -> None:
        self.follow_selection()
        self.post_message(self.Opened())

    def _select(self, index: int) -> None:
        if not self._rows:
            return
        self._index = max(0, min(index, len(self._rows) - 1))
        self.follow_selection()
        self._keep_visible()
        self.refresh()
        self.post_message(self.Moved())


def _strip(text: str, style: Style, width: int) -> Strip:
    return Strip([Segment(text, style)]).adjust_cell_length(width, style)
