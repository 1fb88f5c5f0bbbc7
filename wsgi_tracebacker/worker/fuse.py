"""Kills a worker in which Python cannot run any more: by the kernel's timers, without the GIL.

Knows timers, and which request is overdue first. Refuses to know what makes a deadline: it asks.

While a C call holds the GIL no thread of ours runs, the watchdog's neither. So, with action kill only, a timer of the
kernel is armed for the moment at which the first of the requests in flight is overdue by its margin, and pushed
forward by the watchdog as long as that runs.

That timer must not kill by itself. A process that was stopped meanwhile (SIGSTOP, a debugger, a frozen container) is
to have the chance to push it when it goes on, and SIGKILL leaves none; the CPU time of the process, which stands still
then, is no measure: with a third of a CPU the end comes three times as late, and eight threads that compute without
the GIL bring it eight times as early. So there is a thread, the guard, that sleeps for ever without the GIL. From the
moment on that the timer is armed for, it sends the guard a signal, and as soon as that is handled the next one; the
handler does nothing. Now the guard uses CPU time, if and only if the process is let run. Two more timers count that
time: one sends the signal that faulthandler answers with all stacks, and a moment later one sends SIGKILL.

That gives a process that goes on a tenth of a second in which its watchdog has to push the timer, so the watchdog must
wake up at once. A poll() that was stopped ends when it was to end, but a ppoll() sleeps on for what was left then.
CPython 3.15 calls that one, and glibc where the kernel has no other, as on aarch64 (sysdeps/unix/sysv/linux/poll.c).
So a fourth timer sends the watchdog the signal of the guard at the time at which it was to wake up.

POSIX timers are not inherited over a fork, and do not clash with the application's ``faulthandler`` or ``setitimer``.
``faulthandler.dump_traceback_later(exit=True)`` is no way: it crashes running workers when it fires in them, and
hangs every forked child while it is armed.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import signal
from time import monotonic
from typing import TYPE_CHECKING

from wsgi_tracebacker.worker import faults, kernel, primitives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_tracebacker.worker.requests import Core

# <bits/time.h>, <bits/sigevent-consts.h>.
_CLOCK_MONOTONIC = 1
_SIGEV_SIGNAL = 0
_SIGEV_THREAD_ID = 4
_TIMER_ABSTIME = 1

_NEVER = float("inf")

#: CPU time of the guard before the first signal: a process that was stopped goes on, and its watchdog has to get a CPU
#: and the GIL meanwhile.
_GRACE_SECONDS = 0.1
#: More of it between the signal for the stacks and the end: a dump of 100 threads takes some milliseconds.
_DUMP_SECONDS = 0.05
#: Between two signals to the guard: as little as there is. It then runs 40 to 100 % of the time.
_NEXT_SIGNAL_NANOSECONDS = 1

#: Between two signals to a watchdog that is late: one may come just before it begins to sleep, and is lost then.
_NEXT_ALARM_NANOSECONDS = 50_000_000

#: Setting the timers takes some microseconds, and the guard has nothing to do but to end.
_CLOSE_SECONDS = 1.0
#: A thread that is started gets the GIL as soon as we wait for it.
_START_SECONDS = 5.0

#: The signal to the guards of this process. It is never given back: one may be pending still.
_guard_signal: int | None = None


class _SigEvent(ctypes.Structure):
    # <bits/types/sigevent_t.h>: 64 bytes in all.
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("padding", ctypes.c_int * 11),
    )


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class _Timer:
    """One timer of the kernel that sends a signal to this process, or to one of its threads."""

    def __init__(self, libc: ctypes.CDLL, clock: int, number: int, thread: int | None = None) -> None:
        self._libc = libc
        self._id = ctypes.c_void_p()
        self._spec = _TimerSpec()
        # What does not change from call to call is made once: it is most of what a call costs.
        self._set = libc.timer_settime
        self._reference = ctypes.byref(self._spec)
        notify = _SIGEV_SIGNAL if thread is None else _SIGEV_THREAD_ID
        event = _SigEvent(signo=number, notify=notify, thread=thread or 0)
        self._check("timer_create", libc.timer_create(clock, ctypes.byref(event), ctypes.byref(self._id)))

    def _check(self, name: str, result: int) -> None:
        if result:
            code = ctypes.get_errno()
            raise OSError(code, f"{name}: {os.strerror(code)}")

    def set(self, seconds: float, interval_nanoseconds: int = 0, *, flags: int = 0) -> None:
        """Fire in so many seconds of its clock, or when that shows so many; 0: never."""
        spec = self._spec
        spec.value.seconds = whole = int(seconds)
        spec.value.nanoseconds = int((seconds - whole) * 1_000_000_000)
        spec.interval.nanoseconds = interval_nanoseconds
        self._check("timer_settime", self._set(self._id, flags, self._reference, None))

    def delete(self) -> None:
        self._check("timer_delete", self._libc.timer_delete(self._id))


class _Guard:
    """The thread that uses CPU time when it is sent signals, and does nothing else."""

    def __init__(
        self,
        libc: ctypes.CDLL,
        number: int,
        allocate_lock: Callable[[], _thread.LockType],
        start_thread: Callable[[Callable[[], None]], object],
    ) -> None:
        """Start it. Raises OSError or RuntimeError when it does not start."""
        # Any function of C that takes a number and has no effect.
        libc.signal(number, ctypes.cast(libc.abs, ctypes.c_void_p))
        self._number = number
        self.ident = 0
        self.native_id = 0
        self._started = allocate_lock()
        self._wanted = allocate_lock()
        self._ended = allocate_lock()
        for lock in (self._started, self._wanted, self._ended):
            lock.acquire()
        start_thread(self._sit)
        if not self._started.acquire(timeout=_START_SECONDS):
            self._wanted.release()
            raise OSError(0, "its thread does not start")

    def _sit(self) -> None:
        # Only its own, whatever the application blocked; and no other, whose handling would take time too.
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() - {self._number})
        self.ident, self.native_id = _thread.get_ident(), _thread.get_native_id()
        self._started.release()
        self._wanted.acquire()
        self._ended.release()

    @property
    def clock(self) -> int:
        """The clock of its CPU time: what pthread_getcpuclockid() gives, but by its native id."""
        return ~self.native_id << 3 | 6

    def end(self) -> None:
        self._wanted.release()
        self._ended.acquire(timeout=_CLOSE_SECONDS)


def _signal_for_guards(dump_signal: int | None) -> int:
    """A real-time signal that nobody uses. Raises OSError when there is none."""
    global _guard_signal
    if _guard_signal is None:
        # From the top: those who want one count from the bottom.
        for number in range(signal.SIGRTMAX - 1, signal.SIGRTMIN, -1):
            if number != dump_signal and kernel.is_caught(number) is False:
                _guard_signal = number
                break
        else:
            raise OSError(0, "no real-time signal is free")
    return _guard_signal


class Fuse:
    """The timers of one process. Armed by requests and the watchdog, under a lock.

    They are armed exactly while a request with a deadline is in flight, for the earliest deadline. A C call may keep
    the GIL from any moment on, so each change is made by the thread that causes it: by a request when it begins, gets
    another limit or ends.
    """

    def __init__(
        self,
        *,
        allocate_lock: Callable[[], _thread.LockType],
        start_thread: Callable[[Callable[[], None]], object],
        dump_signal: int | None,
        margin_seconds: float,
        deadline_of: Callable[[Core, float], float],
        wake: Callable[[], None],
    ) -> None:
        """Make the timers. Raises OSError or RuntimeError when the system gives none.

        :param start_thread: starts a real thread.
        :param deadline_of: the deadline on the monotonic clock of the request ``token`` of a core; infinite: none.
        :param wake: makes the watchdog look around, and again as often as it has to: see push.
        """
        # PyDLL keeps the GIL: these calls never wait, and a request would wait for us to get it back.
        libc = ctypes.PyDLL(None, use_errno=True)
        self.margin_seconds = margin_seconds
        self._deadline_of = deadline_of
        self._wake = wake
        # One that its owner can take again: a garbage collection within may end the request of a body that was dropped.
        self._lock = primitives.original("_thread", "RLock")()
        #: How often a deadline was noted: it may be within a look at all of them.
        self._notes = 0
        self._pid = os.getpid()
        self._timer: _Timer | None = None
        #: Of the watchdog, made by its thread.
        self._alarm: _Timer | None = None
        self._is_open = True
        #: On the guard's clock: each with when it fires.
        self._ends: list[tuple[_Timer, float]] = []
        #: Deadline and token of every request that may be killed.
        self._due: dict[Core, tuple[float, float]] = {}
        #: Monotonic time that it is armed for, margin included; 0.0 while it is not.
        self.armed_for = 0.0
        self._looked_at = monotonic()
        #: Whether a request came since the watchdog looked around, and whether that will do so soon.
        self._is_used = self._is_watched = False
        self._libc = libc
        self._number = number = _signal_for_guards(dump_signal)
        self._guard = _Guard(libc, number, allocate_lock, start_thread)
        try:
            self._timer = _Timer(libc, _CLOCK_MONOTONIC, number, self._guard.native_id)
            kill_after = _GRACE_SECONDS
            if dump_signal is not None:
                self._ends.append((_Timer(libc, self._guard.clock, dump_signal), _GRACE_SECONDS))
                kill_after += _DUMP_SECONDS
            self._ends.append((_Timer(libc, self._guard.clock, signal.SIGKILL), kill_after))
            self._calm()
        except OSError:
            self.close()
            raise

    @property
    def ident(self) -> int:
        """Of the guard."""
        return self._guard.ident

    def attend(self, core: Core) -> None:
        """The request of this core has begun, or has another limit than before."""
        with self._lock:
            self._note(core)
            self._arm()
            if core not in self._due:
                return
            self._is_used = True
            is_watched, self._is_watched = self._is_watched, True
        if not is_watched:
            self._wake()

    def request_ended(self, core: Core) -> None:
        """The request of this core that was attended to is over; by now there may be another one."""
        if os.getpid() != self._pid:
            # Forked within a request, without Python's hooks: the timers are the parent's, and so is who has the lock.
            return
        try:
            with self._lock:
                self._note(core)
                self._arm()
        except Exception as error:
            if faults.is_of_signal_handler(error):
                raise
            faults.caught("when the fuse was disarmed")

    def push(self, cores: Iterable[Core]) -> bool:
        """The watchdog looks around: Python runs, so nobody is to be killed for a margin from now on.

        Whether it has to look again soon, to know for how long the process was stopped.

        :param cores: those that serve a request.
        """
        with self._lock:
            self._looked_at = monotonic()
            for core in {*cores, *self._due}:
                self._note(core)
            self._arm()
            self._is_watched, self._is_used = self._is_used or bool(self._due), False
            return self._is_watched

    def alarm(self, moment: float) -> None:
        """The thread that pushes, before it sleeps: it wakes up at this monotonic time, however long it is stopped."""
        try:
            with self._lock:
                if not self._is_open:
                    return
                if self._alarm is None:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, {self._number})
                    self._alarm = _Timer(self._libc, _CLOCK_MONOTONIC, self._number, _thread.get_native_id())
                self._alarm.set(moment, _NEXT_ALARM_NANOSECONDS, flags=_TIMER_ABSTIME)
        except Exception:
            # Its own sleep has an end too; that may be too late after a stop.
            faults.caught("when the watchdog set its alarm")

    def _note(self, core: Core) -> None:
        """Note the deadline of the request that this core serves now, or that there is none."""
        # First the request is told, then looked at: it clears its token first, then looks whether it was told.
        core.fuse = self
        self._notes += 1
        token = core.started
        deadline = self._deadline_of(core, token) if token > 0.0 else _NEVER
        if deadline == _NEVER:
            core.fuse = None
            self._due.pop(core, None)
        else:
            self._due[core] = (deadline, token)

    def _arm(self) -> None:
        notes, moment = -1, 0.0
        while notes != self._notes:
            notes = self._notes
            # By a copy: what is noted meanwhile would break off a walk.
            due = self._due.copy().values()
            # Where the watchdog has run since a deadline that is past, it sees to that request.
            moment = max(min(due)[0], self._looked_at) + self.margin_seconds if due else 0.0
        before = self.armed_for
        if moment == before or self._timer is None:
            return
        self._timer.set(moment, _NEXT_SIGNAL_NANOSECONDS, flags=_TIMER_ABSTIME)
        self.armed_for = moment
        if before and monotonic() >= before:
            # The guard has begun to count.
            self._calm()

    def _calm(self) -> None:
        for timer, seconds in self._ends:
            timer.set(seconds)

    def close(self) -> None:
        """Delete the timers. In a forked child there are none, and their numbers may be somebody else's."""
        is_ours = os.getpid() == self._pid
        # Whoever sets them just now would set what is deleted. With a limit: a signal handler that stops everything
        # may have interrupted the very thread that holds it; and in a child it may be held for ever.
        has_lock = is_ours and self._lock.acquire(timeout=_CLOSE_SECONDS)
        try:
            timers = [
                timer for timer in (self._timer, self._alarm, *(timer for timer, _ in self._ends)) if timer is not None
            ]
            self._timer = self._alarm = None
            self._is_open = False
            self._ends.clear()
            if is_ours:
                for timer in timers:
                    try:
                        timer.delete()
                    except OSError:
                        pass
        finally:
            if has_lock:
                self._lock.release()
        if is_ours:
            self._guard.end()
