"""Whoever takes the number of a worker that died says what that one was doing.

Knows where a predecessor's table, stacks and postmortem are. Refuses to judge whether it is dead: its lock was free,
and now is ours.
"""

from __future__ import annotations

from time import time as unix_time
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.formats import blackbox as layout
from wsgi_tracebacker.formats import postmortem as postmortem_format
from wsgi_tracebacker.worker import blackbox

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
