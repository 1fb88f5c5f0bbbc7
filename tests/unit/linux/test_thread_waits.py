"""What a thread waits for, from what the kernel says of its system call."""

from __future__ import annotations

import array
import os
import platform
import select
import threading

import pytest

from wsgi_tracebacker.linux.thread_waits import ThreadWaits

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")

VFORK, POLL = 58, 7


def kind(number: int, *arguments: int) -> str:
    """What this thread would wait for in a system call."""
    registers = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    line = " ".join([str(number), *map(hex, registers), "0x7f00", "0x7f00"]) + "\n"
    waits = ThreadWaits(os.getpid(), threading.get_native_id(), range(0))
    try:
        return waits.kind(line.encode())
    finally:
        waits.close()


def polled(*numbers: int) -> str:
    # struct pollfd: the descriptor, then the events that are wanted, and those that came.
    entries = array.array("i", [value for number in numbers for value in (number, select.POLLIN)])
    return kind(POLL, entries.buffer_info()[0], len(numbers))


def test_a_process_that_is_being_started_is_a_child() -> None:
    """subprocess uses vfork(2), which ends when the child runs its program."""
    assert kind(VFORK) == "child"


def test_several_pipes_are_a_pipe() -> None:
    """subprocess.run(capture_output=True) waits for two at once; a pipe and a file are no one thing."""
    pipes = [*os.pipe(), *os.pipe()]
    file = os.open(os.devnull, os.O_RDONLY)
    try:
        assert polled(pipes[0]) == polled(pipes[0], pipes[2]) == "pipe"
        assert polled(pipes[0], file) == "connection"
        assert polled(*pipes, *pipes) == "connection"
        assert polled() == "sleep"
    finally:
        for number in (*pipes, file):
            os.close(number)
