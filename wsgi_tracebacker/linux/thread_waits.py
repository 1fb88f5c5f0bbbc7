"""What a thread of any process is doing at this moment: on a CPU, or in which system call it waits for what.

From ``/proc/PID/task/TID/syscall`` on a descriptor that stays open: 2 microseconds. What a descriptor of the process
leads to is found out once for each wait. ``schedstat`` says whether the thread has run since.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.linux import proc, system_calls
from wsgi_tracebacker.linux.net import sockets
from wsgi_tracebacker.linux.net.services import service_of
from wsgi_tracebacker.model.recording import FOR_GIL, ON_CPU

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.linux.system_calls import SystemCall

_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC
_LINE_BYTES = 256

#: What a thread waits for in calls that name no descriptor.
_KINDS = {
    "futex": "lock", "futex_waitv": "lock", "nanosleep": "sleep", "clock_nanosleep": "sleep", "wait4": "child",
    "waitid": "child", "vfork": "child", "flock": "file lock", "fcntl": "file lock", "fsync": "file",
    "fdatasync": "file", "openat": "file", "pause": "signal",
}  # fmt: skip
#: Calls whose first argument is a descriptor.
_ON_DESCRIPTOR = frozenset(
    ("read", "write", "pread64", "pwrite64", "readv", "writev", "sendfile", "connect", "accept", "accept4", "sendto",
     "recvfrom", "sendmsg", "recvmsg")
)  # fmt: skip
_POLLS = frozenset(("poll", "ppoll"))
#: Of more descriptors in one call it is not found out what they are. subprocess waits for three at most.
_MAX_POLLED = 4
#: struct pollfd: the descriptor, then the events.
_POLLFD = struct.Struct("i4x")

#: From here on the kernel chooses ports for the connecting side: such a peer is a client of the worker, as a rule.
_EPHEMERAL = 32768


class ThreadWaits:
    """One thread. Close it when done."""

    def __init__(
        self, pid: int, native_id: int, gil: range, files: Files | None = None, *, is_new: bool = False
    ) -> None:
        """``gil``: the addresses of the GIL, a thread that waits for it sleeps on a word within.

        :param files: how the kernel's files are opened and read.
        :param is_new: all of its time counts, also that before this was made.
        """
        self._pid = pid
        self._gil = gil
        files = files or FILES
        self._read = files.read
        folder = f"{proc.ROOT}/{pid}/task/{native_id}"
        self._syscall = files.open(f"{folder}/syscall")
        self._schedstat = files.open(f"{folder}/schedstat")
        self._last = (b"", ON_CPU)
        self._spent = _nanoseconds(self._read(self._schedstat))
        self._first = (0, 0) if is_new else self._spent

    def close(self) -> None:
        for descriptor in (self._syscall, self._schedstat):
            if descriptor >= 0:
                # The application of this process may have closed all descriptors meanwhile.
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._syscall = self._schedstat = -1

    def now(self) -> str:
        """ON_CPU, FOR_GIL, or what it waits for."""
        return self.kind(self.line())

    def line(self) -> bytes:
        """What the kernel says of its system call; empty if it does not say."""
        return self._read(self._syscall)

    def kind(self, line: bytes) -> str:
        """ON_CPU, FOR_GIL, or what it waits for that is in this call."""
        if line != self._last[0]:
            call = system_calls.parse(line)
            self._last = (line, ON_CPU if call is None else self._kind(call))
        return self._last[1]

    def run_count(self) -> bytes:
        """Changes whenever the thread begins to run; empty where the kernel does not count that.

        If it is the same as before ``now()`` found the thread waiting, the thread has been there ever since.
        """
        # Time on a CPU, time that it was ready to run, and how often it began to run.
        line = self._read(self._schedstat)
        # There is nothing to read any more once it has ended, which may be before times() is called.
        self._spent = max(self._spent, _nanoseconds(line))
        return b"" if line.endswith(b" 0\n") else line

    def forget(self) -> None:
        """Find out anew what it waits for, also in the same call."""
        self._last = (b"", ON_CPU)

    def cpu_seconds(self) -> float:
        """How long it was on a CPU since this was made; of one that has ended, until it was last read."""
        return self.times()[0]

    def times(self) -> tuple[float, float]:
        """The same, and how long it was on a CPU or ready to be."""
        self._spent = max(self._spent, _nanoseconds(self._read(self._schedstat)))
        ran, delayed = (now - first for now, first in zip(self._spent, self._first, strict=True))
        return ran / 1e9, (ran + delayed) / 1e9

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
        address, count = call.arguments[:2]
        if not count:
            return "sleep"
        if count > _MAX_POLLED:
            return "connection"
        size = count * _POLLFD.size
        try:
            with open(f"{proc.ROOT}/{self._pid}/mem", "rb", buffering=0) as memory:
                entries = os.pread(memory.fileno(), size, address)
        except (OSError, OverflowError):
            return "connection"
        if len(entries) != size:
            return "connection"
        kinds = {self._descriptor(number) for (number,) in _POLLFD.iter_unpack(entries)}
        return kinds.pop() if len(kinds) == 1 else "connection"

    def _descriptor(self, number: int) -> str:
        target = proc.descriptor_target(number, f"{proc.ROOT}/{self._pid}") or ""
        if target.startswith(("pipe:", "anon_inode:")):
            return "pipe"
        if not target.startswith("socket:"):
            return "file"
        is_own = self._pid == os.getpid()
        ends = sockets.ends(number) if is_own else sockets.ends_of_other(self._pid, number)
        if ends is None or ends.peer is None:
            return "connection"
        service = service_of(ends.peer, ends.peer_port)
        if service is None and (ends.peer_port or 0) >= _EPHEMERAL:
            return "connection"
        return f"{service} {ends.peer}" if service else ends.peer


def _nanoseconds(schedstat: bytes) -> tuple[int, int]:
    fields = schedstat.split()
    return (int(fields[0]), int(fields[1])) if len(fields) == 3 else (0, 0)


class Files(NamedTuple):
    """Files of the kernel."""

    #: Opens a path to read it; -1 if that is refused, or nothing is there.
    open: Callable[[str], int]
    #: An open file from its beginning; empty if its thread has ended, or may not be read.
    read: Callable[[int], bytes]


def _open(path: str) -> int:
    try:
        return os.open(path, _OPEN_FLAGS)
    except OSError:
        return -1


def _read(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, _LINE_BYTES, 0)
    except OSError:
        return b""


FILES = Files(_open, _read)


def files_with_gil() -> Files:
    """FILES that keep the GIL: with ``os``, each call would wait until all busy threads had their turns."""
    try:
        # 10 ms, and only where somebody records.
        import ctypes  # noqa: PLC0415

        libc = ctypes.PyDLL(None)
        c_open, pread = libc.open, libc.pread
    except (ImportError, OSError, AttributeError):
        return FILES
    c_open.argtypes = ctypes.c_char_p, ctypes.c_int
    pread.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long
    pread.restype = ctypes.c_ssize_t
    buffer = ctypes.create_string_buffer(_LINE_BYTES)

    def read(descriptor: int) -> bytes:
        size = pread(descriptor, buffer, _LINE_BYTES, 0)
        return buffer.raw[: max(0, size)]

    return Files(lambda path: int(c_open(os.fsencode(path), _OPEN_FLAGS)), read)
