"""Lowers the interpreter's switch interval while a client is served, so that the listener soon gets the GIL back.

Beside threads that compute, each system call of the listener costs it one interval: the call releases the GIL, and a
thread that computes gives the GIL up only after that time.

The price: a server with eight busy threads that is read 100 times a second answers up to a tenth fewer requests. Tried
and left out: to lower the interval only if the last calls had waited long for the GIL. That took 50 lines and a moving
mean, and helps only a worker that is read so often.
"""

from __future__ import annotations

import sys

#: Seconds. Measured beside two busy threads, 64 threads of 31 frames: 31 ms for a dump at 5 ms, 5 ms at 50 µs.
_SWITCH_INTERVAL = 50e-6


class SwitchInterval:
    """Lowers the interval for a moment, and puts it back unless somebody else has changed it since."""

    __slots__ = ("_before", "_lowered")

    def __init__(self) -> None:
        self._before: float | None = None
        self._lowered = 0.0

    def lower(self) -> None:
        """From now on, other threads give up the GIL soon. Does nothing if it is lowered already."""
        if self._before is None and sys.getswitchinterval() > _SWITCH_INTERVAL:
            self._before = sys.getswitchinterval()
            sys.setswitchinterval(_SWITCH_INTERVAL)
            self._lowered = sys.getswitchinterval()

    def restore(self) -> None:
        """Put back what was found."""
        before, self._before = self._before, None
        if before is not None and sys.getswitchinterval() == self._lowered:
            sys.setswitchinterval(before)
