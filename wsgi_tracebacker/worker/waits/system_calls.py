"""What the kernel says that a thread waits for: the other end of a socket, a process that has a file's lock, a child.

Of a descriptor only what the kernel knows is asked, and nothing is read from it. What cannot be known is left out.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from wsgi_tracebacker.linux import file_locks, proc
from wsgi_tracebacker.linux.net import sockets
from wsgi_tracebacker.linux.net.services import service_of
from wsgi_tracebacker.linux.own_memory import OwnMemory
from wsgi_tracebacker.model.waits import WaitsFor
from wsgi_tracebacker.worker.waits.look import waits_for_gil

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.linux.file_locks import FileLock
    from wsgi_tracebacker.linux.system_calls import SystemCall

#: What a thread waits in. A known frame counts only if its thread waits in what such a frame waits in.
SOCKET, PIPE, FILE, CHILD, SLEEP, FUTEX, FILE_LOCK, SEVERAL, GIL = (
    *("socket", "pipe", "file", "child", "sleep", "futex", "file lock", "several", "GIL"),
)

#: From <asm-generic/fcntl.h>: the commands of fcntl() that wait for a lock.
_F_SETLKW, _F_OFD_SETLKW = 7, 38
#: The commands of waitid(): a process by its pid, and by a descriptor of it.
_P_PID, _P_PIDFD = 1, 3
#: struct pollfd, and the events that mean "can be written".
_POLL_ENTRY = struct.Struct("ihh")
_POLLOUT = 4
_EPOLLOUT = 4
#: Of more descriptors than these nobody can say which one is waited for.
_MAX_DESCRIPTORS = 8
#: Bits of select(): its limit is 1,024 descriptors.
_MAX_SELECT = 1024
#: The longest address that connect() takes, and the longest path.
_ADDRESS_BYTES = 128
_PATH_BYTES = 4096
#: Children whose descriptors are looked at.
_MAX_CHILDREN = 32


class KernelWait(NamedTuple):
    """What a thread waits in, and for what, as far as the kernel knows it."""

    #: SOCKET, PIPE, …
    family: str
    waits: WaitsFor | None = None


class Kernel:
    """Looks at the system calls of this process's threads; for one snapshot or report, because it remembers answers."""

    def __init__(self) -> None:
        self._memory = OwnMemory()
        self._locks: list[FileLock] | None = None
        self._children: tuple[int, ...] | None = None

    def close(self) -> None:
        """Close what was opened."""
        self._memory.close()

    def explain(self, call: SystemCall) -> KernelWait | None:
        """What a thread in this call waits for; None if it does not wait, or nothing is known."""
        explain = self._explainers.get(call.name)
        return explain(self, call) if explain is not None else None

    def locks(self) -> list[FileLock]:
        """All locks of files, read once."""
        if self._locks is None:
            self._locks = file_locks.read()
        return self._locks

    # --- descriptors

    def _reads(self, call: SystemCall) -> KernelWait | None:
        return self._descriptor(call.descriptor(), is_writing=False)

    def _writes(self, call: SystemCall) -> KernelWait | None:
        return self._descriptor(call.descriptor(), is_writing=True)

    def _descriptor(self, number: int, *, is_writing: bool) -> KernelWait | None:
        try:
            status = os.fstat(number)
        except OSError:
            return None
        mode = status.st_mode
        if stat.S_ISSOCK(mode):
            return _socket(number, is_writing=is_writing)
        if stat.S_ISFIFO(mode):
            return self._pipe(number, status.st_ino)
        target = proc.descriptor_target(number)
        if target is None or not target.startswith("/"):
            pid = proc.descriptor_fields(number, "Pid")
            return self._child(int(pid[0])) if pid and pid[0].isdigit() else None
        return KernelWait(FILE, WaitsFor("file", file=target))

    def _pipe(self, number: int, inode: int) -> KernelWait:
        target = proc.descriptor_target(number)
        if target is not None and target.startswith("/"):
            return KernelWait(PIPE, WaitsFor("pipe", file=target))
        if self._children is None:
            self._children = proc.children()[:_MAX_CHILDREN]
        name = f"pipe:[{inode}]"
        for pid in self._children:
            folder = f"/proc/{pid}"
            if any(proc.descriptor_target(each, folder) == name for each in proc.descriptors(folder)):
                return KernelWait(PIPE, WaitsFor("child", pid=pid, program=proc.program(folder)))
        return KernelWait(PIPE, WaitsFor("pipe"))

    def _connects(self, call: SystemCall) -> KernelWait | None:
        found = self._descriptor(call.descriptor(), is_writing=True)
        if found is None or found.waits is None or found.family != SOCKET:
            return found
        address = self._memory.read(call.arguments[1], min(call.arguments[2] & 0xFFFFFFFF, _ADDRESS_BYTES))
        peer, port = sockets.address_of_bytes(address)
        waits = WaitsFor("connection", peer=peer, connecting=True, service=service_of(peer, port))
        return KernelWait(SOCKET, waits)

    # --- several descriptors

    def _polls(self, call: SystemCall) -> KernelWait | None:
        count = call.arguments[1]
        if count > _MAX_DESCRIPTORS:
            return KernelWait(SEVERAL)
        content = self._memory.read(call.arguments[0], count * _POLL_ENTRY.size) if count else b""
        if len(content) != count * _POLL_ENTRY.size:
            return None
        entries = [(number, bool(events & _POLLOUT)) for number, events, _ in _POLL_ENTRY.iter_unpack(content)]
        return self._one_of([(number, writes) for number, writes in entries if number >= 0])

    def _selects(self, call: SystemCall) -> KernelWait | None:
        count = call.descriptor()
        if not 0 <= count <= _MAX_SELECT:
            return None
        sets = [self._bits(address, count) for address in call.arguments[1:4]]
        if any(bits is None for bits in sets):
            return None
        reads, writes, errors = (bits or set() for bits in sets)
        return self._one_of([(number, number in writes) for number in sorted(reads | writes | errors)])

    def _bits(self, address: int, count: int) -> set[int] | None:
        if not address or not count:
            return set()
        content = self._memory.read(address, (count + 7) // 8)
        if len(content) != (count + 7) // 8:
            return None
        mask = int.from_bytes(content, "little")
        return {number for number in range(count) if mask >> number & 1}

    def _epolls(self, call: SystemCall) -> KernelWait | None:
        lines = proc.descriptor_fields(call.descriptor(), "tfd")
        if len(lines) > _MAX_DESCRIPTORS:
            return KernelWait(SEVERAL)
        # tfd: 7 events: 19 data: 7 …
        entries = [(fields[0], fields[2]) for line in lines if len(fields := line.split()) > 2]
        return self._one_of([(int(number), bool(int(events, 16) & _EPOLLOUT)) for number, events in entries])

    def _one_of(self, entries: list[tuple[int, bool]]) -> KernelWait | None:
        """What is waited for, if only one descriptor is; of the pipes of a child, that child."""
        if not entries:
            return KernelWait(SLEEP, WaitsFor("sleep"))
        found = [self._descriptor(number, is_writing=is_writing) for number, is_writing in entries]
        if len(found) == 1:
            return found[0]
        waits = {each.waits for each in found if each is not None and each.family in (PIPE, CHILD)}
        if len(waits) == 1 and all(each is not None and each.family in (PIPE, CHILD) for each in found):
            return KernelWait(PIPE, waits.pop())
        return KernelWait(SEVERAL)

    # --- processes, files

    def _waits_for_pid(self, call: SystemCall) -> KernelWait | None:
        return self._child(call.descriptor())

    def _waits_for_id(self, call: SystemCall) -> KernelWait | None:
        kind, number = call.arguments[0], call.descriptor(1)
        if kind == _P_PIDFD:
            pid = proc.descriptor_fields(number, "Pid")
            return self._child(int(pid[0])) if pid and pid[0].isdigit() else KernelWait(CHILD, WaitsFor("child"))
        return self._child(number if kind == _P_PID else -1)

    def _child(self, pid: int) -> KernelWait:
        if pid <= 0:
            return KernelWait(CHILD, WaitsFor("child"))
        return KernelWait(CHILD, WaitsFor("child", pid=pid, program=proc.program(f"/proc/{pid}")))

    def _locks_file(self, call: SystemCall) -> KernelWait | None:
        number = call.descriptor()
        try:
            status = os.fstat(number)
        except OSError:
            return None
        target = proc.descriptor_target(number)
        holder = file_locks.holder(self.locks(), status, os.getpid())
        pid = holder.pid if holder is not None else None
        program = proc.program(f"/proc/{pid}") if pid is not None else None
        return KernelWait(FILE_LOCK, WaitsFor("file_lock", file=target, pid=pid, program=program))

    def _controls(self, call: SystemCall) -> KernelWait | None:
        return self._locks_file(call) if call.descriptor(1) in (_F_SETLKW, _F_OFD_SETLKW) else None

    def _opens(self, call: SystemCall) -> KernelWait | None:
        """open() of a FIFO waits for its other end, and of another file for a disk."""
        path = self._memory.read(call.arguments[1], _PATH_BYTES).partition(b"\0")[0]
        # At the end of a map, fewer bytes can be read than asked for; a path always ends before it.
        if not path.startswith(b"/"):
            return KernelWait(FILE)
        try:
            mode = os.stat(path).st_mode
        except OSError:
            return KernelWait(FILE)
        kind = "pipe" if stat.S_ISFIFO(mode) else "file"
        return KernelWait(FILE, WaitsFor(kind, file=os.fsdecode(path)))

    def _syncs(self, call: SystemCall) -> KernelWait | None:
        return self._descriptor(call.descriptor(), is_writing=True)

    #: By the name of a system call.
    _explainers: ClassVar[dict[str, Callable[[Kernel, SystemCall], KernelWait | None]]] = {
        **dict.fromkeys(("read", "readv", "pread64", "recvfrom", "recvmsg"), _reads),
        **dict.fromkeys(("write", "writev", "pwrite64", "sendto", "sendmsg", "sendfile"), _writes),
        **dict.fromkeys(("fsync", "fdatasync"), _syncs),
        **dict.fromkeys(("poll", "ppoll"), _polls),
        **dict.fromkeys(("select", "pselect6"), _selects),
        **dict.fromkeys(("epoll_wait", "epoll_pwait", "epoll_pwait2"), _epolls),
        **dict.fromkeys(("nanosleep", "clock_nanosleep"), lambda *_: KernelWait(SLEEP, WaitsFor("sleep"))),
        **dict.fromkeys(("futex", "futex_waitv"), lambda _, call: KernelWait(GIL if waits_for_gil(call) else FUTEX)),
        "connect": _connects,
        "wait4": _waits_for_pid,
        "waitid": _waits_for_id,
        "flock": _locks_file,
        "fcntl": _controls,
        "openat": _opens,
    }


def _socket(number: int, *, is_writing: bool) -> KernelWait:
    ends = sockets.ends(number)
    if ends is None:
        return KernelWait(SOCKET)
    kind = "send" if is_writing and not ends.is_connecting else "connection"
    waits = WaitsFor(
        kind,
        peer=ends.peer,
        own_port=ends.own_port,
        connecting=ends.is_connecting,
        service=service_of(ends.peer, ends.peer_port),
    )
    return KernelWait(SOCKET, waits)
