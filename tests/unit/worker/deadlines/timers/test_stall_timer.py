"""The timer that has the stacks written before a server kills a stalled worker."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support.waiting import wait_until
from wsgi_tracebacker.worker.deadlines.timers import stall_timer
from wsgi_tracebacker.worker.deadlines.timers.stall_timer import StallTimer


class _Recorder:
    """A timer that never fires."""

    def __init__(self, _: int) -> None:
        self.moment = -1.0

    def set(self, moment: float) -> None:
        self.moment = moment


@pytest.mark.parametrize(
    ("timeout", "silent", "fires_at"),
    [
        # Half a second before the time-out, which counts from the last sign of life.
        (30.0, 0.0, 1029.5),
        (30.0, 20.0, 1009.5),
        # Python runs, and the next check may be too late to set it anew.
        (30.0, 28.0, 0.0),
        (30.0, 40.0, 0.0),
        # A quarter of a short one.
        (1.0, 0.0, 1000.75),
        (1.0, 0.6, 0.0),
    ],
)
def test_it_fires_before_the_time_out(
    timeout: float, silent: float, fires_at: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is set anew before that; never where the watchdog may be just too late for that."""
    monkeypatch.setattr(stall_timer, "Timer", _Recorder)
    timer = StallTimer(signal.SIGUSR1, timeout, lambda: silent)
    timer.push(1000.0)
    assert getattr(timer, "_timer").moment == fires_at  # noqa: B009  (mypy knows no recorder)
    timer.pause()
    assert getattr(timer, "_timer").moment == 0.0  # noqa: B009


def test_the_kernel_sends_the_signal() -> None:
    """To this process, though nobody calls it again."""
    arrived: list[int] = []
    before = signal.signal(signal.SIGRTMIN + 9, lambda number, _: arrived.append(number))
    timer = StallTimer(signal.SIGRTMIN + 9, 0.8, lambda: 0.0)
    try:
        timer.push(time.monotonic())
        wait_until(lambda: arrived, "the signal came")
    finally:
        timer.delete()
        signal.signal(signal.SIGRTMIN + 9, before)
    assert arrived == [signal.SIGRTMIN + 9]
