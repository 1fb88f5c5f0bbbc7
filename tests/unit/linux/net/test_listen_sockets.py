"""The queues of listening sockets, as the kernel counts them."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path  # noqa: TC003

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_tracebacker.linux.net.listen_sockets import ListenSockets, parse_unix_queue, unix_queue


def only_at(address: str) -> ListenSockets:
    """The socket of a test, and none of the test run's own."""
    return ListenSockets(lambda path: path != address)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_of_a_tcp_socket(family: int, host: str) -> None:
    """Connections that nobody accepts are counted; the limit is that of listen()."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(family))
        listening.bind((host, 0))
        listening.listen(7)
        port = listening.getsockname()[1]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        sockets = only_at(address)
        for _ in range(3):
            stack.enter_context(socket.create_connection((host, port)))
        [found] = sockets.all()
        assert found == (os.fstat(listening.fileno()).st_ino, "tcp", address, 3, 7)
        listening.accept()[0].close()
        [found] = sockets.all()
        assert found.waiting == 2


def test_of_a_unix_socket(short_path: Path) -> None:
    """The same for a UNIX socket; a second descriptor of it is no second queue."""
    path = str(short_path / "http")
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(path)
        listening.listen(5)
        stack.enter_context(listening.dup())
        for _ in range(2):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        assert only_at(path).all() == ((os.fstat(listening.fileno()).st_ino, "unix", path, 2, 5),)


def test_the_servers_own_descriptors() -> None:
    """If the server names its descriptors, no other socket counts, and a number that is none is ignored."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)):
        found = ListenSockets(lambda _: False).all([one.fileno(), 99_999])
        assert [each.inode for each in found] == [os.fstat(one.fileno()).st_ino]


def test_a_number_that_another_socket_has_by_now() -> None:
    """A socket that was closed is gone at once, also where its number was used again."""
    sockets = ListenSockets(lambda _: False)
    one = socket.create_server(("127.0.0.1", 0))
    number = one.fileno()
    assert len(sockets.all([number])) == 1
    one.close()
    # The kernel gives the smallest free number, which may be this one.
    with socket.socket() as other:
        if other.fileno() != number:
            os.dup2(other.fileno(), number)
        assert sockets.all([number]) == ()
        if other.fileno() != number:
            os.close(number)


def test_no_descriptor_is_touched() -> None:
    """Pipes, files and connections are open afterwards, as they were before."""
    one, two = socket.socketpair()
    with one, two, open(os.devnull, "rb") as file:
        ListenSockets(lambda _: False).all([one.fileno(), file.fileno()])
        one.sendall(b"x")
        assert two.recv(1) == b"x"
        assert file.read() == b""


def test_a_socket_that_is_not_there() -> None:
    """The kernel's error is "not known"."""
    assert unix_queue(1) == (None, None)


@given(st.binary(max_size=64))
def test_any_reply(reply: bytes) -> None:
    """Whatever the bytes, the result is two numbers or none."""
    waiting, limit = parse_unix_queue(reply)
    assert (waiting is None) == (limit is None)
