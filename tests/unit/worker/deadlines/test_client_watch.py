"""Requests whose client has gone are counted, and get the limit that the option says."""

from __future__ import annotations

import math
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import wait_until
from wsgi_tracebacker.linux.net.tcp_state import tcp_state
from wsgi_tracebacker.worker.deadlines.client_watch import CHECK_SECONDS, ClientWatch
from wsgi_tracebacker.worker.options.settings import from_options
from wsgi_tracebacker.worker.tracking.core import Core

if TYPE_CHECKING:
    from collections.abc import Iterator

NEVER = math.inf


@pytest.fixture
def left() -> Iterator[socket.socket]:
    """The server's end of a connection that its client has closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with server:
        client.close()
        wait_until(lambda: (state := tcp_state(server)) is not None and state.is_closed_by_peer, "it is closed")
        yield server


def serving(connection: object, **options: Any) -> Core:
    """A core whose request began at 100."""
    core = Core(0, 1, 2, None)
    core.settings = from_options(environment={}, **options)
    core.environ = {"gunicorn.socket": connection}
    core.started = 100.0
    return core


def test_each_request_is_counted_once(left: socket.socket) -> None:
    """When it is seen for the first time; then nobody looks at it again, but at the next request of its core."""
    counted: list[str] = []
    watch = ClientWatch(counted.append)
    core = serving(left, client_gone=5)
    watch.check([core], (), 110.0)
    assert core.client_gone == (100.0, 10.0, 5.0)
    assert watch.check([core], (), 120.0) == NEVER
    assert counted == ["clients_gone"]
    core.started = 120.5
    watch.check([core], (), 121.0)
    assert core.client_gone == (120.5, 0.5, 5.0)
    assert counted == ["clients_gone"] * 2


def test_without_the_option_slow_requests_are_counted(left: socket.socket) -> None:
    """And their limit stays as it was."""
    counted: list[str] = []
    watch = ClientWatch(counted.append)
    core = serving(left)
    assert watch.check([core], (), 110.0) == NEVER
    before = core.client_gone
    watch.check([core], {id(core)}, 111.0)
    assert (before, core.client_gone) == (None, (100.0, 11.0, None))
    assert counted == ["clients_gone"]


def test_it_looks_once_a_second(left: socket.socket) -> None:
    """As long as there is somebody to look at."""
    watch = ClientWatch(lambda _: None)
    waiting = serving(None, client_gone=5)
    assert watch.check([waiting], (), 110.0) == 110.0 + CHECK_SECONDS
    new = serving(left, client_gone=5)
    assert watch.check([waiting, new], (), 110.0 + CHECK_SECONDS / 2) == 110.0 + CHECK_SECONDS
    early = new.client_gone
    watch.check([waiting, new], (), 110.0 + CHECK_SECONDS)
    assert (early, new.client_gone) == (None, (100.0, 10.0 + CHECK_SECONDS, 5.0))


def test_a_call_within_a_request_has_no_client(left: socket.socket) -> None:
    """Nor has an idle core."""
    watch = ClientWatch(lambda _: None)
    inner, idle = serving(left, client_gone=5), serving(left, client_gone=5)
    inner.outer, idle.started = idle, 0.0
    assert watch.check([inner, idle], (), 110.0) == NEVER
    assert (inner.client_gone, idle.client_gone) == (None, None)
