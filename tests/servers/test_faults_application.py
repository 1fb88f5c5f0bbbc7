"""What an application does to its own process, for real; and it is served on, and can be read afterwards."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.faulty import can_be_read, check_served
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.servers.faulty import StartFaulty
    from tests.support.servers import Gunicorn


def do(faulty: StartFaulty, base: str, act: str, **env: str) -> Gunicorn:
    server = faulty(base, **env)
    check_served(server)
    assert server.get(f"/do/{act}").text == f"/do/{act}"
    check_served(server)
    return server


def test_it_becomes_another_program(faulty: StartFaulty, base: str) -> None:
    """exec() within a request: nothing of ours is inherited, the number is free at once, and the death is told."""
    server = faulty(base, "--workers", "2", "--worker-class", "sync", "--threads", "1")

    def both_serve() -> bool:
        check_served(server)
        return can_be_read(base, 1) and can_be_read(base, 2)

    wait_until(both_serve, "both workers serve")
    with server.in_flight("/do/execute"):
        inherited = server.wait_for_log(r"^inherited (.*)$")[1]
        assert base not in inherited
        assert "wsgi_tracebacker" not in inherited
        assert "eventfd" not in inherited
        check_served(server)
        [gone] = [number for number in (1, 2) if not can_be_read(base, number)]
        pid = json.loads(Path(f"{base}{gone}.worker").read_bytes())["pid"]
        assert pid in server.workers()
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(server.workers()) == 2 and pid not in server.workers(), "there is a successor")
    wait_until(both_serve, "both workers serve")
    told = server.wait_for_log(rf"worker {gone}, pid {pid}, died with 1 request in flight[^\n]*\n  GET (\S+)")
    assert told[1] == "/do/execute"
