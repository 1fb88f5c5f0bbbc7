"""What the kernel says of the threads of this very process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, serve, snapshot
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker import kernel, snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: More than are read in any case.
MANY = 3 * snapshots._ALWAYS_READ


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


def test_a_snapshot_shows_the_kernels_view_of_the_oldest_requests(base: str) -> None:
    """State and wait channel of eight in any case, however slow the machine; the CPU time of each."""
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
    finally:
        gate.set()
        for thread in threads:
            thread.join()
    assert all(shown["cpu_seconds"] is not None for shown in seen)
    for shown in seen[: snapshots._ALWAYS_READ]:
        assert shown["state"] == "S"
        assert "futex" in shown["wait_channel"]


def serving(base: str) -> list[dict[str, Any]]:
    return [shown for shown in snapshot(base)["threads"] if shown["request"] is not None]
