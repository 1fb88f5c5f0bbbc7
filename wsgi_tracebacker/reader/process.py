"""What the kernel says about a process: whether it is the one that a card names, and what it is waiting for.

Knows ``/proc`` (proc_pid_stat(5)) and when it may be believed. A pid alone names nobody: it is used again, means
another process in another pid namespace, and survives on a card through a reboot. Refuses to signal, open or change
anything of the process.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wsgi_tracebacker.model import Card

#: A process can have any number of threads; to find one that waits for a disk, this many are looked at (10 ms).
_MAX_THREADS_LOOKED_AT = 512

#: ``/proc`` files that are read here are below this.
_MAX_BYTES = 16 * 1024

#: What ``standing`` answers.
SAME, GONE, UNKNOWN = "same", "gone", "unknown"

#: What ``state`` answers: the words of ``wsgi-tb list``.
ALIVE, STOPPED, DISK_WAIT, DEAD = "alive", "stopped", "disk wait", "dead"


class Signals(NamedTuple):
    """Signals as masks: bit 0 is signal 1."""

    pending: int
    #: For the process as a whole.
    shared_pending: int
    blocked: int
    caught: int


class Identity(NamedTuple):
    """Whom a process acts as."""

    uid: int
    gid: int
    groups: tuple[int, ...]


class Processes:
    """The processes under one ``/proc``."""

    def __init__(self, root: str = "/proc") -> None:
        self._root = root

    def standing(self, card: Card, owner: int) -> str:
        """Whether the process that ``card`` names runs: SAME, GONE or, where ``/proc`` cannot tell, UNKNOWN.

        ``owner`` is the user whom the card's file belongs to: a card may only speak of its owner's processes.
        """
        # A container's pids say nothing out here. (That its processes end is told by its sockets.)
        if not self.is_boot(card.boot_id) or not self.same_namespace(card.pid_namespace):
            return UNKNOWN
        if not self.runs(card.pid, card.start_ticks) or self._user(card.pid) != owner:
            return GONE
        return SAME

    def state(self, pid: int, *, threads: bool = False) -> str:
        """ALIVE, STOPPED, DISK_WAIT or DEAD; with ``threads`` one thread that waits for a disk is enough."""
        letter, _ = self._stat(str(pid))
        if letter in "ZX":
            return DEAD
        if letter in "Tt":
            return STOPPED
        if letter == "D":
            return DISK_WAIT
        if threads:
            # The letter of a process is its main thread's, but any thread may hold the GIL.
            try:
                tasks = os.listdir(f"{self._root}/{pid}/task")
            except OSError:
                return DEAD
            if any(self._stat(f"{pid}/task/{task}")[0] == "D" for task in tasks[:_MAX_THREADS_LOOKED_AT]):
                return DISK_WAIT
        return ALIVE

    def started_at(self, pid: int) -> float | None:
        """When the process started, in Unix seconds; None if it is not there."""
        _, start_ticks = self._stat(str(pid))
        boot = self._read("stat").partition("\nbtime ")[2].split("\n", 1)[0]
        if start_ticks is None or not boot.isdecimal():
            return None
        return int(boot) + start_ticks / os.sysconf("SC_CLK_TCK")

    def is_boot(self, boot_id: str) -> bool:
        """Whether that was this boot of this machine: its monotonic clock is ours then."""
        return self._read("sys/kernel/random/boot_id").strip() == boot_id

    def runs(self, pid: int, start_ticks: int) -> bool:
        """Whether the process that had a pid since then still runs."""
        letter, found = self._stat(str(pid))
        return letter not in "ZX" and found == start_ticks

    def same_namespace(self, inode: int) -> bool:
        """Whether pids of that pid namespace mean the same here."""
        try:
            return os.stat(f"{self._root}/self/ns/pid").st_ino == inode
        except OSError:
            return False

    def threads(self, pid: int) -> tuple[int, ...]:
        """The native ids of a process's threads; none if it is not there."""
        try:
            return tuple(int(name) for name in os.listdir(f"{self._root}/{pid}/task"))
        except (OSError, ValueError):
            return ()

    def letter(self, pid: int, native_id: int) -> str:
        """The kernel's letter for one thread; X if it is not there."""
        return self._stat(f"{pid}/task/{native_id}")[0]

    def cpu_nanoseconds(self, pid: int, native_id: int) -> int | None:
        """How long a thread was on a CPU, None where the kernel does not say."""
        words = self._read(f"{pid}/task/{native_id}/schedstat").split()
        return int(words[0]) if words and words[0].isdecimal() else None

    def thread_seen(self, pid: int, native_id: int) -> tuple[int, int, int, str] | None:
        """Nanoseconds on a CPU and runnable without one, voluntary switches, and the letter of a thread."""
        times = self._read(f"{pid}/task/{native_id}/schedstat").split()
        status = self._status(f"{pid}/task/{native_id}")
        try:
            return int(times[0]), int(times[1]), int(status["voluntary_ctxt_switches"]), status["State"][0]
        except (IndexError, KeyError, ValueError):
            return None

    def may_be_signalled_by(self, pid: int, uid: int) -> bool:
        """Whether that user could signal a process without our help (kill(2)): a daemon of root's that acts as the user
        just now is none of his.
        """
        uids = self._status(str(pid)).get("Uid", "").split()
        return len(uids) == 4 and str(uid) in (uids[0], uids[2])

    def signals(self, pid: int, native_id: int | None = None) -> Signals | None:
        """What is pending, blocked and caught in a process (in its main thread), or in one of its threads."""
        status = self._status(f"{pid}" if native_id is None else f"{pid}/task/{native_id}")
        try:
            return Signals(*(int(status[name], 16) for name in ("SigPnd", "ShdPnd", "SigBlk", "SigCgt")))
        except (KeyError, ValueError):
            return None

    def identity(self, pid: int) -> Identity | None:
        """The user and the groups that a process acts as."""
        status = self._status(str(pid))
        try:
            uid, gid = int(status["Uid"].split()[1]), int(status["Gid"].split()[1])
            return Identity(uid, gid, tuple(map(int, status["Groups"].split())))
        except (KeyError, ValueError, IndexError):
            return None

    def _status(self, directory: str) -> dict[str, str]:
        lines = self._read(f"{directory}/status").split("\n")
        # The first line is the program's name, which may hold anything but a line break (that is escaped).
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}

    def _stat(self, directory: str) -> tuple[str, int | None]:
        """The state's letter (X for a process that is not there) and field 22, the start in ticks since boot."""
        # The second field is the program's name in parentheses and may hold anything, parentheses and blanks too.
        fields = self._read(f"{directory}/stat").rpartition(")")[2].split()
        if len(fields) < 20 or not fields[19].isdecimal():
            return "X", None
        return fields[0], int(fields[19])

    def _user(self, pid: int) -> int | None:
        # Not the owner of the directory: that is root for every process that has changed its user, as gunicorn does.
        uids = self._read(f"{pid}/status").partition("\nUid:")[2].split("\n", 1)[0].split()
        return int(uids[1]) if len(uids) > 1 and uids[1].isdecimal() else None

    def _read(self, name: str) -> str:
        try:
            with open(f"{self._root}/{name}", "rb", buffering=0) as file:
                # One read gives all: the kernel makes these files anew for each open. ``stat`` may be longer, and
                # what is wanted of it may stand late (one long line counts interrupts), so it is read to the end.
                chunks = []
                while chunk := file.read(_MAX_BYTES):
                    chunks.append(chunk)
                    if len(chunks) > 64:
                        break
                return b"".join(chunks).decode("utf-8", "replace")
        except OSError:
            return ""
