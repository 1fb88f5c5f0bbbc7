"""What the dead owner of a worker number was doing, for whoever takes that number or saw it die.

Knows where the table, the stacks and the postmortem of a predecessor are, and that a free lock does not prove that it
died: a cleaner of ``/tmp`` removes the card and the socket of a living worker, and whoever makes a new card there has
the lock of another file. So there is no postmortem of a process that the kernel says runs. Where the kernel cannot
know (the table is of another boot, or of another pid namespace), the lock is believed.

The table is read and removed under that lock, so each death is logged by one process: a successor, or a master that
saw its worker end. The postmortem is kept before it is logged: if that process is killed in between,
``wsgi-tb postmortem`` still shows it.
"""

from __future__ import annotations

from time import time as unix_time
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.wire import dead_table
from wsgi_tracebacker.wire import postmortem_json as postmortem_format
from wsgi_tracebacker.wire import table_layout as layout
from wsgi_tracebacker.wire.table_layout import Counted
from wsgi_tracebacker.worker.blackbox import box_files
from wsgi_tracebacker.worker.listening import slot

if TYPE_CHECKING:
    from wsgi_tracebacker.model.report import Postmortem
    from wsgi_tracebacker.wire.table_layout import Header

#: By base and number: what dead workers had counted, for their successors: this process, or one that it forks after it
#: has cleaned up.
_counted: dict[tuple[str, int], Counted] = {}


def make_postmortem(base: str, number: int) -> Postmortem | None:
    """Make and keep the postmortem of the last worker with this number, if it died with requests in flight."""
    content, _ = box_files.read(box_files.path_of(base, number, layout.TABLE))
    if content is None:
        return None
    try:
        if _lives(layout.decode_header(content)):
            return None
        _counted[base, number] = layout.handed_on(content)
        stacks, written_at = box_files.read(box_files.path_of(base, number, layout.STACKS))
        postmortem = dead_table.read_postmortem(content, base, unix_time(), stacks, written_at)
    except FormatError:
        return None
    if postmortem is not None:
        # The latest of each number is kept.
        path, kept = box_files.path_of(base, number, layout.POSTMORTEM), postmortem_format.encode(postmortem)
        if not box_files.write(path, kept):
            # Where there is no room, its table and stacks make some: both were read, and the caller is about to remove
            # them. If that is not enough, the postmortem is logged and not kept.
            _remove(base, number)
            box_files.write(path, kept)
    return postmortem


def counted(base: str, number: int) -> Counted:
    """What the counters of a worker with this number begin with."""
    return _counted.pop((base, number), Counted())


def clean_up_after(base: str, pid: int) -> Postmortem | None:
    """Remove the files of worker ``pid``, which its master saw die; its postmortem, which is the caller's to log.

    Leaves them alone while anybody holds their lock: a successor that was quicker, or another process that uses the
    same base. The kept postmortem stays. Raises OSError for what the environment refuses.
    """
    for number in slot.numbers_at(base):
        taken = slot.claim_of(base, number, pid)
        if taken is None:
            continue
        try:
            postmortem = make_postmortem(base, number)
            _remove(base, number)
        finally:
            # Its socket is gone already: claiming a number makes room for the next socket.
            taken.release()
        return postmortem
    return None


def _remove(base: str, number: int) -> None:
    for kind in (layout.TABLE, layout.STACKS):
        box_files.remove(box_files.path_of(base, number, kind))


def _lives(header: Header) -> bool:
    return (
        not header.is_closed
        and header.boot_id == proc.boot_id()
        and header.pid_namespace == proc.pid_namespace()
        and proc.runs_since(f"/proc/{header.pid}", header.start_ticks)
    )
