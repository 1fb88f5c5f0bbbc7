"""Reading ``/proc``: of this process, and files that are cut, odd or missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until
from wsgi_tracebacker.linux import proc

if TYPE_CHECKING:
    from pathlib import Path

#: Fields 3 to 22 of a ``stat`` line: the letter, the flags, and the start.
LINE = "{letter} 1 2 2 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 {ticks}"


def test_a_thread_that_waits_is_seen_waiting() -> None:
    """Letter, wait channel and system call of a thread that waits for a lock."""
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    try:
        folder = f"/proc/self/task/{thread.native_id}"
        # It may sleep for other reasons before: while it starts.
        wait_until(lambda: "futex" in (proc.wait_channel(folder) or ""), "it waits")
        wait_until(lambda: (found := proc.stat(folder)) is not None and found.letter == "S", "it sleeps")
        assert thread.native_id in proc.threads("/proc/self")
        assert proc.system_call(folder) is not None
        times = proc.run_times(folder)
        assert times is not None
        assert times[0] > 0
    finally:
        gate.set()
        thread.join()


def test_a_process_runs_until_it_is_killed() -> None:
    """A zombie does not run, nor does a process that had the pid at another time."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    folder = f"/proc/{child.pid}"
    try:
        found = proc.stat(folder)
        assert found is not None
        assert proc.runs_since(folder, found.start_ticks)
        assert not proc.runs_since(folder, found.start_ticks - 1)
    finally:
        child.kill()
    # Not yet waited for: a zombie.
    wait_until(lambda: not proc.runs_since(folder, found.start_ticks), "it is dead")
    child.wait()
    assert not proc.runs_since(folder, found.start_ticks)


@pytest.mark.parametrize(
    ("letter", "flags", "runs"), [("S", 0, True), ("R", 0x4, False), ("Z", 0, False), ("X", 0, False)]
)
def test_a_process_that_has_begun_to_end_does_not_run(letter: str, flags: int, runs: bool, tmp_path: Path) -> None:
    """The kernel releases its locks while its letter is still R."""
    (tmp_path / "stat").write_text("7 (a) S 1 (b) " + LINE.format(letter=letter, flags=flags, ticks=777))
    assert proc.runs_since(str(tmp_path), 777) is runs


@pytest.mark.parametrize("content", [None, "", "7 (python", "7 (python) S 1", "7 (python) S " + "x " * 30])
def test_what_cannot_be_read_is_none(content: str | None, tmp_path: Path) -> None:
    """The result for a file that is missing, cut or malformed."""
    if content is not None:
        for name in ("stat", "status", "schedstat"):
            (tmp_path / name).write_text(content)
    folder = str(tmp_path)
    assert proc.stat(folder) is None
    assert proc.signals(folder) is None
    assert proc.run_times(folder) is None
    assert proc.threads(folder) == ()
    assert not proc.runs_since(folder, 0)


def test_the_signals_and_users_of_this_process() -> None:
    """They are those that the process itself reads."""
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        found = proc.signals("/proc/self")
        assert found is not None
        assert found.caught >> (signal.SIGUSR2 - 1) & 1
    finally:
        signal.signal(signal.SIGUSR2, before)
    users = proc.credentials("/proc/self")
    assert users is not None
    assert (users.uids[1], users.gids[1], sorted(users.groups)) == (os.geteuid(), os.getegid(), sorted(os.getgroups()))


def test_a_long_file_is_read_to_its_end(tmp_path: Path) -> None:
    """Longer than one read, up to a bound."""
    file = tmp_path / "mountinfo"
    file.write_bytes(b"x" * 100_000)
    assert len(proc.read(str(file))) == 100_000
    file.write_bytes(b"x" * 3_000_000)
    assert len(proc.read(str(file))) < 1_100_000
