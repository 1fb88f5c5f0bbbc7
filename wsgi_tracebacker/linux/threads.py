"""The threads of this process as the kernel sees them.

No function raises: None stands for what the kernel does not show. ``time.pthread_getcpuclockid`` is not used: it
crashes the interpreter for a thread that has ended.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from wsgi_tracebacker.linux import proc, system_calls
from wsgi_tracebacker.linux.clock import clock_gettime

_NANOSECONDS = 1_000_000_000


class ThreadStatus(NamedTuple):
    """One thread as the kernel sees it; None for what /proc does not show."""

    #: R, S, D, T …
    state: str | None = None
    wait_channel: str | None = None
    cpu_seconds: float | None = None


def exists(native_id: int) -> bool:
    """Whether this process has the thread, by now."""
    return os.path.exists(_folder(native_id))


def thread_status(native_id: int) -> ThreadStatus:
    """State, wait channel and CPU time of one thread: two small reads, some 18 µs."""
    folder = _folder(native_id)
    stat = proc.stat(folder)
    state = stat.letter if stat is not None else None
    return ThreadStatus(state, proc.wait_channel(folder) if state in ("S", "D") else None, cpu_seconds(native_id))


def cpu_seconds(native_id: int) -> float | None:
    """CPU time of a thread, from the kernel's clock for it; None if there is no such thread.

    As pthread_getcpuclockid() does, this computes the clock's id from the thread's (``CPUCLOCK_PERTHREAD_MASK |
    CPUCLOCK_SCHED`` of the kernel's posix-timers.h), but the kernel checks this one. Python keeps the GIL during this
    call, and releases it for each of the three calls that reading a file takes.
    """
    try:
        return clock_gettime((~native_id << 3) | 6)
    except OSError:
        return None


def cpu_and_run_delay(native_id: int) -> tuple[float | None, float | None]:
    """Seconds on a CPU, and seconds runnable without one."""
    times = proc.run_times(_folder(native_id))
    return (times[0] / _NANOSECONDS, times[1] / _NANOSECONDS) if times is not None else (None, None)


def system_call(native_id: int) -> str | None:
    """The system call that a thread is in, by name where it is a common one; None if it is in none."""
    number = proc.system_call(_folder(native_id))
    return system_calls.name_of(number) if number is not None else None


def _folder(native_id: int) -> str:
    return f"/proc/self/task/{native_id}"
