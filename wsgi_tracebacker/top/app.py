"""The live view: the head, the views, the stack beside the rows, and what each key does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, VerticalScroll
from textual.message import Message
from textual.widgets import Input, Static

from wsgi_tracebacker.analysis.live import advance
from wsgi_tracebacker.text.columns import cut, width
from wsgi_tracebacker.text.palette import COLOURED
from wsgi_tracebacker.top import detail
from wsgi_tracebacker.top.readings import Readings, Taken
from wsgi_tracebacker.top.table import RowsTable
from wsgi_tracebacker.top.view import Order, sorted_rows
from wsgi_tracebacker.top.views import VIEWS
from wsgi_tracebacker.top.worker_rows import Part, head
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual import events

    from wsgi_tracebacker.reader.elsewhere.gathered import Gathered
    from wsgi_tracebacker.reader.survey import Survey

#: Seconds between two readings, from the fastest to the slowest that ``+`` and ``-`` choose from.
INTERVALS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

#: From this width on the stack is beside the rows, and below them in a narrower terminal.
_BESIDE_COLUMNS = 120

#: Between the parts of a line.
_PART_GAP = 2

#: A note is shown for so long.
_NOTE_SECONDS = 5.0

#: The keys for people: docs/reference/top.md has the same table.
KEYS = (
    ("up down, k j", "select another row; page up and down, home and end too"),
    ("enter", "show the stack of the selected row, or hide it; escape hides it too"),
    ("J K", "scroll the stack; the mouse does, too"),
    ("1 to 5, tab", "requests, places, workers, locks and pools, routes"),
    ("/", "show only rows with these words; escape ends it"),
    ("s", "sort by the next column; S: the other way round"),
    ("i", "show idle threads too, in the view of requests"),
    ("space, p", "pause, and go on"),
    ("+ -", "look more often, or less often"),
    ("w", "write this reading to a file, as wsgi-tb read --format json does"),
    ("?", "this help"),
    ("ctrl+z", "suspend; fg brings it back"),
    ("q", "quit"),
)


class TopApp(App[None]):
    """``wsgi-tb top``."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "wsgi-tb top"

    CSS = """
    #head, #message { height: 1; }
    #views { height: 1; }
    .tab { width: auto; padding: 0 1; }
    .tab.-shown { text-style: reverse; }
    #main { height: 1fr; layout: vertical; }
    #main.-beside { layout: horizontal; }
    #stack { display: none; height: 1fr; border-top: solid $primary; scrollbar-size-vertical: 1; }
    #stack.-shown { display: block; }
    #main.-beside #stack { height: 100%; border-top: none; border-left: solid $primary; }
    #lines { width: 100%; }
    #filter { display: none; height: 1; border: none; padding: 0; }
    #help { display: none; layer: above; padding: 0 1; border: round $primary; }
    #help { width: auto; max-width: 100%; height: auto; max-height: 100%; }
    #help.-shown { display: block; }
    Screen { layers: below above; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number), f"view({number - 1})", show=False) for number in range(1, len(VIEWS) + 1)),
        Binding("J", "scroll_stack(1)", show=False),
        Binding("K", "scroll_stack(-1)", show=False),
        # Before what is typed next: those keys are the filter's already, however fast somebody types.
        Binding("slash", "filter", show=False, priority=True),
        Binding("enter", "keep_filter", show=False, priority=True),
        Binding("escape", "leave", show=False),
        Binding("s", "sort", show=False),
        Binding("S", "reverse", show=False),
        Binding("i", "idle", show=False),
        Binding("space,p", "pause", show=False),
        Binding("plus", "faster", show=False),
        Binding("minus", "slower", show=False),
        Binding("w", "write", show=False),
        Binding("question_mark", "help", show=False),
        Binding("q,ctrl+c", "quit", show=False),
        Binding("ctrl+z", "suspend_process", show=False),
    ]

    class Arrived(Message):
        """A reading has been taken."""

        def __init__(self, taken: Taken) -> None:
            super().__init__()
            self.taken = taken

    def __init__(
        self,
        first: Taken,
        ask: Callable[[], Taken],
        write: Callable[[Survey | Gathered], str],
        every_seconds: float,
        view_name: str = VIEWS[0].name,
    ) -> None:
        """What is shown, and from where.

        :param first: a reading, so that the screen is never empty.
        :param ask: takes another one; called on a thread of its own.
        :param write: writes what was found to a new file and returns its name; OSError if it cannot.
        """
        super().__init__()
        self._picture = advance(None, first.reading)
        self._found = first.found
        self._write = write
        self._every_seconds = every_seconds
        self._readings = Readings(ask, self._deliver, every_seconds)
        self._view = next(index for index, view in enumerate(VIEWS) if view.name == view_name)
        self._orders = [Order(view.sorted_by) for view in VIEWS]
        self._words: tuple[str, ...] = ()
        self._with_idle = False
        self._is_paused = False
        #: The key of the row whose stack is shown: as long as that is the same, nobody's scrolling is undone.
        self._stack_of: object = None
        #: What the last line says about a key, for a while.
        self._note = ""

    def _deliver(self, taken: Taken) -> None:
        self.post_message(self.Arrived(taken))

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        with Horizontal(id="views"):
            for index, view in enumerate(VIEWS):
                yield Tab(index, Text(f"{index + 1} {view.title}"))
        with Container(id="main"):
            yield RowsTable()
            with VerticalScroll(id="stack", can_focus=False):
                yield Static(id="lines")
        yield Input(id="filter", placeholder="words that a row must have", compact=True)
        yield Static(id="message")
        yield Static(Text("\n".join(f"{keys:14}{what}" for keys, what in KEYS)), id="help")

    def on_mount(self) -> None:
        self._table = self.query_one(RowsTable)
        self._table.focus()
        self._show()
        self._readings.start()

    def on_unmount(self) -> None:
        self._readings.stop()

    # ------------------------------------------------------------------------------------------------ what is shown

    def on_top_app_arrived(self, message: Arrived) -> None:
        if self._is_paused:
            return
        self._found = message.taken.found
        self._picture = advance(self._picture, message.taken.reading)
        self._show()

    def _show(self) -> None:
        view, order = VIEWS[self._view], self._orders[self._view]
        rows = sorted_rows(view, self._picture, order=order, words=self._words, with_idle=self._with_idle)
        self._table.show(view.columns, rows, order)
        for tab in self.query(Tab):
            tab.set_class(tab.index == self._view, "-shown")
        self._show_head()
        self._show_message()

    def _show_head(self) -> None:
        pace = "paused" if self._is_paused else f"every {self._every_seconds:g} s"
        room = self.size.width - width(pace) - _PART_GAP
        totals = fitting(head(self._picture), room)
        self.query_one("#head", Static).update(literal(f"{totals}{' ' * (room - width(totals) + _PART_GAP)}{pace}"))

    def _show_message(self) -> None:
        parts = [self._note] if self._note else []
        if self._words:
            parts.append(f"only with: {printable(' '.join(self._words))}")
        parts += map(printable, self._picture.reading.missing)
        if not self._table.row_count:
            parts.append("no row has these words" if self._words else "nothing is in flight")
        self.query_one("#message", Static).update(literal((" " * _PART_GAP).join([*parts, "? help"])))

    def on_rows_table_moved(self) -> None:
        self._show_stack()

    def on_rows_table_opened(self) -> None:
        self._open(not self.query_one("#stack").has_class("-shown"))

    def _open(self, is_shown: bool) -> None:
        self.query_one("#stack").set_class(is_shown, "-shown")
        self._show_stack()

    def _show_stack(self) -> None:
        if not self.query_one("#stack").has_class("-shown"):
            self._stack_of = None
            return
        row = self._table.selected
        lines = () if row is None else detail.lines(row, COLOURED)
        # The palette's escape sequences become styles here; those of an application are escaped already.
        self.query_one("#lines", Static).update(Text("\n").join(map(Text.from_ansi, lines)))
        if row is not None and row.key != self._stack_of:
            stack = self.query_one("#stack")
            scroll = stack.scroll_end if detail.has_one_stack(row) else stack.scroll_home
            self.call_after_refresh(scroll, animate=False)
        self._stack_of = None if row is None else row.key

    def on_resize(self, event: events.Resize) -> None:
        self.query_one("#main").set_class(event.size.width >= _BESIDE_COLUMNS, "-beside")
        self.call_after_refresh(self._show_head)

    # ---------------------------------------------------------------------------------------------------------- keys

    def action_view(self, index: int) -> None:
        if index != self._view:
            self._view = index
            self._table.forget_selection()
            self._show()

    def action_next_view(self, step: int) -> None:
        self.action_view((self._view + step) % len(VIEWS))

    def on_rows_table_title_clicked(self, message: RowsTable.TitleClicked) -> None:
        order = self._orders[self._view]
        if message.column == order.column:
            self.action_reverse()
        else:
            self._orders[self._view] = Order(message.column)
            self._show()

    def action_sort(self) -> None:
        now, shown = self._orders[self._view].column, self._table.shown_columns
        # Not by one that nobody sees.
        self._orders[self._view] = Order(next((column for column in shown if column > now), shown[0]))
        self._show()

    def action_reverse(self) -> None:
        order = self._orders[self._view]
        self._orders[self._view] = order._replace(is_descending=not order.is_descending)
        self._show()

    def action_scroll_stack(self, lines: int) -> None:
        self.query_one("#stack").scroll_relative(y=lines, animate=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002 (Textual's)
        """A slash that is typed into the filter is a part of it, and enter ends that; elsewhere enter opens a row."""
        if action in ("filter", "keep_filter"):
            # Not has_focus, which the widget learns of only after the keys that were typed with this one.
            is_written = self.screen.focused is self.query_one("#filter")
            return is_written == (action == "keep_filter")
        return True

    def action_filter(self) -> None:
        asked = self.query_one("#filter", Input)
        asked.display = True
        self.screen.set_focus(asked)

    def on_input_changed(self, event: Input.Changed) -> None:
        self._words = tuple(event.value.split())
        self._show()

    def action_keep_filter(self) -> None:
        self.query_one("#filter").display = False
        # Not focus(), which waits for its turn: what is typed next is the table's already.
        self.screen.set_focus(self._table)

    def action_leave(self) -> None:
        """What escape does: leave the help, the filter or the stack, one at a time."""
        asked = self.query_one("#filter", Input)
        if self.query_one("#help").has_class("-shown"):
            self.action_help()
        elif asked.display or asked.value:
            asked.value = ""
            self.action_keep_filter()
        else:
            self._open(False)

    def action_idle(self) -> None:
        self._with_idle = not self._with_idle
        self._show()

    def action_pause(self) -> None:
        self._is_paused = not self._is_paused
        self._readings.pause(paused=self._is_paused)
        self._show_head()

    def action_faster(self) -> None:
        self._pace(max((each for each in INTERVALS if each < self._every_seconds), default=INTERVALS[0]))

    def action_slower(self) -> None:
        self._pace(min((each for each in INTERVALS if each > self._every_seconds), default=INTERVALS[-1]))

    def _pace(self, every_seconds: float) -> None:
        self._every_seconds = every_seconds
        self._readings.set_interval(every_seconds)
        self._show_head()

    async def action_write(self) -> None:
        found = self._found
        try:
            self._note = f"written to {await asyncio.to_thread(self._write, found)}"
        except OSError as error:
            self._note = f"not written: {error.strerror or error}"
        self._show_message()
        self.set_timer(_NOTE_SECONDS, self._forget_note)

    def _forget_note(self) -> None:
        self._note = ""
        self._show_message()

    def action_help(self) -> None:
        self.query_one("#help").toggle_class("-shown")


class Tab(Static):
    """The title of a view; a click shows the view."""

    def __init__(self, index: int, title: Text) -> None:
        super().__init__(title, classes="tab")
        self.index = index

    def on_click(self) -> None:
        app = self.app
        assert isinstance(app, TopApp)
        app.action_view(self.index)


def literal(shown: str) -> Text:
    """One line that is cut where there is no room; never markup."""
    return Text(shown, no_wrap=True, overflow="ellipsis")


def fitting(parts: list[Part], room: int) -> str:
    """Parts beside each other; where there is no room for all, those of a high rank are left out first."""
    shown = list(parts)
    while len(shown) > 1 and sum(width(part.text) + _PART_GAP for part in shown) - _PART_GAP > room:
        shown.remove(max(shown, key=lambda part: part.rank))
    return cut((" " * _PART_GAP).join(part.text for part in shown), room)
