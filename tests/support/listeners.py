"""Listeners on UNIX sockets that answer as a test wants it, well or badly."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from wsgi_tracebacker.wire.documents import snapshot_json as json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsgi_tracebacker.model.snapshot import Snapshot


def http(snapshot: Snapshot) -> bytes:
    """A worker's whole reply."""
    document = json.encode(snapshot)
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(document), document)


@contextlib.contextmanager
def listener(path: str, answer: Callable[[socket.socket], None], backlog: int = 16) -> Iterator[None]:
    """Accept on ``path`` and let ``answer`` have each connection, one after the other, then close it."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(backlog)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    answer(connection)

        thread = threading.Thread(target=serve, name=f"listener {path}")
        thread.start()
        try:
            yield
        finally:
            # Wakes the thread out of accept; to close the descriptor would not.
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def answering(content: bytes) -> Callable[[socket.socket], None]:
    """Read the request, send this."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(content)

    return answer


def talking(content: bytes) -> Callable[[socket.socket], None]:
    """Send this without reading, as uWSGI does: the client sees a reset after it."""
    return lambda connection: connection.sendall(content)


def silent(until: threading.Event) -> Callable[[socket.socket], None]:
    """Say nothing and keep the connection open until then."""

    def answer(_: socket.socket) -> None:
        until.wait(30)

    return answer
