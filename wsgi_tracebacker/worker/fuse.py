"""Kills a worker in which Python cannot run any more: by the kernel's timers, without the GIL.

Knows timers. Refuses to know requests: it is told until when, and whose deadline that is.

While a C call holds the GIL no thread of ours runs, the watchdog's neither. So, with action kill only, timers of the
kernel are armed for a moment at which a request in flight is overdue by its margin, and pushed forward by the
watchdog as long as that runs. When they fire, one sends the signal that faulthandler answers with all stacks, and a
moment later one sends SIGKILL.

They count the process's CPU time, not the clock's: a worker that was stopped (SIGSTOP, a debugger) for a minute uses
none, and is not killed for it. A stall that uses no CPU (a C call that sleeps with the GIL) is left to a second pair
of timers on the clock, much later.

POSIX timers are not inherited over a fork, and do not clash with the application's ``faulthandler`` or ``setitimer``.
``faulthandler.dump_traceback_later(exit=True)`` is no way: it crashes running workers when it fires in them, and
hangs every forked child while it is armed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import _thread
    from collections.abc import Callable

    from wsgi_tracebacker.worker.requests import Core

_CLOCK_MONOTONIC = 1
_CLOCK_PROCESS_CPUTIME_ID = 2
_SIGEV_SIGNAL = 0

#: Between the signal for the stacks and the end: a dump of 100 threads takes some milliseconds.
_DUMP_SECONDS = 0.3
#: How much later the timers of the clock are: a debugger or an operator holds a worker for a minute or two.
WITHOUT_CPU_SECONDS = 120.0


#: Setting the timers takes some microseconds.
_CLOSE_SECONDS = 1.0


class _SigEvent(ctypes.Structure):
    # <bits/types/sigevent_t.h>: 64 bytes in all.
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("padding", ctypes.c_int * 12),
    )


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class _Timer:
    """One timer of the kernel that sends a signal to this process."""

    def __init__(self, libc: ctypes.CDLL, clock: int, number: int, delay_seconds: float) -> None:
        self._libc = libc
        self._id = ctypes.c_void_p()
        #: After the moment that the fuse is armed for.
        self.delay_seconds = delay_seconds
        event = _SigEvent(signo=number, notify=_SIGEV_SIGNAL)
        self._call("timer_create", clock, ctypes.byref(event), ctypes.byref(self._id))

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._libc, name)(*arguments):
            code = ctypes.get_errno()
            raise OSError(code, f"{name}: {os.strerror(code)}")

    def set(self, seconds: float) -> None:
        """Fire in so many seconds of its clock; 0: never."""
        value = _TimeSpec(int(seconds), int(seconds % 1 * 1_000_000_000))
        self._call("timer_settime", self._id, 0, ctypes.byref(_TimerSpec(_TimeSpec(0, 0), value)), None)

    def delete(self) -> None:
        self._call("timer_delete", self._id)


class Fuse:
    """The timers of one process. Armed by requests and the watchdog, under a lock."""

    def __init__(
        self,
        *,
        allocate_lock: Callable[[], _thread.LockType],
        dump_signal: int | None,
        margin_seconds: float,
        wake: Callable[[], None],
    ) -> None:
        """Make the timers. Raises OSError when the kernel gives none.

        :param wake: makes the watchdog look around, so that it pushes what was just armed.
        """
        # PyDLL keeps the GIL: these calls never wait, and a request would wait for us to get it back.
        libc = ctypes.PyDLL(None, use_errno=True)
        self.margin_seconds = margin_seconds
        self._wake = wake
        self._lock = allocate_lock()
        self._pid = os.getpid()
        self._cpu_timers: list[_Timer] = []
        self._clock_timers: list[_Timer] = []
        #: Monotonic time that it is armed for, margin included; 0.0 while it is not.
        self._armed_for = 0.0
        #: The core whose request's deadline that is; None: that of any request that began since it was armed.
        self._owner: Core | None = None
        #: The longest limit of a request so far.
        self._longest_limit = 0.0
        #: Between two looks of the watchdog while it is armed.
        self.look_seconds = 1.0
        self._cpu_rate = 1.0
        self._looked_at = monotonic()
        self._cpu_at_look = time.process_time()
        try:
            for timers, clock in (
                (self._cpu_timers, _CLOCK_PROCESS_CPUTIME_ID),
                (self._clock_timers, _CLOCK_MONOTONIC),
            ):
                if dump_signal is not None:
                    timers.append(_Timer(libc, clock, dump_signal, 0.0))
                timers.append(_Timer(libc, clock, signal.SIGKILL, _DUMP_SECONDS if dump_signal is not None else 0.0))
        except OSError:
            self.close()
            raise

    def request_begins(self, limit_seconds: float) -> None:
        """A request with a limit begins. Costs a comparison, but for the first one since the fuse was disarmed."""
        if limit_seconds > self._longest_limit:
            self._longest_limit = limit_seconds
            self.look_seconds = min(1.0, limit_seconds / 4)
            self._arm_for_any()
        elif not self._armed_for:
            self._arm_for_any()

    def _arm_for_any(self) -> None:
        with self._lock:
            self._set(self._for_any(monotonic()), None)
        self._wake()

    def _for_any(self, now: float) -> float:
        # If Python stops running before the next look, whatever is in flight then is overdue at that moment.
        return now + self.look_seconds + self._longest_limit + self.margin_seconds

    def request_ended(self, core: Core) -> None:
        """The owner's request ended: the fuse is nobody's."""
        with self._lock:
            core.fuse = None
            if self._owner is core:
                self._set(self._for_any(monotonic()), None)

    def push(self, earliest: tuple[float, Core, float] | None, any_in_flight: bool) -> None:
        """The watchdog looks around: arm for the earliest deadline in flight, or disarm if nothing is.

        :param earliest: deadline on the monotonic clock, core and token of the request that is overdue first.
        """
        now = monotonic()
        cpu = time.process_time()
        elapsed = now - self._looked_at
        if elapsed > 0.05:
            # Threads that burn CPU without the GIL make the process's clock run faster than time.
            self._cpu_rate = max(1.0, (cpu - self._cpu_at_look) / elapsed)
            self._looked_at, self._cpu_at_look = now, cpu
        with self._lock:
            previous = self._owner
            if previous is not None:
                previous.fuse = None
            if not any_in_flight:
                self._set(0.0, None)
                return
            moment = self._for_any(now)
            if earliest is not None and earliest[0] + self.margin_seconds < moment:
                deadline, core, token = earliest
                # First the request is told, then looked at: it clears its token first, then looks whether it was told.
                core.fuse = self
                if core.started == token:
                    self._set(max(deadline + self.margin_seconds, now + self.margin_seconds), core)
                    return
                core.fuse = None
            self._set(moment, None)

    def _set(self, moment: float, owner: Core | None) -> None:
        self._armed_for = moment
        self._owner = owner
        seconds = max(0.001, moment - monotonic()) if moment else 0.0
        for timer in self._cpu_timers:
            timer.set((seconds + timer.delay_seconds) * self._cpu_rate if moment else 0.0)
        for timer in self._clock_timers:
            timer.set(seconds + timer.delay_seconds + WITHOUT_CPU_SECONDS if moment else 0.0)

    def close(self) -> None:
        """Delete the timers. In a forked child there are none, and their numbers may be somebody else's."""
        is_ours = os.getpid() == self._pid
        # Whoever sets them just now would set what is deleted. With a limit: a signal handler that stops everything
        # may have interrupted the very thread that holds it; and in a child it may be held for ever.
        has_lock = is_ours and self._lock.acquire(timeout=_CLOSE_SECONDS)
        try:
            timers = [*self._cpu_timers, *self._clock_timers]
            self._cpu_timers.clear()
            self._clock_timers.clear()
            if is_ours:
                for timer in timers:
                    try:
                        timer.delete()
                    except OSError:
                        pass
        finally:
            if has_lock:
                self._lock.release()
