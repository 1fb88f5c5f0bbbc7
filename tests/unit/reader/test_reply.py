from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_tracebacker.errors import BadReply
from wsgi_tracebacker.formats import json, uwsgi
from wsgi_tracebacker.model import Frame, Snapshot, Stack, Worker
from wsgi_tracebacker.reader.reply import Reply, snapshot

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
    """The kernel then says 0, which is nobody."""
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


@given(st.sampled_from([b"", OK, b"HTTP/1.", uwsgi.HEADER, OK + b"{"]), st.binary())
def test_any_bytes_are_a_snapshot_or_a_bad_reply(start: bytes, rest: bytes) -> None:
    """Reading never raises anything else."""
    with contextlib.suppress(BadReply):
        assert isinstance(read(start + rest), Snapshot)
