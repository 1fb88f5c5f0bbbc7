"""What a dead worker was doing: made of its table, written as JSON, shown to people.

Knows how a postmortem is made of a table's bytes and how it reads. Refuses to know where files are.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.formats import blackbox
from wsgi_tracebacker.formats.escape import printable
from wsgi_tracebacker.formats.times import is_time
from wsgi_tracebacker.reports import LostRequest, Postmortem

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Rises when a key changes its meaning.
VERSION = 1

#: How faulthandler begins a thread; each thread is once in a dump.
_THREAD = re.compile(r"^(?:Current thread|Thread) (0x[0-9a-fA-F]{1,16})\b", re.MULTILINE)

#: Of the stacks file, its end: the last reports.
MAX_STACKS_CHARACTERS = 64 * 1024


def of_table(content: bytes, base: str, found_at: float, stacks: bytes | None) -> Postmortem | None:
    """The postmortem of a dead worker's table; None if it ended in order, or nothing was in flight.

    Raises FormatError for what is no table. The worker is dead: nobody writes, so one read is enough.
    """
    header = blackbox.decode_header(content)
    rows, torn = blackbox.decode_rows(content, content)
    unrecorded = max(0, header.cores - blackbox.ROWS)
    if header.is_closed or not (rows or torn):
        return None
    to_unix = header.unix - header.monotonic
    return Postmortem(
        number=header.number,
        base=base,
        pid=header.pid,
        server=header.server,
        application=header.application,
        started_at=header.started_at,
        last_written_at=max((row.started for row in rows), default=header.monotonic) + to_unix,
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
            for row in sorted(rows, key=lambda row: row.started)
        ),
        unrecorded_cores=unrecorded,
        stacks=_last(stacks.decode("utf-8", "backslashreplace")) if stacks else None,
    )


def _last(stacks: str) -> str:
    """Of several dumps in a row, which a stalled worker makes for each reader, the last one."""
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


def lines(postmortem: Postmortem) -> Iterator[str]:
    """For people and for the log."""
    count = len(postmortem.requests)
    started, last = _time(postmortem.started_at), _time(postmortem.last_written_at)
    yield (
        f"worker {postmortem.number}, pid {postmortem.pid}, died with {count} request{'' if count == 1 else 's'} in"
        f" flight; started {started}, its last request began {last}"
    )
    for request in postmortem.requests:
        facts = [f"core {request.core}", f"since {_time(request.started_at)}"]
        if request.request_id:
            facts.append(f"request id {request.request_id}")
        if request.remote_address:
            facts.append(f"from {request.remote_address}")
        yield printable(f"  {request.method} {request.path}  ({', '.join(facts)})")
    if postmortem.unrecorded_cores:
        yield f"  {postmortem.unrecorded_cores} more threads had no row in its table: what they served is not known"
    if postmortem.stacks:
        yield "its last report or stacks:"
        for line in postmortem.stacks.rstrip().split("\n"):
            yield "  " + printable(line)


def _time(unix: float) -> str:
    try:
        return datetime.fromtimestamp(unix).astimezone().isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return "an unknown time"


def document(postmortem: Postmortem) -> dict[str, Any]:
    """As plain dicts, lists, strings and numbers."""
    content = asdict(postmortem)
    content["requests"] = list(content["requests"])
    return {"postmortem": VERSION, **content}


def encode(postmortem: Postmortem) -> bytes:
    """One line of JSON, in ASCII."""
    return json.dumps(document(postmortem)).encode("ascii") + b"\n"


def decode(content: bytes) -> Postmortem:
    """Read one back. Raises FormatError."""
    try:
        found = json.loads(content)
        if not isinstance(found, dict) or found.get("postmortem") != VERSION:
            raise FormatError("this is no postmortem of version 1")
        requests = tuple(
            LostRequest(
                core=int(request["core"]),
                native_id=int(request["native_id"]),
                method=str(request["method"]),
                path=str(request["path"]),
                started_at=_a_time(request["started_at"]),
                remote_address=_optional_text(request["remote_address"]),
                request_id=_optional_text(request["request_id"]),
            )
            for request in found["requests"]
        )
        kept = {field.name: found[field.name] for field in fields(Postmortem)}
        for key in ("number", "pid", "unrecorded_cores"):
            kept[key] = int(kept[key])
        for key in ("started_at", "last_written_at", "found_at"):
            kept[key] = _a_time(kept[key])
        for key in ("server", "application", "stacks"):
            kept[key] = _optional_text(kept[key])
        kept["base"] = str(kept["base"])
        kept["requests"] = requests
        return Postmortem(**kept)
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise FormatError(f"this is no postmortem: {error}") from None


def _a_time(value: Any) -> float:
    seconds = float(value)
    if not is_time(seconds):
        raise FormatError("this is no postmortem: it has times that no clock shows")
    return seconds


def _optional_text(value: object) -> str | None:
    return None if value is None else str(value)
