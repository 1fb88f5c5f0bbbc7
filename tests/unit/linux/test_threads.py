"""What the kernel shows of the threads of this process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until
from wsgi_tracebacker.linux import threads as kernel_threads

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def waiting() -> Iterator[list[int]]:
    """The native ids of threads that wait for a lock."""
    gate = threading.Event()
    threads = [threading.Thread(target=gate.wait) for _ in range(3)]
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
    """Exact for a thread that does not run; None for a thread that does not exist."""
    for native_id in waiting:
        from_file = int(Path(f"/proc/self/task/{native_id}/schedstat").read_text().split()[0]) / 1e9
        assert kernel_threads.cpu_seconds(native_id) == pytest.approx(from_file, abs=1e-6)
    thread = threading.Thread(target=threading.get_native_id)
    thread.start()
    thread.join()
    gone = thread.native_id or 0
    wait_until(lambda: not Path(f"/proc/self/task/{gone}").exists(), "the kernel has let it go")
    assert kernel_threads.cpu_seconds(gone) is None


def test_a_thread_that_waits_says_in_what(waiting: list[int]) -> None:
    """State, wait channel and CPU time; nothing for a thread that does not exist."""
    status = kernel_threads.thread_status(waiting[0])
    assert status.state == "S"
    assert "futex" in (status.wait_channel or "")
    assert status.cpu_seconds is not None
    assert kernel_threads.thread_status(2**22 + 7) == kernel_threads.ThreadStatus()
