"""The JSON documents of schema 1: a snapshot, and who a worker is.

Has the table of every key; ``docs/reference/json.md`` describes them. A worker keeps the JSON of each frame, because
most threads stand where they stood before: so a thread is written with its frames already in JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.model.snapshot import (
    SCHEMA,
    Counters,
    Frame,
    HubState,
    LastRequest,
    ListenSocket,
    Note,
    Request,
    Snapshot,
    Stack,
    Worker,
)
from wsgi_tracebacker.model.waits import Holder, WaitsFor
from wsgi_tracebacker.wire.documents.records import FLAG, INTEGER, NUMBER, TEXT, Key, Record, load

if TYPE_CHECKING:
    from collections.abc import Sequence

_FRAME = Record(
    Frame,
    Key("filename", TEXT),
    Key("lineno", INTEGER, None),
    Key("end_lineno", INTEGER, None),
    Key("column", INTEGER, None),
    Key("end_column", INTEGER, None),
    Key("function", TEXT),
    Key("source", TEXT, None),
    Key("source_changed", FLAG, default=False),
    is_repeated=True,
)
Record(
    Holder,
    Key("method", TEXT),
    Key("path", TEXT),
    Key("age_seconds", NUMBER),
    Key("core", INTEGER, None),
    Key("worker", INTEGER, None),
    Key("has", TEXT, None),
    Key("wants", TEXT, None),
    Key("thread", TEXT, None),
)
Record(
    WaitsFor,
    Key("kind", TEXT),
    Key("sentence", TEXT, ""),
    Key("service", TEXT, None),
    Key("peer", TEXT, None),
    Key("own_port", INTEGER, None),
    Key("connecting", FLAG, None),
    Key("host", TEXT, None),
    Key("file", TEXT, None),
    Key("pid", INTEGER, None),
    Key("program", TEXT, None),
    Key("lock", TEXT, None),
    Key("lock_place", TEXT, None),
    Key("holders", Holder, (), is_list=True),
    Key("pool", TEXT, None),
    Key("pool_size", INTEGER, None),
    Key("pool_in_use", INTEGER, None),
    Key("statement", TEXT, None),
    Key("method", TEXT, None),
    Key("url", TEXT, None),
    Key("call", TEXT, None),
    Key("called_at", TEXT, None),
    Key("thread", TEXT, None),
    Key("since_seconds", NUMBER, None),
    Key("share", NUMBER, None),
    Key("new_calls", INTEGER, None),
    Key("looks", INTEGER, None),
    Key("client_gone", FLAG, None),
)
Record(
    Note,
    Key("at_seconds", NUMBER),
    Key("text", TEXT),
)
Record(
    Request,
    Key("method", TEXT),
    Key("path", TEXT),
    Key("query", TEXT, None),
    Key("remote_address", TEXT, None),
    Key("request_id", TEXT, None),
    Key("started_at", NUMBER),
    Key("age_seconds", NUMBER),
    Key("phase", TEXT),
    Key("nested", Request, (), is_list=True),
    Key("waits_for", WaitsFor, None),
    Key("notes", Note, (), is_list=True),
    Key("trace_id", TEXT, None),
    Key("queued_seconds", NUMBER, None),
)
Record(
    LastRequest,
    Key("method", TEXT),
    Key("path", TEXT),
    Key("ended_seconds_ago", NUMBER),
)
Record(
    HubState,
    Key("library", TEXT),
    Key("state", TEXT),
    Key("blocked_seconds", NUMBER, None),
)
_STACK = Record(
    Stack,
    Key("name", TEXT),
    Key("ident", INTEGER, None),
    Key("native_id", INTEGER, None),
    Key("core", INTEGER, None),
    Key("kind", TEXT),
    Key("daemon", FLAG, None),
    Key("state", TEXT, None),
    Key("wait_channel", TEXT, None),
    Key("cpu_seconds", NUMBER, None),
    Key("request", Request, None),
    Key("last_request", LastRequest, None),
    Key("frames_omitted", INTEGER, 0),
    Key("is_cut", FLAG, default=False),
    Key("holds_gil", FLAG, None),
    Key("greenlet", TEXT, None),
    Key("hub", HubState, None),
    # stack_json() knows that this is the last one.
    Key("frames", Frame, is_list=True),
)
Record(
    ListenSocket,
    Key("inode", INTEGER),
    Key("family", TEXT),
    Key("address", TEXT),
    Key("waiting", INTEGER, None),
    Key("limit", INTEGER, None),
)
_WORKER = Record(
    Worker,
    Key("number", INTEGER, None),
    Key("pid", INTEGER, None),
    Key("ppid", INTEGER, None),
    Key("uid", INTEGER, None),
    Key("started_at", NUMBER, None),
    Key("server", TEXT, None),
    Key("application", TEXT, None),
    Key("cwd", TEXT, None),
    Key("python", TEXT, None),
    Key("version", TEXT, None),
    Key("base", TEXT, None),
    Key("requests_finished", INTEGER, None),
    Key("requests_in_flight", INTEGER, None),
    Key("oldest_request_seconds", NUMBER, None),
    Key("slots", INTEGER, None),
    Key("busy", INTEGER, None),
    Key("inner_queue", INTEGER, None),
    Key("restarts", INTEGER, None),
    Key("listen", ListenSocket, (), is_list=True),
    Key("host", TEXT, None),
)
_COUNTERS = Record(
    Counters,
    Key("snapshots", INTEGER),
    Key("clients_accepted", INTEGER),
    Key("clients_refused", INTEGER),
    Key("clients_dropped", INTEGER),
    Key("faults", INTEGER),
)
_SNAPSHOT = Record(
    Snapshot,
    Key("source", TEXT),
    # Workers of an earlier version do not have it, and a worker that answers is alive.
    Key("state", TEXT, "alive"),
    Key("worker", Worker),
    Key("taken_at", NUMBER),
    # snapshot_bytes() knows that this is the last one.
    Key("threads", Stack, attribute="stacks", is_list=True),
)


def frame_json(frame: Frame) -> str:
    """One frame's object."""
    return _FRAME.write(frame)


def stack_json(stack: Stack, frame_jsons: Sequence[str]) -> str:
    """One thread's object. Its frames are these, which frame_json() wrote; ``stack`` has none."""
    return f"{_STACK.write(stack).removesuffix(']}')}{','.join(frame_jsons)}]}}"


def snapshot_bytes(snapshot: Snapshot, stack_jsons: Sequence[str]) -> bytes:
    """The whole document, one line with its line end. Its threads are these, which stack_json() wrote."""
    written = _SNAPSHOT.write(snapshot)
    begin, end = f'{{"schema":{SCHEMA},{written[1:].removesuffix("]}")}', "]}\n"
    if not stack_jsons:
        return (begin + end).encode("ascii")
    # One join of all of it: each further copy of half a megabyte takes 100 µs.
    parts = list(stack_jsons)
    parts[0] = begin + parts[0]
    parts[-1] += end
    return ",".join(parts).encode("ascii")


def encode(snapshot: Snapshot) -> bytes:
    """The document of a snapshot."""
    return f'{{"schema":{SCHEMA},{_SNAPSHOT.write(snapshot)[1:]}\n'.encode("ascii")


def decode(data: bytes) -> Snapshot:
    """The snapshot that a document holds; FormatError if it holds none, or one of another schema."""
    return _SNAPSHOT.read(load(data, "document", "schema", SCHEMA), "document")


def read_snapshot(content: object, place: str) -> Snapshot:
    """The snapshot of a document inside another one, which stands at ``place`` there. Raises FormatError."""
    return _SNAPSHOT.read(content, place)


def worker_bytes(worker: Worker, counters: Counters) -> bytes:
    """The document that says who a worker is and what its listener has done, one line with its line end."""
    return f'{{"schema":{SCHEMA},"worker":{_WORKER.write(worker)},"counters":{_COUNTERS.write(counters)}}}\n'.encode()


def decode_worker(data: bytes) -> tuple[Worker, Counters]:
    """Who a worker is and what its listener has done; FormatError if the document does not say."""
    document = load(data, "document", "schema", SCHEMA)
    worker = _WORKER.read(document.get("worker"), "document.worker")
    return worker, _COUNTERS.read(document.get("counters"), "document.counters")
