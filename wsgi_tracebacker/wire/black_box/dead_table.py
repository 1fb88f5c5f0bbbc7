"""Makes a postmortem of the table that a dead worker left, and of its stacks file."""

from __future__ import annotations

import re

from wsgi_tracebacker.model.report import LostRequest, Postmortem
from wsgi_tracebacker.wire.black_box import table_header, table_rows
from wsgi_tracebacker.wire.documents.postmortem_json import MAX_REQUESTS
from wsgi_tracebacker.wire.documents.records import is_time

#: How faulthandler begins a thread; each thread is once in a dump.
_THREAD = re.compile(r"^(?:Current thread|Thread) (0x[0-9a-fA-F]{1,16})\b", re.MULTILINE)

#: The kernel sets the times of files to its last tick, at most 10 ms ago; requests have the time of a finer clock.
CLOCK_TICK_SECONDS = 0.01

#: How much of the end of a stacks file is kept.
MAX_STACKS_CHARACTERS = 64 * 1024


def read_postmortem(
    content: bytes, base: str, found_at: float, stacks: bytes | None, stacks_written_at: float | None = None
) -> Postmortem | None:
    """Make the postmortem of a worker; None if it ended in order, or cannot have had a request in flight.

    ``stacks`` is the content of its stacks file, ``stacks_written_at`` the Unix time at which that was last written.
    Raises FormatError if the content is not a table. Nobody writes the table of a dead worker, so one read is enough.
    """
    header = table_header.decode_header(content)
    rows, torn = table_rows.decode_rows(content, content)
    if header.is_closed or not (rows or torn or header.unrecorded_cores):
        return None
    last_start = table_rows.decode_last_start(content)
    to_unix = header.unix - header.monotonic
    last_written_at = (header.monotonic if last_start is None else last_start) + to_unix
    last_stacks = _last(stacks.decode("utf-8", "backslashreplace")) if stacks else None
    # In an older dump, which is an earlier stall's, other threads served.
    if last_stacks is not None and (
        stacks_written_at is None or stacks_written_at >= last_written_at - CLOCK_TICK_SECONDS
    ):
        own_idents = {ident for ident, _ in header.own_threads}
        idents = {core: ident for core, (ident, _) in table_rows.decode_owners(content).items()}
        last_stacks = _serving_first(last_stacks, own_idents, idents, {row.core for row in rows})
    elif last_stacks is not None:
        last_stacks = last_stacks[-MAX_STACKS_CHARACTERS:]
    return Postmortem(
        number=header.number,
        base=base,
        pid=header.pid,
        server=header.server,
        application=header.application,
        started_at=header.started_at,
        last_written_at=last_written_at,
        found_at=found_at,
        requests=tuple(
            LostRequest(
                core=row.core,
                native_id=row.native_id,
                method=row.method,
                path=row.path,
                started_at=row.started + to_unix,
                remote_address=row.remote_address,
                request_id=row.request_id,
                resident_bytes=row.resident_bytes,
            )
            for row in sorted(rows, key=lambda row: row.started)[:MAX_REQUESTS]
        ),
        unlisted_requests=max(0, len(rows) - MAX_REQUESTS),
        torn_requests=torn,
        unrecorded_cores=header.unrecorded_cores,
        stacks=last_stacks,
        # The owner of a file can give it any date.
        stacks_written_at=(
            stacks_written_at if stacks and stacks_written_at is not None and is_time(stacks_written_at) else None
        ),
        resident_bytes=header.resident_bytes or None,
    )


def _last(stacks: str) -> str:
    """The last dump, where a stalled worker made one for each of several readers."""
    seen: set[str] = set()
    begin = 0
    for header in reversed(list(_THREAD.finditer(stacks))):
        if header[1] in seen:
            break
        seen.add(header[1])
        begin = header.start()
    else:
        begin = 0
    return stacks[begin:]


def _serving_first(stacks: str, own_idents: set[int], idents: dict[int, int], serving_cores: set[int]) -> str:
    """The threads of a dump: first those that serve a request, then others, without idle ones and our own.

    ``idents``: the thread of each core. Whatever stands before the first thread, a report perhaps, stays there.
    """
    headers = list(_THREAD.finditer(stacks))
    serving = {idents[core] for core in serving_cores if core in idents}
    if not headers or not serving:
        return stacks[-MAX_STACKS_CHARACTERS:]
    left_out = own_idents.union(idents.values()) - serving
    ends = [header.start() for header in headers[1:]] + [len(stacks)]
    threads = [
        (int(header[1], 16), stacks[header.start() : end].rstrip("\n"))
        for header, end in zip(headers, ends, strict=True)
    ]
    kept = [thread for thread in threads if thread[0] not in left_out]
    kept.sort(key=lambda thread: thread[0] not in serving)
    text = ("\n\n".join(text for _, text in kept) + "\n")[:MAX_STACKS_CHARACTERS]
    before = stacks[: headers[0].start()]
    return before[max(0, len(before) + len(text) - MAX_STACKS_CHARACTERS) :] + text
