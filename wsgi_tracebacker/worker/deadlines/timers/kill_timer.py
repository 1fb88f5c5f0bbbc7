"""Kill a worker in which Python cannot run any more, a margin after a deadline, by two timers of the kernel.

While a C call keeps the GIL, no thread of ours runs, and neither does the watchdog. So with action kill two timers are
set for the deadline plus the margin: one sends the signal on which faulthandler writes all stacks, and DUMP_SECONDS
later the other sends SIGKILL.

Setting them costs two system calls, which an ordinary request must not pay. So they may fire up to half a margin late,
and one setting serves every request whose deadline lies within that half (``covers_from`` to ``covers_to``). They
never fire early:

======================================  ==============================================================================
requests in flight                      setting of the timers
======================================  ==============================================================================
none                                    as for the last request, until the watchdog's next check switches them off
with deadlines within half a margin     at most half a margin after each of the deadlines; no request needs to report
                                        its end
others too, with later deadlines        at most half a margin after the first deadline; the first request reports its
                                        end (``Core.reports_end``), and the timers are set for the next one
======================================  ==============================================================================

Not ``faulthandler.dump_traceback_later(exit=True)``: it crashes running workers when it fires in them, and every child
that is forked while it is armed hangs.
"""

from __future__ import annotations

import operator
import os
import signal
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux.clock import monotonic
from wsgi_tracebacker.linux.timers import Timer
from wsgi_tracebacker.worker.deadlines.thresholds import NEVER
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.threads import primitives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_tracebacker.worker.tracking.core import Core

#: Equal to nothing.
_UNKNOWN = float("nan")

#: Between the signal for the stacks and SIGKILL. Writing the stacks takes some milliseconds of CPU time, but the thread
#: that handles the signal must first get a CPU: with 8 busy processes on 2 CPUs that took up to 0.064 s, and more than
#: 0.05 s in 3 of 40 runs. After 0.05 s a test of a real server found no stacks on a loaded machine.
DUMP_SECONDS = 0.25


class KillTimer:
    """The timers of one process."""

    def __init__(
        self,
        *,
        dump_signal: int | None,
        margin_seconds: float,
        serving: Callable[[], Iterable[Core]],
        deadline_of: Callable[[Core, float], float],
        wake: Callable[[], None],
    ) -> None:
        """Make the timers. Raises OSError if the system gives none.

        :param serving: the cores that serve a request; takes no lock, because a request may end under any.
        :param deadline_of: the deadline on the monotonic clock of the request ``token`` of a core; infinite: none.
        :param wake: wakes the watchdog, which calls update() now, and every half margin while update() returns True.
        """
        self._pid = os.getpid()
        self._serving = serving
        self._deadline_of = deadline_of
        self._wake = wake
        # Re-entrant: a garbage collection while it is held may end the request of a body that was dropped.
        self._lock = primitives.original("_thread", "RLock")()
        self.half_margin_seconds = margin_seconds / 2
        #: The timers are right for a request that begins with a deadline in this range; any other calls watch().
        self.covers_from, self.covers_to = NEVER, NEVER
        #: The deadline that the timers are set for, up to half a margin late; infinite while they are not set.
        self.due = NEVER
        #: Deadline, token and core of the requests that update() found, the first deadline last.
        self._upcoming: list[tuple[float, float, Core]] = []
        #: The last of their deadlines.
        self._latest = NEVER
        #: Each with how long after ``due`` it fires.
        self._timers = [(Timer(signal.SIGKILL), margin_seconds + DUMP_SECONDS)]
        if dump_signal is not None:
            self._timers.append((Timer(dump_signal), margin_seconds))

    def watch(self) -> None:
        """Set the timers after a request began with a deadline that is not covered, or got another limit."""
        was_set = self.due != NEVER
        if self.update() and not was_set:
            self._wake()

    def update(self) -> bool:
        """Set the timers for the requests in flight; whether the process may be killed for any of them."""
        with self._lock:
            # A request that begins from here on is either found below or calls watch().
            self.covers_from = NEVER
            found = [(self._deadline_of(core, token := core.started), token, core) for core in self._serving()]
            found.sort(key=operator.itemgetter(0), reverse=True)
            if found and found[-1][0] != NEVER:
                self._latest = found[0][0]
                self._set_for_first(found)
            else:
                self._set(NEVER)
                # Covers a request without a deadline.
                self.covers_to = NEVER
            return self.due != NEVER

    def request_ended(self) -> None:
        """Set the timers for the next deadline, after the end of a request that has ``reports_end``."""
        if os.getpid() != self._pid:
            # Forked within that request: the timers are the parent's, and the lock may be held for ever.
            return
        try:
            with self._lock:
                upcoming, self._upcoming = self._upcoming, []
                self._set_for_first(upcoming)
        except Exception as error:
            if faults.is_of_signal_handler(error):
                raise
            faults.caught("when the kill timer was set")

    def _set_for_first(self, upcoming: list[tuple[float, float, Core]]) -> None:
        """Set the timers for the first of these that is still in flight; it is the last in the list."""
        self.covers_from = NEVER
        while upcoming and upcoming[-1][0] != NEVER:
            deadline, token, core = upcoming[-1]
            # If the deadline is past and Python runs, the watchdog kills; the timers are for a stall from now on.
            first = max(deadline, monotonic())
            if not first <= self.due <= first + self.half_margin_seconds:
                self._set(first + self.half_margin_seconds)
            # First set reports_end, then read started: a request first ends, then reads reports_end.
            core.reports_end = has_others_after = self._latest > self.due
            if core.started == token:
                self._upcoming = upcoming
                self.covers_to = NEVER if has_others_after else self.due
                # Requests that update() did not find have later deadlines than all that it found.
                self.covers_from = self._latest if has_others_after else self.due - self.half_margin_seconds
                return
            upcoming.pop()
        self.update()

    def _set(self, due: float) -> None:
        if due != self.due:
            # If a signal handler of the application raises between the two system calls, the next call sets both again.
            self.due = _UNKNOWN
            for timer, later_seconds in self._timers:
                timer.set(0.0 if due == NEVER else due + later_seconds)
            self.due = due

    def close(self) -> None:
        """Delete the timers. A forked child has none."""
        if os.getpid() == self._pid:
            with self._lock:
                timers, self._timers = self._timers, []
                # A middleware refers to this longer than it is in use, and cores refer to the black box's memory.
                self._upcoming = []
                for timer, _ in timers:
                    timer.delete()
