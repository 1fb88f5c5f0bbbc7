"""The JSON document of ``wsgi-tb read``: the snapshots of workers, and who did not answer.

Nothing in a document is trusted: it may come from another host.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.reading import Document, Unanswered
from wsgi_tracebacker.model.snapshot import SCHEMA
from wsgi_tracebacker.wire.documents.records import INTEGER, TEXT, Key, Record, load
from wsgi_tracebacker.wire.documents.snapshot_json import read_snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNANSWERED = Record(
    Unanswered,
    Key("number", INTEGER, None),
    Key("socket", TEXT, None),
    Key("pid", INTEGER, None),
    Key("reason", TEXT),
    Key("state", TEXT),
    Key("other_uid", INTEGER, None),
    Key("host", TEXT, None),
    Key("message", TEXT, None),
)

#: The longest name of a host that DNS has.
_MAX_HOST_CHARACTERS = 253


def encode(workers: Sequence[bytes], unanswered: Sequence[Unanswered], host: str | None) -> bytes:
    """The document, one line with its line end. ``workers`` are snapshot documents."""
    return b'{"schema":%d,"host":%s,"workers":[%s],"unanswered":[%s]}\n' % (
        SCHEMA,
        json.dumps(host).encode("ascii"),
        b",".join(workers),
        ",".join(map(_UNANSWERED.write, unanswered)).encode("ascii"),
    )


def decode(data: bytes, host: str | None = None) -> Document:
    """What a document holds, or a worker's own document of its snapshot. Raises FormatError.

    ``host``: what the operator calls its host; else it is the name in the document.
    """
    content = load(data, "document", "schema", SCHEMA)
    if "workers" not in content:
        snapshot = read_snapshot(content, "document")
        named = snapshot._replace(worker=snapshot.worker._replace(host=host or _cut(snapshot.worker.host)))
        return Document((named,), ())
    host = host or _cut(Key("host", TEXT, None).read(content.get("host"), "document"))
    workers = [read_snapshot(each, "document.workers[]") for each in _list(content, "workers")]
    unanswered = [_UNANSWERED.read(each, "document.unanswered[]") for each in _list(content, "unanswered")]
    return Document(
        tuple(each._replace(worker=each.worker._replace(host=host or _cut(each.worker.host))) for each in workers),
        tuple(each._replace(host=host or _cut(each.host)) for each in unanswered),
    )


def _cut(host: str | None) -> str | None:
    return None if host is None else host[:_MAX_HOST_CHARACTERS]


def _list(content: dict[str, object], key: str) -> list[object]:
    found = content.get(key)
    if type(found) is not list:
        raise FormatError(f"document.{key} is not a list")
    return found
