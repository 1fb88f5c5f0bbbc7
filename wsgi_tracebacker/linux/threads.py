"""The threads of this process as the kernel sees them.

No function raises: None stands for what the kernel does not show. ``time.pthread_getcpuclockid`` is not used: it
crashes the interpreter for a thread that has ended.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.linux.clock import clock_gettime

_NANOSECONDS = 1_000_000_000

#: The system calls that threads wait in, from <asm/unistd.h>; the others are shown as their number.
_SYSTEM_CALLS = {
    "x86_64": {
        0: "read", 1: "write", 7: "poll", 17: "pread64", 18: "pwrite64", 19: "readv", 20: "writev", 23: "select",
        34: "pause", 35: "nanosleep", 40: "sendfile", 42: "connect", 43: "accept", 44: "sendto", 45: "recvfrom",
        46: "sendmsg", 47: "recvmsg", 61: "wait4", 72: "fcntl", 73: "flock", 74: "fsync", 75: "fdatasync",
        202: "futex", 230: "clock_nanosleep", 232: "epoll_wait", 247: "waitid", 257: "openat", 270: "pselect6",
        271: "ppoll", 281: "epoll_pwait", 288: "accept4", 449: "futex_waitv",
    },
    "aarch64": {
        22: "epoll_pwait", 25: "fcntl", 32: "flock", 56: "openat", 63: "read", 64: "write", 65: "readv",
        66: "writev", 67: "pread64", 68: "pwrite64", 71: "sendfile", 72: "pselect6", 73: "ppoll", 82: "fsync",
        83: "fdatasync", 95: "waitid", 98: "futex", 101: "nanosleep", 115: "clock_nanosleep", 202: "accept",
        203: "connect", 206: "sendto", 207: "recvfrom", 211: "sendmsg", 212: "recvmsg", 242: "accept4",
        260: "wait4", 449: "futex_waitv",
    },
}  # fmt: skip


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
    return _SYSTEM_CALLS.get(os.uname().machine, {}).get(number, str(number)) if number is not None else None


def _folder(native_id: int) -> str:
    return f"/proc/self/task/{native_id}"
