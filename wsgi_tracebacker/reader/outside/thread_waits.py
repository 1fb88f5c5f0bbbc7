"""What a thread of another process is doing at this moment: on a CPU, or in which system call it waits for what.

From ``/proc/PID/task/TID/syscall`` on a descriptor that stays open: 2 microseconds. What a descriptor of the process
leads to is found out once for each wait. ``schedstat`` says whether the thread has run since.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import proc, system_calls
from wsgi_tracebacker.linux.net import sockets
from wsgi_tracebacker.linux.net.services import service_of
from wsgi_tracebacker.model.recording import FOR_GIL, ON_CPU
from wsgi_tracebacker.reader.outside.layouts import GIL_BYTES

if TYPE_CHECKING:
    from wsgi_tracebacker.linux.system_calls import SystemCall

_LINE_BYTES = 256

#: What a thread waits for in calls that name no descriptor.
_KINDS = {
    "futex": "lock", "futex_waitv": "lock", "nanosleep": "sleep", "clock_nanosleep": "sleep", "wait4": "child",
    "waitid": "child", "flock": "file lock", "fcntl": "file lock", "fsync": "file", "fdatasync": "file",
    "openat": "file", "pause": "signal",
}  # fmt: skip
#: Calls whose first argument is a descriptor.
_ON_DESCRIPTOR = frozenset(
    ("read", "write", "pread64", "pwrite64", "readv", "writev", "sendfile", "connect", "accept", "accept4", "sendto",
     "recvfrom", "sendmsg", "recvmsg")
)  # fmt: skip
_POLLS = frozenset(("poll", "ppoll"))

#: From here on the kernel chooses ports for the connecting side: such a peer is a client of the worker, as a rule.
_EPHEMERAL = 32768


class ThreadWaits:
    """One thread. Close it when done."""

    def __init__(self, pid: int, native_id: int, gil: int) -> None:
        """``gil``: the address of the GIL: a thread that waits for it sleeps on a word within."""
        self._pid = pid
        self._gil = range(gil, gil + GIL_BYTES)
        folder = f"{proc.ROOT}/{pid}/task/{native_id}"
        self._syscall = _opened(f"{folder}/syscall")
        self._schedstat = _opened(f"{folder}/schedstat")
        self._last = (b"", ON_CPU)
        self._first = self._spent = self._nanoseconds()

    def close(self) -> None:
        for descriptor in (self._syscall, self._schedstat):
            if descriptor >= 0:
                os.close(descriptor)
        self._syscall = self._schedstat = -1

    def now(self) -> str:
        """ON_CPU, FOR_GIL, or what it waits for."""
        line = _read(self._syscall)
        if line != self._last[0]:
            call = system_calls.parse(line)
            self._last = (line, ON_CPU if call is None else self._kind(call))
        return self._last[1]

    def run_count(self) -> bytes:
        """Changes whenever the thread begins to run; empty where the kernel does not count that.

        If it is the same as before ``now()`` found the thread waiting, the thread has been there ever since.
        """
        # Time on a CPU, time that it was ready to run, and how often it began to run.
        line = _read(self._schedstat)
        return b"" if line.endswith(b" 0\n") else line

    def cpu_seconds(self) -> float:
        """How long it was on a CPU since this was made; once it has ended, until it was asked last."""
        self._spent = max(self._spent, self._nanoseconds())
        return (self._spent - self._first) / 1e9

    def _nanoseconds(self) -> int:
        number = _read(self._schedstat).partition(b" ")[0]
        return int(number) if number.isdigit() else 0

    def _kind(self, call: SystemCall) -> str:
        if call.name == "futex" and call.arguments[0] in self._gil:
            return FOR_GIL
        if call.name in _ON_DESCRIPTOR:
            return self._descriptor(call.descriptor())
        if call.name in _POLLS:
            return self._poll(call)
        if call.name in ("select", "pselect6"):
            return "connection" if call.descriptor() else "sleep"
        if call.name.startswith("epoll"):
            return "connection"
        return _KINDS.get(call.name, f"system call {call.name}")

    def _poll(self, call: SystemCall) -> str:
        if not call.arguments[1]:
            return "sleep"
        if call.arguments[1] > 1:
            return "connection"
        # struct pollfd: the descriptor comes first.
        try:
            with open(f"{proc.ROOT}/{self._pid}/mem", "rb", buffering=0) as memory:
                entry = os.pread(memory.fileno(), 4, call.arguments[0])
        except (OSError, OverflowError):
            return "connection"
        return self._descriptor(int.from_bytes(entry, "little", signed=True))

    def _descriptor(self, number: int) -> str:
        target = proc.descriptor_target(number, f"{proc.ROOT}/{self._pid}") or ""
        if target.startswith(("pipe:", "anon_inode:")):
            return "pipe"
        if not target.startswith("socket:"):
            return "file"
        ends = sockets.ends_of_other(self._pid, number)
        if ends is None or ends.peer is None:
            return "connection"
        service = service_of(ends.peer, ends.peer_port)
        if service is None and (ends.peer_port or 0) >= _EPHEMERAL:
            return "connection"
        return f"{service} {ends.peer}" if service else ends.peer


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _read(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, _LINE_BYTES, 0)
    except OSError:
        # The thread has ended, or may not be read.
        return b""
