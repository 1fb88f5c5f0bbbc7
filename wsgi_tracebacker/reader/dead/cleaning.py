"""Removes what dead workers left: card, socket, black box, stacks, postmortem.

Only the reader's own user's files are removed, and only while the lock of their card is held: so no worker lives that
has this number, and none starts with it meanwhile. Workers in other root folders are left alone.
"""

from __future__ import annotations

import fcntl
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.linux import files
from wsgi_tracebacker.reader.finding.discovery import find
from wsgi_tracebacker.reader.finding.processes import GONE, UNKNOWN, Processes
from wsgi_tracebacker.wire.black_box import file_names, table_head, table_header, table_rows
from wsgi_tracebacker.wire.documents import card_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsgi_tracebacker.model.card import Card
    from wsgi_tracebacker.reader.finding.discovery import Target
    from wsgi_tracebacker.wire.black_box.table_header import Header

_KINDS = (file_names.TABLE, file_names.STACKS, file_names.POSTMORTEM)


class Cleaned(NamedTuple):
    """What was done."""

    #: The sockets of the dead workers whose files were removed.
    removed: tuple[str, ...]
    #: A line for each dead worker whose files could not be removed.
    faults: tuple[str, ...]


def clean(bases: Sequence[str], processes: Processes | None = None, *, orphans: bool = False) -> Cleaned:
    """Remove the files of the dead workers of these bases.

    ``orphans``: also black boxes of dead workers whose cards are gone, of any base.
    """
    processes = processes or Processes()
    removed: list[str] = []
    faults: list[str] = []
    for targets in find(bases).targets:
        for target in targets if isinstance(targets, tuple) else ():
            try:
                if _clean_worker(target, processes):
                    removed.append(target.socket)
            except OSError as error:
                faults.append(f"{target.socket}: {error.strerror or error}")
    if orphans:
        removed += _clean_orphans(processes)
    return Cleaned(tuple(removed), tuple(faults))


def _clean_worker(target: Target, processes: Processes) -> bool:
    card = target.card
    if card is None or target.card_owner != os.geteuid() or files.OTHER_ROOT.match(target.socket):
        return False
    standing = processes.standing(card, target.card_owner)
    if standing != GONE and (standing != UNKNOWN or processes.is_boot(card.boot_id)):
        return False
    path = target.socket + card_json.CARD_SUFFIX
    descriptor = files.open_file_of(path, os.geteuid(), os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been replaced, or a new worker may have written its own, before we had the lock.
        if files.inode_at(path) != _inode(descriptor) or _card(descriptor) != card:
            return False
        _unlink_socket(target.socket)
        _remove_black_box(card.base, card.number)
        # The last one: without it the number is not ours.
        files.unlink_own(path)
    except BlockingIOError:
        return False
    finally:
        files.close(descriptor)
    return True


def _card(descriptor: int) -> Card | None:
    try:
        return card_json.decode(files.read_at_most(descriptor, card_json.MAX_CARD_BYTES + 1))
    except FormatError:
        return None


def _inode(descriptor: int) -> files.Inode:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _unlink_socket(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid():
        os.unlink(path)


def _remove_black_box(base: str, number: int) -> None:
    for kind in _KINDS:
        name = file_names.file_name(base, number, os.geteuid(), kind)
        for path in (
            os.path.join(file_names.SHARED_MEMORY, name),
            file_names.beside_socket(base, number, kind),
        ):
            files.unlink_own(path)


def _clean_orphans(processes: Processes) -> Iterator[str]:
    """Remove the black boxes in shared memory that have no card any more, as where somebody removed its folder."""
    for name in filter(table_head.TABLE_NAME.fullmatch, _shared_names()):
        try:
            content, _ = files.read_file_of(
                os.path.join(table_head.SHARED_MEMORY, name), os.geteuid(), table_rows.FILE_BYTES + 1
            )
            header = table_header.decode_header(content)
            if header.base is not None and _is_orphan(header, header.base, name, processes):
                _remove_black_box(header.base, header.number)
                yield card_json.socket_path(header.base, header.number)
        except (OSError, FormatError):
            continue


def _shared_names() -> list[str]:
    try:
        return os.listdir(table_head.SHARED_MEMORY)
    except OSError:
        return []


def _is_orphan(header: Header, base: str, name: str, processes: Processes) -> bool:
    if name != file_names.file_name(base, header.number, os.geteuid(), file_names.TABLE):
        return False
    if os.path.lexists(card_json.card_path(base, header.number)):
        return False
    # In another pid namespace nobody can know, unless the machine was started again.
    is_there = processes.same_namespace(header.pid_namespace)
    return not processes.is_boot(header.boot_id) or (is_there and not processes.runs(header.pid, header.start_ticks))
