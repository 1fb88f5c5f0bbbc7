"""Checks whether the process that a card names still runs, and reads its state and its threads from ``/proc``.

A pid alone identifies nothing: it is reused, means another process in another pid namespace, and stays on a card after
a reboot. So everything that the card says is compared. No process is signalled or opened here.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.linux import proc

if TYPE_CHECKING:
    from wsgi_tracebacker.linux.proc import Signals
    from wsgi_tracebacker.model.card import Card

#: How many threads of a process are checked for waiting for a disk (10 ms).
_MAX_THREADS_ASKED = 512

#: The results of ``Processes.standing``.
SAME, GONE, UNKNOWN = "same", "gone", "unknown"

#: The states of a worker in ``wsgi-tb list``, with UNKNOWN for one that may not be asked or cannot be seen from here.
ALIVE, BUSY, STALLED, STOPPED, DISK_WAIT, DEAD = "alive", "busy", "stalled", "stopped", "disk wait", "dead"


class Identity(NamedTuple):
    """The user and groups that a process acts as."""

    uid: int
    gid: int
    groups: tuple[int, ...]


class ThreadTimes(NamedTuple):
    """What one thread has used so far."""

    #: Nanoseconds on a CPU, and runnable without one.
    ran: int
    delayed: int
    #: How often it went to sleep.
    switches: int
    #: The kernel's letter for its state.
    letter: str

    @property
    def wanted(self) -> int:
        """Nanoseconds in which it ran, or was ready to."""
        return self.ran + self.delayed


class Processes:
    """The processes under one ``/proc``."""

    def __init__(self, root: str = proc.ROOT) -> None:
        self._root = root

    def standing(self, card: Card, owner: int) -> str:
        """Whether the process that ``card`` names runs: SAME, GONE or, where ``/proc`` cannot tell, UNKNOWN.

        ``owner`` is the user whom the card's file belongs to: a card may only speak of its owner's processes.
        """
        # The pids of a container mean other processes out here; there only the sockets show when a process ends.
        if not self.is_boot(card.boot_id) or not self.same_namespace(card.pid_namespace):
            return UNKNOWN
        # Not the owner of the directory: that is root for every process that has changed its user, as gunicorn does.
        identity = self.identity(card.pid)
        if not self.runs(card.pid, card.start_ticks) or identity is None or identity.uid != owner:
            return GONE
        return SAME

    def state(self, pid: int, *, threads: bool = False) -> str:
        """ALIVE, STOPPED, DISK_WAIT or DEAD; with ``threads`` one thread that waits for a disk is enough."""
        letter = self._letter(self._folder(pid))
        if letter in "ZX":
            return DEAD
        if letter in "Tt":
            return STOPPED
        # The letter of a process is its main thread's, but any thread may hold the GIL.
        others = self.threads(pid)[:_MAX_THREADS_ASKED] if threads else ()
        if letter == "D" or any(self.letter(pid, native_id) == "D" for native_id in others):
            return DISK_WAIT
        return ALIVE

    def started_at(self, pid: int) -> float | None:
        """When the process started, in Unix seconds; None if it is not there."""
        started, boot = self.started_after_boot(pid), proc.boot_time(self._root)
        return None if started is None or boot is None else boot + started

    def started_after_boot(self, pid: int) -> float | None:
        """When the process started, in seconds since the boot; None if it is not there."""
        found = proc.stat(self._folder(pid))
        return None if found is None else found.start_ticks / os.sysconf("SC_CLK_TCK")

    def is_boot(self, boot_id: str) -> bool:
        """Whether that is the current boot of this machine, so that its monotonic clock is ours."""
        return proc.boot_id(self._root) == boot_id

    def runs(self, pid: int, start_ticks: int) -> bool:
        """Whether the process with this pid and start time still runs."""
        return proc.runs_since(self._folder(pid), start_ticks)

    def same_namespace(self, inode: int) -> bool:
        """Whether pids of that pid namespace mean the same processes here."""
        return inode != 0 and proc.pid_namespace(self._root) == inode

    def threads(self, pid: int) -> tuple[int, ...]:
        """The native ids of a process's threads; none if it is not there."""
        return proc.threads(self._folder(pid))

    def letter(self, pid: int, native_id: int) -> str:
        """The kernel's letter for one thread; X if it is not there."""
        return self._letter(self._folder(pid, native_id))

    def cpu_nanoseconds(self, pid: int, native_id: int) -> int | None:
        """How long a thread was on a CPU; None if the kernel does not say."""
        times = proc.run_times(self._folder(pid, native_id))
        return times[0] if times is not None else None

    def thread_times(self, pid: int, native_id: int) -> ThreadTimes | None:
        """What a thread used so far; None if the kernel does not say."""
        folder = self._folder(pid, native_id)
        times, status = proc.run_times(folder), proc.status(folder)
        try:
            return ThreadTimes(*times, int(status["voluntary_ctxt_switches"]), status["State"][0]) if times else None
        except (IndexError, KeyError, ValueError):
            return None

    def family(self, pid: int) -> set[int]:
        """A process, its descendants, and the members of its process group; none if it is not there."""
        stats = {each: of for each in proc.pids(self._root) if (of := proc.stat(self._folder(each))) is not None}
        if pid not in stats:
            return set()
        group = stats[pid].group
        # The group of a daemon without one of its own is 0.
        family = {pid, *(each for each, of_each in stats.items() if group and of_each.group == group)}
        more = {pid}
        while more:
            more = {each for each, of_each in stats.items() if of_each.parent in more}
            family |= more
        return family

    def namespace_of(self, pid: int) -> int:
        """The pid namespace of a process; 0 if this user may not see it."""
        return proc.pid_namespace(self._root, pid)

    def resident_bytes(self, pid: int) -> int | None:
        """How much memory a process has in RAM."""
        return proc.resident_bytes(self._folder(pid))

    @staticmethod
    def cpu_seconds(pid: int) -> float | None:
        """The CPU time of a process with all its threads, from the kernel's clock for it; None if it is not there."""
        try:
            # As clock_getcpuclockid(3) does: CPUCLOCK_SCHED of the kernel's posix-timers.h.
            return time.clock_gettime((~pid << 3) | 2)
        except OSError:
            return None

    def pid_inside(self, pid: int, native_id: int | None = None) -> int:
        """The id of a process, or of one of its threads, in its own pid namespace; where that is not said, as here."""
        inside = proc.status(self._folder(pid, native_id)).get("NSpid", "").split()
        return int(inside[-1]) if inside and inside[-1].isdigit() else native_id or pid

    def threads_by_inner_id(self, pid: int) -> dict[int, int]:
        """The native ids of a process's threads, by those that they have in its own pid namespace."""
        return {self.pid_inside(pid, native_id): native_id for native_id in self.threads(pid)}

    def visible_pid(self, card: Card) -> int | None:
        """The pid here of the process that a card of another pid namespace names; None if it cannot be seen.

        As for standing(), a card may only speak of its owner's processes: ``card.uid`` has to be its file's owner.
        """
        for pid in proc.pids(self._root):
            if (
                self.namespace_of(pid) == card.pid_namespace
                and self.pid_inside(pid) == card.pid
                and self.runs(pid, card.start_ticks)
            ):
                identity = self.identity(pid)
                return pid if identity is not None and identity.uid == card.uid else None
        return None

    def has_same_users(self, pid: int) -> bool:
        """Whether a uid means the same user for that process as here; so too where ``/proc`` does not say."""
        users = proc.read(f"{self._folder(pid)}/uid_map")
        return not users or users == proc.read(f"{self._root}/self/uid_map")

    def may_be_signalled_by(self, pid: int, uid: int) -> bool:
        """Whether that user may signal a process, by the rule of kill(2).

        A daemon of root that acts as the user for a moment may not be signalled by that user.
        """
        found = proc.credentials(self._folder(pid))
        return found is not None and len(found.uids) == 4 and uid in (found.uids[0], found.uids[2])

    def signals(self, pid: int, native_id: int | None = None) -> Signals | None:
        """The signals that are pending, blocked and caught in a process's main thread, or in another of its threads."""
        return proc.signals(self._folder(pid, native_id))

    def identity(self, pid: int) -> Identity | None:
        """The user and the groups that a process acts as."""
        found = proc.credentials(self._folder(pid))
        if found is None or len(found.uids) < 2 or len(found.gids) < 2:
            return None
        return Identity(found.uids[1], found.gids[1], found.groups)

    def _folder(self, pid: int, native_id: int | None = None) -> str:
        return f"{self._root}/{pid}" if native_id is None else f"{self._root}/{pid}/task/{native_id}"

    @staticmethod
    def _letter(folder: str) -> str:
        found = proc.stat(folder)
        return found.letter if found is not None else "X"
