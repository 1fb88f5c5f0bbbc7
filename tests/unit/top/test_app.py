"""The live view under Textual's pilot: each view and key, the selection, the filter, lost workers, the mouse."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest
from textual.widgets import Input, Static

from tests.unit.analysis.served import IN_PAY, serving
from tests.unit.top.readings import reading, silent, worker
from wsgi_tracebacker.model.snapshot import LastRequest, Stack
from wsgi_tracebacker.reader.survey import Survey
from wsgi_tracebacker.top.app import INTERVALS, KEYS, TopApp
from wsgi_tracebacker.top.readings import Taken
from wsgi_tracebacker.top.table import RowsTable
from wsgi_tracebacker.top.views import VIEWS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from textual.pilot import Pilot

    from wsgi_tracebacker.analysis.live import WorkerReading
    from wsgi_tracebacker.reader.elsewhere.gathered import Gathered

    Piloted = Callable[[Callable[["Screen"], Coroutine[Any, Any, None]]], Callable[[], None]]

NARROW, WIDE = (80, 24), (200, 50)

PAY = serving("/pay", 9.0, core=2, frames=IN_PAY)
TWO = (serving("/checkout/1", 5.0), PAY)


class Screen:
    """The application with readings that the test hands to it, and what it shows."""

    def __init__(
        self, *workers: WorkerReading, write: Callable[[Survey | Gathered], str] = lambda _: "file.json"
    ) -> None:
        self._at = 0.0
        # Its own thread asks once in ten seconds: no reading comes unless the test delivers it.
        self.app = TopApp(self._taken(workers), lambda: self._taken(workers), write, every_seconds=10.0)
        self.pilot: Pilot[None]

    def _taken(self, workers: tuple[WorkerReading, ...], missing: tuple[str, ...] = ()) -> Taken:
        return Taken(reading(self._at, *workers, missing=missing), Survey((), missing))

    async def deliver(self, *workers: WorkerReading, seconds: float = 1.0, missing: tuple[str, ...] = ()) -> None:
        self._at += seconds
        self.app.post_message(TopApp.Arrived(self._taken(workers, missing)))
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    @property
    def table(self) -> RowsTable:
        return self.app.query_one(RowsTable)

    def lines(self) -> list[str]:
        """The table as it is on the screen, without the blanks at the end."""
        return [self.table.render_line(y).text.rstrip() for y in range(self.table.size.height)]

    def selected(self) -> str:
        row = self.table.selected
        return "" if row is None else " ".join(row.texts)

    def text(self, name: str) -> str:
        return str(self.app.query_one(f"#{name}", Static).render())

    def is_shown(self, name: str) -> bool:
        return self.app.query_one(f"#{name}").display


def piloted(size: tuple[int, int] = NARROW, workers: tuple[WorkerReading, ...] = (worker(*TWO),)) -> Piloted:
    """Run a coroutine of a test with the application on a screen of this size."""

    def decorate(test: Callable[[Screen], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        async def run() -> None:
            screen = Screen(*workers)
            async with screen.app.run_test(size=size) as screen.pilot:
                await screen.pilot.pause()
                await test(screen)

        # Not functools.wraps: pytest would take the argument of the wrapped one for a fixture.
        def wrapper() -> None:
            asyncio.run(run())

        wrapper.__name__, wrapper.__doc__ = test.__name__, test.__doc__
        return wrapper

    return decorate


@piloted()
async def test_each_view_has_a_key(screen: Screen) -> None:
    """1 to 5, and tab and shift+tab go round."""
    for number, view in enumerate(VIEWS, 1):
        await screen.press(str(number))
        assert view.columns[0].title in screen.lines()[0]
        assert view.columns[1].title in screen.lines()[0]
    await screen.press("tab")
    assert "W:C" in screen.lines()[0]
    await screen.press("shift+tab")
    assert "ROUTE" in screen.lines()[0]


@piloted()
async def test_the_selection_moves(screen: Screen) -> None:
    """By arrows, j and k, home and end, g and G, pages; it stops at both ends."""
    assert "/pay" in screen.selected()
    for keys, path in (
        *((("down",), "/checkout"), (("down",), "/checkout"), (("up",), "/pay"), (("up",), "/pay")),
        *((("j",), "/checkout"), (("k",), "/pay"), (("end",), "/checkout"), (("home",), "/pay")),
        *((("G",), "/checkout"), (("g",), "/pay"), (("pagedown",), "/checkout"), (("pageup",), "/pay")),
    ):
        await screen.press(*keys)
        assert path in screen.selected(), keys


@piloted()
async def test_the_selection_follows_the_request(screen: Screen) -> None:
    """Also if another row comes before it; when it has ended and gone, the row at its place is selected."""
    await screen.press("down")
    await screen.deliver(
        worker(serving("/checkout/1", 6.0), PAY, serving("/older", 50.0, core=3), serving("/x", 9.0, core=4))
    )
    assert "/checkout/1" in screen.selected()
    await screen.deliver(worker(PAY))
    assert "/checkout/1" in screen.selected()
    assert "ended" in screen.selected()
    await screen.deliver(worker(PAY), seconds=4.0)
    assert "/pay" in screen.selected()


@piloted()
async def test_nobody_who_moved_nothing_loses_the_top(screen: Screen) -> None:
    """Without a selection of one's own the first row is selected, whichever it is."""
    await screen.deliver(worker(*TWO, serving("/older", 50.0, core=3)))
    assert "/older" in screen.selected()


@pytest.mark.parametrize(("size", "is_beside"), [(NARROW, False), (WIDE, True)])
def test_enter_shows_the_stack(size: tuple[int, int], is_beside: bool) -> None:
    """Beside the rows, below them where it is narrow; it changes with the selection, and enter or escape hides it."""

    @piloted(size)
    async def test(screen: Screen) -> None:
        assert not screen.is_shown("stack")
        await screen.press("enter")
        assert "charge" in screen.text("lines")
        stack, table = screen.app.query_one("#stack").region, screen.table.region
        assert stack.right <= size[0]
        assert stack.bottom < size[1]
        assert (stack.x >= table.right) is is_beside
        assert (stack.y >= table.bottom) is not is_beside
        await screen.press("down")
        assert "load_order" in screen.text("lines")
        await screen.press("enter")
        assert not screen.is_shown("stack")
        await screen.press("enter", "escape")
        assert not screen.is_shown("stack")

    test()


@piloted()
async def test_the_stack_is_shown_from_its_innermost_call(screen: Screen) -> None:
    """J and K scroll it, and the next reading leaves it there; another row begins at its own innermost call."""
    await screen.pilot.resize_terminal(80, 12)
    await screen.press("enter")
    stack = screen.app.query_one("#stack")
    assert stack.scroll_offset.y == stack.max_scroll_y > 1
    await screen.press("K", "K", "J")
    assert stack.scroll_offset.y == stack.max_scroll_y - 1
    await screen.deliver(worker(*TWO))
    assert stack.scroll_offset.y == stack.max_scroll_y - 1
    await screen.press("down")
    assert stack.scroll_offset.y == stack.max_scroll_y


@piloted()
async def test_a_filter_shows_only_what_has_its_words(screen: Screen) -> None:
    """While it is written; enter keeps it and gives the keys back, escape ends it."""
    await screen.press("slash", *"pay")
    assert (screen.table.row_count, "/pay" in screen.selected()) == (1, True)
    await screen.press("enter")
    assert not screen.is_shown("filter")
    assert "only with: pay" in screen.text("message")
    await screen.press("j")
    assert "/pay" in screen.selected()
    await screen.press("escape")
    assert screen.table.row_count == 2
    await screen.press("slash", *"qjs/")
    assert screen.app.query_one(Input).value == "qjs/"
    await screen.press("escape")
    assert (screen.table.row_count, screen.is_shown("filter")) == (2, False)


@piloted()
async def test_sorting(screen: Screen) -> None:
    """s takes the next column, S turns the order round, and the title shows both; each view has its own."""
    assert "AGE▼" in screen.lines()[0]
    await screen.press("s")
    assert "W:C▼" in screen.lines()[0]
    assert "/pay" in screen.lines()[1]
    await screen.press("S")
    assert "W:C▲" in screen.lines()[0]
    assert "/checkout/1" in screen.lines()[1]
    await screen.press("2")
    assert "OLDEST▼" in screen.lines()[0]
    await screen.press("1")
    for _ in VIEWS[0].columns:
        await screen.press("s")
        assert "▼" in screen.lines()[0], "columns that are not shown are passed over"


@piloted(workers=(worker(*TWO, Stack("WSGIWorker1Core7", core=7, last_request=LastRequest("GET", "/x", 1.0))),))
async def test_idle_threads_are_shown_by_i(screen: Screen) -> None:
    """And hidden by it again."""
    await screen.press("i")
    assert "idle, 1.00 s after" in "\n".join(screen.lines())
    await screen.press("i")
    assert screen.table.row_count == 2


@pytest.mark.parametrize("key", ["space", "p"])
def test_pause_keeps_the_screen(key: str) -> None:
    """What arrives meanwhile is not shown; the same key goes on."""

    @piloted()
    async def test(screen: Screen) -> None:
        await screen.press(key)
        assert screen.text("head").endswith("paused")
        await screen.deliver(worker())
        assert screen.table.row_count == 2
        await screen.press(key)
        assert screen.text("head").endswith("every 10 s")
        await screen.deliver(worker(PAY))
        assert len([line for line in screen.lines() if "ended" in line]) == 1

    test()


@piloted()
async def test_plus_and_minus_change_the_interval(screen: Screen) -> None:
    """Down to the fastest and up to the slowest of them."""
    await screen.press("plus")
    assert screen.text("head").endswith(f"every {INTERVALS[-2]:g} s")
    await screen.press(*["plus"] * 10)
    assert screen.text("head").endswith(f"every {INTERVALS[0]:g} s")
    await screen.press(*["minus"] * 10)
    assert screen.text("head").endswith(f"every {INTERVALS[-1]:g} s")


def test_w_writes_the_reading_that_is_shown() -> None:
    """The last line has the name of the file, or why it was not written."""
    written: list[Survey | Gathered] = []

    def write(found: Survey | Gathered) -> str:
        written.append(found)
        if len(written) > 1:
            raise PermissionError(13, "Permission denied")
        return "wsgi-tb-1.json"

    async def run() -> None:
        screen = Screen(worker(*TWO), write=write)
        async with screen.app.run_test(size=NARROW) as screen.pilot:
            await screen.press("w")
            await screen.app.workers.wait_for_complete()
            await screen.pilot.pause(0.1)
            assert "wsgi-tb-1.json" in screen.text("message")
            await screen.press("w")
            await screen.pilot.pause(0.1)
            assert "Permission denied" in screen.text("message")

    asyncio.run(run())
    assert len(written) == 2


@piloted()
async def test_the_help_names_every_key(screen: Screen) -> None:
    """It fits a small terminal; ? and escape close it."""
    await screen.press("question_mark")
    assert screen.is_shown("help")
    for keys, what in KEYS:
        assert keys in screen.text("help")
        assert what in screen.text("help")
    region = screen.app.query_one("#help").region
    assert region.right <= NARROW[0]
    assert region.bottom <= NARROW[1]
    await screen.press("question_mark")
    assert not screen.is_shown("help")
    await screen.press("question_mark", "escape")
    assert not screen.is_shown("help")


@pytest.mark.parametrize("key", ["q", "ctrl+c", "ctrl+q"])
def test_quitting(key: str) -> None:
    """q, and what people try in other programs."""

    @piloted()
    async def test(screen: Screen) -> None:
        await screen.press(key)
        assert screen.app.return_code == 0
        assert not screen.app.is_running or screen.app._exit

    test()


@piloted()
async def test_a_lost_worker_is_a_row(screen: Screen) -> None:
    """Dead, silent or gone, and all of them gone: no error, and the rest goes on."""
    await screen.deliver(silent(state="dead", reason="dead: nobody listens on its socket any more"))
    assert "nobody listens" in "\n".join(screen.lines())
    await screen.deliver(silent())
    await screen.deliver(missing=("no workers behind '/run/tb'",))
    assert "gone" in "\n".join(screen.lines())
    assert "no workers behind" in screen.text("message")
    assert screen.text("head").startswith("0 workers")
    await screen.deliver(worker(PAY, pid=77))
    assert "/pay" in screen.lines()[1]


@piloted(workers=(worker(*(serving(f"/{core}", 100.0 - core, core=core) for core in range(60))),))
async def test_the_mouse(screen: Screen) -> None:
    """A click selects a row, a second one opens it; one on a title sorts; one on a tab shows a view."""
    await screen.pilot.click(RowsTable, offset=(3, 4))
    assert "/3" in screen.selected()
    await screen.pilot.click(RowsTable, offset=(3, 4))
    assert screen.is_shown("stack")
    await screen.press("enter")
    await screen.pilot.click(RowsTable, offset=(13, 0))
    assert "W:C▼" in screen.lines()[0]
    await screen.pilot.click(RowsTable, offset=(13, 0))
    assert "W:C▲" in screen.lines()[0]
    screen.table.scroll_to(y=20, animate=False)
    await screen.pilot.pause()
    assert "1:20" in screen.lines()[1]
    await screen.pilot.click("#views .tab:last-of-type", offset=(3, 0))
    assert "ROUTE" in screen.lines()[0]


@piloted(workers=(worker(*(serving(f"/{core}", 100.0 - core, core=core) for core in range(60))),))
async def test_the_selection_stays_visible(screen: Screen) -> None:
    """Beyond the last line the rows scroll, the titles do not; so too when the terminal gets smaller."""
    await screen.press("end")
    assert "/59" in screen.lines()[-1]
    assert "AGE" in screen.lines()[0]
    await screen.pilot.resize_terminal(60, 12)
    await screen.pilot.pause()
    assert "/59" in "\n".join(screen.lines())
    await screen.press("home")
    assert "/0 " in screen.lines()[1]


@pytest.mark.parametrize("size", [(200, 50), (40, 10), (10, 3), (1, 1)])
def test_any_size(size: tuple[int, int]) -> None:
    """No line is wider than the terminal, and none is an error."""

    @piloted()
    async def test(screen: Screen) -> None:
        await screen.pilot.resize_terminal(*size)
        await screen.press("enter", "1", "2", "3", "4", "5")
        assert all(len(line) <= size[0] for line in screen.lines())

    test()


@piloted(WIDE, (worker(serving("/[red]x[/red]\x1b[31m", 1.0)),))
async def test_markup_in_a_path_is_text(screen: Screen) -> None:
    """In the rows, and in the stack, of which escape sequences are the palette's only."""
    await screen.press("enter")
    assert "/[red]x[/red]" in screen.lines()[1]
    assert r"/[red]x[/red]\x1b[31m" in screen.text("lines")
    await screen.press("slash", *"[red]")
    await screen.press("enter")
    assert "only with: [red]" in screen.text("message")


def test_suspending(monkeypatch: pytest.MonkeyPatch) -> None:
    """ctrl+z stops the process as any other in a terminal; without a terminal it does nothing."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))

    @piloted()
    async def test(screen: Screen) -> None:
        await screen.press("ctrl+z")
        assert sent == []
        monkeypatch.setattr(type(screen.app._driver), "can_suspend", True)
        await screen.press("ctrl+z")
        assert sent == [signal.SIGTSTP]

    test()
