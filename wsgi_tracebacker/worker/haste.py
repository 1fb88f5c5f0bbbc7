"""How soon the listener gets the GIL back: the interpreter's switch interval, lowered for a moment where that helps.

Knows how long calls that let go of the GIL took lately. Refuses to know what they were for.
"""

from __future__ import annotations

import sys

#: Seconds. Measured beside two busy threads, 64 threads of 31 frames: 31 ms for a dump at 5 ms, 5 ms at 50 µs.
_SWITCH_INTERVAL = 50e-6

#: How long the GIL takes to come back where nothing is known of it: a default interval.
_ASSUMED_WAIT_SECONDS = 5e-3
#: A call that takes longer than this is worth a lowered interval.
_LONG_WAIT_SECONDS = 2.5e-3
#: The weight of one call in the mean; and what is left of the mean after a call that was made in haste, which says
#: nothing: with three calls for a client, every fifth client or so is measured again.
_CALL_WEIGHT, _UNMEASURED_DECAY = 0.2, 0.955
#: After so long without a client nothing is known.
_HASTE_FORGETS_SECONDS = 1.0


class SwitchInterval:
    """Lowers the interpreter's switch interval for a moment, and puts it back if nobody else has changed it since."""

    __slots__ = ("_before", "_lowered")

    def __init__(self) -> None:
        self._before: float | None = None
        self._lowered = 0.0

    @property
    def is_lowered(self) -> bool:
        return self._before is not None

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


class Haste:
    """Decides when the switch interval is lowered.

    Each of some eight busy threads that do little between two system calls, as those of a server under many short
    requests, takes the GIL again and again at the lowered interval, and the server answers a tenth less than it does
    when it is read 100 times a second otherwise. There the GIL comes back in 0.3 ms without our doing. Beside threads
    that compute, it takes an interval or more for each call. So a client that comes alone is served in haste; of
    those that come often some are not, and the time that their calls take decides.
    """

    __slots__ = ("_began", "_interval", "_wait")

    def __init__(self) -> None:
        self._interval = SwitchInterval()
        self._wait = _ASSUMED_WAIT_SECONDS
        self._began = 0.0

    def begin(self, now: float) -> None:
        """Clients are going to be served; ``now`` is monotonic."""
        if now - self._began >= _HASTE_FORGETS_SECONDS:
            self._wait = _ASSUMED_WAIT_SECONDS
        self._began = now
        if self._wait > _LONG_WAIT_SECONDS:
            self._interval.lower()

    def waited(self, seconds: float) -> None:
        """One call that lets go of the GIL took so long."""
        if self._interval.is_lowered:
            self._wait *= _UNMEASURED_DECAY
            return
        self._wait += (seconds - self._wait) * _CALL_WEIGHT
        if self._wait > _LONG_WAIT_SECONDS:
            self._wait = _ASSUMED_WAIT_SECONDS
            self._interval.lower()

    def end(self) -> None:
        """Nobody is served any more."""
        self._interval.restore()
