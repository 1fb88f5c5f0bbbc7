"""What the kernel says of processes, and of the threads of this very one."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, serve, snapshot
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker import kernel
from wsgi_tracebacker.worker.stacks import snapshot as snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: More than are read in any case.
MANY = 3 * snapshots._ALWAYS_READ

#: Fields 3 to 22 of a ``stat`` line: the letter, the flags, and the start.
LINE = "{letter} 1 2 2 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 {ticks}"


@pytest.fixture
def waiting() -> Iterator[list[int]]:
    """The native ids of many threads that wait for a lock."""
    gate = threading.Event()
    threads = [threading.Thread(target=gate.wait) for _ in range(MANY)]
    for thread in threads:
        thread.start()
    found = [thread.native_id or 0 for thread in threads]
    wait_until(lambda: all(state_of(native_id) == "S" for native_id in found), "all of them wait")
    yield found
    gate.set()
    for thread in threads:
        thread.join()


def state_of(native_id: int) -> str:
    return Path(f"/proc/self/task/{native_id}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_cpu_time_of_a_thread_is_what_its_files_say(waiting: list[int]) -> None:
    """To the nanosecond for one that stands still; a thread that there is not has none."""
    for native_id in waiting:
        from_file = int(Path(f"/proc/self/task/{native_id}/schedstat").read_text().split()[0]) / 1e9
        assert kernel.cpu_seconds(native_id) == pytest.approx(from_file, abs=1e-6)
    thread = threading.Thread(target=threading.get_native_id)
    thread.start()
    thread.join()
    gone = thread.native_id or 0
    wait_until(lambda: not Path(f"/proc/self/task/{gone}").exists(), "the kernel has let it go")
    assert kernel.cpu_seconds(gone) is None


def test_without_time_the_first_ones_are_read_and_all_have_their_cpu_time(waiting: list[int]) -> None:
    """The files of so many as are asked for in any case, in the order given; the clock of each thread."""
    statuses = kernel.thread_statuses(waiting, 0.0, at_least=3)
    assert list(statuses) == waiting
    assert [statuses[native_id].state for native_id in waiting] == ["S"] * 3 + [None] * (MANY - 3)
    for native_id in waiting[:3]:
        assert "futex" in (statuses[native_id].wait_channel or "")
    assert all(status.cpu_seconds is not None for status in statuses.values())


def test_with_time_all_are_read(waiting: list[int]) -> None:
    """Where it lasts, each thread has its state and what it waits in."""
    statuses = kernel.thread_statuses(waiting, 60.0, at_least=0)
    assert {(status.state, status.wait_channel is None) for status in statuses.values()} == {("S", False)}


def test_a_snapshot_shows_the_kernels_view_of_the_oldest_requests(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """State and wait channel of eight in any case, however slow the machine; the CPU time of each. Of none, if the
    snapshot before was a moment ago.
    """
    gate = threading.Event()

    def held(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        gate.wait()
        return []

    application = TracebackerMiddleware(held, base)
    threads: list[threading.Thread] = []
    for number in range(MANY):
        thread = threading.Thread(target=serve, args=(application, environ(f"/{number}")))
        thread.start()
        threads.append(thread)
        wait_until(lambda thread=thread: state_of(thread.native_id or 0) == "S", "it waits")  # type: ignore[misc]
    try:
        wait_until(lambda: len(serving(base)) == MANY, "all are in flight")
        # Not right after the last one: see snapshots._SELDOM_SECONDS.
        threading.Event().wait(snapshots._SELDOM_SECONDS + 0.05)
        seen = sorted(serving(base), key=lambda shown: shown["request"]["age_seconds"], reverse=True)
        # Long enough that this one is soon after the one before, on a slow machine too.
        monkeypatch.setattr(snapshots, "_OFTEN_SECONDS", 60.0)
        soon_after = serving(base)
    finally:
        gate.set()
        for thread in threads:
            thread.join()
    assert all(shown["cpu_seconds"] is not None for shown in seen)
    for shown in seen[: snapshots._ALWAYS_READ]:
        assert shown["state"] == "S"
        assert "futex" in shown["wait_channel"]
    assert {(shown["state"], shown["wait_channel"]) for shown in soon_after} == {(None, None)}
    assert all(shown["cpu_seconds"] is not None for shown in soon_after)


def serving(base: str) -> list[dict[str, Any]]:
    return [shown for shown in snapshot(base)["threads"] if shown["request"] is not None]


def test_this_process_runs() -> None:
    """With its own start, and not with another: then it was another process that had the pid."""
    ticks = kernel.start_ticks() or 0
    assert kernel.runs(os.getpid(), ticks)
    assert not kernel.runs(os.getpid(), ticks - 1)
    assert not kernel.runs(2**22 + 7, ticks)


@pytest.mark.parametrize(
    ("stat", "runs"),
    [
        (LINE.format(letter="S", flags=0x400000, ticks=9), True),
        (LINE.format(letter="T", flags=0x400000, ticks=9), True),
        (LINE.format(letter="Z", flags=0x400000, ticks=9), False),
        (LINE.format(letter="X", flags=0, ticks=9), False),
        # On its way out: its locks are free already.
        (LINE.format(letter="R", flags=0x400004, ticks=9), False),
        (LINE.format(letter="S", flags=0x400000, ticks=8), False),
        ("S 1 2", False),
        ("", False),
    ],
)
def test_what_has_begun_to_end_does_not_run(stat: str, runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its name is, a process is judged by its letter, its flags and its start."""
    monkeypatch.setattr(kernel, "read_file", lambda _: b"7 (a) Z b) " + stat.encode() if stat else None)
    assert kernel.runs(7, 9) is runs
