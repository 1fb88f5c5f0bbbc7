"""Parses an HTTP/1.0 request and builds the response, for one of each per connection on a UNIX socket.

``http.server`` is not used: it takes 6 MB and 13-26 ms of import in every worker, and it limits the time of each read
instead of the whole connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Our paths have about ten characters, so no honest client sends more.
MAX_REQUEST_LINE_BYTES = 2 * 1024
#: Request line and headers together. curl sends some 80 bytes, a browser through a proxy 2 KiB; h11's default, 16 KiB,
#: has to hold cookies, which nobody sends here.
MAX_REQUEST_BYTES = 8 * 1024

#: Where the headers end. Lines may end without a carriage return: people type them.
_EMPTY_LINE = re.compile(rb"\n\r?\n")

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
JSON_LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Question:
    """A whole, well-formed request: its path, and its query without the question mark."""

    path: str
    query: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is answered with an error."""

    status: int
    explanation: str


def parse(received: bytes, *, ended: bool = False) -> Question | Refusal | None:
    """What the bytes received so far ask for; None while more must come.

    ``ended``: the client will send no more. What follows the empty line is ignored, because the answer must not depend
    on how the bytes were split on their way.
    """
    line, newline, _ = received.partition(b"\n")
    if len(line) > MAX_REQUEST_LINE_BYTES:
        return Refusal(414, f"the request line is longer than {MAX_REQUEST_LINE_BYTES} bytes")
    if newline:
        refusal = _refuse_line(line)
        if refusal is not None:
            return refusal
        end = _EMPTY_LINE.search(received)
        if (len(received) if end is None else end.end()) > MAX_REQUEST_BYTES:
            return Refusal(431, f"the headers are longer than {MAX_REQUEST_BYTES} bytes")
        if end is not None:
            return _refuse_headers(received[len(line) : end.start()]) or _question(line)
    if ended:
        return Refusal(400, "the request ends before its empty line")
    return None


def _refuse_line(line: bytes) -> Refusal | None:
    words = line.rstrip(b"\r").split(b" ")
    if (
        len(words) != 3
        or not words[0].replace(b"-", b"").isalpha()
        or not words[2].startswith(b"HTTP/1.")
        or not words[1].isascii()
    ):
        return Refusal(400, "not an HTTP/1 request line; try: GET /snapshot HTTP/1.0")
    if words[0] != b"GET":
        return Refusal(405, "only GET is answered")
    if not words[1].startswith((b"/", b"http://")):
        return Refusal(400, "the request's target is not a path")
    return None


def _refuse_headers(head: bytes) -> Refusal | None:
    for line in head.split(b"\n"):
        if line.rstrip(b"\r") and (b":" not in line or line[:1] in b" \t:"):
            return Refusal(400, "a header line without a name")
    return None


def _question(line: bytes) -> Question:
    target = line.split(b" ")[1].decode("ascii")
    if target.startswith("http://"):
        target = "/" + target.removeprefix("http://").partition("/")[2]
    path, _, query = target.partition("#")[0].partition("?")
    return Question(path, query)


def response(status: int, content_type: str, body: bytes) -> bytes:
    """A whole answer, after which the connection is closed."""
    allow = "Allow: GET\r\n" if status == 405 else ""
    head = (
        f"HTTP/1.0 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{allow}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


def stream_head(content_type: str) -> bytes:
    """The head of an answer that goes on until the connection is closed."""
    return f"HTTP/1.0 200 OK\r\nContent-Type: {content_type}\r\nConnection: close\r\n\r\n".encode("ascii")


def refusal_response(refusal: Refusal) -> bytes:
    """The answer to a request that gets an error: one line that says why."""
    return response(refusal.status, TEXT, f"{refusal.explanation}\n".encode())
