"""Asks a worker in which Python cannot run for its stacks, by a signal that faulthandler answers without the GIL.

Everything that has to be true before the signal is sent is checked here, except that the worker is stalled: the caller
has proven that. Written as a generator that yields the seconds until its next step, so that one loop can ask several
workers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import files
from wsgi_tracebacker.reader.finding.processes import SAME
from wsgi_tracebacker.wire.black_box import faulthandler_text, file_names

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.reader.finding.processes import Processes

#: How long to wait for another reader's lock, which is held for some milliseconds.
_LOCK_SECONDS = 1.0
_LOCK_RETRY_SECONDS = 0.01

#: How long to wait for a dump, and how often to check. 100 threads take 5 ms; the rest is for an overloaded machine.
_DUMP_SECONDS = 1.0
_CHECK_SECONDS = 0.002

#: The worker's own bound for the file. Readers keep it while Python does not run in the worker.
MAX_STACKS_BYTES = 512 * 1024

#: ``struct flock`` on 64-bit Linux: type, whence, start, length, pid. For open file description locks the pid is 0.
_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class Refused(Exception):
    """No signal was sent, or no dump was written; ``str()`` says why."""


def ask(card: Card, processes: Processes, why_no_longer: Callable[[], str | None]) -> Generator[float, None, bytes]:
    """Send the worker's signal and return faulthandler's dump. Raises Refused, or OSError.

    ``why_no_longer`` is called right before the signal; it returns the reason if the worker is not stalled any more.
    """
    number = card.dump_signal
    if number is None or card.stacks is None:
        raise Refused("it answers no signal")
    if struct.calcsize("P") != 8 or not 1 <= number <= 64:
        raise Refused("its signal cannot be sent from here")
    if not hasattr(os, "pidfd_open"):
        # PyPy. A signal by pid could reach another process, and end it.
        raise Refused("this Python cannot name its process safely")
    # Writable because the lock needs it; only the worker writes to it.
    descriptor = files.open_file_of(card.stacks, card.uid, os.O_RDWR)
    try:
        yield from _lock(descriptor)
        size = _make_room(descriptor, card)
        blocked = _send(card, processes, number, why_no_longer)
        yield from _wait_for_end(card, processes, number, blocked, descriptor, size)
        content = files.read_at_most(descriptor, faulthandler_text.MAX_BYTES, size)
    finally:
        # Releases the lock too.
        os.close(descriptor)
    return content


def _lock(descriptor: int) -> Generator[float, None, None]:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _LOCK)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        else:
            return
        if time.monotonic() >= deadline:
            raise Refused("other readers are asking it all the time")
        yield _LOCK_RETRY_SECONDS


def _make_room(descriptor: int, card: Card) -> int:
    """Empty the file if it is full; return its size before the dump."""
    status = os.fstat(descriptor)
    if status.st_size <= MAX_STACKS_BYTES:
        return status.st_size
    # A card can name any path, and root may empty files that the card's user owns but cannot reach, a backup of their
    # home for instance. So root empties only a file that has the name of that worker's stacks file in shared memory.
    if status.st_uid != os.geteuid() and card.stacks != _in_shared_memory(card):
        raise Refused(f"its stacks file is full, and only a reader of uid {status.st_uid} may begin it anew")
    os.ftruncate(descriptor, 0)
    return 0


def _in_shared_memory(card: Card) -> str:
    name = file_names.file_name(card.base, card.number, card.uid, file_names.STACKS)
    return os.path.join(file_names.SHARED_MEMORY, name)


def _send(card: Card, processes: Processes, number: int, why_no_longer: Callable[[], str | None]) -> frozenset[int]:
    """Send the signal if every check passes; return the threads that block it."""
    mask = 1 << (number - 1)
    pidfd = os.pidfd_open(card.pid)
    try:
        # From here on the descriptor stands for this process, even if its pid is reused.
        if processes.standing(card, card.uid) != SAME:
            raise Refused("its process is not the one of its card")
        if not processes.may_be_signalled_by(card.pid, card.uid):
            raise Refused("its process is not wholly the card's user's")
        signals = processes.signals(card.pid)
        if signals is None or not signals.caught & mask:
            # An uncaught signal would kill it.
            raise Refused(f"it does not catch signal {number} any more")
        if signals.shared_pending & mask:
            raise Refused("a signal is pending there already")
        blocked = _blocking(card, processes, mask)
        if not set(processes.threads(card.pid)) - blocked:
            raise Refused(f"all its threads block signal {number}")
        reason = why_no_longer()
        if reason is not None:
            raise Refused(f"it has gone on: {reason}")
        signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)
    return blocked


def _wait_for_end(
    card: Card, processes: Processes, number: int, blocked: frozenset[int], descriptor: int, size: int
) -> Generator[float, None, None]:
    """Wait until the signal's handler has returned (measured: no dump grew afterwards)."""
    mask = 1 << (number - 1)
    deadline = time.monotonic() + _DUMP_SECONDS
    quiet = 0
    # Twice in a row: a signal that is being delivered is for a moment neither pending nor blocked.
    while quiet < 2:
        if time.monotonic() >= deadline:
            raise Refused("its dump did not come, or not to an end")
        yield _CHECK_SECONDS
        signals = processes.signals(card.pid)
        if signals is None:
            raise Refused("its process has ended")
        pending = (signals.shared_pending | signals.pending) & mask
        is_over = not pending and _blocking(card, processes, mask) <= blocked
        quiet = quiet + 1 if is_over and os.fstat(descriptor).st_size > size else 0


def _blocking(card: Card, processes: Processes, mask: int) -> frozenset[int]:
    """The threads in which a signal is blocked or pending; while its handler runs, it is blocked in that thread."""
    found = set()
    for native_id in processes.threads(card.pid):
        signals = processes.signals(card.pid, native_id)
        if signals is not None and (signals.blocked | signals.pending) & mask:
            found.add(native_id)
    return frozenset(found)
