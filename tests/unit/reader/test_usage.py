"""What processes use, over a moment."""

from __future__ import annotations

import os

import pytest

from wsgi_tracebacker.reader import usage
from wsgi_tracebacker.reader.finding.processes import Processes


class FakeProcesses(Processes):
    def __init__(self) -> None:
        super().__init__()
        self.used: dict[int, list[float | None]] = {1: [10.0, 10.5], 2: [3.0, 3.0], 3: [5.0, None]}

    def cpu_seconds(self, pid: int) -> float | None:  # type: ignore[override]
        return self.used[pid].pop(0)

    def resident_bytes(self, pid: int) -> int | None:
        return pid * 1000


def test_cpu_is_per_second() -> None:
    """Half a CPU second in a second is a half; one that ended meanwhile is not known."""
    times = iter([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    slept: list[float] = []
    found = usage.measure((1, 2, 3), FakeProcesses(), clock=lambda: next(times), sleep=slept.append)
    assert found == {1: (1000, 0.5), 2: (2000, 0.0), 3: (3000, None)}
    assert slept == [usage.LOOK_SECONDS]


def test_nobody_is_not_waited_for() -> None:
    """Without a process there is nothing to measure."""
    assert usage.measure((), Processes(), sleep=lambda _: pytest.fail("it waited")) == {}


def test_this_process() -> None:
    """The kernel knows memory and CPU of a real one, and nothing of one that is not there."""
    processes = Processes()
    assert (processes.resident_bytes(os.getpid()) or 0) > 1 << 20
    assert (processes.cpu_seconds(os.getpid()) or 0) > 0.01
    assert processes.resident_bytes(2**22 + 7) is None
    assert processes.cpu_seconds(2**22 + 7) is None


def test_the_family_of_a_process() -> None:
    """The process, and those that it started; none of a process that is not there."""
    processes = Processes()
    assert os.getpid() in processes.family(os.getpid())
    assert os.getpid() in processes.family(os.getppid())
    assert processes.family(2**22 + 7) == set()
