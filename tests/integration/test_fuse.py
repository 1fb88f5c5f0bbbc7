"""Killing a worker in which Python cannot run, and nobody else."""

from __future__ import annotations

import _thread
import contextlib
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.interpreters import needs_outside_help
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until
from wsgi_tracebacker.formats import blackbox as layout
from wsgi_tracebacker.formats import postmortem as postmortem_format
from wsgi_tracebacker.worker import blackbox
from wsgi_tracebacker.worker.fuse import Fuse

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_outside_help

LIMIT_SECONDS = 1.0
#: The default margin, the time between two looks of the watchdog, and the one for the dump.
EXTRA_SECONDS = 1.0 + LIMIT_SECONDS / 4 + 0.3
#: More than that, for a machine under load.
PATIENCE_SECONDS = 30.0


@contextlib.contextmanager
def worker(base: str, story: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.programs.stalls", base, str(LIMIT_SECONDS), story],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_a_stalled_worker_is_killed_and_its_stacks_are_kept(base: str) -> None:
    """The regular expression holds the GIL for ever; timers of the kernel end the process, its stacks written."""
    with worker(base, "stall") as process:
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    stacks = blackbox.read(blackbox.path_of(base, 1, layout.STACKS)) or b""
    assert b"in backtrack_for_ever" in stacks
    table = blackbox.read(blackbox.path_of(base, 1, layout.TABLE)) or b""
    postmortem = postmortem_format.of_table(table, base, time.time(), stacks)
    assert postmortem is not None
    assert [(request.method, request.path) for request in postmortem.requests] == [("GET", "/stall")]
    assert postmortem.pid == process.pid


def test_a_young_request_has_its_own_time(base: str) -> None:
    """One that holds the GIL just after an old one ended in time is not killed at the old one's deadline."""
    with worker(base, "young") as process:
        began = time.monotonic()
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        assert time.monotonic() - began > LIMIT_SECONDS


def test_a_stopped_worker_is_not_killed_for_the_time_it_was_stopped(base: str) -> None:
    """SIGSTOP for several limits, then SIGCONT: its request ends, and it serves the next one."""
    with worker(base, "stopped") as process:
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: state_of(process.pid) == "T", "it is stopped")
        stopped_until = time.monotonic() + 4 * LIMIT_SECONDS
        wait_until(lambda: time.monotonic() > stopped_until, "several limits have passed")
        assert state_of(process.pid) == "T"
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert output == "served on\n"
        assert process.returncode == 0


@pytest.mark.parametrize("story", ["busy", "fork"])
def test_who_is_not_stalled_lives(base: str, story: str) -> None:
    """Quick requests for three limits, and one that forks a child which exits, end in order."""
    with worker(base, story) as process:
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert output == "served on\n"
        assert process.returncode == 0


def test_it_may_be_closed_while_it_is_pushed() -> None:
    """The end of a worker beside its watchdog: no timer is set that was deleted."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    refused: list[OSError] = []

    def push(fuse: Fuse, begun: threading.Event) -> None:
        try:
            for number in range(100):
                fuse.push(None, True)
                if number == 1:
                    begun.set()
        except OSError as error:
            refused.append(error)

    try:
        for _ in range(100):
            fuse = Fuse(allocate_lock=_thread.allocate_lock, dump_signal=None, margin_seconds=60.0, wake=lambda: None)
            begun = threading.Event()
            pushing = threading.Thread(target=push, args=(fuse, begun))
            pushing.start()
            begun.wait()
            fuse.close()
            pushing.join()
    finally:
        sys.setswitchinterval(interval)
    assert refused == []
