"""No request waits for a log line, and no line is lost."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_worker_processes import fork_without_our_hook, in_child
from tests.support.interpreters import only_on_cpython
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware, stop
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.reporting import faults, reporter
from wsgi_tracebacker.worker.tracking import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: A handler that hangs holds a request no longer. It takes milliseconds; this is for a loaded machine.
PATIENCE_SECONDS = 0.2


def awake_seconds() -> float:
    """The monotonic clock, less the time that this thread was ready to run and had no CPU."""
    return time.monotonic() - int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


class Hanging(logging.Handler):
    """Hangs until the test releases it."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Event()
        self.let_go = threading.Event()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.has_begun.set()
        self.let_go.wait(30)
        self.messages.append(record.getMessage())


@pytest.fixture
def handler() -> Iterator[Hanging]:
    """The only handler of our loggers."""
    logger = logging.getLogger("wsgi_tracebacker")
    made = Hanging()
    logger.addHandler(made)
    logger.propagate = False
    faults.forget()
    yield made
    made.let_go.set()
    stop()
    logger.propagate = True
    logger.removeHandler(made)
    faults.forget()


def quick(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [])
    return [b"x"]


def fail(*_: Any, **__: Any) -> Any:
    raise OSError("of ours")


def first_request(base: str, _: pytest.MonkeyPatch) -> WSGIApplication:
    return TracebackerMiddleware(quick, f"{base}/missing", harakiri=5, harakiri_action="kill")


def fault_where_the_worker_starts(base: str, monkeypatch: pytest.MonkeyPatch) -> WSGIApplication:
    monkeypatch.setattr(agent.Agent, "__init__", fail)
    return TracebackerMiddleware(quick, base)


def fault_where_a_request_begins(base: str, monkeypatch: pytest.MonkeyPatch) -> WSGIApplication:
    monkeypatch.setattr(cores.Cores, "take", fail)
    return TracebackerMiddleware(quick, base)


def fault_of_the_harakiri_callable(base: str, _: pytest.MonkeyPatch) -> WSGIApplication:
    return TracebackerMiddleware(quick, base, harakiri=fail)


def request_within_a_request(base: str, _: pytest.MonkeyPatch) -> WSGIApplication:
    inner = TracebackerMiddleware(quick, f"{base}other")
    return TracebackerMiddleware(lambda *_: inner(environ(), lambda *_: print), base)


@pytest.mark.parametrize(
    "case",
    [
        first_request,
        fault_where_the_worker_starts,
        fault_where_a_request_begins,
        fault_of_the_harakiri_callable,
        request_within_a_request,
    ],
)
@pytest.mark.parametrize("holds_the_lock", [False, True], ids=["", "with the handler's lock"])
def test_no_request_waits_for_a_log_line(
    case: Any,
    holds_the_lock: bool,
    base: str,
    handler: Hanging,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The handler hangs, or the request holds its lock: it takes milliseconds, and the line is on stderr."""
    with monkeypatch.context() as patched:
        application = case(base, patched)
        if holds_the_lock:
            handler.acquire()
        seconds = []
        for _ in range(3):
            began = awake_seconds()
            application(environ(), lambda *_: print)
            seconds.append(awake_seconds() - began)
        reporter.current().flush(10.0)
        if holds_the_lock:
            handler.release()
    assert max(seconds) < PATIENCE_SECONDS
    assert " wsgi_tracebacker (logging hangs): " in capfd.readouterr().err


def test_a_thread_in_the_handler_holds_no_other_request(base: str, handler: Hanging) -> None:
    """The application logs, and its handler hangs: lines that we log meanwhile hold no other request."""
    application = TracebackerMiddleware(quick, f"{base}/missing")
    thread = threading.Thread(target=logging.getLogger("wsgi_tracebacker").warning, args=("the application's",))
    thread.start()
    began = awake_seconds()
    assert serve(application).chunks == [b"x"]
    assert awake_seconds() - began < PATIENCE_SECONDS
    handler.let_go.set()
    thread.join()
    wait_until(lambda: len(handler.messages) == 2, "both are logged")


_ENDS_AT_ONCE = """
import atexit, logging, sys
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker.reporting import faults

logging.basicConfig(format="logged %(name)s: %(message)s")
atexit.register(faults.warn_once, "end", "a warning after our own end")
application = TracebackerMiddleware(lambda environ, start_response: [b""], "/nonexistent/tb")
application({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, print)
"""


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "raise ValueError"])
def test_a_process_that_ends_right_after_a_warning_has_logged_it(end: str) -> None:
    """The application's own handler gets the line."""
    ended = subprocess.run(
        [sys.executable, "-c", _ENDS_AT_ONCE + end],
        cwd=PROJECT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stderr.count("logged wsgi_tracebacker: cannot open a socket at /nonexistent/tb<N>") == 1
    assert ended.stderr.count("logged wsgi_tracebacker: a warning after our own end") == 1


_ENDS_WHILE_LOGGING_HANGS = """
import logging, logging.handlers, sys, threading
from tests.integration.test_log_lines import Hanging
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker.reporting import faults
hanging = Hanging()
hanging.let_go.wait = lambda _: threading.Event().wait()
closed = logging.StreamHandler()
closed.close = lambda: print("the other handler is closed", flush=True)
logging.getLogger().addHandler(closed)
"""


@pytest.mark.parametrize(
    ("handler", "hang"),
    [
        ("hanging", ["Hanging"]),
        ("logging.handlers.MemoryHandler(1, target=hanging)", ["Hanging", "MemoryHandler"]),
    ],
    ids=["", "inside another"],
)
@pytest.mark.parametrize("end", ["sys.exit(3)", "faults.warn_once('late', 'a later line'); sys.exit(3)"])
def test_a_handler_that_hangs_does_not_keep_the_process_from_ending(handler: str, hang: list[str], end: str) -> None:
    """``logging.shutdown()`` closes the other handlers; the lines, and what was left out, are on stderr."""
    start = """
wrapped = TracebackerMiddleware(lambda environ, start_response: [b""], "/nonexistent/tb")
wrapped({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, print)
assert hanging.has_begun.wait(30)
"""
    ended = subprocess.run(
        [sys.executable, "-c", f"{_ENDS_WHILE_LOGGING_HANGS}logging.getLogger().addHandler({handler})\n{start}{end}"],
        cwd=PROJECT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (3, "the other handler is closed\n"), ended.stderr
    assert [name for name in ("Hanging", "MemoryHandler") if f"{name} hangs and is not closed" in ended.stderr] == hang
    assert ("a later line" in ended.stderr) == ("late" in end)


@pytest.mark.parametrize(
    "configure",
    [
        pytest.param("", id="no handler"),
        pytest.param(
            "logging.basicConfig()",
            id="a handler",
            marks=only_on_cpython("PyPy waits for the lock of sys.stderr at its end"),
        ),
    ],
)
def test_a_stderr_that_nobody_reads_does_not_keep_the_process_from_ending(configure: str) -> None:
    """A log collector that hangs: the pipe is full, and what does not fit is left out."""
    program = f"""
import logging, sys, time
from wsgi_tracebacker import TracebackerMiddleware
{configure}
wrapped = TracebackerMiddleware(lambda environ, start_response: [b""], "/nonexistent/tb")
wrapped({{"REQUEST_METHOD": "GET", "PATH_INFO": "/"}}, print)
print(time.monotonic(), flush=True)
sys.exit(3)
"""
    reads, writes = os.pipe()
    try:
        os.set_blocking(writes, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writes, b"x" * select.PIPE_BUF)
        os.set_blocking(writes, True)
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=PROJECT, check=False, stdout=subprocess.PIPE, stderr=writes, timeout=60
        )
        took = time.monotonic() - float(ended.stdout)
    finally:
        os.close(reads)
        os.close(writes)
    assert ended.returncode == 3
    # Two, and what the interpreter needs.
    assert took < 10


@pytest.mark.parametrize("fork", [os.fork, fork_without_our_hook])
def test_a_forked_child_logs_its_own(fork: Callable[[], int], base: str, handler: Hanging) -> None:
    """Its parent's thread was in the handler when it was forked: the child's warnings are logged nevertheless."""
    application = TracebackerMiddleware(quick, f"{base}/missing")
    assert serve(application).chunks == [b"x"]
    assert handler.has_begun.wait(10)

    def serve_in_the_child() -> object:
        handler.let_go = threading.Event()
        handler.let_go.set()
        serve(application)
        stop()
        return len(handler.messages)

    assert in_child(serve_in_the_child, fork) == 1
