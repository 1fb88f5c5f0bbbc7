"""The rows of the black box: the table of requests in flight that outlives its worker.

The file has a header of 1 KiB and 1,024 rows of 384 bytes, little-endian. The worker writes it, and others read it at
any time, without a lock. The header is in ``table_header``.

========  =====  ======================================================================================
row       bytes  content
========  =====  ======================================================================================
0         8      head: CLOCK_MONOTONIC at the start of the request, 0.0 while there is none
8         16     method
24        192    path
216       8      how many requests began in this row, this one included
224       8      tail: the same as the head when the row is whole
232       8      ident of the thread
240       4      native id of the thread
244       4      core
248       8      the head of the request that the next three belong to
256       48     remote address
304       64     request id
368       8      resident size of the process in bytes when the request became slow; 0: not known
========  =====  ======================================================================================

Texts are UTF-8, filled up with NUL. Method and path are written by the request itself in one packed write; remote
address and request id by the watchdog, for requests that stay. A path is that of PEP 3333 (bytes in Latin-1's
clothes) and is cut at its field's end.

A row is whole if its head equals its tail in two reads that are equal: head and tail alone let torn rows through
(measured: 162 of 3.5 million).
"""

from __future__ import annotations

import struct
import sys
from typing import NamedTuple

from wsgi_tracebacker.wire.documents.records import is_time

HEADER_BYTES = 1024
ROW_BYTES = 384
#: A gunicorn worker of greenlets serves 1,000 clients at a time if it is not told otherwise.
ROWS = 1_024
FILE_BYTES = HEADER_BYTES + ROWS * ROW_BYTES

METHOD_BYTES = 16
PATH_BYTES = 192
REMOTE_ADDRESS_BYTES = 48
REQUEST_ID_BYTES = 64

#: head, method, path, requests so far, tail. Where bytes lie in this order anyway the machine's own format packs 5 ns
#: faster; the fields are where they are without its alignment. The count is a float, which packs faster than an int.
FLIGHT = struct.Struct(f"{'@' if sys.byteorder == 'little' else '<'}d{METHOD_BYTES}s{PATH_BYTES}sdd")
_HEAD = struct.Struct("<d")
#: ident, native id, core.
OWNER = struct.Struct("<QIi")
OWNER_OFFSET = FLIGHT.size
#: head, remote address, request id, resident size.
DETAIL = struct.Struct(f"<d{REMOTE_ADDRESS_BYTES}s{REQUEST_ID_BYTES}sQ")
DETAIL_OFFSET = OWNER_OFFSET + OWNER.size

#: Counters beyond this are garbage: a float holds whole numbers exactly up to here.
MAX_COUNT = 2**53


class Row(NamedTuple):
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
    #: Resident size of the process when the request became slow; None if it did not, or if that is not known.
    resident_bytes: int | None = None


def row_offset(index: int) -> int:
    return HEADER_BYTES + index * ROW_BYTES


def count_requests(content: bytes) -> int:
    """How many requests began in all rows of a table."""
    counts = (FLIGHT.unpack_from(content, offset)[3] for offset in range(HEADER_BYTES, FILE_BYTES, ROW_BYTES))
    return sum(int(count) for count in counts if 0.0 < count < MAX_COUNT)


def decode_rows(content: bytes, again: bytes) -> tuple[list[Row], int]:
    """The requests in flight in two reads of the same table, and how many rows were being written in both."""
    rows = []
    torn = 0
    for offset in used_rows(content[: len(again)]):
        raw = content[offset : offset + ROW_BYTES]
        head, method, path, _, tail = FLIGHT.unpack_from(raw)
        if not _is_start(head):
            continue
        flight = slice(offset, offset + FLIGHT.size)
        if head != tail or content[flight] != again[flight]:
            torn += 1
            continue
        ident, native_id, core = OWNER.unpack_from(raw, OWNER_OFFSET)
        detail_of, remote_address, request_id, resident_bytes = DETAIL.unpack_from(raw, DETAIL_OFFSET)
        has_detail = detail_of == head
        rows.append(
            Row(
                core=core,
                ident=ident,
                native_id=native_id,
                started=head,
                method=text_of(method) or "",
                path=decode_path(path),
                remote_address=text_of(remote_address) if has_detail else None,
                request_id=text_of(request_id) if has_detail else None,
                resident_bytes=resident_bytes or None if has_detail else None,
            )
        )
    return rows, torn


class Flight(NamedTuple):
    """The request in flight in one row, as a request writes it itself."""

    started: float
    method: str
    path: str
    ident: int
    native_id: int


def decode_flight(raw: bytes) -> Flight | None:
    """The request in a row that was read twice alike, up to its details; None if there is none, or it is torn."""
    if len(raw) < DETAIL_OFFSET:
        return None
    head, method, path, _, tail = FLIGHT.unpack_from(raw)
    if not _is_start(head) or head != tail:
        return None
    ident, native_id, _ = OWNER.unpack_from(raw, OWNER_OFFSET)
    return Flight(head, text_of(method) or "", decode_path(path), ident, native_id)


def decode_last_start(content: bytes) -> float | None:
    """When the last of the requests in flight began, also if its row is torn; None if there is none."""
    heads = (_HEAD.unpack_from(content, offset)[0] for offset in used_rows(content))
    return max(filter(_is_start, heads), default=None)


#: Thirty-two rows that no core was given: compared at once, which is far faster than row by row.
_UNUSED = bytes(32 * ROW_BYTES)


def used_rows(content: bytes) -> range:
    """Where the rows begin, without most of those at the end that no core was given: zeros, and nearly all of a table.

    A row of which only a part is there is none.
    """
    end = len(content) - (len(content) - HEADER_BYTES) % ROW_BYTES
    while end > HEADER_BYTES:
        start = max(HEADER_BYTES, end - len(_UNUSED))
        if content[start:end] != _UNUSED[: end - start]:
            break
        end = start
    return range(HEADER_BYTES, end, ROW_BYTES)


def _is_start(head: float) -> bool:
    # Not while a row is idle, nor NaN or an infinity in a table that is not ours.
    return head > 0.0 and is_time(head)


def decode_owners(content: bytes) -> dict[int, tuple[int, int]]:
    """Ident and native id of the thread that each core was given to last, whether it serves a request or not."""
    owners = {}
    for offset in used_rows(content):
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


def field_bytes(text: str | None, length: int) -> bytes:
    """What a field of so many bytes is filled with: cut at a character, and never without a NUL to end it."""
    return (text or "").encode("utf-8", "replace")[: length - 1].decode("utf-8", "ignore").encode("utf-8")


def detail_bytes(
    head: float, remote_address: str | None, request_id: str | None, resident_bytes: int | None = None
) -> bytes:
    """The part of a row that the watchdog writes."""
    texts = field_bytes(remote_address, REMOTE_ADDRESS_BYTES), field_bytes(request_id, REQUEST_ID_BYTES)
    return DETAIL.pack(head, *texts, resident_bytes or 0)


def text_of(field: bytes) -> str | None:
    """The text that a field was filled with; None if it is empty."""
    return field.split(b"\0", 1)[0].decode("utf-8", "replace") or None
