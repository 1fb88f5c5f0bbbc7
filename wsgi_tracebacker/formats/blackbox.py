"""The black box: the table of requests in flight that outlives its worker, laid out byte by byte.

Knows where each field is, and how a row that is being written is told from a whole one. Refuses to open anything.

The file has a header of 1 KiB and rows of 384 bytes, little-endian. It begins with 512 rows, and gets 512 more whenever
there are more cores, up to 4,096; it never shrinks. The worker writes, anybody who may read the file reads at any time,
without a lock:

========  =====  ======================================================================================
header    bytes  content
========  =====  ======================================================================================
0         16     ``WSGI-TB-BLACKBOX``
16        4      version of this layout, 2
20        4      number of rows
24        4      bytes of the header
28        4      bytes of a row
32        4      pid
36        4      worker number
40        4      uid
44        4      native id of the listener's thread, 0 before it runs
48        8      start of the process in clock ticks since boot
56        8      inode number of the pid namespace
64        8      start of the process, Unix seconds
72        8      CLOCK_MONOTONIC and
80        8      Unix seconds at one instant, to turn one into the other
88        4      cores that there are now and have no row: what they serve is not recorded
92        4      1 after an orderly end
96        40     boot id
136       64     server
200       128    application
328       48     interpreter
========  =====  ======================================================================================

========  =====  ======================================================================================
row       bytes  content
========  =====  ======================================================================================
0         8      head: CLOCK_MONOTONIC at the start of the request, 0.0 while there is none
8         16     method
24        192    path
216       8      tail: the same as the head when the row is whole
224       8      ident of the thread
232       4      native id of the thread
236       4      core, -1 while the row was never used
240       8      the head of the request that the next two belong to
248       48     remote address
296       64     request id
========  =====  ======================================================================================

Texts are UTF-8, filled up with NUL. Method and path are written by the request itself in one packed write; remote
address and request id by the watchdog, for requests that stay. A path is that of PEP 3333 (bytes in Latin-1's
clothes) and is cut at its field's end.

A row is whole if its head equals its tail in two reads that are equal: head and tail alone let torn rows through
(measured: 162 of 3.5 million).
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from dataclasses import dataclass

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.formats.times import is_time

MAGIC = b"WSGI-TB-BLACKBOX"
VERSION = 2

HEADER_BYTES = 1024
ROW_BYTES = 384
#: Rows that a table begins with, and gets at a time: 192 KiB of shared memory, which is enough for nearly all workers.
ROWS = 512
#: Rows of the longest table, 1.5 MiB. A gunicorn worker of greenlets has 1,000 clients if it is not told otherwise; one
#: with more than this has other worries.
MAX_ROWS = 4_096
FILE_BYTES = HEADER_BYTES + ROWS * ROW_BYTES
MAX_FILE_BYTES = HEADER_BYTES + MAX_ROWS * ROW_BYTES

METHOD_BYTES = 16
PATH_BYTES = 192
REMOTE_ADDRESS_BYTES = 48
REQUEST_ID_BYTES = 64

_HEADER = struct.Struct("<16s7I I Q Q d d d I I 40s 64s 128s 48s".replace(" ", ""))
#: head, method, path, tail. Where bytes lie in this order anyway the machine's own format packs 5 ns faster; the fields
#: are where they are without its alignment.
FLIGHT = struct.Struct(f"{'@' if sys.byteorder == 'little' else '<'}d{METHOD_BYTES}s{PATH_BYTES}sd")
_HEAD = struct.Struct("<d")
#: ident, native id, core.
OWNER = struct.Struct("<QIi")
OWNER_OFFSET = FLIGHT.size
#: head, remote address, request id.
DETAIL = struct.Struct(f"<d{REMOTE_ADDRESS_BYTES}s{REQUEST_ID_BYTES}s")
DETAIL_OFFSET = OWNER_OFFSET + OWNER.size

#: Offsets of the fields of the header that change while the worker lives.
ROWS_OFFSET = 20
LISTENER_OFFSET = 44
UNRECORDED_OFFSET = 88
CLOSED_OFFSET = 92
NUMBER = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Header:
    """Whose table it is."""

    pid: int
    number: int
    uid: int
    #: Native id of the listener's thread, 0 before it runs.
    listener: int
    start_ticks: int
    pid_namespace: int
    started_at: float
    #: The two clocks at one instant.
    monotonic: float
    unix: float
    #: Cores that there are now and have no row.
    unrecorded_cores: int
    is_closed: bool
    boot_id: str
    server: str | None
    application: str | None
    python: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """One request in flight."""

    core: int
    ident: int
    native_id: int
    #: CLOCK_MONOTONIC, in seconds.
    started: float
    method: str
    path: str
    remote_address: str | None
    request_id: str | None


#: Where workers keep these files, if it is there.
SHARED_MEMORY = "/dev/shm"  # noqa: S108  (0600, no symlinks followed, the owner checked)

#: What is beside each other, by the ending of its name.
TABLE, STACKS, POSTMORTEM = "table", "stacks", "postmortem"


def file_name(base: str, number: int, uid: int, kind: str) -> str:
    """The name, in shared memory, of a file of worker ``number``: one a slot, so that a successor finds and reuses it.

    A base path would not fit into a name; 64 bits of its hash are enough for the services of one user.
    """
    of_base = hashlib.blake2b(os.fsencode(base), digest_size=8).hexdigest()
    return f"wsgi_tracebacker.{uid}.{of_base}.{number}.{kind}"


def beside_socket(base: str, number: int, kind: str) -> str:
    """The path of the same file where there is no shared memory."""
    return f"{base}{number}.{kind}"


def encode_header(header: Header) -> bytes:
    """The header, without the fill up to HEADER_BYTES."""
    return _HEADER.pack(
        MAGIC,
        VERSION,
        ROWS,
        HEADER_BYTES,
        ROW_BYTES,
        header.pid,
        header.number,
        header.uid,
        header.listener,
        header.start_ticks,
        header.pid_namespace,
        header.started_at,
        header.monotonic,
        header.unix,
        header.unrecorded_cores,
        int(header.is_closed),
        _bytes(header.boot_id, 40),
        _bytes(header.server, 64),
        _bytes(header.application, 128),
        _bytes(header.python, 48),
    )


def decode_header(content: bytes) -> Header:
    """Read the header. Raises FormatError for anything that is not a whole table of this version."""
    if len(content) < HEADER_BYTES or not content.startswith(MAGIC):
        raise FormatError("this is no black box")
    fields = _HEADER.unpack_from(content)
    if fields[1] != VERSION:
        raise FormatError(f"the black box is of version {fields[1]}, this program reads version {VERSION}")
    # A read that a growing table overtakes has the old number of rows and some of the new ones.
    rows, odd = divmod(len(content) - HEADER_BYTES, ROW_BYTES)
    if fields[3:5] != (HEADER_BYTES, ROW_BYTES) or odd or not ROWS <= fields[2] <= rows <= MAX_ROWS:
        raise FormatError("the black box is cut short, or laid out in another way")
    if not all(map(is_time, fields[11:14])):
        raise FormatError("the black box has times that no clock shows")
    return Header(
        pid=fields[5],
        number=fields[6],
        uid=fields[7],
        listener=fields[8],
        start_ticks=fields[9],
        pid_namespace=fields[10],
        started_at=fields[11],
        monotonic=fields[12],
        unix=fields[13],
        unrecorded_cores=fields[14],
        is_closed=bool(fields[15]),
        boot_id=_text(fields[16]) or "",
        server=_text(fields[17]),
        application=_text(fields[18]),
        python=_text(fields[19]),
    )


def row_offset(index: int) -> int:
    """Where a row begins."""
    return HEADER_BYTES + index * ROW_BYTES


def decode_rows(content: bytes, again: bytes) -> tuple[list[Row], int]:
    """The requests in flight in two reads of the same table, and how many rows were being written in both."""
    rows = []
    torn = 0
    for offset in range(HEADER_BYTES, min(len(content), len(again)) - ROW_BYTES + 1, ROW_BYTES):
        raw = content[offset : offset + ROW_BYTES]
        head, method, path, tail = FLIGHT.unpack_from(raw)
        if not _is_start(head):
            continue
        flight = slice(offset, offset + FLIGHT.size)
        if head != tail or content[flight] != again[flight]:
            torn += 1
            continue
        ident, native_id, core = OWNER.unpack_from(raw, OWNER_OFFSET)
        detail_of, remote_address, request_id = DETAIL.unpack_from(raw, DETAIL_OFFSET)
        has_detail = detail_of == head
        rows.append(
            Row(
                core=core,
                ident=ident,
                native_id=native_id,
                started=head,
                method=_text(method) or "",
                path=decode_path(path),
                remote_address=_text(remote_address) if has_detail else None,
                request_id=_text(request_id) if has_detail else None,
            )
        )
    return rows, torn


def decode_last_start(content: bytes) -> float | None:
    """When the last of the requests in flight began, also if its row is torn; None if there is none."""
    heads = (_HEAD.unpack_from(content, offset)[0] for offset in range(HEADER_BYTES, len(content) - 7, ROW_BYTES))
    return max(filter(_is_start, heads), default=None)


def _is_start(head: float) -> bool:
    # Not while a row is idle, nor NaN or an infinity in a table that is not ours.
    return head > 0.0 and is_time(head)


def decode_owners(content: bytes) -> dict[int, tuple[int, int]]:
    """Ident and native id of the thread that each core was given to last, whether it serves a request or not."""
    owners = {}
    for offset in range(HEADER_BYTES, len(content) - ROW_BYTES + 1, ROW_BYTES):
        ident, native_id, core = OWNER.unpack_from(content, offset + OWNER_OFFSET)
        # A row that was never used is all zeros.
        if ident and core >= 0:
            owners[core] = (ident, native_id)
    return owners


def decode_path(field: bytes) -> str:
    """A path for people: out of Latin-1's clothes, and UTF-8 as far as it is any."""
    text = field.rstrip(b"\0").decode("utf-8", "ignore")
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text


def _bytes(text: str | None, length: int) -> bytes:
    # Cut at a character, and never without a NUL to end it.
    return (text or "").encode("utf-8", "replace")[: length - 1].decode("utf-8", "ignore").encode("utf-8")


def detail_bytes(head: float, remote_address: str | None, request_id: str | None) -> bytes:
    """The part of a row that the watchdog writes."""
    return DETAIL.pack(head, _bytes(remote_address, REMOTE_ADDRESS_BYTES), _bytes(request_id, REQUEST_ID_BYTES))


def _text(field: bytes) -> str | None:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace") or None
