"""Reads ``/proc`` (proc(5)); only ``system_calls`` and ``own_memory`` open a file there too.

A *folder* is the directory of a process (``/proc/123``, ``/proc/self``) or of one of its threads
(``/proc/self/task/124``). No function raises: if a process does not exist, or a file may not be read, the result is
empty or None.
"""

from __future__ import annotations

import os
from typing import NamedTuple

#: The usual ``/proc``. Tests use a folder of their own.
ROOT = "/proc"

#: How much of a file is read at once, and in all. One line is far below a page; ``/proc/stat`` of a large machine and
#: the mounts of one with many containers have some hundred thousand bytes.
_READ_BYTES = 16 * 1024
_MAX_BYTES = 1024 * 1024

#: A process's flags, from <linux/sched.h>: it has begun to end.
_PF_EXITING = 0x4

#: Letters of a process that has ended: a zombie, a dead one.
_ENDED = ("Z", "X")


class Stat(NamedTuple):
    """The fields that we use of the file ``stat``."""

    #: R, S, D, T, Z …
    letter: str
    parent: int
    group: int
    #: Whether the process has begun to end. Its locks are free by then, but its letter may still be R: seen in 2 of 300
    #: deaths by a process that locked the file at once.
    is_exiting: bool
    #: When it started, in clock ticks since boot.
    start_ticks: int


class Signals(NamedTuple):
    """Signals as masks: bit 0 is signal 1."""

    pending: int
    #: For the process as a whole.
    shared_pending: int
    blocked: int
    caught: int


class Credentials(NamedTuple):
    """The users and groups of a process: real, effective, saved and file-system ids."""

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]


def read(path: str) -> bytes:
    """The content of a file, at most a mebibyte."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        # The kernel makes these files anew for each open, and most come with one read.
        content = chunk = os.read(descriptor, _READ_BYTES)
        while len(chunk) == _READ_BYTES and len(content) < _MAX_BYTES:
            chunk = os.read(descriptor, _READ_BYTES)
            content += chunk
        return content
    except OSError:
        return b""
    finally:
        try:
            os.close(descriptor)
        except OSError:
            # The application has closed all descriptors of its process meanwhile.
            pass


def stat(folder: str) -> Stat | None:
    """State, flags and start of a process or thread."""
    # The second field is the program's name in parentheses, which may hold anything, parentheses and blanks too.
    fields = read(f"{folder}/stat").rpartition(b")")[2].split()
    try:
        return Stat(
            letter=fields[0].decode("ascii", "replace"),
            parent=int(fields[1]),
            group=int(fields[2]),
            is_exiting=bool(int(fields[6]) & _PF_EXITING),
            start_ticks=int(fields[19]),
        )
    except (IndexError, ValueError):
        return None


def runs_since(folder: str, start_ticks: int) -> bool:
    """Whether the process that started then still runs."""
    found = stat(folder)
    return (
        found is not None and found.start_ticks == start_ticks and found.letter not in _ENDED and not found.is_exiting
    )


def status(folder: str) -> dict[str, str]:
    """The lines of the file ``status``, by name: ``Uid``, ``SigCgt``, ``voluntary_ctxt_switches`` …"""
    lines = read(f"{folder}/status").decode("utf-8", "replace").split("\n")
    # The first line is the program's name, which may hold anything but a line break (that is escaped).
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}


def signals(folder: str) -> Signals | None:
    """Which signals are pending, blocked and caught."""
    found = status(folder)
    try:
        return Signals(*(int(found[name], 16) for name in ("SigPnd", "ShdPnd", "SigBlk", "SigCgt")))
    except (KeyError, ValueError):
        return None


def is_caught(number: int, folder: str = "/proc/self") -> bool | None:
    """Whether a process has a handler for a signal; None if ``/proc`` does not show it."""
    found = signals(folder)
    return bool(found.caught >> (number - 1) & 1) if found is not None else None


def credentials(folder: str) -> Credentials | None:
    """The users and groups of a process."""
    found = status(folder)
    try:
        return Credentials(*(tuple(map(int, found.get(name, "").split())) for name in ("Uid", "Gid", "Groups")))
    except ValueError:
        return None


def run_times(folder: str) -> tuple[int, int] | None:
    """Nanoseconds on a CPU, and nanoseconds runnable without one."""
    fields = read(f"{folder}/schedstat").split()
    try:
        return int(fields[0]), int(fields[1])
    except (IndexError, ValueError):
        return None


def wait_channel(folder: str) -> str | None:
    """The kernel's function that a thread sleeps in; None if it does not sleep, or if we may not read it."""
    channel = read(f"{folder}/wchan")
    return channel.decode("ascii", "backslashreplace") if channel not in (b"", b"0") else None


def system_call(folder: str) -> int | None:
    """The number of the system call that a thread is in; None if it is in none."""
    # "running" for a thread that runs; -1 for one that was stopped outside of any call.
    number = read(f"{folder}/syscall").partition(b" ")[0]
    return int(number) if number.isdigit() else None


def program(folder: str) -> str | None:
    """The name of a process's program, at most 15 bytes, without its arguments."""
    name = read(f"{folder}/comm").removesuffix(b"\n")
    return name.decode("utf-8", "backslashreplace") if name else None


def descriptor_target(number: int, folder: str = "/proc/self") -> str | None:
    """What a descriptor of a process is open on: a path, ``pipe:[4711]``, ``socket:[4712]``, ``anon_inode:[...]``."""
    try:
        return os.readlink(f"{folder}/fd/{number}")
    except OSError:
        return None


def descriptors(folder: str = "/proc/self") -> tuple[int, ...]:
    """The numbers of a process's open descriptors."""
    try:
        return tuple(int(name) for name in os.listdir(f"{folder}/fd"))
    except (OSError, ValueError):
        return ()


def descriptor_fields(number: int, name: str) -> list[str]:
    """The values of each line of that name in the kernel's file on a descriptor of this process."""
    lines = read(f"/proc/self/fdinfo/{number}").decode("ascii", "replace").splitlines()
    return [value.strip() for key, _, value in (line.partition(":") for line in lines) if key == name]


def children(folder: str = "/proc/self") -> tuple[int, ...]:
    """The pids of a process's children, whichever of its threads started them."""
    found = [read(f"{folder}/task/{native_id}/children").split() for native_id in threads(folder)]
    return tuple(int(pid) for pids in found for pid in pids)


def threads(folder: str) -> tuple[int, ...]:
    """The native ids of a process's threads."""
    try:
        return tuple(int(name) for name in os.listdir(f"{folder}/task"))
    except (OSError, ValueError):
        return ()


def pids(root: str = ROOT) -> list[int]:
    """All processes that can be seen, in the order of their pids."""
    try:
        return sorted(int(name) for name in os.listdir(root) if name.isdecimal())
    except OSError:
        return []


def resident_bytes(folder: str) -> int | None:
    """How much memory a process has in RAM."""
    fields = read(f"{folder}/statm").split()
    try:
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    except (IndexError, ValueError):
        return None


def mapped_files(folder: str) -> list[tuple[bytes, int]]:
    """The path of each file that is mapped into a process from its beginning, and the address where that is."""
    found = []
    try:
        # This file comes a page at a time, however much is asked for.
        with open(f"{folder}/maps", "rb") as lines:
            for line in lines:
                # start-end, permissions, offset, device, inode, path
                fields = line.rstrip(b"\n").split(None, 5)
                if len(fields) == 6 and int(fields[2], 16) == 0:
                    found.append((fields[5], int(fields[0].partition(b"-")[0], 16)))
    except (OSError, ValueError):
        return []
    return found


def boot_id(root: str = ROOT) -> str:
    """The kernel's random name for this boot, or an empty string."""
    return read(f"{root}/sys/kernel/random/boot_id").decode("ascii", "replace").strip()


def boot_time(root: str = ROOT) -> int | None:
    """When the machine started, in Unix seconds."""
    seconds = read(f"{root}/stat").partition(b"\nbtime ")[2].split(b"\n", 1)[0]
    return int(seconds) if seconds.isdigit() else None


def pid_namespace(root: str = ROOT, pid: int | None = None) -> int:
    """The inode number of the pid namespace of a process, this one by default; 0 if it cannot be seen."""
    try:
        return os.stat(f"{root}/{'self' if pid is None else pid}/ns/pid").st_ino
    except OSError:
        return 0
