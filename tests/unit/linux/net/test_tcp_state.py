"""What the kernel knows of a TCP connection from this end."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import wait_until
from wsgi_tracebacker.linux.net.tcp_state import states_by_own_port, tcp_state

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end of a connection, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with server, client:
        yield server, client


def test_an_open_connection_has_its_peer_and_nothing_unsent(ends: tuple[socket.socket, socket.socket]) -> None:
    """As long as the other end is there."""
    server, client = ends
    state = tcp_state(server)
    assert state == (f"127.0.0.1:{client.getsockname()[1]}", False, 0)


@pytest.mark.parametrize("is_reset", [False, True])
def test_an_end_that_was_closed_is_seen(is_reset: bool, ends: tuple[socket.socket, socket.socket]) -> None:
    """In order, or with a reset, because it left something unread."""
    server, client = ends
    if is_reset:
        server.sendall(b"unread")
        wait_until(lambda: client.recv(1, socket.MSG_PEEK), "it has arrived")
    client.close()
    wait_until(lambda: (state := tcp_state(server)) is not None and state.is_closed_by_peer, "it is seen")


def test_what_the_other_end_does_not_read_is_counted(ends: tuple[socket.socket, socket.socket]) -> None:
    """Once the buffers of both ends are full."""
    server, _ = ends
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            server.send(b"x" * 65536)
    state = tcp_state(server)
    assert state is not None
    assert state.unsent_bytes > 0


def test_anything_else_is_not_known(ends: tuple[socket.socket, socket.socket]) -> None:
    """None of its code runs."""

    class Hostile:
        def __getattribute__(self, name: str) -> object:
            raise AssertionError(name)

    class Own(socket.socket):
        __slots__ = ()

        def _refuse(self, *_: object) -> Any:
            raise AssertionError

        getsockopt = getpeername = fileno = _refuse

    server, _ = ends
    own = Own(fileno=socket.socket.detach(server))
    with own:
        assert tcp_state(own) is not None
    for connection in (None, "socket", Hostile(), own):
        assert tcp_state(connection) is None
    one, other = socket.socketpair()
    with one, other:
        assert tcp_state(one) is None


def test_connections_are_found_by_the_port_of_this_end(ends: tuple[socket.socket, socket.socket]) -> None:
    """And stay as they were; a listening socket is none."""
    server, client = ends
    found = states_by_own_port()
    for own, other in ((server, client), (client, server)):
        [state] = found[str(own.getsockname()[1])]
        assert state == tcp_state(own)
        assert state.peer == f"127.0.0.1:{other.getsockname()[1]}"
    client.sendall(b"still open")
    assert server.recv(10) == b"still open"
