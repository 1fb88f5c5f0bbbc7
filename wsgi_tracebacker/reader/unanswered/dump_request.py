"""Ask a worker in which Python cannot run for its stacks: the signal that faulthandler answers without the GIL.

Knows everything that has to be true before a signal is sent, and when the answer is complete. Refuses to judge
whether the worker is stalled: whoever calls has proven that, and says by ``still_stalled`` that it is still so.

Written as a generator that yields the seconds until it wants to go on, so that one loop can ask several workers.
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
from wsgi_tracebacker.reader.processes import SAME
from wsgi_tracebacker.wire import faulthandler_text as faulthandler
from wsgi_tracebacker.wire import table_layout as blackbox

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.reader.processes import Processes

#: Another reader has the file for some milliseconds.
_LOCK_SECONDS = 1.0
_LOCK_RETRY_SECONDS = 0.01

#: A dump of 100 threads takes 5 ms; a machine that is overloaded besides gets this long.
_DUMP_SECONDS = 1.0
_LOOK_SECONDS = 0.002

#: The worker's own bound for the file. It cannot keep it while Python does not run, so readers do.
MAX_STACKS_BYTES = 512 * 1024

#: ``struct flock`` on 64-bit Linux: type, whence, start, length, pid. For locks of open files the pid has to be 0.
_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class Refused(Exception):
    """No signal was sent, or no dump came; ``str()`` says why."""


def ask(card: Card, processes: Processes, still_stalled: Callable[[], str | None]) -> Generator[float, None, bytes]:
    """Send the worker's signal and give faulthandler's dump. Raises Refused, or OSError.

    ``still_stalled`` is called right before the signal and gives the reason if it is not so any more.
    """
    number = card.dump_signal
    if number is None or card.stacks is None:
        raise Refused("it answers no signal")
    if struct.calcsize("P") != 8 or not 1 <= number <= 64:
        raise Refused("its signal cannot be sent from here")
    if not hasattr(os, "pidfd_open"):
        # PyPy. By its number alone the signal could reach another process, and end that.
        raise Refused("this Python cannot name its process safely")
    # Writable for the lock. The worker goes on appending to it: nobody who holds the lock writes.
    descriptor = files.open_file_of(card.stacks, card.uid, os.O_RDWR)
    try:
        yield from _lock(descriptor)
        noted = _room(descriptor, card)
        blocked = _send(card, processes, number, still_stalled)
        yield from _completion(card, processes, number, blocked, descriptor, noted)
        content = files.read_at_most(descriptor, faulthandler.MAX_BYTES, noted)
    finally:
        # Ends the lock too.
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


def _room(descriptor: int, card: Card) -> int:
    """The size of the file before the dump; it starts anew when it is full."""
    status = os.fstat(descriptor)
    if status.st_size <= MAX_STACKS_BYTES:
        return status.st_size
    # Root may do more than the user who wrote the card. In a folder of root's there may be files of the user's that are
    # out of his reach, a backup of his home for one, and a card can name any path: so root empties only what has the
    # name of that worker's stacks file in shared memory, where nobody puts anything away from anybody.
    if status.st_uid != os.geteuid() and card.stacks != _in_shared_memory(card):
        raise Refused(f"its stacks file is full, and only a reader of uid {status.st_uid} may begin it anew")
    os.ftruncate(descriptor, 0)
    return 0


def _in_shared_memory(card: Card) -> str:
    name = blackbox.file_name(card.base, card.number, card.uid, blackbox.STACKS)
    return os.path.join(blackbox.SHARED_MEMORY, name)


def _send(card: Card, processes: Processes, number: int, still_stalled: Callable[[], str | None]) -> frozenset[int]:
    """Send it, after every check there is; the threads that block it, before and after."""
    mask = 1 << (number - 1)
    pidfd = os.pidfd_open(card.pid)
    try:
        # From here on the pid cannot become another process's without the descriptor knowing.
        if processes.standing(card, card.uid) != SAME:
            raise Refused("its process is not the one of its card")
        if not processes.may_be_signalled_by(card.pid, card.uid):
            raise Refused("its process is not wholly the card's user's")
        whole = processes.signals(card.pid)
        if whole is None or not whole.caught & mask:
            # An uncaught signal would end it.
            raise Refused(f"it does not catch signal {number} any more")
        if whole.shared_pending & mask:
            raise Refused("a signal is pending there already")
        blocked = _blocking(card, processes, mask)
        if not set(processes.threads(card.pid)) - blocked:
            raise Refused(f"all its threads block signal {number}")
        reason = still_stalled()
        if reason is not None:
            raise Refused(f"it has gone on: {reason}")
        signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)
    return blocked


def _completion(
    card: Card, processes: Processes, number: int, blocked: frozenset[int], descriptor: int, noted: int
) -> Generator[float, None, None]:
    """Wait until the handler has returned: measured, a dump never grew afterwards."""
    mask = 1 << (number - 1)
    deadline = time.monotonic() + _DUMP_SECONDS
    quiet = 0
    # Twice in a row: between its being taken and its being blocked, a signal is nowhere for a moment.
    while quiet < 2:
        if time.monotonic() >= deadline:
            raise Refused("its dump did not come, or not to an end")
        yield _LOOK_SECONDS
        whole = processes.signals(card.pid)
        if whole is None:
            raise Refused("its process has ended")
        pending = (whole.shared_pending | whole.pending) & mask
        is_over = not pending and _blocking(card, processes, mask) <= blocked
        quiet = quiet + 1 if is_over and os.fstat(descriptor).st_size > noted else 0


def _blocking(card: Card, processes: Processes, mask: int) -> frozenset[int]:
    """The threads in which a signal is blocked or pending; while its handler runs, the one that took it is."""
    found = set()
    for native_id in processes.threads(card.pid):
        signals = processes.signals(card.pid, native_id)
        if signals is not None and (signals.blocked | signals.pending) & mask:
            found.add(native_id)
    return frozenset(found)
