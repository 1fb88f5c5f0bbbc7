"""Whoever takes the number of a worker that died says what that one was doing.

Knows where a predecessor's table, stacks and postmortem are. Refuses to judge whether it is dead: its lock was free,
and now is ours.

Each death is said once, because what is said is in the table, and the table is read and taken away under the lock: by
a successor, or by a master that saw its worker end, whoever is first.
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
    from wsgi_tracebacker.reports import Postmortem


def take(base: str, number: int, own_pid: int, own_start_ticks: int) -> Postmortem | None:
    """Make and keep the postmortem of the last worker with this number, if it died with requests in flight."""
    content = blackbox.read(blackbox.path_of(base, number, layout.TABLE))
    if content is None:
        return None
    try:
        header = layout.decode_header(content)
        if (header.pid, header.start_ticks) == (own_pid, own_start_ticks):
            return None
        stacks = blackbox.read(blackbox.path_of(base, number, layout.STACKS))
        postmortem = postmortem_format.of_table(content, base, unix_time(), stacks)
    except FormatError:
        return None
    if postmortem is not None:
        # The latest of each number is kept.
        path = blackbox.path_of(base, number, layout.POSTMORTEM)
        blackbox.write_whole(path, postmortem_format.encode(postmortem))
    return postmortem


def bury(base: str, pid: int) -> tuple[bool, Postmortem | None]:
    """Take away the files of worker ``pid``, which its master saw die: whether there were any, and its postmortem.

    Leaves them alone while anybody holds their lock: a successor that was quicker, or another process that uses the
    same base. The kept postmortem stays. Raises OSError for what the environment refuses.
    """
    for number in slot.numbers_at(base):
        taken = slot.claim_of(base, number, pid)
        if taken is None:
            continue
        try:
            died = take(base, number, os.getpid(), kernel.start_ticks() or 0)
            for kind in (layout.TABLE, layout.STACKS):
                blackbox.remove(blackbox.path_of(base, number, kind))
        finally:
            # Its socket is gone already: claiming a number makes room for the next socket.
            taken.release()
        return True, died
    return False, None
