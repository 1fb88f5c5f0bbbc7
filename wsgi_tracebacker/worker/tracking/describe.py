"""How the request of a core becomes a value, for snapshots and reports.

Any thread may call this while the request begins, runs and ends. No code of the application runs here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wsgi_tracebacker.model.snapshot import PHASES, LastRequest, Request
from wsgi_tracebacker.wire.black_box.table_rows import PATH_BYTES
from wsgi_tracebacker.worker.tracking.core import value_in
from wsgi_tracebacker.worker.tracking.handle import notes_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_tracebacker.worker.blackbox.table import Table
    from wsgi_tracebacker.worker.tracking.core import Core

#: A path or header of a hostile client may be 64 KiB long; nobody reads more than this of one.
MAX_TEXT_CHARACTERS = 2048
#: A path that fills its row to here may have been cut. Half of it: a Latin-1 character takes two bytes there.
_MAY_BE_CUT_BYTES = PATH_BYTES // 2 - 1

#: Version, trace id, parent id, flags. Later versions may have more; version ff and an id of zeros are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-|$)")

#: The headers in which proxies say when they received a request: nginx, Apache and HAProxy are set up to send one.
_QUEUE_KEYS = ("HTTP_X_REQUEST_START", "HTTP_X_QUEUE_START")
#: Unix time with ``t=`` before it or not: nginx has seconds with a fraction, Heroku milliseconds, Apache microseconds.
_QUEUED_SINCE = re.compile(r"\s*(?:t=)?\s*([0-9]{10,16})(\.[0-9]{1,9})?\s*$")
#: By the number of digits: so the unit is seen, from the year 2001 to 2286.
_TICKS_PER_SECOND = {10: 1.0, 13: 1e3, 16: 1e6}
#: No proxy waits so long: a time before that is forged, or a clock is wrong.
_MAX_QUEUED_SECONDS = 3600.0


def describe(core: Core, token: float, now_monotonic: float, now_unix: float) -> Request | None:
    """The request ``token`` of a core as a value; None if it ended, or another began, meanwhile."""
    environ: object = core.environ
    settings = core.settings
    phase = core.phase
    row_token, method, path = core.read_row()
    nested = tuple(core.nested)
    notes = notes_of(core, token)
    if core.started != token or environ is None or settings is None:
        return None
    if row_token != token:
        # It is in the row of before: see Core.change_row().
        method, path = _text_in(environ, "REQUEST_METHOD") or "", _path_in(environ)
    age_seconds = max(0.0, now_monotonic - token)
    inner = (describe(other, other.started, now_monotonic, now_unix) for other in nested if other.started >= token)
    started_at = now_unix - age_seconds
    return Request(
        method=method,
        path=_full_path(path, environ),
        query=_text_in(environ, "QUERY_STRING") if settings.show_query else None,
        remote_address=_text_in(environ, settings.remote_address_key),
        request_id=_text_in(environ, settings.request_id_key) if settings.request_id_key is not None else None,
        started_at=started_at,
        age_seconds=age_seconds,
        phase=PHASES[phase],
        nested=tuple(request for request in inner if request is not None),
        notes=notes,
        trace_id=_trace_id(value_in(environ, "HTTP_TRACEPARENT")),
        # A WSGI call within a request has the headers of that as a rule, and has not waited for a thread.
        queued_seconds=_queued_seconds(environ, started_at) if core.outer is None else None,
    )


def describe_last(core: Core, now_monotonic: float) -> LastRequest | None:
    """The request that a core served before; None if there was none or one is in flight."""
    if core.started or not core.ended:
        return None
    ended = core.ended
    _, method, path = core.read_row()
    if core.started or core.ended != ended:
        return None
    return LastRequest(method, path, max(0.0, now_monotonic - ended))


def write_details(cores: Iterable[Core], table: Table, now_monotonic: float) -> None:
    """Add to the rows of the requests in flight what these do not write when they begin."""
    for core in cores:
        token = core.started
        if token > 0.0 and core.number is not None:
            request = describe(core, token, now_monotonic, 0.0)
            if request is not None:
                table.describe(core.number, token, request.remote_address, request.request_id)


def _text_in(environ: object, key: str) -> str | None:
    # An exact str: a subclass, or anything with a __str__, would run code of the application on our thread.
    value = value_in(environ, key)
    if type(value) is not str or not value:
        return None
    return value if len(value) <= MAX_TEXT_CHARACTERS else value[:MAX_TEXT_CHARACTERS] + "..."


def _trace_id(header: object) -> str | None:
    """The trace's id in a header ``traceparent``; None if it is not of the form that W3C's Trace Context says."""
    if type(header) is not str or len(header) > MAX_TEXT_CHARACTERS:
        return None
    found = _TRACEPARENT.match(header)
    return found[1] if found is not None else None


def _queued_seconds(environ: object, started_at: float) -> float | None:
    """How long before its start a proxy received the request; 0.0 if the proxy's clock is ahead of this one."""
    for key in _QUEUE_KEYS:
        header = value_in(environ, key)
        found = _QUEUED_SINCE.match(header) if type(header) is str and len(header) <= MAX_TEXT_CHARACTERS else None
        ticks_per_second = _TICKS_PER_SECOND.get(len(found[1])) if found is not None else None
        if found is not None and ticks_per_second is not None:
            seconds = started_at - float(found[1] + (found[2] or "")) / ticks_per_second
            if seconds <= _MAX_QUEUED_SECONDS:
                return max(0.0, seconds)
    return None


def _full_path(in_row: str, environ: object) -> str:
    """The path in full: what was cut to fit the row is in the environ, unless the application changed that."""
    if len(in_row.encode("utf-8", "replace")) < _MAY_BE_CUT_BYTES:
        return in_row
    full = _path_in(environ)
    return full if full.startswith(in_row[: _MAY_BE_CUT_BYTES // 8]) else in_row


def _path_in(environ: object) -> str:
    return _path(value_in(environ, "SCRIPT_NAME")) + _path(value_in(environ, "PATH_INFO"))


def _path(value: object) -> str:
    """Undo PEP 3333's "bytes as Latin-1" for people: a path is UTF-8 nearly everywhere."""
    if type(value) is not str:
        return ""
    text = value[:MAX_TEXT_CHARACTERS]
    try:
        text = text.encode("latin-1").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        pass
    return text if len(value) <= MAX_TEXT_CHARACTERS else text + "..."


def is_websocket(environ: object) -> bool:
    """Whether the client asks for a websocket (RFC 6455, section 4.1)."""
    upgrade = value_in(environ, "HTTP_UPGRADE")
    return type(upgrade) is str and upgrade.lower() == "websocket"
