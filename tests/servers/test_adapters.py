"""Servers that reach a WSGI application through an adapter: who reads a body, how and on which thread, differs."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import asking
from tests.support import black_boxes, clients
from tests.support.servers import Server
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["asgiref", "a2wsgi", "tornado"])
def test_a_body_that_an_adapter_reads_is_in_flight_with_its_own_stack(kind: str, base: str, tmp_path: Path) -> None:
    """The adapter, and a middleware that is a generator, drop what they got and keep its iterator."""
    command = [sys.executable, "-m", "tests.programs.adapted", kind]
    env = {"WSGI_TB_SOCKET": base, "WSGI_TB_HARAKIRI": "0.5"}
    # Its threads sleep, and Python waits for them at an end in order.
    with Server(command, tmp_path / "log", env=env, end_signal=signal.SIGKILL) as server:
        address = ("127.0.0.1", int(server.wait_for_log(r"^listens on (\d+)$")[1]))
        server.wait_until_connectable(address)
        with clients.in_flight(address, "/export"):
            thread = wait_until(lambda: _in_its_rows(base), lambda: f"it is in its rows: {server.log_text()}")
            server.wait_for_log(r"harakiri: GET /export (?s:.*)adapted\.py:\d+ exported_rows\n")
    black_boxes.remove(base)
    assert thread is not None
    assert (thread["request"]["path"], thread["request"]["phase"]) == ("/export", "body")


def _in_its_rows(base: str) -> dict[str, Any] | None:
    threads = asking.serving(base) if asking.numbers(base) else []
    return next(
        (thread for thread in threads if any("exported_rows" in frame["function"] for frame in thread["frames"])), None
    )
