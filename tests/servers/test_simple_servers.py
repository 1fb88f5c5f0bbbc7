"""What the one process of a simple server leaves behind, and how many cores its many threads need."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.servers import asking
from tests.support import clients
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.servers.conftest import StartSimpleServer


def test_a_server_with_a_thread_for_each_request_needs_no_more_cores_than_it_uses_at_a_time(
    simple_server: StartSimpleServer, base: str
) -> None:
    """werkzeug's threads end with their requests, and their cores are free for the next ones."""
    server = simple_server("werkzeug")
    for _ in range(20):
        clients.request(server.address, "/quick")
    with clients.in_flight(server.address, "/slow?seconds=60"):
        [thread] = wait_until(lambda: asking.serving(base), "it is in flight")
        # The thread of the request before may not have ended when this one began.
        assert thread["core"] in (0, 1)
        server.end_signal = signal.SIGKILL
        server.stop()
