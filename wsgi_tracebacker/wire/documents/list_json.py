"""The JSON document of ``wsgi-tb list``: each worker with the attributes of ``WorkerRow``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.snapshot import SCHEMA, ListenSocket
from wsgi_tracebacker.model.worker_row import WorkerRow
from wsgi_tracebacker.wire.documents import snapshot_json  # noqa: F401  (it has the table of ListenSocket)
from wsgi_tracebacker.wire.documents.records import INTEGER, NUMBER, TEXT, Key, Record, load

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROW = Record(
    WorkerRow,
    Key("number", INTEGER, None),
    Key("socket", TEXT),
    Key("base", TEXT),
    Key("pid", INTEGER, None),
    Key("visible_pid", INTEGER, None),
    Key("state", TEXT),
    Key("application", TEXT, None),
    Key("requests_in_flight", INTEGER, None),
    Key("oldest_request_seconds", NUMBER, None),
    Key("reason", TEXT, None),
    Key("other_uid", INTEGER, None),
    Key("slots", INTEGER, None),
    Key("busy", INTEGER, None),
    Key("inner_queue", INTEGER, None),
    Key("waiting", INTEGER, None),
    Key("waiting_limit", INTEGER, None),
    Key("memory_bytes", INTEGER, None),
    Key("cpu_share", NUMBER, None),
    Key("restarts", INTEGER, None),
    Key("last_alive_at", NUMBER, None),
    Key("listen", ListenSocket, (), is_list=True),
    Key("host", TEXT, None),
)


def encode(rows: Sequence[WorkerRow]) -> bytes:
    """The document, one line with its line end."""
    return f'{{"schema":{SCHEMA},"workers":[{",".join(map(_ROW.write, rows))}]}}\n'.encode("ascii")


def decode(data: bytes, host: str) -> list[WorkerRow]:
    """The workers in a document of another host. Raises FormatError."""
    found = load(data, "document", "schema", SCHEMA).get("workers")
    if type(found) is not list:
        raise FormatError("document.workers is not a list")
    return [_ROW.read(each, "document.workers[]")._replace(host=host) for each in found]
