"""A client of ``GET /record`` that reads line by line."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from tests.support import clients
from wsgi_tracebacker.wire import record_lines, uwsgi_text

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from wsgi_tracebacker.wire.record_lines import Line


class Reading:
    """A recording that has begun."""

    def __init__(self, connection: socket.socket, content: Any) -> None:
        self.connection = connection
        self._content = content

    def line(self) -> Line:
        return record_lines.parse(self._content.readline())

    def to_end(self) -> list[Line]:
        """All other lines; the last one says why it ended, if its worker said so."""
        return [record_lines.parse(line) for line in self._content]


@contextlib.contextmanager
def recording(path: str, query: str = "") -> Iterator[Reading]:
    """Begin to record the worker with this socket. On a busy machine the question may come too late: it is repeated."""
    while True:
        with contextlib.closing(clients.connect(path)) as connection, connection.makefile("rb") as content:
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(f"GET /record?{query} HTTP/1.0\r\n\r\n".encode())
            status = content.readline()
            if status == uwsgi_text.HEADER.splitlines(keepends=True)[0]:
                continue
            assert status == b"HTTP/1.0 200 OK\r\n", status + content.read()
            while content.readline() != b"\r\n":
                pass
            reading = Reading(connection, content)
            assert reading.line().pid
            yield reading
            return
