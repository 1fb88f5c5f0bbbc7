"""Whoever takes the number of a worker that died says what that one was doing.

Knows where a predecessor's table, stacks and postmortem are, and that a free lock is no proof of its death: a cleaner
of ``/tmp`` takes card and socket away from one that lives, and whoever makes a card there has the lock of another file.
So nothing is told of a process that the kernel says runs. Where it cannot say (the table is of another boot, or of
another pid namespace), the lock is believed.

Each death is said once, because what is said is in the table, and the table is read and taken away under the lock: by
a successor, or by a master that saw its worker end, whoever is first. To say it is to log it, which takes a while: the
postmortem that is kept notes when that is done, and if it was not, because the successor was killed before, the next
one does it.
"""

from __future__ import annotations

import os
from time import time as unix_time
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.formats import blackbox as layout
from wsgi_tracebacker.formats import postmortem as postmortem_format
from wsgi_tracebacker.worker import blackbox, kernel, slot

if TYPE_CHECKING:
    from wsgi_tracebacker.formats.blackbox import Header
    from wsgi_tracebacker.reports import Postmortem


def lives_on(base: str, number: int, own_pid: int) -> bool:
    """Whether another process goes on writing the table of a number, though the lock of that was free."""
    content = blackbox.read(blackbox.path_of(base, number, layout.TABLE))
    try:
        header = layout.decode_header(content) if content is not None else None
    except FormatError:
        return False
    return header is not None and header.pid != own_pid and _lives(header)


def _lives(header: Header) -> bool:
    return (
        not header.is_closed
        and header.boot_id == kernel.boot_id()
        and header.pid_namespace == kernel.pid_namespace()
        and kernel.runs(header.pid, header.start_ticks)
    )


def take(base: str, number: int, own_pid: int, own_start_ticks: int) -> Postmortem | None:
    """Make and keep the postmortem of the last worker with this number, if it died with requests in flight."""
    content = blackbox.read(blackbox.path_of(base, number, layout.TABLE))
    if content is None:
        return None
    try:
        header = layout.decode_header(content)
        if (header.pid, header.start_ticks) == (own_pid, own_start_ticks) or _lives(header):
            return None
        stacks, written_at = blackbox.read_dated(blackbox.path_of(base, number, layout.STACKS))
        postmortem = postmortem_format.of_table(content, base, unix_time(), stacks, written_at)
    except FormatError:
        return None
    if postmortem is not None:
        # The latest of each number is kept.
        path, kept = blackbox.path_of(base, number, layout.POSTMORTEM), postmortem_format.encode(postmortem)
        if not blackbox.write_whole(path, kept):
            # Where there is no room, there is that of its table and stacks: what they said is in hand, and whoever
            # called takes them away in a moment. If it is still not enough, it is told all the same, and not kept.
            for kind in (layout.TABLE, layout.STACKS):
                blackbox.remove(blackbox.path_of(base, number, kind))
            blackbox.write_whole(path, kept)
    return postmortem


def untold(base: str, number: int) -> Postmortem | None:
    """The postmortem that is kept for a number, if whoever made it did not come to log it."""
    return _untold(blackbox.read(blackbox.path_of(base, number, layout.POSTMORTEM)))


def _untold(content: bytes | None) -> Postmortem | None:
    if content is None or not content.startswith(postmortem_format.UNTOLD):
        return None
    try:
        return postmortem_format.decode(content)
    except FormatError:
        return None


def note_told(postmortem: Postmortem) -> None:
    """Note in the postmortem that is kept, if it is this one, that it was logged."""
    path = blackbox.path_of(postmortem.base, postmortem.number, layout.POSTMORTEM)
    content = blackbox.read(path)
    if content is not None and _untold(content) == postmortem:
        blackbox.write_over(path, content, postmortem_format.TOLD)


def bury(base: str, pid: int) -> tuple[bool, Postmortem | None]:
    """Take away the files of worker ``pid``, which its master saw die: whether there were any, and its postmortem.

    That is the caller's to log, and to note as told.

    Leaves them alone while anybody holds their lock: a successor that was quicker, or another process that uses the
    same base. The kept postmortem stays. Raises OSError for what the environment refuses.
    """
    for number in slot.numbers_at(base):
        taken = slot.claim_of(base, number, pid)
        if taken is None:
            continue
        try:
            died = take(base, number, os.getpid(), kernel.start_ticks() or 0)
            if not lives_on(base, number, os.getpid()):
                for kind in (layout.TABLE, layout.STACKS):
                    blackbox.remove(blackbox.path_of(base, number, kind))
        finally:
            # Its socket is gone already: claiming a number makes room for the next socket.
            taken.release()
        return True, died
    return False, None
