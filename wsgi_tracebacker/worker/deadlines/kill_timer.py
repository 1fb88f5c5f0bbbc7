"""Kills a worker in which Python cannot run any more, a margin after a deadline: by timers of the kernel.

While a C call keeps the GIL no thread of ours runs, and neither does the watchdog. So, with action kill only, two POSIX
timers run: at the deadline and the margin one sends the signal that faulthandler answers with all stacks, and a moment
later one sends SIGKILL.

Setting them costs two system calls, which an ordinary request must not pay. So they may fire up to half a margin late,
and serve every request whose deadline lies within that half: see ``covers_from``. Never early:

======================================  ==============================================================================
in flight                               the timers are set
======================================  ==============================================================================
nothing                                 not at all, since the watchdog looked; until then as for the last request
requests with deadlines close together  at most half a margin after each of their deadlines. None of them has to say
                                        that it ends
others too, with later deadlines        at most half a margin after the first deadline. Its request says when it ends,
                                        and they are set for the next one
======================================  ==============================================================================

POSIX timers are not inherited over a fork, and do not clash with the application's ``faulthandler`` or ``setitimer``.
``faulthandler.dump_traceback_later(exit=True)`` crashes running workers when it fires in them, and hangs every forked
child while it is armed.
"""

from __future__ import annotations

import ctypes
import operator
import os
import signal
from time import monotonic
from typing import TYPE_CHECKING

from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.threads import primitives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_tracebacker.worker.tracking.core import Core

# <bits/time.h>, <bits/sigevent-consts.h>.
_CLOCK_MONOTONIC = 1
_SIGEV_SIGNAL = 0
_TIMER_ABSTIME = 1

_NEVER = float("inf")
#: Equal to nothing.
_UNKNOWN = float("nan")
#: A limit may be longer than what the kernel's integers hold.
_MAX_SECONDS = 2.0**31

#: Between the signal for the stacks and SIGKILL: a dump of 100 threads takes some milliseconds.
DUMP_SECONDS = 0.05


class _SigEvent(ctypes.Structure):
    # <bits/types/sigevent_t.h>: 64 bytes in all.
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("padding", ctypes.c_int * 12),
    )


class _TimerSpec(ctypes.Structure):
    # <bits/types/struct_itimerspec.h>: an interval, which stays 0, and the time; both in seconds and nanoseconds.
    _fields_ = (("interval", ctypes.c_long * 2), ("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer:
    """One timer of the kernel that sends a signal to this process."""

    def __init__(self, libc: ctypes.CDLL, number: int) -> None:
        self._libc = libc
        self._id = ctypes.c_void_p()
        event = _SigEvent(signo=number, notify=_SIGEV_SIGNAL)
        self._check("timer_create", libc.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._id)))

    def _check(self, name: str, result: int) -> None:
        if result:
            code = ctypes.get_errno()
            raise OSError(code, f"{name}: {os.strerror(code)}")

    def set(self, moment: float) -> None:
        """Fire at this monotonic time; 0.0: never."""
        moment = min(moment, _MAX_SECONDS)
        whole = int(moment)
        spec = _TimerSpec(seconds=whole, nanoseconds=int((moment - whole) * 1_000_000_000))
        self._check("timer_settime", self._libc.timer_settime(self._id, _TIMER_ABSTIME, ctypes.byref(spec), None))

    def delete(self) -> None:
        self._libc.timer_delete(self._id)


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
        """Make the timers. Raises OSError when the system gives none.

        :param serving: the cores that serve a request; takes no lock, because a request may end under any.
        :param deadline_of: the deadline on the monotonic clock of the request ``token`` of a core; infinite: none.
        :param wake: makes the watchdog look, and again every half margin while look() says so.
        """
        self._pid = os.getpid()
        self._serving = serving
        self._deadline_of = deadline_of
        self._wake = wake
        # One that its owner can take again: a garbage collection within may end the request of a body that was dropped.
        self._lock = primitives.original("_thread", "RLock")()
        self._margin_seconds = margin_seconds
        self.half_margin_seconds = margin_seconds / 2
        #: A request that begins with a deadline from here to there is seen to already; any other calls watch().
        self.covers_from, self.covers_to = _NEVER, _NEVER
        #: The deadline that the timers are set for, up to half a margin late; infinite while they are not set.
        self.due = _NEVER
        #: Deadline, token and core of those found in flight, the first deadline last; and the last one.
        self._upcoming: list[tuple[float, float, Core]] = []
        self._latest = _NEVER
        # PyDLL keeps the GIL: these calls never wait, and a request would wait for us to get it back.
        libc = ctypes.PyDLL(None, use_errno=True)
        self._timers = [(_Timer(libc, signal.SIGKILL), margin_seconds + DUMP_SECONDS)]
        if dump_signal is not None:
            self._timers.append((_Timer(libc, dump_signal), margin_seconds))

    def watch(self) -> None:
        """A request has begun whose deadline is not covered, or one has another limit than before."""
        was_set = self.due != _NEVER
        if self.look() and not was_set:
            self._wake()

    def look(self) -> bool:
        """Set the timers for the requests in flight; whether there are any that may be killed."""
        with self._lock:
            # A request that begins from here on is either found now or calls watch().
            self.covers_from = _NEVER
            found = [(self._deadline_of(core, token := core.started), token, core) for core in self._serving()]
            found.sort(key=operator.itemgetter(0), reverse=True)
            if found and found[-1][0] != _NEVER:
                self._latest = found[0][0]
                self._set_for_first(found)
            else:
                self._set(_NEVER)
                # Covers whatever has no deadline.
                self.covers_to = _NEVER
            return self.due != _NEVER

    def request_ended(self) -> None:
        """A request that has ``reports_end`` is over."""
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
        self.covers_from = _NEVER
        while upcoming and upcoming[-1][0] != _NEVER:
            deadline, token, core = upcoming[-1]
            # While Python runs, the watchdog sees to those whose deadline is past.
            first = max(deadline, monotonic())
            if not first <= self.due <= first + self.half_margin_seconds:
                self._set(first + self.half_margin_seconds)
            # Told to report, then looked at: a request ends, and then looks whether it is to report that.
            core.reports_end = has_others_after = self._latest > self.due
            if core.started == token:
                self._upcoming = upcoming
                self.covers_to = _NEVER if has_others_after else self.due
                # Requests that were not found have later deadlines than all that were.
                self.covers_from = self._latest if has_others_after else self.due - self.half_margin_seconds
                return
            upcoming.pop()
        self.look()

    def _set(self, due: float) -> None:
        if due != self.due:
            # While they are being set, a signal handler of the application's may raise.
            self.due = _UNKNOWN
            for timer, later_seconds in self._timers:
                timer.set(0.0 if due == _NEVER else due + later_seconds)
            self.due = due

    def close(self) -> None:
        """Delete the timers; a forked child has none, and the numbers may be those of others there."""
        if os.getpid() == self._pid:
            with self._lock:
                timers, self._timers = self._timers, []
                for timer, _ in timers:
                    timer.delete()
