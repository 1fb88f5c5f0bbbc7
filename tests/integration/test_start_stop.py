"""stop() beside whatever else happens: one process has one number at a time, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import black_boxes
from tests.support.interpreters import needs_reference_counts
from tests.support.logs import messages
from tests.support.programs import PROJECT
from tests.unit.wsgi import requests_in, serve, snapshot
from wsgi_tracebacker import TracebackerMiddleware, stop
from wsgi_tracebacker.reader.survey import survey
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.deadlines import watchdog
from wsgi_tracebacker.worker.listening import slot
from wsgi_tracebacker.worker.reporting import faults, reporter
from wsgi_tracebacker.worker.tracking import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 30


@pytest.fixture(autouse=True)
def nothing_logged_before() -> Iterator[None]:
    """What was logged once in this process may be logged again in each test."""
    faults.forget()
    yield
    faults.forget()


def application(_: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return [b"x"]


def files_beside(base: str) -> list[str]:
    return sorted(os.listdir(os.path.dirname(base)))


def run(*works: Callable[[], object]) -> None:
    """All at the same time, each on a thread of its own."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


def serves_and_is_seen(wrapped: TracebackerMiddleware, base: str) -> bool:
    """Whether a request of this thread is served, and shown in flight by worker 1, the only one."""
    seen: list[Any] = []

    def look(_: Any, start_response: Any) -> Any:
        seen.extend(requests_in(snapshot(base)))
        return application(_, start_response)

    serve(TracebackerMiddleware(look, base))
    return serve(wrapped).chunks == [b"x"] and len(seen) == 1 and files_beside(base) == ["tb1", "tb1.worker"]


@pytest.mark.parametrize("limit", [None, 60.0])
def test_requests_beside_stops_have_one_number(
    base: str, caplog: pytest.LogCaptureFixture, limit: float | None
) -> None:
    """Three threads serve while a fourth one stops all again and again: never a second number, never a warning."""
    wrapped = TracebackerMiddleware(application, base, harakiri=limit)
    ended = threading.Event()
    wrong: list[object] = []

    def serve_on() -> None:
        while not ended.is_set():
            if serve(wrapped).chunks != [b"x"]:
                wrong.append("an answer")
            wrong.extend(name for name in files_beside(base) if not name.startswith("tb1"))

    def stop_often() -> None:
        for _ in range(20):
            stop()
            time.sleep(0.02)
        ended.set()

    run(serve_on, serve_on, serve_on, stop_often)
    assert (wrong, faults.count(), messages(caplog)) == ([], 0, [])
    assert serves_and_is_seen(wrapped, base)
    stop()
    assert files_beside(base) == []


def test_a_request_beside_a_stop_is_served_untracked(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for the stop, and starts nothing; the first one afterwards does."""
    wrapped = TracebackerMiddleware(application, base, harakiri=60.0)
    serve(wrapped)
    served: list[object] = []
    real = reporter.Reporter.flush

    def slow(self: reporter.Reporter, timeout_seconds: float) -> None:
        run(lambda: served.append(serve(wrapped).chunks))
        real(self, timeout_seconds)

    monkeypatch.setattr(reporter.Reporter, "flush", slow)
    stop()
    assert (served, files_beside(base), agent.running()) == ([[b"x"]], [], None)
    monkeypatch.undo()
    assert serves_and_is_seen(wrapped, base)


def test_two_stops_at_once(base: str) -> None:
    """Whichever returns, all has ended."""
    wrapped = TracebackerMiddleware(application, base)
    left: list[str] = []

    def stop_and_look() -> None:
        barrier.wait(SECONDS)
        stop()
        left.extend(files_beside(base))

    for _ in range(10):
        serve(wrapped)
        barrier = threading.Barrier(3)
        run(stop_and_look, stop_and_look, stop_and_look)
    assert left == []


def stopping_first(real: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but that a signal interrupts its caller right before, whose handler stops everything."""

    def called(*arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return real(*arguments, **options)

    return called


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        pytest.param(slot, "claim", id="while it starts"),
        pytest.param(slot.Slot, "bind", id="while it has a number"),
        pytest.param(watchdog.Watchdog, "start", id="while a watchdog starts"),
        pytest.param(cores.Cores, "_free_number", id="while a core is taken"),
        pytest.param(reporter.Reporter, "flush", id="while it stops"),
    ],
)
def test_a_signals_handler_stops_it(base: str, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Wherever it interrupts: the request is served, all ends soon, and the next request starts it again."""
    wrapped = TracebackerMiddleware(application, base, harakiri=60.0)
    before = signal.signal(signal.SIGUSR1, lambda *_: stop())
    try:
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, stopping_first(getattr(owner, name)))
            began = time.monotonic()
            assert serve(wrapped).chunks == [b"x"]
            if owner is reporter.Reporter:
                stop()
            assert time.monotonic() - began < SECONDS
            assert (files_beside(base), agent.running(), faults.count()) == ([], None, 0)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert serves_and_is_seen(wrapped, base)


def test_a_stop_within_a_request(base: str) -> None:
    """The request goes on to its end, and can change its own limit no more."""
    found: list[object] = []

    def stopping(request: Any, start_response: Any) -> Any:
        stop()
        found.append(files_beside(base))
        return application(request, start_response)

    wrapped = TracebackerMiddleware(application, base)
    assert serve(TracebackerMiddleware(stopping, base)).chunks == [b"x"]
    assert found == [[]]
    assert serves_and_is_seen(wrapped, base)


def test_a_fork_beside_a_stop(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is forked while its parent stops serves as a worker of its own, and waits for nobody."""
    wrapped = TracebackerMiddleware(application, base)
    serve(wrapped)
    real = reporter.Reporter.flush
    statuses: list[int] = []

    def forking(self: reporter.Reporter, timeout_seconds: float) -> None:
        child = os.fork()
        if not child:
            monkeypatch.undo()
            # The parent's number is taken until its stop is done.
            seen = serve(wrapped).chunks == [b"x"] and snapshot(base, 2)["worker"]["pid"] == os.getpid()
            stop()
            os._exit(0 if seen and files_beside(base) == ["tb1", "tb1.worker"] else 1)
        statuses.append(os.waitpid(child, 0)[1])
        real(self, timeout_seconds)

    monkeypatch.setattr(reporter.Reporter, "flush", forking)
    stop()
    assert (statuses, files_beside(base)) == ([0], [])
    monkeypatch.undo()
    assert serves_and_is_seen(wrapped, base)


#: Serves on two daemon threads while the main thread ends.
BUSY = """
import sys, threading, time
from tests.unit.wsgi import serve
from tests.integration.test_start_stop import application
from wsgi_tracebacker import TracebackerMiddleware
wrapped = TracebackerMiddleware(application, sys.argv[1], harakiri=60)
def serve_on():
    while True: serve(wrapped)
for _ in range(2): threading.Thread(target=serve_on, daemon=True).start()
time.sleep(0.1)
"""


def test_a_process_that_ends_beside_requests_leaves_nothing(base: str) -> None:
    """Daemon threads serve until the interpreter stops them; none of their requests starts anything again."""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", BUSY, base], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr, files_beside(base), black_boxes.files_of(base)) == (0, "", [], [])


#: Ends, and hangs in a function that the application registered, before or after it imports the package.
HANGS_AT_EXIT = """
import atexit, os, sys
def flush_before_exit():
    print("hangs", flush=True)
    sys.stdin.readline()
if sys.argv[2] == "before":
    atexit.register(flush_before_exit)
from tests.unit.wsgi import serve
from tests.integration.test_start_stop import application
from wsgi_tracebacker import TracebackerMiddleware
if sys.argv[2] == "after":
    atexit.register(flush_before_exit)
wrapped = TracebackerMiddleware(application, sys.argv[1])
def work():
    serve(wrapped)
    sys.exit()
"""


@pytest.mark.parametrize(
    "run",
    [
        "work()",
        "os.fork() or work(); os.wait(); os._exit(0)",
        "import multiprocessing; serve(wrapped) if multiprocessing.parent_process() is None else None",
    ],
    ids=["", "in a worker that was forked after the import", "with multiprocessing loaded"],
)
@pytest.mark.parametrize("registered", ["after", pytest.param("before", marks=needs_reference_counts)])
def test_a_worker_that_hangs_at_its_end_can_be_read(registered: str, run: str, base: str) -> None:
    """In what is registered with ``atexit``, also before us, as by agents; afterwards nothing is left."""
    command = [sys.executable, "-c", HANGS_AT_EXIT + run, base, registered]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "hangs\n"
            [answer] = survey([base]).answers
            assert answer.snapshot is not None
            functions = [frame.function for stack in answer.snapshot.stacks for frame in stack.frames]
            assert functions[-1] == "flush_before_exit"
            process.communicate("go on\n", timeout=30)
            assert (process.returncode, files_beside(base), black_boxes.files_of(base)) == (0, [], [])
        finally:
            process.kill()


@needs_reference_counts
def test_a_worker_that_is_killed_while_it_hangs_at_its_end_is_no_death_of_a_request(base: str) -> None:
    """It had ended in order; its successor removes what is left and reports nothing."""
    command = [sys.executable, "-c", HANGS_AT_EXIT + "work()", base, "before"]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        process.kill()
    assert files_beside(base)
    done = subprocess.run(
        [sys.executable, "-c", HANGS_AT_EXIT + "work()", base, "never"],
        cwd=PROJECT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr, files_beside(base), black_boxes.files_of(base)) == (0, "", [], [])
