"""The JSON of a postmortem, as a worker keeps it for the one that died before it."""

from __future__ import annotations

from typing import Any

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.report import LostRequest, Postmortem
from wsgi_tracebacker.wire.documents.records import INTEGER, NUMBER, TEXT, Key, Record, load, plain

#: Rises when a key changes its meaning; not when one is added.
VERSION = 2

#: The oldest requests, this many, are listed: more than anybody reads in a log. With long paths they take 1 MiB.
MAX_REQUESTS = 512

Record(
    LostRequest,
    Key("core", INTEGER),
    Key("native_id", INTEGER),
    Key("method", TEXT),
    Key("path", TEXT),
    Key("started_at", NUMBER),
    Key("remote_address", TEXT, None),
    Key("request_id", TEXT, None),
    Key("resident_bytes", INTEGER, None),
)
_POSTMORTEM = Record(
    Postmortem,
    Key("number", INTEGER),
    Key("base", TEXT),
    Key("pid", INTEGER),
    Key("server", TEXT, None),
    Key("application", TEXT, None),
    Key("started_at", NUMBER),
    Key("last_written_at", NUMBER),
    Key("found_at", NUMBER),
    Key("requests", LostRequest, is_list=True),
    Key("unlisted_requests", INTEGER),
    Key("torn_requests", INTEGER),
    Key("unrecorded_cores", INTEGER),
    Key("stacks", TEXT, None),
    Key("stacks_written_at", NUMBER, None),
    Key("resident_bytes", INTEGER, None),
    Key("uid", INTEGER, None),
)


def document(postmortem: Postmortem) -> dict[str, Any]:
    """As plain dicts, lists, strings and numbers, for a log record."""
    return {"postmortem": VERSION, **plain(postmortem)}


def encode(postmortem: Postmortem) -> bytes:
    """One line of JSON, in ASCII."""
    return f'{{"postmortem":{VERSION},{_POSTMORTEM.write(postmortem)[1:]}\n'.encode("ascii")


def decode(content: bytes) -> Postmortem:
    """Read one back. Raises FormatError."""
    postmortem = _POSTMORTEM.read(load(content, "postmortem", "postmortem", VERSION), "postmortem")
    if len(postmortem.requests) > MAX_REQUESTS:
        raise FormatError(f"the postmortem has more than {MAX_REQUESTS} requests")
    return postmortem
