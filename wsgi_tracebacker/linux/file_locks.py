"""Locks of files as ``/proc/locks`` has them (proc_locks(5)): who waits for one, and who has it."""

from __future__ import annotations

import os
from typing import NamedTuple

from wsgi_tracebacker.linux import proc

#: The end of a lock that reaches to the end of the file.
_END = 1 << 63


class FileLock(NamedTuple):
    """One line: a lock that a process has, or waits for."""

    #: Lines of one number belong together: a lock, and those that wait for it.
    number: int
    is_waiting: bool
    #: ``POSIX``, ``FLOCK``, ``OFDLCK``, ``LEASE``.
    kind: str
    #: ``READ`` or ``WRITE``.
    mode: str
    #: None: of another pid namespace, or of no process but of an open file.
    pid: int | None
    inode: int
    #: The device as major and minor number.
    device: tuple[int, int]
    start: int
    end: int


def read() -> list[FileLock]:
    """All locks that the kernel shows this process."""
    return parse(proc.read("/proc/locks"))


def parse(content: bytes) -> list[FileLock]:
    """The lines that can be understood."""
    found = []
    for line in content.decode("ascii", "replace").splitlines():
        # 1: POSIX  ADVISORY  WRITE 4711 08:01:1234 0 EOF, and "-> " after the number of one that waits.
        fields = line.split()
        is_waiting = len(fields) > 1 and fields[1] == "->"
        if is_waiting:
            del fields[1]
        try:
            number, kind, _, mode, pid, file, start, end = fields
            major, minor, inode = file.split(":")
            found.append(
                FileLock(
                    int(number.rstrip(":")),
                    is_waiting,
                    kind,
                    mode,
                    int(pid) if int(pid) > 0 else None,
                    int(inode),
                    (int(major, 16), int(minor, 16)),
                    int(start),
                    _END if end == "EOF" else int(end),
                )
            )
        except ValueError:
            continue
    return found


def is_of(lock: FileLock, status: os.stat_result) -> bool:
    """Whether a lock is on this file.

    File systems of several devices (btrfs, overlayfs) give stat() another one than the kernel has in the list, so a
    file with the same inode counts where only the device differs and is of no real disk.
    """
    if lock.inode != status.st_ino:
        return False
    own = os.major(status.st_dev), os.minor(status.st_dev)
    return lock.device == own or 0 in (lock.device[0], own[0])


def holder(locks: list[FileLock], status: os.stat_result, waiting_pid: int) -> FileLock | None:
    """The lock on a file that a process waits for; None if the kernel does not show it, or more than one."""
    numbers = {lock.number for lock in locks if lock.is_waiting and lock.pid == waiting_pid and is_of(lock, status)}
    holders = [lock for lock in locks if not lock.is_waiting and lock.number in numbers]
    return holders[0] if len(holders) == 1 else None
