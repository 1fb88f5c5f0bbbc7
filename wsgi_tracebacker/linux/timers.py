"""Kernel timers (``timer_create``) that send a signal to this process, also while no Python code can run.

They are not inherited over a fork, and do not clash with ``signal.setitimer`` or the application's ``faulthandler``.
"""

from __future__ import annotations

import ctypes
import os

# <bits/time.h>, <bits/sigevent-consts.h>.
_CLOCK_MONOTONIC = 1
_SIGEV_SIGNAL = 0
_TIMER_ABSTIME = 1

#: A time may be later than what the kernel's integers hold.
_MAX_SECONDS = 2.0**31


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


class Timer:
    """One kernel timer that sends a signal to this process."""

    def __init__(self, signal_number: int) -> None:
        """Create the timer, not set. Raises OSError or AttributeError if the system has none."""
        # PyDLL keeps the GIL: these calls never block, and with CDLL the caller would wait to get the GIL back.
        self._libc = ctypes.PyDLL(None, use_errno=True)
        self._id = ctypes.c_void_p()
        event = _SigEvent(signo=signal_number, notify=_SIGEV_SIGNAL)
        result = self._libc.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._id))
        self._check("timer_create", result)

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
        """Delete the timer. Only in the process that made it: in a forked child the id may be another timer's."""
        self._libc.timer_delete(self._id)
