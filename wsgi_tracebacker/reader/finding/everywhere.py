"""Finds the bases of all workers that this user may read, when none was named: without an argument, or by a pid.

Each worker's black box is in shared memory and has the base path, as its worker sees it. Another mount namespace (a
container, a service with PrivateTmp of systemd's) may have other files at that path, and other shared memory. So all
root folders that processes have are searched, through ``/proc/PID/root``: that needs the rights over such a process.
A base in another root folder is named by the path through it, which the operator can give to the command as well.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.linux import files, proc
from wsgi_tracebacker.reader.finding.discovery import DEFAULT_BASE, MAX_USER_WORKERS, find
from wsgi_tracebacker.reader.finding.processes import GONE, Processes
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire.black_box import table_head
from wsgi_tracebacker.wire.documents import card_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsgi_tracebacker.reader.finding.discovery import Target

#: How many root folders are searched: as many containers as one machine runs.
_MAX_ROOTS = 1024

#: How many bases are named if none of those that were asked for has workers.
_MAX_NAMED_BASES = 10


class Base(NamedTuple):
    """A base that has workers."""

    #: As an argument of the command: in another root folder, through ``/proc/PID/root``.
    path: str
    workers: tuple[Target, ...]
    #: Whether one of them may be alive.
    is_alive: bool


def bases(processes: Processes | None = None) -> list[Base]:
    """All bases that this user may read, those in the reader's own root folder first, then by path."""
    processes = processes or Processes()
    roots = _roots()
    numbers: dict[str, set[int]] = {}
    for head in _heads(roots):
        numbers.setdefault(head.base, set()).add(head.number)
    found = []
    seen: set[files.Inode] = set()
    for root in roots:
        paths = [root + base for base in sorted(numbers) if _is_new(root + base, numbers[base], seen)]
        for path, workers in zip(paths, find(paths).targets, strict=True):
            if isinstance(workers, tuple) and workers:
                found.append(Base(path, workers, any(_may_live(worker, processes) for worker in workers)))
    return found


def bases_line() -> list[str]:
    """The line that names the bases that there are, for an operator who named a wrong one; none if there are none."""
    found = [base for base in bases() if base.is_alive]
    if not found:
        return []
    named = [f"{base.path} ({plural(len(base.workers), 'worker')})" for base in found[:_MAX_NAMED_BASES]]
    more = [f"{len(found) - len(named)} more"] if len(found) > len(named) else []
    return [f"bases with workers that you may read: {', '.join(named + more)}"]


def default_arguments() -> tuple[str, ...]:
    """What is read if nothing was named: every base with a worker that may be alive, or else the default base."""
    found = [base.path for base in bases() if base.is_alive]
    # A uWSGI without the middleware has sockets at the default base, and no black box.
    if DEFAULT_BASE not in found:
        (at_default,) = find((DEFAULT_BASE,)).targets
        if not found or (isinstance(at_default, tuple) and at_default):
            found.insert(0, DEFAULT_BASE)
    return tuple(found)


def sockets_of(pid: int, processes: Processes | None = None) -> tuple[str, ...]:
    """The sockets of the workers that are this process, its descendants, or in its process group."""
    processes = processes or Processes()
    of_pid = {(processes.namespace_of(each), processes.pid_inside(each)) for each in processes.family(pid)}
    return tuple(
        worker.socket
        for base in bases(processes)
        for worker in base.workers
        if worker.card is not None and (worker.card.pid_namespace, worker.card.pid) in of_pid
    )


def _roots() -> list[str]:
    """A path to each root folder: empty for the reader's own, ``/proc/PID/root`` for others."""
    seen = {_root_identity("self")}
    roots = [""]
    for pid in proc.pids():
        identity = _root_identity(str(pid))
        if identity is not None and identity not in seen and len(roots) < _MAX_ROOTS:
            seen.add(identity)
            roots.append(f"{proc.ROOT}/{pid}/root")
    return roots


def _root_identity(pid: str) -> tuple[int, int, int] | None:
    """Mount namespace and root folder of a process; None if this user may not see them."""
    try:
        root = os.stat(f"{proc.ROOT}/{pid}/root")
        return os.stat(f"{proc.ROOT}/{pid}/ns/mnt").st_ino, root.st_dev, root.st_ino
    except OSError:
        return None


def _heads(roots: Sequence[str]) -> Iterator[table_head.Head]:
    """Whose black boxes there are in the shared memory of these root folders."""
    seen: set[files.Inode] = set()
    read_of: dict[int, int] = {}
    for root in roots:
        folder = root + table_head.SHARED_MEMORY
        try:
            # Through the folder and not its path: in a container that may be a link to somewhere else.
            reference = files.refer(folder)
        except OSError:
            continue
        try:
            status = os.fstat(reference)
            inode = status.st_dev, status.st_ino
            if inode in seen or not stat.S_ISDIR(status.st_mode):
                continue
            seen.add(inode)
            for name in os.listdir(files.path_of(reference)):
                head = _head(files.path_of(reference), name, read_of)
                if head is not None:
                    yield head
        except OSError:
            continue
        finally:
            files.close(reference)


def _head(folder: str, name: str, read_of: dict[int, int]) -> table_head.Head | None:
    match = table_head.TABLE_NAME.fullmatch(name)
    if match is None:
        return None
    path = f"{folder}/{name}"
    try:
        owner = os.lstat(path).st_uid
        read_of[owner] = read_of.get(owner, 0) + 1
        if os.geteuid() not in (0, owner) or (owner != os.geteuid() and read_of[owner] > MAX_USER_WORKERS):
            return None
        content, _ = files.read_file_of(path, owner, table_head.HEAD_BYTES)
    except OSError:
        return None
    return table_head.decode(content)


def _is_new(path: str, numbers: set[int], seen: set[files.Inode]) -> bool:
    """Whether there are cards at a path that were not found by another path. Adds them to those seen."""
    cards = {files.inode_at(card_json.card_path(path, number)) for number in numbers} - {None}
    new = {inode for inode in cards if inode is not None and inode not in seen}
    seen |= new
    return bool(new)


def _may_live(worker: Target, processes: Processes) -> bool:
    if worker.card is None or worker.card_owner is None:
        return worker.inode is not None
    standing = processes.standing(worker.card, worker.card_owner)
    # In another pid namespace its socket is the only sign.
    return standing != GONE and (worker.inode is not None or processes.same_namespace(worker.card.pid_namespace))
