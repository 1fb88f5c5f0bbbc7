"""The header of the black box: whose table of requests in flight it is, what the worker counted, whether it lives.

It is the first KiB of the file, little-endian. The rows behind it are in ``table_rows``.

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

Texts are UTF-8, filled up with NUL.
"""

from __future__ import annotations

import itertools
import os
import struct
from typing import NamedTuple

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.report import ACTIONS, VERDICTS
from wsgi_tracebacker.wire.black_box.table_head import BASE_BYTES, BASE_OFFSET, MAGIC, VERSION
from wsgi_tracebacker.wire.black_box.table_rows import (
    FILE_BYTES,
    FLIGHT,
    HEADER_BYTES,
    MAX_COUNT,
    ROW_BYTES,
    ROWS,
    count_requests,
    field_bytes,
    text_of,
    used_rows,
)
from wsgi_tracebacker.wire.documents.records import is_time

__all__ = ["MAGIC", "VERSION"]

_HEADER = struct.Struct("<16s7I I Q Q d d d I I 40s 64s 128s 48s".replace(" ", ""))

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
        field_bytes(header.boot_id, 40),
        field_bytes(header.server, 64),
        field_bytes(header.application, 128),
        field_bytes(header.python, 48),
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
        boot_id=text_of(fields[16]) or "",
        server=text_of(fields[17]),
        application=text_of(fields[18]),
        python=text_of(fields[19]),
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
    kinds = tuple(min(count, MAX_COUNT) for count in counted.harakiri_kinds)
    return Counted._make((*(min(count, MAX_COUNT) for count in counted[:-1]), kinds))


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
    flights = (content[offset : offset + FLIGHT.size] for offset in used_rows(content))
    return b"".join((content[BEAT_OFFSET : BEAT_OFFSET + BEAT.size], *flights))


def last_alive_at(header: Header) -> float:
    """The Unix time at which the worker is known to have lived last: its last beat, or else when it made its table."""
    return header.unix + max(0.0, header.beat - header.monotonic)
