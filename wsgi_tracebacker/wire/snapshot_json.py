"""The JSON documents: a snapshot, and who a worker is.

Knows every key of ``schema`` 1 and nothing of where a document comes from. Writing is split into frame, stack and
document, because the worker keeps its frames encoded: most threads stand where they stood before. Reading trusts
nothing: whatever the bytes, the result is a value of the model or a FormatError. Keys that are not known are passed
over, optional ones that are missing are None.

Text is written in ASCII, so that file names which are not UTF-8 (lone surrogates, PEP 383) survive; numbers are
finite.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, TypeVar

from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.snapshot import (
    SCHEMA,
    Counters,
    Frame,
    HubState,
    LastRequest,
    Request,
    Snapshot,
    Stack,
    Worker,
)
from wsgi_tracebacker.wire.times import is_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

T = TypeVar("T")

#: Whole numbers are below this: thread idents are addresses, unsigned and 64 bit wide; nothing else comes near.
_INTEGER_LIMIT = 1 << 64

#: A document of ours has more bytes than that for each object or list in it, and for each value. Of what it has many
#: of, an empty request is the densest, with 2 and 11 of them in 125 bytes; a frame has 1 and 9 in 116.
_BYTES_A_CONTAINER = 48
_BYTES_A_VALUE = 10
#: And a short one may have so many of either.
_ALWAYS = 100

#: What is looked at in one piece, so that the pieces of it fill no memory.
_WINDOW_BYTES = 64 * 1024
_ALL_BUT_COMMAS_BRACKETS_AND_QUOTES = bytes(set(range(256)).difference(b'{[,"'))

_dumps = json.JSONEncoder(ensure_ascii=True, check_circular=False, allow_nan=False, separators=(",", ":")).encode

_quoted = json.encoder.encode_basestring_ascii
_WORDS = {None: "null", True: "true", False: "false"}

# ---------------------------------------------------------------------------------------------------------- writing


def frame_json(frame: Frame) -> str:
    """One frame's object."""
    return _dumps(
        {
            "filename": frame.filename,
            "lineno": frame.lineno,
            "end_lineno": frame.end_lineno,
            "column": frame.column,
            "end_column": frame.end_column,
            "function": frame.function,
            "source": frame.source,
            "source_changed": frame.source_changed,
        }
    )


def stack_json(stack: Stack, frame_jsons: Sequence[str]) -> str:
    """One thread's object, with its frames as frame_json() gives them and not as the stack has them.

    Written out, because an encoder takes three times as long, and a worker with 500 threads holds its GIL for it.
    """
    last, hub = stack.last_request, stack.hub
    last_json = hub_json = "null"
    if last is not None:
        last_json = (
            f'{{"method":{_quoted(last.method)},"path":{_quoted(last.path)},'
            f'"ended_seconds_ago":{_number(last.ended_seconds_ago)}}}'
        )
    if hub is not None:
        hub_json = (
            f'{{"library":{_quoted(hub.library)},"state":{_quoted(hub.state)},'
            f'"blocked_seconds":{_number(hub.blocked_seconds)}}}'
        )
    return (
        f'{{"name":{_quoted(stack.name)},"ident":{_number(stack.ident)},"native_id":{_number(stack.native_id)},'
        f'"core":{_number(stack.core)},"kind":{_quoted(stack.kind)},"daemon":{_WORDS[stack.daemon]},'
        f'"state":{_text(stack.state)},"wait_channel":{_text(stack.wait_channel)},'
        f'"cpu_seconds":{_number(stack.cpu_seconds)},'
        f'"request":{"null" if stack.request is None else _request_json(stack.request)},"last_request":{last_json},'
        f'"frames_omitted":{stack.frames_omitted},"holds_gil":{_WORDS[stack.holds_gil]},'
        f'"greenlet":{_text(stack.greenlet)},"hub":{hub_json},"frames":[{",".join(frame_jsons)}]}}'
    )


def _request_json(request: Request) -> str:
    nested = ",".join([_request_json(inner) for inner in request.nested]) if request.nested else ""
    return (
        f'{{"method":{_quoted(request.method)},"path":{_quoted(request.path)},"query":{_text(request.query)},'
        f'"remote_address":{_text(request.remote_address)},"request_id":{_text(request.request_id)},'
        f'"started_at":{_number(request.started_at)},"age_seconds":{_number(request.age_seconds)},'
        f'"phase":{_quoted(request.phase)},"nested":[{nested}]}}'
    )


def _text(value: str | None) -> str:
    return "null" if value is None else _quoted(value)


def _number(value: float | None) -> str:
    if value is None:
        return "null"
    if value.__class__ is float and not math.isfinite(value):
        raise ValueError(f"{value!r} has no place in JSON")
    return repr(value)


def snapshot_bytes(
    worker: Worker, taken_at: float, stack_jsons: Sequence[str], source: str = "worker", state: str = "alive"
) -> bytes:
    """The whole document, one line with its line end, with these threads in it."""
    head = (
        f'{{"schema":{SCHEMA},"source":{_quoted(source)},"state":{_quoted(state)},'
        f'"worker":{_worker_json(worker)},"taken_at":{_number(taken_at)}'
    )
    # One join of all of it: each further copy of half a megabyte is 100 µs more.
    begin, end = f'{head},"threads":[', "]}\n"
    if not stack_jsons:
        return (begin + end).encode("ascii")
    parts = list(stack_jsons)
    parts[0] = begin + parts[0]
    parts[-1] += end
    return ",".join(parts).encode("ascii")


def encode(snapshot: Snapshot) -> bytes:
    """The document of a snapshot."""
    stacks = [stack_json(stack, [frame_json(frame) for frame in stack.frames]) for stack in snapshot.stacks]
    return snapshot_bytes(snapshot.worker, snapshot.taken_at, stacks, snapshot.source, snapshot.state)


def worker_bytes(worker: Worker, counters: Counters) -> bytes:
    """The document that says who a worker is and what its listener has done, one line with its line end."""
    counted = _dumps(
        {
            "snapshots": counters.snapshots,
            "clients_accepted": counters.clients_accepted,
            "clients_refused": counters.clients_refused,
            "clients_dropped": counters.clients_dropped,
            "faults": counters.faults,
        }
    )
    return f'{{"schema":{SCHEMA},"worker":{_worker_json(worker)},"counters":{counted}}}\n'.encode("ascii")


def _worker_json(worker: Worker) -> str:
    return _dumps(worker._asdict())


# ---------------------------------------------------------------------------------------------------------- reading


def decode(data: bytes) -> Snapshot:
    """The snapshot that a document holds; FormatError if it holds none, or one of another schema."""
    return _read(data, _snapshot)


def decode_worker(data: bytes) -> tuple[Worker, Counters]:
    """Who a worker is and what its listener has done; FormatError if the document does not say."""
    return _read(data, lambda document: (_read_worker(document.child("worker")), _counters(document)))


class _Object:
    """One JSON object and the place where it stands, so that an error can name the key that is wrong."""

    __slots__ = ("_content", "_place")

    def __init__(self, content: object, place: str) -> None:
        if not isinstance(content, dict):
            raise FormatError(f"{place} is not an object")
        self._content = content
        self._place = place

    def wrong(self, key: str, wanted: str) -> FormatError:
        return FormatError(f"{self._place}.{key} is not {wanted}")

    def text(self, key: str) -> str:
        value = self._content.get(key)
        if type(value) is not str:
            raise self.wrong(key, "text")
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self._content.get(key) is None else self.text(key)

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._content.get(key, default)
        if type(value) is not int or abs(value) >= _INTEGER_LIMIT:
            raise self.wrong(key, "a whole number")
        return value

    def optional_integer(self, key: str) -> int | None:
        return None if self._content.get(key) is None else self.integer(key)

    def number(self, key: str) -> float:
        value: Any = self._content.get(key)
        # 1e999 is good JSON and infinite all the same, and the difference of 1e308 and -1e308 is too.
        if type(value) in (int, float) and is_time(value):
            return float(value)
        raise self.wrong(key, "a number")

    def optional_number(self, key: str) -> float | None:
        return None if self._content.get(key) is None else self.number(key)

    def optional_flag(self, key: str) -> bool | None:
        value = self._content.get(key)
        if value is not None and type(value) is not bool:
            raise self.wrong(key, "true or false")
        return value

    def child(self, key: str) -> _Object:
        return _Object(self._content.get(key), f"{self._place}.{key}")

    def optional_child(self, key: str) -> _Object | None:
        return None if self._content.get(key) is None else self.child(key)

    def children(self, key: str) -> Iterable[_Object]:
        value = self._content.get(key)
        if type(value) is not list:
            raise self.wrong(key, "a list")
        place = f"{self._place}.{key}[]"
        return (_Object(item, place) for item in value)

    def optional_children(self, key: str) -> Iterable[_Object]:
        return () if self._content.get(key) is None else self.children(key)


def check_density(data: bytes) -> None:
    """Raise FormatError for a document of far more, and far smaller, parts than one of ours.

    ``json.loads`` makes an object of 50 to 300 bytes of each (measured: 62 MiB of ``{},`` were 1.7 GB and 14 s).
    """
    most_containers = _ALWAYS + len(data) // _BYTES_A_CONTAINER
    most_values = _ALWAYS + len(data) // _BYTES_A_VALUE
    # Every value stands behind a comma or is the first of its container. Nearly always that is all that there is to do.
    containers = data.count(b"{") + data.count(b"[")
    if containers <= most_containers and containers + data.count(b",") <= most_values:
        return
    containers, commas = _outside_strings(data)
    if containers > most_containers or containers + commas > most_values:
        raise FormatError("the document has more parts than one of its length can have")


def _outside_strings(data: bytes) -> tuple[int, int]:
    """How many objects and lists, and how many commas, a document has besides those in its strings.

    What is in strings is chosen by whoever sends a request, who must not make its worker unreadable.
    """
    rest = data.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _ALL_BUT_COMMAS_BRACKETS_AND_QUOTES)
    containers = commas = 0
    in_string = False
    for begin in range(0, len(rest), _WINDOW_BYTES):
        pieces = rest[begin : begin + _WINDOW_BYTES].split(b'"')
        outside = b"".join(pieces[in_string::2])
        commas += outside.count(b",")
        containers += len(outside) - outside.count(b",")
        in_string ^= len(pieces) % 2 == 0
    return containers, commas


def _read(data: bytes, build: Callable[[_Object], T]) -> T:
    check_density(data)
    try:
        document = _Object(json.loads(data.decode("utf-8")), "document")
        schema = document.integer("schema")
        if schema != SCHEMA:
            raise FormatError(f"the document is of schema {schema}, this program reads schema {SCHEMA}")
        return build(document)
    except FormatError:
        raise
    # ValueError: not UTF-8, not JSON, a number with thousands of digits. RecursionError: nested without end.
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the document is not JSON: {error}") from None


def _snapshot(document: _Object) -> Snapshot:
    return Snapshot(
        worker=_read_worker(document.child("worker")),
        taken_at=document.number("taken_at"),
        stacks=tuple(_stack(thread) for thread in document.children("threads")),
        source=document.text("source"),
        # Workers of an earlier version do not say it, and who answers is alive.
        state=document.optional_text("state") or "alive",
    )


def _read_worker(worker: _Object) -> Worker:
    return Worker(
        number=worker.optional_integer("number"),
        pid=worker.optional_integer("pid"),
        ppid=worker.optional_integer("ppid"),
        uid=worker.optional_integer("uid"),
        started_at=worker.optional_number("started_at"),
        server=worker.optional_text("server"),
        application=worker.optional_text("application"),
        cwd=worker.optional_text("cwd"),
        python=worker.optional_text("python"),
        version=worker.optional_text("version"),
        base=worker.optional_text("base"),
        requests_finished=worker.optional_integer("requests_finished"),
        requests_in_flight=worker.optional_integer("requests_in_flight"),
        oldest_request_seconds=worker.optional_number("oldest_request_seconds"),
    )


def _counters(document: _Object) -> Counters:
    counters = document.child("counters")
    return Counters(
        snapshots=counters.integer("snapshots"),
        clients_accepted=counters.integer("clients_accepted"),
        clients_refused=counters.integer("clients_refused"),
        clients_dropped=counters.integer("clients_dropped"),
        faults=counters.integer("faults"),
    )


def _stack(thread: _Object) -> Stack:
    request = thread.optional_child("request")
    last = thread.optional_child("last_request")
    hub = thread.optional_child("hub")
    return Stack(
        name=thread.text("name"),
        ident=thread.optional_integer("ident"),
        native_id=thread.optional_integer("native_id"),
        core=thread.optional_integer("core"),
        kind=thread.text("kind"),
        daemon=thread.optional_flag("daemon"),
        state=thread.optional_text("state"),
        wait_channel=thread.optional_text("wait_channel"),
        cpu_seconds=thread.optional_number("cpu_seconds"),
        request=None if request is None else _read_request(request),
        last_request=None
        if last is None
        else LastRequest(
            method=last.text("method"),
            path=last.text("path"),
            ended_seconds_ago=last.number("ended_seconds_ago"),
        ),
        frames=tuple(_frame(frame) for frame in thread.children("frames")),
        frames_omitted=thread.integer("frames_omitted", 0),
        holds_gil=thread.optional_flag("holds_gil"),
        greenlet=thread.optional_text("greenlet"),
        hub=None
        if hub is None
        else HubState(
            library=hub.text("library"),
            state=hub.text("state"),
            blocked_seconds=hub.optional_number("blocked_seconds"),
        ),
    )


def _read_request(request: _Object) -> Request:
    return Request(
        method=request.text("method"),
        path=request.text("path"),
        query=request.optional_text("query"),
        remote_address=request.optional_text("remote_address"),
        request_id=request.optional_text("request_id"),
        started_at=request.number("started_at"),
        age_seconds=request.number("age_seconds"),
        phase=request.text("phase"),
        nested=tuple(_read_request(nested) for nested in request.optional_children("nested")),
    )


def _frame(frame: _Object) -> Frame:
    return Frame(
        filename=frame.text("filename"),
        lineno=frame.optional_integer("lineno"),
        function=frame.text("function"),
        source=frame.optional_text("source"),
        end_lineno=frame.optional_integer("end_lineno"),
        column=frame.optional_integer("column"),
        end_column=frame.optional_integer("end_column"),
        source_changed=frame.optional_flag("source_changed") or False,
    )
