"""What only a server with workers that come and go can show: recycling, reloading and killing them."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.servers import asking
from tests.support import clients
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import StartGunicorn

WAITING_ROOM = "tests.programs.waiting_room:application"

CLASSES = {"sync": (), "gthread": ("--worker-class", "gthread", "--threads", "2", "--worker-connections", "2")}
worker_classes = pytest.mark.parametrize("worker_class", CLASSES.values(), ids=CLASSES.keys())
preload = pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])


@worker_classes
@preload
def test_a_recycled_worker_hands_on_its_number(
    worker_class: tuple[str, ...], preload: tuple[str, ...], gunicorn: StartGunicorn, base: str
) -> None:
    """With --max-requests processes come and go; at any time there is one worker 1, and it is the one that runs."""
    server = gunicorn("example_app.wsgi:application", "--max-requests", "3", *worker_class, *preload)
    seen: list[int] = []

    def three_generations() -> bool:
        # While one worker goes and the next one comes, the backlog keeps the client waiting.
        with contextlib.suppress(ConnectionError):
            clients.request(server.address, "/quick")
        for number, pid in asking.pids(base).items():
            assert number == 1
            if pid not in seen:
                seen.append(pid)
        return len(seen) >= 3

    wait_until(three_generations, lambda: f"three processes have been worker 1: {seen}")
    assert asking.files(base) in ([], ["1", "1.worker"])
    server.end_signal = signal.SIGTERM
    server.stop()
    assert asking.files(base) == []


@worker_classes
@preload
def test_a_reload_overlaps(
    worker_class: tuple[str, ...], preload: tuple[str, ...], gunicorn: StartGunicorn, base: str, tmp_path: Path
) -> None:
    """While old workers finish, new ones take the next numbers; their requests are seen side by side, and in the end
    the old ones have taken their files with them.
    """
    server = gunicorn(WAITING_ROOM, "--workers", "2", "--graceful-timeout", "30", *worker_class, *preload)
    old_pids = set(server.workers())
    old_gate, new_gate = tmp_path / "old", tmp_path / "new"

    # As many connections as threads: a full gthread worker leaves the next ones to the others, as a sync one does.
    per_worker = 2 if worker_class else 1

    with contextlib.ExitStack() as connections:

        def fill_two_workers(path: str, gate: Path) -> None:
            for _ in range(2 * per_worker):
                connections.enter_context(clients.in_flight(server.address, f"{path}?{gate}"))
            wait_until(lambda: len(asking.serving(base, path)) == 2 * per_worker, lambda: str(asking.serving(base)))

        fill_two_workers("/old", old_gate)
        assert asking.pids(base).keys() == {1, 2}
        assert set(asking.pids(base).values()) == old_pids
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: len(server.workers()) == 4, "two new workers run beside the old ones")
        fill_two_workers("/new", new_gate)
        overlapping = asking.pids(base)
        assert overlapping.keys() == {1, 2, 3, 4}
        assert {overlapping[1], overlapping[2]} == old_pids
        assert set(overlapping.values()) == set(server.workers())
        paths = {thread["name"].partition("Core")[0]: thread["request"]["path"] for thread in asking.serving(base)}
        assert paths == {"WSGIWorker1": "/old", "WSGIWorker2": "/old", "WSGIWorker3": "/new", "WSGIWorker4": "/new"}

        old_gate.touch()
        wait_until(lambda: not old_pids & set(server.workers()), "the old workers have ended")
        assert asking.files(base) == asking.expected_files(3, 4)
        assert set(asking.pids(base).values()) == set(server.workers())
        new_gate.touch()
    server.end_signal = signal.SIGTERM
    server.stop()
    assert asking.files(base) == []
