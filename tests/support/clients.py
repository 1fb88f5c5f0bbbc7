"""HTTP clients for tests: over TCP and over a UNIX socket, and one that only asks and does not read."""

from __future__ import annotations

import contextlib
import http.client
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsgi_tracebacker.wire import uwsgi_text as uwsgi

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Where a server listens: host and port, or the path of a UNIX socket.
Address = tuple[str, int] | str

TIMEOUT_SECONDS = 30.0
#: Of a client that is too late with its question each time.
TRIES = 10


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    #: Names in lower case; of repeated headers the last.
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class UnixHTTPConnection(http.client.HTTPConnection):
    """http.client over a UNIX socket."""

    def __init__(self, path: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        super().__init__("worker", timeout=timeout_seconds)
        self.path = path

    def connect(self) -> None:
        self.sock = connect(self.path, self.timeout or TIMEOUT_SECONDS)


def connect(address: Address, timeout_seconds: float = TIMEOUT_SECONDS) -> socket.socket:
    """A connected stream socket."""
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout_seconds)
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.settimeout(timeout_seconds)
        connected.connect(address)
    except BaseException:
        connected.close()
        raise
    return connected


def connection_to(address: Address, timeout_seconds: float = TIMEOUT_SECONDS) -> http.client.HTTPConnection:
    if isinstance(address, tuple):
        return http.client.HTTPConnection(*address, timeout=timeout_seconds)
    return UnixHTTPConnection(address, timeout_seconds)


def request(
    address: Address,
    target: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Response:
    """Ask and read the whole response.

    On a busy machine the question may come so late that a worker takes us for a silent client: then it is asked again.
    """
    with contextlib.closing(connection_to(address, timeout_seconds)) as connection:
        for last in (*[False] * (TRIES - 1), True):
            try:
                connection.request(method, target, body=body, headers=dict(headers or {}))
                response = connection.getresponse()
            except http.client.BadStatusLine as error:
                if last or not str(error).startswith(uwsgi.HEADER.decode().rstrip()):
                    raise
                connection.close()
                continue
            except BrokenPipeError:
                # It has its answer and its end before it asked.
                if last or isinstance(address, tuple):
                    raise
                connection.close()
                continue
            return Response(
                status=response.status,
                headers={name.lower(): value for name, value in response.getheaders()},
                body=response.read(),
            )
        raise AssertionError("the last try returns or raises")


@contextlib.contextmanager
def in_flight(
    address: Address, target: str, *, headers: Mapping[str, str] | None = None
) -> Iterator[http.client.HTTPConnection]:
    """Send a request and leave its response unread: the caller may read it, and the end closes the connection."""
    with contextlib.closing(connection_to(address)) as connection:
        connection.request("GET", target, headers=dict(headers or {}))
        yield connection


def read_to_end(path: str, send: bytes = b"", timeout_seconds: float = TIMEOUT_SECONDS) -> bytes:
    """Everything that comes out of a UNIX socket until its end, after sending what there is to send.

    A reset after the last byte is an end too: uWSGI closes without reading what it was sent.
    """
    received = bytearray()
    with connect(path, timeout_seconds) as connected:
        if send:
            connected.sendall(send)
        with contextlib.suppress(ConnectionResetError):
            while part := connected.recv(65536):
                received += part
    return bytes(received)
