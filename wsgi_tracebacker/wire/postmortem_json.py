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
from wsgi_tracebacker.model.report import LostRequest, Postmortem
from wsgi_tracebacker.wire import table_layout as blackbox
from wsgi_tracebacker.wire.escape import printable
from wsgi_tracebacker.wire.snapshot_json import check_density
from wsgi_tracebacker.wire.times import is_time

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Rises when a key changes its meaning; not when one is added.
VERSION = 2

#: How faulthandler begins a thread; each thread is once in a dump.
_THREAD = re.compile(r"^(?:Current thread|Thread) (0x[0-9a-fA-F]{1,16})\b", re.MULTILINE)

#: Of the requests, the oldest: more than anybody reads in a log, and with long paths 1 MiB in the file that is kept.
MAX_REQUESTS = 512

#: Of the stacks file, its end: the last reports.
MAX_STACKS_CHARACTERS = 64 * 1024

#: The kernel dates files by its last tick, at most 10 ms ago; requests begin by a finer clock.
_TICK_SECONDS = 0.01


def of_table(
    content: bytes, base: str, found_at: float, stacks: bytes | None, stacks_written_at: float | None = None
) -> Postmortem | None:
    """The postmortem of a dead worker's table; None if it ended in order, or nothing can have been in flight.

    ``stacks`` is what its stacks file holds, ``stacks_written_at`` the Unix time at which that was last written.
    Raises FormatError for what is no table. The worker is dead: nobody writes, so one read is enough.
    """
    header = blackbox.decode_header(content)
    rows, torn = blackbox.decode_rows(content, content)
    if header.is_closed or not (rows or torn or header.unrecorded_cores):
        return None
    last_start = blackbox.decode_last_start(content)
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
        # Whoever owns a file can date it as he likes.
        stacks_written_at=(
            stacks_written_at if stacks and stacks_written_at is not None and is_time(stacks_written_at) else None
        ),
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
    unlisted, torn = postmortem.unlisted_requests, postmortem.torn_requests
    count = len(postmortem.requests) + unlisted + torn
    died = f"died with {_requests(count)} in flight" if count else "may have died with requests in flight"
    last = f", its last request began {_time(postmortem.last_written_at)}" if count else ""
    yield f"worker {postmortem.number}, pid {postmortem.pid}, {died}; started {_time(postmortem.started_at)}{last}"
    for request in postmortem.requests:
        facts = [f"core {request.core}", f"since {_time(request.started_at)}"]
        if request.request_id:
            facts.append(f"request id {request.request_id}")
        if request.remote_address:
            facts.append(f"from {request.remote_address}")
        yield printable(f"  {request.method} {request.path}  ({', '.join(facts)})")
    if unlisted:
        yield f"  {_requests(unlisted)} more, begun later"
    if torn:
        yield f"  {_requests(torn)} that {'was' if torn == 1 else 'were'} being noted: nothing else is known"
    if postmortem.unrecorded_cores:
        yield f"  threads beyond its table: {postmortem.unrecorded_cores}; what they served, if anything, is not known"
    if postmortem.stacks:
        yield f"its last report or stacks{_when(postmortem, count)}:"
        for line in postmortem.stacks.rstrip().split("\n"):
            yield f"  {printable(line)}" if line else ""


def _when(postmortem: Postmortem, count: int) -> str:
    """When the stacks were written, and whether they can be of the last request; "" where that is not known."""
    written_at = postmortem.stacks_written_at
    if written_at is None:
        return ""
    # A dump has no time. One that a reader asked for, of a stall that was over, blames the wrong code.
    is_older = count and written_at < postmortem.last_written_at - _TICK_SECONDS
    return f", written {_time(written_at)}{', before its last request began' if is_older else ''}"


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"


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
        check_density(content)
        found = json.loads(content)
        if not isinstance(found, dict) or found.get("postmortem") != VERSION:
            raise FormatError(f"this is no postmortem of version {VERSION}")
        if len(found["requests"]) > MAX_REQUESTS:
            raise FormatError(f"this is no postmortem: it has more than {MAX_REQUESTS} requests")
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
        # A postmortem outlives the version that kept it: one from before there was this key has no such time.
        found.setdefault("stacks_written_at", None)
        kept = {field.name: found[field.name] for field in fields(Postmortem)}
        for key in ("number", "pid", "unlisted_requests", "torn_requests", "unrecorded_cores"):
            kept[key] = int(kept[key])
        for key in ("started_at", "last_written_at", "found_at"):
            kept[key] = _a_time(kept[key])
        if kept["stacks_written_at"] is not None:
            kept["stacks_written_at"] = _a_time(kept["stacks_written_at"])
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
