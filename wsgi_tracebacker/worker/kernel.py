"""What Linux says of this process and its threads, read from ``/proc``.

Knows the files of proc(5) and their fields. Refuses to raise: an answer that cannot be had is None. Nothing is read
through ``time.pthread_getcpuclockid``, which crashes the interpreter for a thread that has ended.
"""

from __future__ import annotations

import os
from time import clock_gettime
from typing import NamedTuple

from wsgi_tracebacker.linux import files

_NANOSECONDS = 1_000_000_000

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

#: Of a process's flags (field 9 of its ``stat``), from <linux/sched.h>: it has begun to end.
_FLAGS = 6
_PF_EXITING = 0x4

#: One line of /proc is far below a page.
_READ_BYTES = 4096


#: Those that a thread waits in, from <asm/unistd.h>; the others are shown as their number.
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
    """One thread as the kernel sees it; None where /proc does not say."""

    #: R, S, D, T …
    state: str | None = None
    wait_channel: str | None = None
    cpu_seconds: float | None = None


def read_file(path: str) -> bytes | None:
    """The first page of a small file of /proc or /sys, or None."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, _READ_BYTES)
    except OSError:
        return None
    finally:
        files.close(descriptor)


def _fields_after_name(stat: bytes | None) -> list[bytes]:
    """Fields 3 and up of a ``stat`` line: the name before them is in parentheses and may hold anything."""
    return stat[stat.rindex(b")") + 1 :].split() if stat and b")" in stat else []


def thread_status(native_id: int) -> ThreadStatus:
    """State, wait channel and CPU time of one thread of this process: two small reads, some 18 µs."""
    fields = _fields_after_name(read_file(f"/proc/self/task/{native_id}/stat"))
    state = fields[0].decode("ascii", "replace") if fields else None
    wait_channel = _wait_channel(native_id) if state in ("S", "D") else None
    return ThreadStatus(state, wait_channel, cpu_seconds(native_id))


def cpu_seconds(native_id: int) -> float | None:
    """CPU time of a thread of this process, by the kernel's clock of it; None if there is no such thread.

    The clock's id is made of the thread's (``CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED`` of the kernel's
    posix-timers.h), as pthread_getcpuclockid() does, but of an id that the kernel checks and not of a pointer. Python
    does not let go of the GIL for it, as for each of the three calls that it takes to read a file.
    """
    try:
        return clock_gettime((~native_id << 3) | 6)
    except OSError:
        return None


def _wait_channel(native_id: int) -> str | None:
    channel = read_file(f"/proc/self/task/{native_id}/wchan")
    return channel.decode("ascii", "backslashreplace") if channel and channel != b"0" else None


def cpu_and_run_delay(native_id: int) -> tuple[float | None, float | None]:
    """Seconds on a CPU, and seconds runnable without one, of a thread of this process."""
    fields = (read_file(f"/proc/self/task/{native_id}/schedstat") or b"").split()
    try:
        return int(fields[0]) / _NANOSECONDS, int(fields[1]) / _NANOSECONDS
    except (IndexError, ValueError):
        return None, None


def system_call(native_id: int) -> str | None:
    """The system call that a thread of this process is in, by name where it is a common one; None if it is in none."""
    words = (read_file(f"/proc/self/task/{native_id}/syscall") or b"").split()
    if not words or not words[0].isdigit():
        # "running", or -1: stopped outside of any call.
        return None
    number = int(words[0])
    return _SYSTEM_CALLS.get(os.uname().machine, {}).get(number, str(number))


def start_ticks(pid: int | str = "self") -> int | None:
    """When a process started, in clock ticks since boot (field 22 of its ``stat``)."""
    fields = _fields_after_name(read_file(f"/proc/{pid}/stat"))
    try:
        return int(fields[19])
    except (IndexError, ValueError):
        return None


def runs(pid: int, since_ticks: int) -> bool:
    """Whether the process that had a pid since then still runs.

    One that ends is not a zombie at once: its locks are free while it is still R (measured: in 2 deaths of 300, for
    whoever took the lock without a pause). But its flags say so from the first.
    """
    fields = _fields_after_name(read_file(f"/proc/{pid}/stat"))
    try:
        return (
            int(fields[19]) == since_ticks and fields[0] not in (b"Z", b"X") and not int(fields[_FLAGS]) & _PF_EXITING
        )
    except (IndexError, ValueError):
        return False


def started_at(now_unix: float, since_boot_seconds: float) -> float | None:
    """When this process started, in Unix seconds, from the clocks' values at one instant."""
    ticks = start_ticks()
    if ticks is None:
        return None
    return now_unix - since_boot_seconds + ticks / _TICKS_A_SECOND


def is_caught(number: int) -> bool | None:
    """Whether this process has a handler for a signal; None where /proc does not say."""
    for line in (read_file("/proc/self/status") or b"").splitlines():
        if line.startswith(b"SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return None


def boot_id() -> str:
    """The kernel's random name for this boot, or an empty string."""
    return (read_file("/proc/sys/kernel/random/boot_id") or b"").decode("ascii", "replace").strip()


def pid_namespace() -> int:
    """The inode number of this process's pid namespace, or 0."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
