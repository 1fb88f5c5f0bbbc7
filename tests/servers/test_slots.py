"""Slots, inner queue and waiting connections, as workers of real servers say them."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import asking
from tests.support import clients
from tests.support.servers import Server
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import StartGunicorn
    from tests.servers.conftest import StartUwsgi
    from tests.support.clients import Address

pytestmark = pytest.mark.skipif(sys.implementation.name == "pypy", reason="servers are tested on CPython")


@contextlib.contextmanager
def requests(address: Address, count: int) -> Iterator[None]:
    """So many slow requests, of which a server takes as many as it can."""
    with contextlib.ExitStack() as connections:
        for _ in range(count):
            connections.enter_context(clients.in_flight(address, "/slow?seconds=60"))
        yield


def facts(base: str, number: int = 1) -> tuple[Any, ...]:
    """Busy, slots, inner queue, and the queues of the sockets; all None if the worker is not there yet."""
    try:
        worker = asking.ask(base, number, "/worker")["worker"]
    except OSError:
        return (None, None, None, [])
    queues = [(each["family"], each["waiting"]) for each in worker["listen"]]
    return worker["busy"], worker["slots"], worker["inner_queue"], queues


def reaches(base: str, *expected: object) -> None:
    wait_until(lambda: facts(base) == expected, lambda: f"{expected} is said: {facts(base)}")


def test_gunicorn_sync(gunicorn: StartGunicorn, base: str) -> None:
    """A sync worker has one slot; all others wait in the kernel, on a socket that both workers name alike."""
    server = gunicorn("example_app.wsgi:application", "--workers", "2", "--backlog", "33")
    with requests(server.address, 5):
        wait_until(lambda: asking.numbers(base) == [1, 2], "both workers are there")
        reaches(base, 1, 1, None, [("tcp", 3)])
        one, two = (asking.ask(base, number, "/snapshot")["worker"]["listen"] for number in (1, 2))
    assert one == two
    assert isinstance(server.address, tuple)
    host, port = server.address
    assert one[0]["address"] == f"{host}:{port}"
    assert one[0]["limit"] == 33
    assert one[0]["inode"] > 0


def test_gunicorn_gthread(gunicorn: StartGunicorn, base: str) -> None:
    """The slots are the pool's, also of threads that do not run yet; what waits is in the pool's queue."""
    server = gunicorn("example_app.wsgi:application", "--worker-class", "gthread", "--threads", "3")
    with requests(server.address, 1):
        reaches(base, 1, 3, 0, [("tcp", 0)])
        with requests(server.address, 4):
            reaches(base, 3, 3, 2, [("tcp", 0)])


@pytest.mark.parametrize(
    ("worker_class", "slots"),
    [(("sync",), 1), (("gthread", "--threads", "3"), 3), (("gevent",), None)],
    ids=["sync", "gthread", "gevent"],
)
def test_gunicorn_before_its_first_request(
    gunicorn: StartGunicorn, base: str, worker_class: tuple[str, ...], slots: int | None
) -> None:
    """With our hooks a worker can be asked then, and its slots are those of its configuration."""
    gunicorn(
        "tests.programs.unwrapped:application",
        *("-c", "python:wsgi_tracebacker.servers.gunicorn", "--worker-class", *worker_class),
    )
    reaches(base, 0, slots, None, [("tcp", 0)])


def test_gunicorn_on_a_unix_socket(gunicorn: StartGunicorn, base: str) -> None:
    """What waits on a UNIX socket is known too; our own sockets are not among the server's."""
    server = gunicorn("example_app.wsgi:application", unix=True)
    with requests(server.address, 4):
        reaches(base, 1, 1, None, [("unix", 3)])
        [listening] = asking.ask(base, 1, "/worker")["worker"]["listen"]
    assert listening["address"] == server.address
    assert listening["limit"] > 3


def test_uwsgi(uwsgi: StartUwsgi, base: str, short_path: Path) -> None:
    """uWSGI's slots are its cores, its sockets those of its server and not its tracebacker's."""
    server = uwsgi(
        *("--module", "example_app.wsgi:application", "--threads", "2", "--listen", "20"),
        *("--py-tracebacker", str(short_path / "other")),
    )
    with requests(server.address, 5):
        reaches(base, 2, 2, None, [("tcp", 3)])
        assert asking.ask(base, 1, "/worker")["worker"]["listen"][0]["limit"] == 20


def test_waitress(base: str, tmp_path: Path) -> None:
    """waitress accepts more connections than it has threads; what it has not begun is its inner queue."""
    command = [sys.executable, "-m", "waitress", "--listen", "127.0.0.1:0", "--threads", "2"]
    env = {"WSGI_TB_SOCKET": base, "PYTHONPATH": os.getcwd()}
    with Server([*command, "example_app.wsgi:application"], tmp_path / "waitress.log", env=env) as server:
        port = int(server.wait_for_log(r"Serving on http://127\.0\.0\.1:(\d+)")[1])
        with requests(("127.0.0.1", port), 5):
            reaches(base, 2, 2, 3, [("tcp", 0)])


def test_a_worker_that_was_killed(gunicorn: StartGunicorn, base: str) -> None:
    """Its successor counts it."""
    server = gunicorn("example_app.wsgi:application")
    server.get("/")
    assert asking.ask(base, 1, "/worker")["worker"]["restarts"] == 0
    [pid] = server.workers()
    os.kill(pid, 9)
    server.wait_for_log("(?s)" + r"Booting worker with pid.*" * 2)
    server.get("/")
    assert asking.ask(base, 1, "/worker")["worker"]["restarts"] == 1
    assert not re.search("Traceback", server.log_text())
