"""The bytes of the black box, which is the table of requests in flight that outlives its worker.

The file has a header of 1 KiB and 1,024 rows of 384 bytes, little-endian. The worker writes it, and others read it at
any time, without a lock:

========  =====  ======================================================================================
header    bytes  content
========  =====  ======================================================================================
0         16     ``WSGI-TB-BLACKBOX``
16        4      version of this layout, 3
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
376       8      overdue requests, and
384       8      slow requests, since the first worker with this number whose counters were handed on
392       8      clients that were gone before their answer; nothing counts them yet
400       8      restarts: how many workers before this one handed on their counters
408       8      requests that those workers had begun
416       256    threads of this package: 16 times ident (8 bytes) and native id (8), zeros where there is none
672       112    base path, as bytes
784       8      CLOCK_MONOTONIC when Python last ran in a thread of this package that watches: the beat
792       8      resident size of the process in bytes, as that thread last measured it; 0: not yet
800       144    overdue requests by action and verdict, 8 bytes each: the first action with every verdict, and so on
========  =====  ======================================================================================

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

import functools
import hashlib
import itertools
import os
import struct
import sys
from typing import NamedTuple

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.report import ACTIONS, VERDICTS
from wsgi_tracebacker.wire.black_box.table_head import BASE_BYTES, BASE_OFFSET, MAGIC, SHARED_MEMORY, VERSION
from wsgi_tracebacker.wire.documents.records import is_time

__all__ = ["MAGIC", "SHARED_MEMORY", "VERSION"]

HEADER_BYTES = 1024
ROW_BYTES = 384
#: A gunicorn worker of greenlets serves 1,000 clients at a time if it is not told otherwise.
ROWS = 1_024
FILE_BYTES = HEADER_BYTES + ROWS * ROW_BYTES

METHOD_BYTES = 16
PATH_BYTES = 192
REMOTE_ADDRESS_BYTES = 48
REQUEST_ID_BYTES = 64

_HEADER = struct.Struct("<16s7I I Q Q d d d I I 40s 64s 128s 48s".replace(" ", ""))
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

#: Offsets of the fields of the header that change while the worker lives.
LISTENER_OFFSET = 44
UNRECORDED_OFFSET = 88
CLOSED_OFFSET = 92
NUMBER = struct.Struct("<I")
COUNTED_OFFSET = _HEADER.size
_COUNTED = struct.Struct("<5Q")
COUNTER = struct.Struct("<Q")
#: Places for threads of ours: there are three or four, and one more while a report is stuck in logging.
THREADS = 16
#: ident, native id.
THREAD = struct.Struct("<QQ")
_THREADS_OFFSET = COUNTED_OFFSET + _COUNTED.size
_THREADS_END = _THREADS_OFFSET + THREADS * THREAD.size

BEAT_OFFSET = BASE_OFFSET + BASE_BYTES
BEAT = struct.Struct("<d")
RESIDENT_OFFSET = BEAT_OFFSET + BEAT.size
RESIDENT = struct.Struct("<Q")

#: What overdue requests are counted by: action and verdict.
KINDS = tuple(itertools.product(ACTIONS, VERDICTS))
_KINDS_OFFSET = RESIDENT_OFFSET + RESIDENT.size
_KINDS = struct.Struct(f"<{len(KINDS)}Q")

#: Counters beyond this are garbage: a float holds whole numbers exactly up to here.
_MAX_COUNT = 2**53


class Counted(NamedTuple):
    """What a worker has counted, and those before it whose counters it was handed on."""

    #: Overdue requests.
    harakiri: int = 0
    slow: int = 0
    #: Requests that were slow, or had the option ``client_gone``, and whose client was gone before their answer.
    clients_gone: int = 0
    #: How many workers before this one handed on their counters.
    restarts: int = 0
    #: Requests that had begun in those workers; this one's are counted in its rows.
    requests_before: int = 0
    #: Overdue requests of each of KINDS.
    harakiri_kinds: tuple[int, ...] = (0,) * len(KINDS)


class Header(NamedTuple):
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
    counted: Counted = Counted()
    #: Ident and native id of each thread of ours.
    own_threads: tuple[tuple[int, int], ...] = ()
    base: str | None = None
    #: CLOCK_MONOTONIC: the worker ran then. 0.0 if none was written yet.
    beat: float = 0.0
    #: Resident size of the process, as the worker last measured it; 0: not yet.
    resident_bytes: int = 0


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


#: What is beside each other, by the ending of its name.
TABLE, STACKS, POSTMORTEM = "table", "stacks", "postmortem"


def file_name(base: str, number: int, uid: int, kind: str) -> str:
    """The name, in shared memory, of a file of worker ``number``: one a slot, so that a successor finds and reuses it.

    A base path would not fit into a name; 64 bits of its hash are enough for the services of one user.
    """
    return f"wsgi_tracebacker.{uid}.{_hash_of(base)}.{number}.{kind}"


@functools.lru_cache(maxsize=16)
def _hash_of(base: str) -> str:
    return hashlib.blake2b(os.fsencode(base), digest_size=8).hexdigest()


def beside_socket(base: str, number: int, kind: str) -> str:
    return f"{base}{number}.{kind}"


def encode_header(header: Header) -> bytes:
    """The header, without the fill up to HEADER_BYTES."""
    identity = _HEADER.pack(
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
    parts = [identity, _COUNTED.pack(*header.counted[:-1]), *(THREAD.pack(*own) for own in header.own_threads)]
    base = os.fsencode(header.base or "")[: BASE_BYTES - 1]
    last = (BEAT.pack(header.beat), RESIDENT.pack(header.resident_bytes), _KINDS.pack(*header.counted.harakiri_kinds))
    return b"".join((b"".join(parts).ljust(BASE_OFFSET, b"\0"), base.ljust(BASE_BYTES, b"\0"), *last))


def decode_header(content: bytes) -> Header:
    """Read the header. Raises FormatError for anything that is not a whole table of this version."""
    if len(content) < HEADER_BYTES or not content.startswith(MAGIC):
        raise FormatError("this is no black box")
    fields = _HEADER.unpack_from(content)
    if fields[1] != VERSION:
        raise FormatError(f"the black box is of version {fields[1]}, this program reads version {VERSION}")
    if fields[2:5] != (ROWS, HEADER_BYTES, ROW_BYTES) or len(content) != FILE_BYTES:
        raise FormatError("the black box is cut short, or laid out in another way")
    (beat,) = BEAT.unpack_from(content, BEAT_OFFSET)
    if not all(map(is_time, (*fields[11:14], beat))):
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
        counted=_counted(content),
        own_threads=tuple(own for own in THREAD.iter_unpack(content[_THREADS_OFFSET:_THREADS_END]) if own[0]),
        base=os.fsdecode(content[BASE_OFFSET:BEAT_OFFSET].split(b"\0", 1)[0]) or None,
        beat=beat,
        resident_bytes=RESIDENT.unpack_from(content, RESIDENT_OFFSET)[0],
    )


def _counted(content: bytes) -> Counted:
    kinds = _KINDS.unpack_from(content, _KINDS_OFFSET)
    return Counted._make((*_COUNTED.unpack_from(content, COUNTED_OFFSET), kinds))


def handed_on(content: bytes) -> Counted:
    """What the counters of a worker begin with whose predecessor left this table. Raises FormatError."""
    counted = decode_header(content).counted
    counted = counted._replace(
        restarts=counted.restarts + 1, requests_before=counted.requests_before + count_requests(content)
    )
    kinds = tuple(min(count, _MAX_COUNT) for count in counted.harakiri_kinds)
    return Counted._make((*(min(count, _MAX_COUNT) for count in counted[:-1]), kinds))


def count_requests(content: bytes) -> int:
    """How many requests began in all rows of a table."""
    counts = (FLIGHT.unpack_from(content, offset)[3] for offset in range(HEADER_BYTES, FILE_BYTES, ROW_BYTES))
    return sum(int(count) for count in counts if 0.0 < count < _MAX_COUNT)


def row_offset(index: int) -> int:
    return HEADER_BYTES + index * ROW_BYTES


def counter_offset(counter: str) -> int:
    return COUNTED_OFFSET + Counted._fields.index(counter) * COUNTER.size


def kind_offset(action: str, verdict: str) -> int:
    """Where the counter of overdue requests with this action and verdict is."""
    return _KINDS_OFFSET + KINDS.index((action, verdict)) * COUNTER.size


def thread_offset(place: int) -> int:
    return _THREADS_OFFSET + place * THREAD.size


def signs_of_life(content: bytes) -> bytes:
    """What changes in a table while Python runs in its worker: the beat, and what requests write themselves.

    Two of them that differ prove that it ran in between.
    """
    flights = (content[offset : offset + FLIGHT.size] for offset in _used_rows(content))
    return b"".join((content[BEAT_OFFSET : BEAT_OFFSET + BEAT.size], *flights))


def last_alive_at(header: Header) -> float:
    """The Unix time at which the worker is known to have lived last: its last beat, or else when it made its table."""
    return header.unix + max(0.0, header.beat - header.monotonic)


def decode_rows(content: bytes, again: bytes) -> tuple[list[Row], int]:
    """The requests in flight in two reads of the same table, and how many rows were being written in both."""
    rows = []
    torn = 0
    for offset in _used_rows(content[: len(again)]):
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
                method=_text(method) or "",
                path=decode_path(path),
                remote_address=_text(remote_address) if has_detail else None,
                request_id=_text(request_id) if has_detail else None,
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
    return Flight(head, _text(method) or "", decode_path(path), ident, native_id)


def decode_last_start(content: bytes) -> float | None:
    """When the last of the requests in flight began, also if its row is torn; None if there is none."""
    heads = (_HEAD.unpack_from(content, offset)[0] for offset in _used_rows(content))
    return max(filter(_is_start, heads), default=None)


#: Thirty-two rows that no core was given: compared at once, which is far faster than row by row.
_UNUSED = bytes(32 * ROW_BYTES)


def _used_rows(content: bytes) -> range:
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
    for offset in _used_rows(content):
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


def detail_bytes(
    head: float, remote_address: str | None, request_id: str | None, resident_bytes: int | None = None
) -> bytes:
    """The part of a row that the watchdog writes."""
    texts = _bytes(remote_address, REMOTE_ADDRESS_BYTES), _bytes(request_id, REQUEST_ID_BYTES)
    return DETAIL.pack(head, *texts, resident_bytes or 0)


def _text(field: bytes) -> str | None:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace") or None
