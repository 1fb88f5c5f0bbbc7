"""Makes the postmortem of a worker number's dead owner, for its successor or for a master that saw it die.

A free lock does not prove that the owner died: a cleaner of ``/tmp`` removes the card and the socket of a living
worker, and the next process that makes a card there locks another file. So there is no postmortem of a process that
runs according to the kernel. If the kernel cannot know it (the table is from another boot or another pid namespace),
the free lock decides.

The table is read and removed under that lock, so that each death is logged by one process. The postmortem is written
before it is logged: if that process is killed in between, ``wsgi-tb postmortem`` still shows it.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.linux.clock import unix_time
from wsgi_tracebacker.wire.black_box import dead_table, file_names, table_header
from wsgi_tracebacker.wire.black_box.table_header import Counted
from wsgi_tracebacker.wire.documents import card_json, postmortem_json
from wsgi_tracebacker.worker.blackbox import box_files
from wsgi_tracebacker.worker.listening import slot

if TYPE_CHECKING:
    from wsgi_tracebacker.model.report import Postmortem
    from wsgi_tracebacker.wire.black_box.table_header import Header

#: How long the files of a dead worker stay if no worker takes its number.
OLD_SECONDS = 24 * 3600.0

#: By base and number: the counters of dead workers, for their successors. A successor is this process, or one that it
#: forks after it has removed the dead worker's files.
_counted: dict[tuple[str, int], Counted] = {}


def make_postmortem(base: str, number: int) -> Postmortem | None:
    """Make and keep the postmortem of the last worker with this number, if it died with requests in flight."""
    content, _ = box_files.read(box_files.path_of(base, number, file_names.TABLE))
    if content is None:
        return None
    try:
        if _lives(table_header.decode_header(content)):
            return None
        _counted[base, number] = table_header.handed_on(content)
        stacks, written_at = box_files.read(box_files.path_of(base, number, file_names.STACKS))
        postmortem = dead_table.read_postmortem(content, base, unix_time(), stacks, written_at)
    except FormatError:
        return None
    if postmortem is not None:
        # It replaces the one before.
        path, document = box_files.path_of(base, number, file_names.POSTMORTEM), postmortem_json.encode(postmortem)
        if not box_files.write(path, document):
            # There is no room: remove table and stacks, which were read and which the caller would remove next. If that
            # is not enough, the postmortem is logged and not kept.
            _remove(base, number)
            box_files.write(path, document)
    return postmortem


def counted(base: str, number: int) -> Counted:
    """The values with which the counters of a new worker with this number begin."""
    return _counted.pop((base, number), Counted())


def clean_up_after(base: str, pid: int) -> Postmortem | None:
    """Remove the files of worker ``pid``, which its master saw die; returns its postmortem, for the caller to log.

    Does nothing if another process holds their lock: a successor that was quicker, or one that uses the same base. The
    postmortem's file stays. Raises OSError if the operating system refuses something.
    """
    for number in slot.numbers_at(base):
        claimed = slot.claim_of(base, number, pid)
        if claimed is None:
            continue
        try:
            postmortem = make_postmortem(base, number)
            _remove(base, number)
        finally:
            # claim_of() has removed its socket already.
            claimed.release()
        return postmortem
    return None


def clean_up_old(base: str, now: float) -> list[Postmortem]:
    """Remove the files of workers of a base that died more than a day ago; return the postmortems, to be logged.

    Their numbers are used by no worker: a base may have had more workers than it has now. ``now``: Unix seconds.
    Raises OSError if the operating system refuses something.
    """
    found = []
    for number in slot.numbers_at(base):
        card = slot.read_card(base, number)
        if card is not None and now - _last_sign(base, number) > OLD_SECONDS:
            # It does nothing to a worker that lives: that has the lock.
            postmortem = clean_up_after(base, card.pid)
            if postmortem is not None:
                found.append(postmortem)
    return found


def _last_sign(base: str, number: int) -> float:
    """The Unix time at which a worker is known to have lived last."""
    content, _ = box_files.read(box_files.path_of(base, number, file_names.TABLE))
    try:
        if content is not None:
            return table_header.last_alive_at(table_header.decode_header(content))
        return os.lstat(card_json.card_path(base, number)).st_mtime
    except (FormatError, OSError):
        return math.inf


def _remove(base: str, number: int) -> None:
    for kind in (file_names.TABLE, file_names.STACKS):
        box_files.remove(box_files.path_of(base, number, kind))


def _lives(header: Header) -> bool:
    return (
        not header.is_closed
        and header.boot_id == proc.boot_id()
        and header.pid_namespace == proc.pid_namespace()
        and proc.runs_since(f"/proc/{header.pid}", header.start_ticks)
    )
