"""Reports go out, whatever logging and the application's callable do."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import wait_until
from wsgi_tracebacker.model.report import HarakiriReport, Verdict
from wsgi_tracebacker.model.snapshot import Request
from wsgi_tracebacker.worker import logs, primitives
from wsgi_tracebacker.worker.reporter import HANGS_AFTER_SECONDS, Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPORT = HarakiriReport(
    kind="harakiri",
    request=Request("GET", "/x", None, None, None, 0.0, 1.0, "app"),
    worker=1,
    core=0,
    pid=1,
    limit_seconds=1.0,
    late_seconds=0.0,
    action="log",
    outcome="logged",
    timeline=(),
    verdict=Verdict("unknown", "a test"),
    stack=None,
    system_call=None,
    others=(),
)


class Handler(logging.Handler):
    """Does what a test says, then keeps the message."""

    def __init__(self, first: Callable[[], object] | None = None) -> None:
        super().__init__()
        self.first = first
        self.messages: list[str] = []

    def handle(self, record: logging.LogRecord) -> bool:
        if self.first is not None:
            self.first()
        self.messages.append(record.getMessage())
        return True


@pytest.fixture
def reporter() -> Iterator[Reporter]:
    made = Reporter(primitives.bind())
    yield made
    made.stop(5.0)
    logger = logging.getLogger(logs.HARAKIRI)
    logger.propagate, logger.handlers = True, []


def use(handler: logging.Handler) -> None:
    logger = logging.getLogger(logs.HARAKIRI)
    logger.propagate, logger.handlers = False, [handler]


def post(reporter: Reporter, message: str, **more: Any) -> Any:
    return reporter.post(logs.HARAKIRI, logging.ERROR, "harakiri", message, {}, **more)


def test_in_order(reporter: Reporter) -> None:
    """One after the other, on a thread of its own, which ends with the last one said."""
    handler = Handler()
    use(handler)
    idents: list[int] = []
    handler.first = lambda: idents.append(threading.get_ident())
    for number in range(20):
        post(reporter, str(number))
    reporter.stop(5.0)
    assert handler.messages == [f"harakiri: {number}" for number in range(20)]
    assert len(set(idents)) == 1
    assert idents[0] != threading.get_ident()


def test_logging_hangs(reporter: Reporter, capfd: pytest.CaptureFixture[str]) -> None:
    """What it hangs with and what waits behind it is written to stderr, once; then nobody waits for it any more."""
    let_go = threading.Event()
    use(Handler(let_go.wait))
    entries = [post(reporter, f"report {number}") for number in range(3)]
    wait_until(lambda: reporter.hangs(time.monotonic()), "it hangs")
    for _ in range(3):
        reporter.rescue(time.monotonic())
    for entry in entries:
        assert entry.done.acquire(timeout=10)
    lines = capfd.readouterr().err.splitlines()
    expected = [f"ERROR wsgi_tracebacker.harakiri (logging hangs): harakiri: report {number}" for number in range(3)]
    assert lines == expected
    reporter.rescue(time.monotonic())
    let_go.set()
    reporter.stop(5.0)
    assert capfd.readouterr().err == ""


def test_logging_hangs_at_the_end(reporter: Reporter, capfd: pytest.CaptureFixture[str]) -> None:
    """A process that stops waits for a moment, then says on stderr what was not logged."""
    let_go = threading.Event()
    use(Handler(let_go.wait))
    post(reporter, "the last report")
    reporter.stop(0.1)
    assert "(logging hangs): harakiri: the last report" in capfd.readouterr().err
    let_go.set()


def test_it_does_not_hang_before_its_time(reporter: Reporter) -> None:
    """A slow handler is no hung one."""
    let_go = threading.Event()
    use(Handler(let_go.wait))
    post(reporter, "report")
    began = time.monotonic()
    wait_until(lambda: reporter.hangs(began + 100), "it logs")
    assert not reporter.hangs(began)
    assert not reporter.hangs(began + HANGS_AFTER_SECONDS - 0.1)
    let_go.set()
    wait_until(lambda: not reporter.is_busy, "it has logged")


@pytest.mark.parametrize("error", [OSError, SystemExit, KeyboardInterrupt])
def test_a_handler_that_raises_ends_nothing(
    error: type[BaseException], reporter: Reporter, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even with what is meant to end a process: the report is on stderr, and the next one is logged."""

    def fail() -> None:
        raise error

    handler = Handler(fail)
    use(handler)
    assert post(reporter, "one").done.acquire(timeout=10)
    assert "harakiri: one" in capfd.readouterr().err
    handler.first = None
    assert post(reporter, "two").done.acquire(timeout=10)
    assert handler.messages == ["harakiri: two"]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_on_harakiri_raises(error: type[BaseException], reporter: Reporter) -> None:
    """That is logged, and nothing else happens."""
    handler = Handler()
    use(handler)
    seen: list[HarakiriReport] = []

    def callback(report: HarakiriReport) -> None:
        seen.append(report)
        raise error

    for message in ("one", "two"):
        post(reporter, message, report=REPORT, callback=callback)
    reporter.stop(5.0)
    assert handler.messages == ["harakiri: one", "on_harakiri raised", "harakiri: two", "on_harakiri raised"]
    assert seen == [REPORT, REPORT]


def test_on_harakiri_hangs(reporter: Reporter, capfd: pytest.CaptureFixture[str]) -> None:
    """Its own report was logged before; those behind it go to stderr."""
    handler = Handler()
    use(handler)
    let_go = threading.Event()
    first = post(reporter, "one", report=REPORT, callback=lambda report: let_go.wait())
    wait_until(lambda: handler.messages, "the first is logged")
    # Who kills waits for the callable too, as long as it may.
    assert not first.done.acquire(blocking=False)
    second = post(reporter, "two")
    wait_until(lambda: reporter.hangs(time.monotonic()), "it hangs")
    reporter.rescue(time.monotonic())
    assert second.done.acquire(timeout=10)
    assert handler.messages == ["harakiri: one"]
    assert capfd.readouterr().err == "ERROR wsgi_tracebacker.harakiri (logging hangs): harakiri: two\n"
    let_go.set()


def test_a_report_that_is_only_counted_still_reaches_the_callable(reporter: Reporter) -> None:
    """on_harakiri gets every report, the log one of each kind."""
    handler = Handler()
    use(handler)
    seen: list[HarakiriReport] = []
    post(reporter, "again", report=REPORT, callback=seen.append, logged=False)
    reporter.stop(5.0)
    assert (handler.messages, seen) == ([], [REPORT])


def test_without_a_thread_it_is_said_at_once(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process at its limit of threads still reports."""

    class NoThreads:
        allocate_lock = staticmethod(threading.Lock)

        @staticmethod
        def start_new_thread(*_: object) -> int:
            raise RuntimeError("can't start new thread")

    handler = Handler()
    use(handler)
    monkeypatch.setattr(reporter, "_primitives", NoThreads)
    assert post(reporter, "report").done.acquire(blocking=False)
    assert handler.messages == ["harakiri: report"]


def test_what_waits_is_bounded(reporter: Reporter) -> None:
    """A log that hangs for a day costs a thousand reports of memory and no more."""
    let_go = threading.Event()
    use(Handler(let_go.wait))
    for number in range(1_500):
        post(reporter, str(number))
    assert len(reporter._waiting) <= 1_000
    reporter._waiting.clear()
    let_go.set()
