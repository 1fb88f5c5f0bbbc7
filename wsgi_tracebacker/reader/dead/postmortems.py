"""Finds what dead workers were doing: the postmortems of a base, and the tables of workers without a successor.

Both are in shared memory or beside the sockets. Nothing is locked, removed or changed here, except by ``clear``.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.errors import FormatError, WorkerUnreachable
from wsgi_tracebacker.linux import files
from wsgi_tracebacker.reader.finding.processes import Processes
from wsgi_tracebacker.wire.black_box import dead_table, file_names, table_header, table_rows
from wsgi_tracebacker.wire.documents import postmortem_json
from wsgi_tracebacker.wire.documents.card_json import socket_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from wsgi_tracebacker.model.report import Postmortem
    from wsgi_tracebacker.wire.black_box.table_header import Header

#: The largest of our files: a table, a full stacks file, a postmortem with a part of one.
_MAX_BYTES = 2 * 1024 * 1024

#: The limit for all files of one user together: a user who can write in the folder must not fill the reader's memory,
#: or keep it reading for minutes. It is enough for 600 of the largest postmortems, or the tables of 160 workers without
#: a successor. Each user has a limit of their own, so that none can use up another's.
MAX_USER_BYTES = 64 * 1024 * 1024

#: What opening a file counts for, besides its size: it takes as long as reading this much.
_OPENING_BYTES = 4 * 1024

_IN_SHARED_MEMORY = re.compile(r"wsgi_tracebacker\.([0-9]{1,10})\.[0-9a-f]{16}\.([1-9][0-9]{0,4})\.(table|postmortem)")
_BESIDE_SOCKET = re.compile(r"([1-9][0-9]{0,4})\.(table|postmortem)")
_NUMBERED = re.compile(r"(.*[^0-9])([1-9][0-9]{0,4})")


class Found(NamedTuple):
    """The postmortems behind some bases."""

    #: The latest death first.
    postmortems: tuple[Postmortem, ...]
    #: Whether there is any file of these bases, of living workers too.
    is_known: bool
    #: One line for each file that could not be read or judged, and for each user who has too many.
    faults: tuple[str, ...]


class _File(NamedTuple):
    path: str
    base: str
    number: int
    owner: int
    kind: str


def find(
    bases: Sequence[str],
    numbers: Collection[int] = (),
    processes: Processes | None = None,
    shared_memory: str = file_names.SHARED_MEMORY,
) -> Found:
    """Return the postmortems of these bases (or sockets), only of workers with one of ``numbers`` if any are given."""
    processes = processes or Processes()
    found: dict[str, _File] = {}
    for argument in bases:
        found.update((file.path, file) for file in _files(argument, shared_memory))
    postmortems: list[Postmortem] = []
    faults: list[str] = []
    read_of: Counter[int] = Counter()
    left_out: Counter[int] = Counter()
    for file in found.values():
        if numbers and file.number not in numbers:
            continue
        try:
            # The file's own owner: the uid in its name proves nothing.
            owner = os.lstat(file.path).st_uid
            if read_of[owner] >= MAX_USER_BYTES:
                left_out[owner] += 1
                continue
            read_of[owner] += _OPENING_BYTES
            if file.kind == file_names.POSTMORTEM:
                read = _read_postmortem(file, read_of)
            else:
                read = _make_postmortem(file, processes, read_of)
        except FileNotFoundError:
            # A successor removed it just now.
            continue
        except (OSError, FormatError, WorkerUnreachable) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            faults.append(f"{file.path}: {reason}")
            continue
        if read is not None:
            postmortems.append(read._replace(uid=owner))
    faults += [
        f"{count} files of uid {uid} are left out: of one user no more than {MAX_USER_BYTES >> 20} MiB are read"
        for uid, count in sorted(left_out.items())
    ]
    postmortems.sort(key=lambda each: (-each.last_written_at, each.number))
    return Found(tuple(postmortems), bool(found), tuple(faults))


def _files(argument: str, shared_memory: str) -> Iterator[_File]:
    # Not abspath(): a base may end in a dot or a slash.
    base = argument if os.path.isabs(argument) else os.path.join(os.getcwd(), argument)
    yield from _files_of(base, None, shared_memory)
    # One worker's socket: its number is the end of its name.
    numbered = _NUMBERED.fullmatch(base)
    if numbered is not None:
        yield from _files_of(numbered[1], int(numbered[2]), shared_memory)


def _files_of(base: str, only: int | None, shared_memory: str) -> Iterator[_File]:
    other_root = files.OTHER_ROOT.match(base)
    # Names are made of the base as its workers see it.
    inner = base
    if other_root is not None:
        shared_memory, inner = other_root[0] + shared_memory, base[other_root.end() :]
    for name in _names(shared_memory):
        match = _IN_SHARED_MEMORY.fullmatch(name)
        if match is None:
            continue
        uid, number, kind = int(match[1]), int(match[2]), match[3]
        if name == file_names.file_name(inner, number, uid, kind) and only in (None, number):
            yield _File(os.path.join(shared_memory, name), base, number, uid, kind)
    folder, prefix = os.path.split(base)
    for name in _names(folder):
        match = _BESIDE_SOCKET.fullmatch(name, len(prefix)) if name.startswith(prefix) else None
        if match is not None and only in (None, int(match[1])):
            path = os.path.join(folder, name)
            try:
                owner = os.lstat(path).st_uid
            except OSError:
                continue
            # The name has no uid. Only our own files count; for root any user's, who can at most invent a death.
            if os.geteuid() in (0, owner):
                yield _File(path, base, int(match[1]), owner, match[2])


def clear(base: str) -> None:
    """Remove what our workers of a base left in shared memory, if they will have no successors."""
    start = file_names.file_name(base, 1, os.geteuid(), "").removesuffix("1.")
    for name in _names(file_names.SHARED_MEMORY):
        if name.startswith(start):
            try:
                os.unlink(os.path.join(file_names.SHARED_MEMORY, name))
            except OSError:
                continue


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _read_postmortem(file: _File, read_of: Counter[int]) -> Postmortem | None:
    content, _ = files.read_file_of(file.path, file.owner, _MAX_BYTES)
    read_of[file.owner] += len(content)
    # An empty one is being written just now, and the table that it is made of is still there.
    return postmortem_json.decode(content) if content else None


def _make_postmortem(file: _File, processes: Processes, read_of: Counter[int]) -> Postmortem | None:
    """The postmortem of a table whose worker is dead and has no successor yet."""
    content, _ = files.read_file_of(file.path, file.owner, table_rows.FILE_BYTES + 1)
    header = table_header.decode_header(content)
    if not _is_dead(header, file, processes):
        return None
    # Counted only now: most tables are those of living workers, and must not use up the limit.
    read_of[file.owner] += len(content)
    stacks_path = f"{os.path.splitext(file.path)[0]}.{file_names.STACKS}"
    try:
        stacks, written_at = files.read_file_of(stacks_path, file.owner, _MAX_BYTES)
    except OSError:
        return dead_table.read_postmortem(content, file.base, time.time(), None)
    read_of[file.owner] += len(stacks)
    return dead_table.read_postmortem(content, file.base, time.time(), stacks, written_at)


def _is_dead(header: Header, file: _File, processes: Processes) -> bool:
    """Whether a table's worker has ended: ``/proc`` shows it, or in another pid namespace its socket.

    Raises WorkerUnreachable if that worker has no socket any more.
    """
    if not processes.is_boot(header.boot_id):
        return True
    if processes.same_namespace(header.pid_namespace):
        return not processes.runs(header.pid, header.start_ticks)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(socket_path(file.base, file.number))
        except OSError as error:
            if error.errno == errno.ENOENT:
                # No proof of death: a /tmp cleaner removes sockets of living workers too.
                raise WorkerUnreachable(
                    "whether its worker died cannot be told: its socket is gone, and it is of another pid namespace; "
                    "run wsgi-tb inside its container"
                ) from None
            return error.errno == errno.ECONNREFUSED
    return False
