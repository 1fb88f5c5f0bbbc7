"""The little HTTP of the socket: what is a question, what is refused, and that splitting changes nothing."""

from __future__ import annotations

import http.client
import io
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsgi_tracebacker.wire.http10 import (
    MAX_REQUEST_BYTES,
    MAX_REQUEST_LINE_BYTES,
    TEXT,
    Question,
    Refusal,
    parse,
    refusal_response,
    response,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What requests are made of, so that Hypothesis comes close to one more often than by chance.
pieces = st.sampled_from(
    [
        b"GET",
        b"POST",
        b" ",
        b"/",
        b"/snapshot",
        b"?q",
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"\r\n",
        b"\n",
        b"\r",
        b"Host: x",
        b":",
    ]
)
messages = st.lists(pieces | st.binary(max_size=4), max_size=14).map(b"".join)
near_requests = st.builds(
    lambda line, headers, end, rest: line + headers + end + rest,
    st.sampled_from([b"GET / HTTP/1.0\r\n", b"GET / HTTP/1.0\n", b"PUT / HTTP/1.1\r\n", b"GET /x\r\n"]),
    messages,
    st.sampled_from([b"", b"\n\n", b"\r\n\r\n", b"\n\r\n"]),
    st.binary(max_size=5),
)


def decide(parts: Sequence[bytes]) -> Question | Refusal | None:
    """What a server makes of bytes that arrive like this and then end."""
    received = b""
    for part in parts:
        received += part
        decision = parse(received)
        if decision is not None:
            return decision
    return parse(received, ended=True)


def status_of(message: bytes) -> int:
    decision = decide([message])
    assert decision is not None
    return 200 if isinstance(decision, Question) else decision.status


@given(st.data(), messages | near_requests | st.binary(max_size=60))
def test_any_split_gives_the_same_decision(data: st.DataObject, message: bytes) -> None:
    """However the bytes of a message are split on their way, it is decided the same."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(message)), max_size=6)))
    parts = [message[start:end] for start, end in zip([0, *cuts], [*cuts, len(message)], strict=True)]
    whole = decide([message])
    assert decide(parts) == whole
    assert decide([message[at : at + 1] for at in range(len(message))]) == whole


@given(
    st.integers(MAX_REQUEST_BYTES - 40, MAX_REQUEST_BYTES + 40),
    st.sampled_from([b"\r\n", b"\n"]),
    st.lists(st.integers(0, MAX_REQUEST_BYTES + 40), max_size=4),
)
@example(MAX_REQUEST_BYTES, b"\r\n", [MAX_REQUEST_BYTES - 1])
def test_the_limit_of_the_headers_is_the_same_for_every_split(length: int, line_end: bytes, cuts: list[int]) -> None:
    """A request of exactly the limit is answered, one byte more is refused, in one piece or in many."""
    start = b"GET / HTTP/1.0" + line_end
    lines = (b"A: 1" + line_end) * 1000
    message = start + lines + b"B:" + b"b" * (length - len(start) - len(lines) - 2 - 2 * len(line_end)) + line_end * 2
    assert len(message) == length
    bounds = sorted({0, length, *(cut for cut in cuts if cut < length)})
    parts = [message[start:end] for start, end in itertools.pairwise(bounds)]
    expected = 200 if length <= MAX_REQUEST_BYTES else 431
    assert status_of(message) == expected
    decision = decide(parts)
    assert (200 if isinstance(decision, Question) else decision.status if decision else 0) == expected


@given(st.binary(max_size=200))
def test_garbage_is_never_an_exception(message: bytes) -> None:
    """Whatever comes, there is a decision once it has ended."""
    assert isinstance(parse(message, ended=True), (Question, Refusal))


@pytest.mark.parametrize(
    ("target", "question"),
    [
        (b"/", Question("/")),
        (b"/snapshot", Question("/snapshot")),
        (b"/record?seconds=1&rate=2", Question("/record", "seconds=1&rate=2")),
        (b"/snapshot#part?x", Question("/snapshot")),
        (b"/snapshot?x#part", Question("/snapshot", "x")),
        (b"http://worker/snapshot?x", Question("/snapshot", "x")),
        (b"http://worker", Question("/")),
        (b"/%00", Question("/%00")),
    ],
)
@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("headers", [b"", b"Host: worker", b"A:"])
def test_the_path_is_asked_for(target: bytes, question: Question, line_end: bytes, headers: bytes) -> None:
    """A GET, with or without headers, with either line end, asks for its path with its query, without fragment."""
    head = headers + line_end if headers else b""
    assert parse(b"GET " + target + b" HTTP/1.0" + line_end + head + line_end) == question


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"POST / HTTP/1.0\r\n\r\n", 405),
        (b"HEAD / HTTP/1.1\r\n\r\n", 405),
        (b"get / HTTP/1.1\r\n\r\n", 405),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET  / HTTP/1.0\r\n\r\n", 400),
        (b"GET * HTTP/1.0\r\n\r\n", 400),
        (b"GET /\xe9 HTTP/1.0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n: no name\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nA: b\r\n", 400),
        (b"GET / HTTP", 400),
        (b"GET /" + b"x" * MAX_REQUEST_LINE_BYTES, 414),
        (b"GET / HTTP/1.0\r\nA: " + b"x" * MAX_REQUEST_BYTES, 431),
    ],
)
def test_what_is_refused(message: bytes, status: int) -> None:
    """Each kind of bad request has its status, and a line that says what is wrong."""
    decision = decide([message])
    assert isinstance(decision, Refusal)
    assert (decision.status, "\n" in decision.explanation) == (status, False)


@pytest.mark.parametrize("rest", [b"x", b"GET / HTTP/1.0\r\n\r\n", b"\r\n", b"\x00\n\n"])
def test_what_follows_the_empty_line_is_not_looked_at(rest: bytes) -> None:
    """A body or a second request behind the first one changes nothing about the first."""
    assert parse(b"GET /worker HTTP/1.0\r\n\r\n" + rest) == Question("/worker")


def read_back(answer: bytes) -> http.client.HTTPResponse:
    class Connection:
        def makefile(self, *arguments: Any) -> io.BytesIO:
            return io.BytesIO(answer)

    read = http.client.HTTPResponse(Connection())  # type: ignore[arg-type]
    read.begin()
    return read


@given(st.binary(max_size=100))
def test_an_answer_is_what_the_standard_library_reads(body: bytes) -> None:
    """The standard library's client reads status, type, length and body back from an answer."""
    read = read_back(response(200, TEXT, body))
    assert (read.status, read.getheader("Content-Type"), read.read()) == (200, TEXT, body)
    assert read.getheader("Content-Length") == str(len(body))


@pytest.mark.parametrize("status", [400, 404, 405, 414, 431, 500])
def test_a_refusal_is_an_answer_of_one_line(status: int) -> None:
    """Every status that is ever answered has its reason phrase, and 405 says what is allowed."""
    read = read_back(refusal_response(Refusal(status, "because")))
    assert (read.status, read.reason != "", read.read()) == (status, True, b"because\n")
    assert read.getheader("Allow") == ("GET" if status == 405 else None)
