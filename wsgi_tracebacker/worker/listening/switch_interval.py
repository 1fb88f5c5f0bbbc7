"""Lowers the interpreter's switch interval while a client is served, so that the listener soon gets the GIL back.

Beside threads that compute, each system call of the listener costs it one interval: the call releases the GIL, and a
thread that computes releases it only after that time.

The price: a server with eight busy threads that is read 100 times a second answers up to a tenth fewer requests. We
tried to lower the interval only if the last calls had waited long for the GIL: that took 50 lines and a moving mean,
and helped only a worker that is read so often.
"""

from __future__ import annotations

import sys

#: Seconds. Measured beside two busy threads, 64 threads of 31 frames: 31 ms for a dump at 5 ms, 5 ms at 50 µs.
_SWITCH_INTERVAL = 50e-6


class SwitchInterval:
    """Lowers the interval for a moment, and restores it unless somebody else has changed it since."""

    __slots__ = ("_before", "_lowered")

    def __init__(self) -> None:
        self._before: float | None = None
        self._lowered = 0.0

    def lower(self) -> None:
        """Make other threads release the GIL soon. Does nothing if the interval is lowered already."""
        if self._before is None and sys.getswitchinterval() > _SWITCH_INTERVAL:
            self._before = sys.getswitchinterval()
            sys.setswitchinterval(_SWITCH_INTERVAL)
            self._lowered = sys.getswitchinterval()

    def restore(self) -> None:
        """Set the interval that was found."""
        before, self._before = self._before, None
        if before is not None and sys.getswitchinterval() == self._lowered:
            sys.setswitchinterval(before)
