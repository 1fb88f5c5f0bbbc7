"""What dead workers were doing: the postmortems that their successors kept, and the tables of those without successor.

Knows where the files of a base are, in shared memory and beside the sockets, and when a table's worker is dead.
Refuses to lock, remove or change anything: that is the successors' part.
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
from wsgi_tracebacker.reader.processes import Processes
from wsgi_tracebacker.wire import dead_table
from wsgi_tracebacker.wire import postmortem_json as postmortem
from wsgi_tracebacker.wire import table_layout as blackbox
from wsgi_tracebacker.wire.card_json import socket_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from wsgi_tracebacker.model.report import Postmortem
    from wsgi_tracebacker.wire.table_layout import Header

SHARED_MEMORY = blackbox.SHARED_MEMORY

#: No file of ours is larger: a table, a stacks file that is full, a postmortem with a part of one.
_MAX_BYTES = 2 * 1024 * 1024

#: And all files of one user together: whoever may write in the folder must not fill the reader's memory, or keep it
#: reading for minutes. That is 600 postmortems of the largest, or the tables of 160 workers without a successor. Users
#: are counted apart, so that one cannot use up what is another's.
MAX_USER_BYTES = 64 * 1024 * 1024

#: What a file counts for besides its size: to open one takes as long as to read that.
_OPENING_BYTES = 4 * 1024

_IN_SHARED_MEMORY = re.compile(r"wsgi_tracebacker\.([0-9]{1,10})\.[0-9a-f]{16}\.([1-9][0-9]{0,4})\.(table|postmortem)")
_BESIDE_SOCKET = re.compile(r"([1-9][0-9]{0,4})\.(table|postmortem)")
_NUMBERED = re.compile(r"(.*[^0-9])([1-9][0-9]{0,4})")


class Found(NamedTuple):
    """All that was found behind some bases."""

    #: The latest death first.
    postmortems: tuple[Postmortem, ...]
    #: Whether any file of these bases was there, of living workers perhaps.
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
    shared_memory: str = SHARED_MEMORY,
) -> Found:
    """The postmortems behind these bases (or sockets), only of workers with one of ``numbers`` if any are given."""
    processes = processes or Processes()
    found: dict[str, _File] = {}
    for argument in bases:
        found.update((file.path, file) for file in _files(argument, shared_memory))
    # All of them until the end: the latest death comes first, whichever file it is in.
    postmortems: list[Postmortem] = []
    faults: list[str] = []
    read_of: Counter[int] = Counter()
    left_out: Counter[int] = Counter()
    for file in found.values():
        if numbers and file.number not in numbers:
            continue
        try:
            # Whose it is, and not whose its name says.
            owner = os.lstat(file.path).st_uid
            if read_of[owner] >= MAX_USER_BYTES:
                left_out[owner] += 1
                continue
            read_of[owner] += _OPENING_BYTES
            read = _kept(file, read_of) if file.kind == blackbox.POSTMORTEM else _left(file, processes, read_of)
        except FileNotFoundError:
            # A successor removed it just now.
            continue
        except (OSError, FormatError, WorkerUnreachable) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            faults.append(f"{file.path}: {reason}")
            continue
        if read is not None:
            postmortems.append(read)
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
    for name in _names(shared_memory):
        match = _IN_SHARED_MEMORY.fullmatch(name)
        if match is None:
            continue
        uid, number, kind = int(match[1]), int(match[2]), match[3]
        if name == blackbox.file_name(base, number, uid, kind) and only in (None, number):
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
            # Whose it should be nothing says here: ours, or for root anybody's, who can but tell tales.
            if os.geteuid() in (0, owner):
                yield _File(path, base, int(match[1]), owner, match[2])


def clear(base: str) -> None:
    """Remove what our workers of a base left in shared memory, when no successor will come for it."""
    start = blackbox.file_name(base, 1, os.geteuid(), "").removesuffix("1.")
    for name in _names(SHARED_MEMORY):
        if name.startswith(start):
            try:
                os.unlink(os.path.join(SHARED_MEMORY, name))
            except OSError:
                continue


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _kept(file: _File, read_of: Counter[int]) -> Postmortem | None:
    content, _ = _content(file.path, file.owner)
    read_of[file.owner] += len(content)
    # One that is being written just now: it is made of a table that is still there.
    return postmortem.decode(content) if content else None


def _left(file: _File, processes: Processes, read_of: Counter[int]) -> Postmortem | None:
    content, _ = _content(file.path, file.owner, blackbox.FILE_BYTES + 1)
    header = blackbox.decode_header(content)
    if not _is_dead(header, file, processes):
        return None
    # Only now: the tables of the living, which are most, cost next to nothing and must not use up what there is.
    read_of[file.owner] += len(content)
    try:
        stacks, written_at = _content(os.path.splitext(file.path)[0] + f".{blackbox.STACKS}", file.owner)
        read_of[file.owner] += len(stacks)
    except OSError:
        return dead_table.read_postmortem(content, file.base, time.time(), None)
    return dead_table.read_postmortem(content, file.base, time.time(), stacks, written_at)


def _is_dead(header: Header, file: _File, processes: Processes) -> bool:
    """Whether a table's worker has ended: as the kernel says where it can, else as its socket does.

    Raises WorkerUnreachable where there is no socket either.
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
                # No proof of death: a cleaner of /tmp takes sockets away from the living.
                raise WorkerUnreachable(
                    "whether its worker died cannot be told: its socket is gone, and it is of another pid namespace; "
                    "run wsgi-tb inside its container"
                ) from None
            return error.errno == errno.ECONNREFUSED
    return False


def _content(path: str, owner: int, most_bytes: int = _MAX_BYTES) -> tuple[bytes, float]:
    return files.read_file_of(path, owner, most_bytes)
