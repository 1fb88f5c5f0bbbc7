from __future__ import annotations

import contextlib
import json as standard_json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.wire.documents.test_snapshot_json import SNAPSHOT as FULL
from tests.unit.wire.documents.test_snapshot_json import changed
from tests.unit.wire.hostile import documents, long_inputs, renders, within_bounds
from wsgi_tracebacker.errors import BadReply
from wsgi_tracebacker.model.snapshot import Frame, Snapshot, Stack, Worker
from wsgi_tracebacker.reader.asking.reply import Reply, snapshot
from wsgi_tracebacker.wire import uwsgi_text as uwsgi
from wsgi_tracebacker.wire.documents import snapshot_json as json

STACK = Stack("uWSGIWorker3Core0", core=0, kind="unknown", frames=(Frame("a.py", 1, "f", "x"),))
SNAPSHOT = Snapshot(Worker(number=3, pid=9), 5.0, (STACK,))
OK = b"HTTP/1.0 200 OK\r\nContent-Type: x\r\n\r\n"


def read(content: bytes) -> Snapshot:
    return snapshot(Reply(content, peer_pid=42, peer_uid=7), taken_at=6.0)


def test_a_workers_document_is_the_snapshot() -> None:
    """JSON in HTTP, with or without a length."""
    document = json.encode(SNAPSHOT)
    assert read(OK + document) == SNAPSHOT
    assert read(b"HTTP/1.0 200 OK\r\ncontent-LENGTH: %d\r\n\r\n%s" % (len(document), document)) == SNAPSHOT


def test_uwsgis_text_becomes_a_snapshot() -> None:
    """The number comes from the threads' names, the process from the kernel, the time from the reader."""
    text = uwsgi.encode([STACK]).replace(uwsgi.HEADER, uwsgi.UWSGI_HEADER)
    assert read(text) == Snapshot(Worker(number=3, pid=42, uid=7, server="uWSGI"), 6.0, (STACK,), source="uwsgi")
    assert read(uwsgi.UWSGI_HEADER).stacks == ()


def test_our_own_text_is_read_too() -> None:
    """In HTTP or bare, and it is not taken for uWSGI's."""
    assert read(uwsgi.encode([STACK])) == read(OK + uwsgi.encode([STACK]))
    assert read(uwsgi.encode([STACK])).source == "worker"


def test_a_peer_in_another_namespace_has_no_pid() -> None:
    """The kernel then returns 0."""
    assert snapshot(Reply(uwsgi.UWSGI_HEADER, 0, 7), 6.0).worker.pid is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no tracebacker"),
        (b"SSH-2.0-OpenSSH", "no tracebacker"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", "no tracebacker"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "404 Not Found"),
        (b"HTTP/1.1 \x1b[31m\r\n\r\n", r"\\x1b"),
        (b"HTTP/1.0 200 OK\r\nContent-Le", "within the header"),
        (b"HTTP/1.0 200 OK\r\n" + b"a\r\n" * 10_000 + b"\r\n{}", "within the header"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n{}", "after 2 bytes"),
        (OK + b'{"schema":1', "cannot be read"),
        (b"*** something else", "cannot be read"),
    ],
)
def test_anything_else_is_a_bad_reply(content: bytes, complaint: str) -> None:
    """It says what is wrong, fit for a terminal."""
    with pytest.raises(BadReply, match=complaint) as raised:
        read(content)
    assert str(raised.value).isprintable()


_pieces = (
    *(b"HTTP/1.0 200 OK\r\n", b"Content-Length: ", b"\r\n\r\n", b"\r\n", b":", b"{", b"[", b'"', b",", b"[]", b"{}"),
    *(uwsgi.HEADER, uwsgi.UWSGI_HEADER, b"thread_id = ", b" filename = ", b" lineno = 1 function = ", b" line = "),
    *(b"\n", b" ", b"=", b"x", b"\xff", b"\x1b[2J", b"0", b'{"schema":1,"x":'),
)
_genuine = standard_json.loads(json.encode(FULL._replace(worker=FULL.worker._replace(started_at=999.0))))
_replies = (
    st.tuples(st.sampled_from([b"", OK, b"HTTP/1.", uwsgi.HEADER, OK + b"{"]), st.binary()).map(b"".join)
    | documents(_genuine).map(lambda document: OK + document)
    | st.lists(st.sampled_from(_pieces) | st.binary(max_size=4)).map(b"".join).map(lambda text: uwsgi.HEADER + text)
)


@given(_replies)
@example(OK + json.encode(FULL._replace(taken_at=1e12, worker=FULL.worker._replace(started_at=-1e12))))
@example(OK + changed("taken_at", to=1.7e308).replace(b'"started_at": null', b'"started_at": -1.7e308'))
def test_any_bytes_are_a_snapshot_or_a_bad_reply(content: bytes) -> None:
    """Reading never raises anything else; whatever was read can be shown in every format, with nothing raw in it."""
    with contextlib.suppress(BadReply):
        found = read(content)
        assert isinstance(found, Snapshot)
        renders(found)


@settings(max_examples=min(50, settings().max_examples))
@given(st.sampled_from([b"", OK, OK + b'{"x":', uwsgi.HEADER, uwsgi.HEADER + b"thread_id = "]), long_inputs(*_pieces))
@example(uwsgi.HEADER, (b"thread_id =  filename = " + b"\n \n" * 5000) * 40)
@example(uwsgi.HEADER, b"ab\n" * 100_000)
@example(OK + b'{"x":[', b"{}," * 100_000)
@example(OK + b'{"x":[', b"[]," * 100_000)
@example(OK + b'{"x":["",', b'"ab",' * 100_000)
@example(OK + b'{"x":[', b'{"filename":"","function":""},' * 10_000)
@example(OK[:-2], b"a\r\n" * 100_000 + b"\r\n")
@example(uwsgi.HEADER, "\U00010000".encode() + b"\x80" * 100_000)
def test_a_long_reply_costs_no_more_than_its_length(start: bytes, rest: bytes) -> None:
    """Whatever it is made of: neither time nor memory grow faster than it does."""

    def take(content: bytes) -> None:
        with contextlib.suppress(BadReply):
            read(content)

    # A byte that is no text becomes an escape of four characters, which take four bytes each beside a rare character.
    within_bounds(take, start + rest, microseconds_a_byte=1.5, bytes_a_byte=40)
