"""Have the stacks of a worker written shortly before its server kills it, if Python cannot run in it by then.

While a C call keeps the GIL, a worker gives no sign of life, so its server kills it when its time is over; no thread of
ours can say why. So a timer of the kernel is set for shortly before that, and sends the signal on which faulthandler
writes all stacks. While requests are in flight the watchdog sets it anew again and again, so it never fires in a worker
in which Python runs; without requests it is off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.linux.timers import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

#: How long before the server's time-out it fires; less where that is a share of a short one.
_BEFORE_SECONDS = 0.5
_BEFORE_SHARE = 0.25
#: How often it is set anew, likewise.
_CHECK_SECONDS = 1.0
_CHECK_SHARE = 0.125


class StallTimer:
    """The timer of one process. Not inherited over a fork."""

    def __init__(self, dump_signal: int, timeout_seconds: float, silent_seconds: Callable[[], float]) -> None:
        """Make the timer, not set. Raises OSError if the system gives none.

        :param timeout_seconds: the server kills a worker that gives no sign of life for that long.
        :param silent_seconds: how long ago the last sign was.
        """
        self._timeout_seconds = timeout_seconds
        self._silent_seconds = silent_seconds
        self._before_seconds = min(_BEFORE_SECONDS, timeout_seconds * _BEFORE_SHARE)
        #: How often push() must be called at least while requests are in flight.
        self.check_seconds = min(_CHECK_SECONDS, timeout_seconds * _CHECK_SHARE)
        self._timer = Timer(dump_signal)

    def push(self, now: float) -> None:
        """Python runs: the timer is set anew, from the last sign of life. ``now``: on the monotonic clock."""
        left_seconds = self._timeout_seconds - self._silent_seconds() - self._before_seconds
        # With less left it could fire before the next check. The watchdog runs, and tells what it sees.
        self._timer.set(now + left_seconds if left_seconds > 2.0 * self.check_seconds else 0.0)

    def pause(self) -> None:
        """Until the next push(), it does not fire."""
        self._timer.set(0.0)

    def delete(self) -> None:
        """Only in the process that made it."""
        self._timer.delete()
