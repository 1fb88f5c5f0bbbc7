"""Recordings from inside a worker, on its own socket: what they show, who gets one, and how they end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import clients
from tests.support.leftovers import holdings
from tests.support.programs import PROJECT
from tests.support.recordings_inside import recording
from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, serve, snapshot
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.linux.thread_waits import Files, files_with_gil
from wsgi_tracebacker.model.recording import ON_CPU, PLACE_UNKNOWN
from wsgi_tracebacker.reader.recording import from_inside, workers
from wsgi_tracebacker.worker.recordings import recordings, sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.leftovers import Holdings

#: For a machine that does much else.
PATIENCE_SECONDS = 60.0


@contextlib.contextmanager
def serving(base: str, application: Callable[[], None], paths: list[str], *, again: bool = False) -> Iterator[None]:
    """A request for each path, each in a thread that waits in ``application``, or begins again and again."""
    over = threading.Event()
    begun = threading.Semaphore(0)

    def call(*_: object) -> list[bytes]:
        application()
        return []

    wrapped = TracebackerMiddleware(call, base)

    def requests(path: str) -> None:
        begun.release()
        serve(wrapped, environ(path))
        while again and not over.is_set():
            serve(wrapped, environ(path))

    threads = [threading.Thread(target=requests, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert begun.acquire(timeout=30)
        wait_until(lambda: answers(f"{base}1"), "it listens", PATIENCE_SECONDS)
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


@contextlib.contextmanager
def sleeping(base: str, count: int = 1) -> Iterator[None]:
    """Requests that wait for an event."""
    go_on = threading.Event()

    def wait_for_it() -> None:
        go_on.wait(120)

    with serving(base, wait_for_it, [f"/held/{number}" for number in range(count)]):
        try:
            wait_until(
                lambda: sum(bool(each["request"]) for each in snapshot(base)["threads"]) == count,
                "all wait",
                PATIENCE_SECONDS,
            )
            yield
        finally:
            go_on.set()


def answers(path: str) -> bool:
    """Whether a worker is there; between bind() and listen() it refuses."""
    try:
        return clients.request(path, "/worker").status == 200
    except OSError:
        return False


def threads_beyond(before: Holdings) -> list[str]:
    return holdings().beyond(before).get("kernel_threads", [])


def test_three_requests_that_wait_are_three_times_as_long(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in its stack with what it waits for, for all seconds that were asked for, also if the first look is slow."""

    def slow() -> Files:
        # What importing ctypes and opening files take beside busy threads.
        time.sleep(0.5)
        return files_with_gil()

    monkeypatch.setattr(sampler, "files_with_gil", slow)
    with sleeping(base, 3), recording(f"{base}1", "seconds=2&rate=50") as reading:
        *lines, last = reading.to_end()
    assert last.end == "its time is over"
    covered = sum(line.seconds for line in lines)
    assert covered > 1.99
    seconds: dict[int, float] = defaultdict(float)
    kinds: dict[str, float] = defaultdict(float)
    for line in lines:
        for each in line.added:
            seconds[each.request] += each.seconds
            kinds[each.waits_for] += each.seconds
    assert seconds == {number: pytest.approx(covered, abs=0.01) for number in (1, 2, 3)}
    assert sorted(path for line in lines for _, path in line.requests) == ["/held/0", "/held/1", "/held/2"]
    functions = [frame.function for line in lines for _, frame in line.nodes]
    assert any("wait_for_it" in function for function in functions)
    assert max(kinds, key=lambda kind: kinds[kind]) == "lock"


def test_what_runs_between_looks_is_shown_without_its_place(base: str) -> None:
    """As large as the clocks of the threads prove: of C calls that keep the GIL, looks see only the pauses."""
    over = threading.Event()

    def bursts() -> None:
        while not over.is_set():
            sum(range(200_000))
            time.sleep(0.01)

    seconds: dict[str, float] = defaultdict(float)
    cpu_seconds = 0.0
    with serving(base, bursts, ["/burst"]), recording(f"{base}1", "seconds=110&rate=100") as reading:
        try:
            while not seconds[PLACE_UNKNOWN] or cpu_seconds < 0.2:
                line = reading.line()
                assert line.end is None
                cpu_seconds += line.cpu_seconds
                for each in line.added:
                    seconds[each.waits_for] += each.seconds
                    assert (each.node == 0) == (each.waits_for == PLACE_UNKNOWN)
        finally:
            over.set()
    # Also for how long it was ready to be.
    assert seconds[PLACE_UNKNOWN] + seconds[ON_CPU] > 0.8 * cpu_seconds


def test_workers_begin_together(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is recorded for longer than the others, because they are slow to begin."""
    everybody = threading.Barrier(3)

    class Together(from_inside.InsideRecorder):
        def __init__(self, *arguments: Any) -> None:
            everybody.wait(PATIENCE_SECONDS)
            super().__init__(*arguments)

    monkeypatch.setattr(workers, "InsideRecorder", Together)
    command = [sys.executable, "-m", "tests.programs.recorded", base, "/long"]
    with contextlib.ExitStack() as up:
        for _ in range(3):
            program = up.enter_context(
                subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            up.callback(program.kill)
            assert program.stdout is not None
            assert program.stdout.readline() == b"ready\n"
        opened = workers.Recordable([base], (), 1.0, 20.0, only_inside=True).open_new()
        for engine in opened.engines:
            engine.close()
    assert [engine.card.number for engine in opened.engines] == [1, 2, 3]


def test_one_at_a_time_and_nothing_before_and_after(base: str) -> None:
    """The second one is told who records until when; without a recording there is neither thread nor descriptor."""
    with sleeping(base):
        clients.request(f"{base}1", "/snapshot")
        before = holdings()
        with recording(f"{base}1", "seconds=30"):
            assert threads_beyond(before)
            refused = clients.request(f"{base}1", "/record")
            assert (refused.status, refused.text.count("\n")) == (409, 1)
            assert f"(pid {os.getpid()}, uid {os.geteuid()}) records until " in refused.text
            assert " at the latest, " in refused.text
        # It went away.
        wait_until(lambda: not holdings().beyond(before), lambda: f"all is given back: {holdings().beyond(before)}", 60)
        with recording(f"{base}1", "seconds=0.1") as reading:
            assert reading.to_end()[-1].end == "its time is over"
            # At once, although that connection is still open.
            with recording(f"{base}1", "seconds=30") as another:
                another.connection.shutdown(socket.SHUT_WR)
                assert another.to_end()[-1].end == "its client has ended it"
        wait_until(lambda: not holdings().beyond(before), lambda: f"all is given back: {holdings().beyond(before)}", 60)


def test_wrong_parameters_are_one_clear_line(base: str) -> None:
    """And nothing is recorded."""
    with sleeping(base):
        for query in ("seconds=601", "rate=0", "x=1"):
            refused = clients.request(f"{base}1", f"/record?{query}")
            assert (refused.status, refused.text.count("\n")) == (400, 1)


def test_a_client_that_does_not_read_loses_its_connection(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the patience for one line, however much of its time is left."""
    monkeypatch.setattr(recordings, "_PATIENCE_SECONDS", 0.2)
    paths = [f"/{'x' * 2000}/{number}" for number in range(4)]

    def is_free() -> bool:
        return clients.request(f"{base}1", "/record?seconds=0.1").status == 200

    with serving(base, lambda: time.sleep(0.002), paths, again=True), recording(f"{base}1", "seconds=600&rate=100"):
        wait_until(is_free, "another recording can be made", PATIENCE_SECONDS)


def test_a_fork_meanwhile_leaves_the_recording_to_the_parent(base: str) -> None:
    """The parent's goes on, and ends with the parent although the child lives; the child can be recorded as well."""
    command = [sys.executable, "-m", "tests.programs.recorded", base]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        child = 0
        try:
            assert parent.stdin is not None
            assert parent.stdout is not None
            assert parent.stdout.readline() == "ready\n"
            with recording(f"{base}1", "seconds=300") as reading:
                parent.stdin.write("fork\n")
                parent.stdin.flush()
                child = int(parent.stdout.readline())
                wait_until(lambda: answers(f"{base}2"), "the child listens", PATIENCE_SECONDS)
                with recording(f"{base}2", "seconds=300") as of_child:
                    while not (requests := of_child.line().requests):
                        pass
                assert requests == (("GET", "/long"),)
                for _ in range(3):
                    assert reading.line().end is None
                parent.kill()
                assert all(line.end is None for line in reading.to_end())
        finally:
            parent.kill()
            if child:
                os.kill(child, signal.SIGKILL)
