from __future__ import annotations

import contextlib
import json as standard_json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.strategies import counters, snapshots, workers
from wsgi_tracebacker.errors import FormatError
from wsgi_tracebacker.model.snapshot import Counters, Frame, HubState, LastRequest, Request, Snapshot, Stack, Worker
from wsgi_tracebacker.wire.documents import snapshot_json as json

SNAPSHOT = Snapshot(
    worker=Worker(number=1, pid=42, server="gunicorn", application="app:application", requests_in_flight=1),
    taken_at=1000.5,
    stacks=(
        Stack(
            name="WSGIWorker1Core0",
            core=0,
            request=Request("GET", "/x", None, "127.0.0.1", "id", 999.0, 1.5, "app"),
            last_request=LastRequest("GET", "/y", 3.0),
            hub=HubState("gevent", "blocked", 1.5),
            frames=(Frame("caf\udce9.py", 3, "f", "    g()\n", 3, 4, 7),),
        ),
    ),
)


def changed(*keys: str | int, to: object) -> bytes:
    """The document of SNAPSHOT with another value at one place."""
    document: Any = standard_json.loads(json.encode(SNAPSHOT))
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    return standard_json.dumps(document).encode()


def test_the_keys_are_those_of_the_schema() -> None:
    """Schema 1 has these keys, and every one of them is always there."""
    document = standard_json.loads(json.encode(SNAPSHOT))
    (thread,) = document["threads"]
    assert list(document) == ["schema", "source", "state", "worker", "taken_at", "threads"]
    assert " ".join(document["worker"]) == (
        "number pid ppid uid started_at server application cwd python version base requests_finished requests_in_flight"
        " oldest_request_seconds slots busy inner_queue restarts listen host"
    )
    assert set(thread) == {
        "name",
        "ident",
        "native_id",
        "core",
        "kind",
        "daemon",
        "state",
        "wait_channel",
        "cpu_seconds",
        "request",
        "last_request",
        "frames_omitted",
        "is_cut",
        "holds_gil",
        "greenlet",
        "hub",
        "frames",
    }
    assert " ".join(thread["request"]) == (
        "method path query remote_address request_id started_at age_seconds phase nested waits_for notes trace_id"
        " queued_seconds"
    )
    assert list(thread["hub"]) == ["library", "state", "blocked_seconds"]
    assert list(thread["last_request"]) == ["method", "path", "ended_seconds_ago"]
    assert " ".join(thread["frames"][0]) == (
        "filename lineno end_lineno column end_column function source source_changed"
    )


@given(snapshots)
def test_a_snapshot_comes_back_as_it_was(snapshot: Snapshot) -> None:
    """decode(encode(x)) == x, in ASCII and on one line."""
    encoded = json.encode(snapshot)
    assert json.decode(encoded) == snapshot
    assert encoded.isascii()
    assert encoded.count(b"\n") == 1


@given(workers, counters)
def test_a_worker_comes_back_as_it_was(worker: Worker, counted: Counters) -> None:
    """decode_worker(worker_bytes(x)) == x."""
    assert json.decode_worker(json.worker_bytes(worker, counted)) == (worker, counted)


def test_keys_that_are_not_known_are_passed_over() -> None:
    """A newer worker may say more."""
    assert json.decode(changed("threads", 0, "mood", to=["good"])) == SNAPSHOT


def test_optional_keys_may_be_missing() -> None:
    """The least document is a worker, a time and no threads."""
    least = b'{"schema":1,"source":"worker","worker":{},"taken_at":1,"threads":[]}'
    assert json.decode(least) == Snapshot(Worker(), 1.0, ())


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "more parts"),
        pytest.param((b"[" + b" " * 50) * 100_000, "not JSON", id="nested"),
        (b"[]", "document is not an object"),
        (changed("schema", to=2), "version 2"),
        (changed("schema", to=True), "schema is not a whole number"),
        (changed("taken_at", to="now"), "taken_at is not a number"),
        (changed("worker", to=None), "worker is not an object"),
        (changed("worker", "pid", to="42"), r"worker\.pid is not a whole number"),
        (changed("threads", 0, to=1), r"threads\[\] is not an object"),
        (changed("threads", 0, "request", "path", to=None), r"request\.path is not text"),
        (changed("threads", 0, "frames", 0, "filename", to=7), r"frames\[\]\.filename is not text"),
        (changed("threads", 0, "last_request", to=[]), "last_request is not an object"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, complaint: str) -> None:
    """A document that is not one of ours is a FormatError that names the place."""
    with pytest.raises(FormatError, match=complaint):
        json.decode(data)


HEAD = b'{"schema":1,"source":"worker","worker":{},"taken_at":1,"x":'


@pytest.mark.parametrize(
    "part",
    [
        b"{}",
        b"[]",
        b"[[[[]]]]",
        b'{"filename":"","function":""}',
        b'{"k":1}',
        b"1",
        b'"ab"',
        b'"\\""',
        b'"\\\\"',
        b'"x[","]"',
        b" [ ]",
    ],
)
def test_a_document_of_many_small_parts_is_refused(part: bytes) -> None:
    """Each is worth ten times its bytes in memory; whatever strings and escapes stand between them."""
    for begin, end in ((b"[", b"]"), (b'["\\"[,",', b"]"), (b'{"y":[', b"]}")):
        document = HEAD + begin + b",".join([part] * 20_000) + end + b',"threads":[]}'
        standard_json.loads(document)
        with pytest.raises(FormatError, match="more parts"):
            json.decode(document)


def test_many_different_keys_are_refused() -> None:
    """One object of them is ten times as large as its text."""
    keys = b",".join(b'"%x":1' % number for number in range(20_000))
    with pytest.raises(FormatError, match="more parts"):
        json.decode(HEAD + b"{" + keys + b'},"threads":[]}')


def test_the_smallest_parts_that_we_write_are_read() -> None:
    """Frames, threads, requests and nested requests with nothing in them, as many as you like."""
    request = Request("", "", "", "", "", 0, 0, "")
    for stack in (
        Stack("", frames=(Frame("", 1, "", "", 1, 0, 1, source_changed=True),) * 5000),
        Stack("", request=request._replace(nested=(request,) * 5000)),
    ):
        snapshot = Snapshot(Worker(), 0, (stack,))
        assert json.decode(json.encode(snapshot)) == snapshot
    full = Stack(
        "", 0, 0, 0, "", True, "", "", 0, request, LastRequest("", "", 0), (), 0, True, "", HubState("", "", 0)
    )
    for stack in (full, Stack(""), Stack("", core=0)):
        snapshot = Snapshot(Worker(), 0, (stack,) * 5000)
        assert json.decode(json.encode(snapshot)) == snapshot


@pytest.mark.parametrize("text", ["[" * 8000, "{" * 8000, "," * 8000, '"[' * 4000, '\\"{' * 4000, "\\[" * 4000])
def test_no_text_makes_a_document_unreadable(text: str) -> None:
    """Paths are chosen by whoever sends a request, lines by whoever wrote the program."""
    request = Request("GET", text, text, text, text, 0.0, 0.0, "app")
    stack = Stack(text, core=0, request=request, frames=(Frame(text, 1, text, text),))
    snapshot = Snapshot(Worker(application=text), 0.0, (stack,) * 20)
    assert json.decode(json.encode(snapshot)) == snapshot


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_places = st.sampled_from(
    [
        ("worker",),
        ("worker", "number"),
        ("taken_at",),
        ("source",),
        ("threads",),
        ("threads", 0),
        ("threads", 0, "core"),
        ("threads", 0, "kind"),
        ("threads", 0, "request"),
        ("threads", 0, "request", "nested"),
        ("threads", 0, "request", "age_seconds"),
        ("threads", 0, "frames"),
        ("threads", 0, "frames", 0, "source_changed"),
        ("threads", 0, "frames_omitted"),
    ]
)


@given(st.binary() | st.builds(lambda place, value: changed(*place, to=value), _places, _json_values))
def test_any_bytes_are_a_value_or_a_format_error(data: bytes) -> None:
    """Reading never raises anything else, and a snapshot that it accepts can be written again."""
    with contextlib.suppress(FormatError):
        json.decode_worker(data)
    try:
        snapshot = json.decode(data)
    except FormatError:
        return
    assert json.decode(json.encode(snapshot)) == snapshot


def test_endless_nesting_is_a_format_error() -> None:
    """Requests within requests without end are refused, not a RecursionError."""
    request = '{"method":"G","path":"/","started_at":0,"age_seconds":0,"phase":"app","nested":['
    data = changed("threads", 0, "request", to="HERE").replace(b'"HERE"', (request * 900 + "]}" * 900).encode())
    with pytest.raises(FormatError):
        json.decode(data)
