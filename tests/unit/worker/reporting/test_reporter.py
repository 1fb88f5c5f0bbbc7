"""Lines are logged, whatever logging and the application's callback do, and no request waits for them."""

from __future__ import annotations

import _thread
import functools
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import wait_until
from wsgi_tracebacker.worker.reporting import logs
from wsgi_tracebacker.worker.reporting.reporter import Entry, Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Handler(logging.Handler):
    """Calls the test's function, then keeps the message."""

    def __init__(self, first: Callable[[], object] | None = None) -> None:
        super().__init__()
        self.has_begun = threading.Event()
        self.first = first
        self.messages: list[str] = []

    def handle(self, record: logging.LogRecord) -> bool:
        self.has_begun.set()
        if self.first is not None:
            self.first()
        self.messages.append(record.getMessage())
        return True


@pytest.fixture
def lines() -> Iterator[Reporter]:
    """The reporter of a process that serves requests."""
    made = Reporter()
    made.begin(_thread.start_new_thread)
    yield made
    made.flush(5.0)
    logger = logging.getLogger(logs.HARAKIRI)
    logger.propagate, logger.handlers = True, []


def use(handler: logging.Handler) -> None:
    logger = logging.getLogger(logs.HARAKIRI)
    logger.propagate, logger.handlers = False, [handler]


def post(lines: Reporter, message: str, **more: Any) -> Entry:
    return lines.post(Entry(logs.HARAKIRI, logging.ERROR, "harakiri: %s", message, **more))


def on_stderr(message: str, why: str = "logging hangs") -> str:
    return f"ERROR wsgi_tracebacker.harakiri ({why}): harakiri: {message}\n"


def test_in_order(lines: Reporter) -> None:
    """Lines are logged one after the other, and not by the thread that posts them."""
    handler = Handler()
    use(handler)
    idents: set[int] = set()
    handler.first = lambda: idents.add(threading.get_ident())
    for number in range(20):
        post(lines, str(number))
    lines.flush(5.0)
    assert handler.messages == [f"harakiri: {number}" for number in range(20)]
    assert threading.get_ident() not in idents


def test_many_threads_post(lines: Reporter) -> None:
    """No line is lost between the end of a thread that finds no more and the next line."""
    handler = Handler()
    use(handler)

    def some() -> None:
        for _ in range(50):
            post(lines, "line")

    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: len(handler.messages) == 200, "all are logged")


def test_before_a_process_serves_it_is_logged_at_once() -> None:
    """The thread that imports the application logs it: a thread that was started there would be missing in workers."""
    handler = Handler()
    use(handler)
    idents: set[int] = set()
    handler.first = lambda: idents.add(threading.get_ident())
    assert post(Reporter(), "line").is_done
    assert idents == {threading.get_ident()}


def test_logging_hangs(lines: Reporter, capfd: pytest.CaptureFixture[str]) -> None:
    """The line that hangs and those behind it are written to stderr once; later lines are logged again."""
    let_go = threading.Event()
    handler = Handler(let_go.wait)
    use(handler)
    entries = [post(lines, f"report {number}") for number in range(3)]
    wait_until(lambda: all(entry.is_done for entry in entries), "they are on stderr")
    assert capfd.readouterr().err == "".join(on_stderr(f"report {number}") for number in range(3))
    let_go.set()
    wait_until(lambda: handler.messages, "the handler goes on")
    wait_until(lambda: not lines._logging_lock.locked(), "nothing hangs any more")
    post(lines, "later")
    lines.flush(5.0)
    assert handler.messages == ["harakiri: report 0", "harakiri: later"]
    assert capfd.readouterr().err == ""


def test_logging_hangs_at_the_end(lines: Reporter, capfd: pytest.CaptureFixture[str]) -> None:
    """A process that ends waits for a moment, then writes to stderr what was not logged."""
    let_go = threading.Event()
    handler = Handler(let_go.wait)
    use(handler)
    post(lines, "the last but one")
    assert handler.has_begun.wait(10)
    post(lines, "the last")
    lines.flush(0.1)
    assert capfd.readouterr().err == on_stderr("the last but one") + on_stderr("the last")
    let_go.set()


def test_a_slow_handler_does_not_hang(lines: Reporter, capfd: pytest.CaptureFixture[str]) -> None:
    """All lines are logged, and nothing is written to stderr."""
    pause = threading.Event()
    handler = Handler(lambda: pause.wait(0.1))
    use(handler)
    for number in range(3):
        post(lines, str(number))
    lines.flush(5.0)
    assert len(handler.messages) == 3
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("error", [OSError, SystemExit, KeyboardInterrupt])
def test_a_handler_that_raises_ends_nothing(
    error: type[BaseException], lines: Reporter, capfd: pytest.CaptureFixture[str]
) -> None:
    """A handler raises SystemExit or the like: the report is on stderr, and the next one is logged."""

    def fail() -> None:
        raise error

    handler = Handler(fail)
    use(handler)
    post(lines, "one")
    lines.flush(5.0)
    assert "harakiri: one" in capfd.readouterr().err
    handler.first = None
    post(lines, "two")
    lines.flush(5.0)
    assert handler.messages == ["harakiri: two"]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_on_harakiri_raises(error: type[BaseException], lines: Reporter) -> None:
    """The exception is logged, and nothing else happens."""
    handler = Handler()
    use(handler)
    seen: list[str] = []

    def callback(report: str) -> None:
        seen.append(report)
        raise error

    for message in ("one", "two"):
        post(lines, message, callback=functools.partial(callback, message))
    lines.flush(5.0)
    assert handler.messages == ["harakiri: one", "on_harakiri raised", "harakiri: two", "on_harakiri raised"]
    assert seen == ["one", "two"]


def test_on_harakiri_hangs(lines: Reporter, capfd: pytest.CaptureFixture[str]) -> None:
    """Its own report was logged before; those behind it are written to stderr."""
    handler = Handler()
    use(handler)
    let_go = threading.Event()
    first = post(lines, "one", callback=let_go.wait)
    second = post(lines, "two")
    wait_until(lambda: second.is_done, "the second is on stderr")
    # Who kills waits for the callable too, as long as it may.
    assert not first.is_done
    assert handler.messages == ["harakiri: one"]
    assert capfd.readouterr().err == on_stderr("two")
    let_go.set()


def test_a_report_that_is_only_counted_still_reaches_the_callable(lines: Reporter) -> None:
    """on_harakiri gets every report; one of each kind is logged."""
    handler = Handler()
    use(handler)
    seen: list[str] = []
    post(lines, "again", callback=lambda: seen.append("again"), is_logged=True)
    lines.flush(5.0)
    assert (handler.messages, seen) == ([], ["again"])


@pytest.mark.parametrize("had", [0, 1])
def test_without_threads_it_is_reported_all_the_same(had: int, capfd: pytest.CaptureFixture[str]) -> None:
    """At the limit of threads: with one free thread that one logs the line, with none it is written to stderr."""
    threads = [_thread.start_new_thread] * had

    def start(*arguments: Any) -> int:
        if not threads:
            raise RuntimeError("can't start new thread")
        return threads.pop()(*arguments)

    handler = Handler()
    use(handler)
    lines = Reporter()
    lines.begin(start)
    entry = post(lines, "report")
    wait_until(lambda: entry.is_done, "it is written")
    lines.flush(5.0)
    assert handler.messages == (["harakiri: report"] if had else [])
    assert capfd.readouterr().err == ("" if had else on_stderr("report", "no thread"))


def test_what_waits_is_bounded(lines: Reporter, capfd: pytest.CaptureFixture[str]) -> None:
    """If very many lines are posted while a handler hangs, the last thousand are kept."""
    let_go = threading.Event()
    handler = Handler(let_go.wait)
    use(handler)
    post(lines, "first")
    assert handler.has_begun.wait(10)
    for number in range(1_500):
        post(lines, str(number))
    lines.flush(0.0)
    let_go.set()
    lines.flush(5.0)
    assert 1_000 <= len(capfd.readouterr().err.splitlines()) <= 1_002
