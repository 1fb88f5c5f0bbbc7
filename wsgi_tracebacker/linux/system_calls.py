"""The system calls that threads wait in, with their arguments, from ``/proc/<pid>/task/<tid>/syscall``.

The kernel shows the file to whoever may trace the process, so a process may read its own; not if it has changed its
user and is not "dumpable" since.
"""

from __future__ import annotations

import os
from typing import NamedTuple

#: By machine: numbers and names from <asm/unistd.h>.
_NAMES = {
    "x86_64": {
        0: "read", 1: "write", 7: "poll", 17: "pread64", 18: "pwrite64", 19: "readv", 20: "writev", 23: "select",
        34: "pause", 35: "nanosleep", 40: "sendfile", 42: "connect", 43: "accept", 44: "sendto", 45: "recvfrom",
        46: "sendmsg", 47: "recvmsg", 58: "vfork", 61: "wait4", 72: "fcntl", 73: "flock", 74: "fsync", 75: "fdatasync",
        202: "futex", 230: "clock_nanosleep", 232: "epoll_wait", 247: "waitid", 257: "openat", 270: "pselect6",
        271: "ppoll", 281: "epoll_pwait", 288: "accept4", 441: "epoll_pwait2", 449: "futex_waitv",
    },
    "aarch64": {
        22: "epoll_pwait", 25: "fcntl", 32: "flock", 56: "openat", 63: "read", 64: "write", 65: "readv",
        66: "writev", 67: "pread64", 68: "pwrite64", 71: "sendfile", 72: "pselect6", 73: "ppoll", 82: "fsync",
        83: "fdatasync", 95: "waitid", 98: "futex", 101: "nanosleep", 115: "clock_nanosleep", 202: "accept",
        203: "connect", 206: "sendto", 207: "recvfrom", 211: "sendmsg", 212: "recvmsg", 242: "accept4",
        260: "wait4", 441: "epoll_pwait2", 449: "futex_waitv",
    },
}  # fmt: skip

#: By machine: what a wait with a time limit is called after its thread was stopped and goes on, see restart_syscall(2).
_RESTARTED = {"x86_64": 219, "aarch64": 128}
#: Bits of a futex operation, from <linux/futex.h>: its memory is not shared, its time limit is of the system's clock.
_FUTEX_PRIVATE, _FUTEX_REALTIME = 128, 256
#: FUTEX_WAIT and FUTEX_WAIT_BITSET.
_FUTEX_WAITS = (0, 9)
#: No clock has a number as large as this, and nothing lies at an address below it.
_LOWEST_ADDRESS = 4096
#: The most descriptors that a process may have, by default.
_MAX_POLLED = 1 << 20

_MACHINE = os.uname().machine

#: One line is far below it.
_LINE_BYTES = 256


class SystemCall(NamedTuple):
    """A system call that a thread is in."""

    #: Its name if it is a common one, else its number.
    name: str
    #: All six registers, whether the call has as many arguments or not.
    arguments: tuple[int, ...]

    def descriptor(self, index: int = 0) -> int:
        """An argument that is a C ``int``: the upper half of its register is undefined."""
        return _signed(self.arguments[index])


def _signed(register: int) -> int:
    low = register & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


class SystemCallFile:
    """The file of one thread of this process, open until close(). Without the file, every line is empty."""

    __slots__ = ("_descriptor",)

    def __init__(self, native_id: int) -> None:
        try:
            self._descriptor = os.open(f"/proc/self/task/{native_id}/syscall", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._descriptor = -1

    def line(self) -> bytes:
        """The call with its arguments, the stack pointer and the instruction; equal lines are the same call."""
        if self._descriptor < 0:
            return b""
        try:
            return os.pread(self._descriptor, _LINE_BYTES, 0)
        except OSError:
            return b""

    def close(self) -> None:
        """Close it; safe to call twice."""
        if self._descriptor >= 0:
            try:
                os.close(self._descriptor)
            except OSError:
                # The application has closed all descriptors of its process meanwhile.
                pass
            self._descriptor = -1


def parse(line: bytes, machine: str = _MACHINE) -> SystemCall | None:
    """The call in a line of the file; None for a thread that runs, or is stopped outside of any call.

    :param machine: as ``os.uname().machine`` has it.
    """
    fields = line.split()
    # "running", or "-1" and two registers.
    if len(fields) < 7 or not fields[0].isdigit():
        return None
    try:
        arguments = tuple(int(field, 16) for field in fields[1:7])
    except ValueError:
        return None
    number = int(fields[0])
    is_restarted = number == _RESTARTED.get(machine)
    return SystemCall(_restarted(*arguments[:2]) if is_restarted else name_of(number, machine), arguments)


def _restarted(first: int, second: int) -> str:
    """The call that a stopped thread was in: its registers are what they were, but the kernel's number is another.

    A debugger, py-spy and ``docker pause`` stop threads.
    """
    if first < _LOWEST_ADDRESS:
        # A clock, where the others have an address.
        return "clock_nanosleep"
    if second & _FUTEX_PRIVATE and second & ~(_FUTEX_PRIVATE | _FUTEX_REALTIME) in _FUTEX_WAITS:
        return "futex"
    # The number of descriptors, or the address for the time that is left.
    return "poll" if second <= _MAX_POLLED else "nanosleep"


def name_of(number: int, machine: str = _MACHINE) -> str:
    """The name of a system call if it is a common one, else its number."""
    return _NAMES.get(machine, {}).get(number) or str(number)
