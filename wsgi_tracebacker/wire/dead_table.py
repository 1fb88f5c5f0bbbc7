"""Makes a postmortem of the table that a dead worker left, and of its stacks file."""

from __future__ import annotations

import re

from wsgi_tracebacker.model.report import LostRequest, Postmortem
from wsgi_tracebacker.wire import table_layout
from wsgi_tracebacker.wire.postmortem_json import MAX_REQUESTS
from wsgi_tracebacker.wire.records import is_time

#: How faulthandler begins a thread; each thread is once in a dump.
_THREAD = re.compile(r"^(?:Current thread|Thread) (0x[0-9a-fA-F]{1,16})\b", re.MULTILINE)

#: How much of the end of a stacks file is kept.
MAX_STACKS_CHARACTERS = 64 * 1024


def read_postmortem(
    content: bytes, base: str, found_at: float, stacks: bytes | None, stacks_written_at: float | None = None
) -> Postmortem | None:
    """Make the postmortem of a worker; None if it ended in order, or cannot have had a request in flight.

    ``stacks`` is the content of its stacks file, ``stacks_written_at`` the Unix time at which that was last written.
    Raises FormatError if the content is not a table. Nobody writes the table of a dead worker, so one read is enough.
    """
    header = table_layout.decode_header(content)
    rows, torn = table_layout.decode_rows(content, content)
    if header.is_closed or not (rows or torn or header.unrecorded_cores):
        return None
    last_start = table_layout.decode_last_start(content)
    to_unix = header.unix - header.monotonic
    return Postmortem(
        number=header.number,
        base=base,
        pid=header.pid,
        server=header.server,
        application=header.application,
        started_at=header.started_at,
        last_written_at=(header.monotonic if last_start is None else last_start) + to_unix,
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
            )
            for row in sorted(rows, key=lambda row: row.started)[:MAX_REQUESTS]
        ),
        unlisted_requests=max(0, len(rows) - MAX_REQUESTS),
        torn_requests=torn,
        unrecorded_cores=header.unrecorded_cores,
        stacks=_last(stacks.decode("utf-8", "backslashreplace")) if stacks else None,
        # The owner of a file can give it any date.
        stacks_written_at=(
            stacks_written_at if stacks and stacks_written_at is not None and is_time(stacks_written_at) else None
        ),
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
    return stacks[begin:][-MAX_STACKS_CHARACTERS:]
