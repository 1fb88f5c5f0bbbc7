"""Greenlets in real servers: each is seen where it stands, a blocked hub is named, and harakiri reaches both kinds."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import asking
from tests.servers.matrix.starting import eventlet_python
from tests.support import clients, logs
from tests.support.servers import Gunicorn, Server
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROGRAM = "tests.programs.greenlets:application"
KINDS = ("gevent", "gevent --preload", "pywsgi", "pywsgi patched", "eventlet", "eventlet --preload")


class Pywsgi(Server):
    """gevent's own server, without gunicorn."""

    address: clients.Address

    def __init__(self, argument: str, log: Path, env: dict[str, str]) -> None:
        super().__init__([sys.executable, "-m", "tests.programs.greenlets", argument], log, env=env)
        try:
            self.address = ("127.0.0.1", int(self.wait_for_log(r"^listens on (\d+)$")[1]))
        except BaseException:
            self.stop()
            raise


class Started:
    """A server with greenlets, and what it logged of ours."""

    def __init__(self, server: Any, log: Path, base: str) -> None:
        self.server = server
        self.address: clients.Address = server.address
        self.log = log
        self.base = base

    def get(self, target: str) -> clients.Response:
        return clients.request(self.address, target)

    def records(self, first: str) -> list[str]:
        """The records of the log whose first line matches."""
        return [record for record in logs.records(self.log) if re.search(first, record.partition("\n")[0])]

    def wait_for_record(self, first: str) -> str:
        wait_until(lambda: self.records(first), lambda: f"{first!r} is logged: {self.records('')}")
        return self.records(first)[0]

    def threads(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = asking.ask(self.base, 1, "/snapshot")["threads"]
        return found

    def serving(self, path: str) -> list[dict[str, Any]]:
        return [thread for thread in self.threads() if thread["request"] and thread["request"]["path"] == path]

    def holdings(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self.get("/holdings").body)
        return found


#: A gevent worker that ends looks for requests in flight once a second, and a worker that is killed leaves its files.
GRACEFULLY = ("--graceful-timeout", "5")


@pytest.fixture
def start(base: str, tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start one kind of server, with options as ``WSGI_TB_*``."""
    with contextlib.ExitStack() as servers:

        def start(kind: str, **options: str) -> Started:
            log = tmp_path / "own.log"
            env = {"WSGI_TB_SOCKET": base, "HARAKIRI_LOG": str(log)}
            env |= {f"WSGI_TB_{name.upper()}": value for name, value in options.items()}
            server: Server
            if kind.startswith("eventlet"):
                server = Gunicorn(
                    PROGRAM,
                    *("--worker-class", *kind.split(), *GRACEFULLY),
                    log=tmp_path / "server.log",
                    # What gunicorn itself warns of.
                    env={**env, "PYTHONWARNINGS": "ignore"},
                    python=eventlet_python(),
                )
            elif kind.startswith("pywsgi"):
                server = Pywsgi(kind.removeprefix("pywsgi").strip(), tmp_path / "server.log", env)
            else:
                arguments = ("--worker-class", *kind.split(), *GRACEFULLY)
                server = Gunicorn(PROGRAM, *arguments, log=tmp_path / "server.log", env=env)
            servers.enter_context(server)
            started = Started(server, log, base)
            assert started.get("/").text == "done\n"
            return started

        yield start


def functions(thread: dict[str, Any]) -> list[str]:
    return [frame["function"] for frame in thread["frames"]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_greenlet_is_seen_and_a_blocked_hub_is_named(
    kind: str, start: Callable[..., Started], tmp_path: Path
) -> None:
    """Without any option: those that wait with their own stacks, the one that runs with its, the hub as blocked; one
    line more when it runs again, and a background greenlet that blocks is named as serving none.
    """
    started = start(kind)
    gate = tmp_path / "gate"
    with clients.in_flight(started.address, "/wait"), clients.in_flight(started.address, "/stream") as streaming:
        assert streaming.getresponse().status == 200
        wait_until(lambda: started.serving("/wait") and started.serving("/stream"), "both are served")
        for path in ("/wait", "/stream"):
            assert [each["text"] for each in started.serving(path)[0]["request"]["notes"]] == [f"serving {path}"]
        [hub] = [thread for thread in started.threads() if thread["kind"] == "hub"]
        assert hub["hub"]["state"] in ("idle", "running")
        with clients.in_flight(started.address, f"/unpatched?{gate}") as blocking:
            try:
                report = started.wait_for_record("hub: .* is blocked for")
                threads = started.threads()
            finally:
                gate.touch()
            assert blocking.getresponse().status == 200
        by_path = {thread["request"]["path"]: thread for thread in threads if thread["request"]}
        assert {path: thread["greenlet"] for path, thread in by_path.items()} == {
            "/wait": "suspended",
            "/stream": "suspended",
            "/unpatched": "running",
        }
        assert len({thread["name"] for thread in by_path.values()}) == 3
        assert functions(by_path["/unpatched"])[-1] == "sleep_unpatched"
        assert "wait_for_ever" in functions(by_path["/wait"])
        assert "stream_slowly" in functions(by_path["/stream"])
        assert "sleep_unpatched" not in functions(by_path["/wait"]) + functions(by_path["/stream"])
        [hub] = [thread for thread in threads if thread["kind"] == "hub"]
        assert hub["hub"]["state"] == "blocked"
        assert "by GET /unpatched" in report.partition("\n")[0]
        assert re.search(r":\d+ sleep_unpatched\n", report)
        assert "2 other requests in flight" in report
        started.wait_for_record("hub runs again, after it was blocked for .* by GET /unpatched")
        gate = tmp_path / "gate-of-the-background"
        started.get(f"/background?{gate}")
        try:
            report = started.wait_for_record("is blocked .*by a greenlet that serves no request")
        finally:
            gate.touch()
        assert re.search(r":\d+ compute_in_the_background\n", report)


@pytest.mark.parametrize("path", ["/compute-in-c-then-wait", "/sleep-in-c-then-wait"])
@pytest.mark.parametrize("kind", ["gevent", "pywsgi", "eventlet"])
def test_what_keeps_the_gil_is_named_with_all_that_were_in_flight(
    kind: str, path: str, start: Callable[..., Started]
) -> None:
    """Python could not run: one line, and no hub is called blocked for it."""
    started = start(kind, hub_blocked="0.8")
    with clients.in_flight(started.address, "/wait"):
        wait_until(lambda: started.serving("/wait"), "it is served")

        def is_reported() -> bool:
            # Not in every case: the watchdog may be within a look when that begins.
            assert started.get(f"{path}?1.8").text == "done\n"
            return bool(started.records("stall: "))

        wait_until(is_reported, "it is reported", 40.0)
        line = started.wait_for_record(r"stall: Python could not run for [12]\.\d s")
        assert "in flight were GET /wait (" in line
        assert f"GET {path}" in line
        assert not started.records("is blocked for")


@pytest.mark.parametrize("kind", KINDS)
def test_raise_reaches_those_that_wait_and_the_one_that_blocks(kind: str, start: Callable[..., Started]) -> None:
    """A 504 for both; what is streamed ends; others go on, and hundreds afterwards are served by the same worker."""
    started = start(kind, harakiri="0.5", slow="0.4", harakiri_action="raise", hub_blocked="0.3")
    workers = started.server.workers()
    with clients.in_flight(started.address, "/wait") as waiting, clients.in_flight(started.address, "/about?300") as ok:
        assert ok.getresponse().status == 200
        assert waiting.getresponse().status == 504
    assert started.get("/compute?30").status == 504
    for path in ("/own", "/handle"):
        assert started.get(path).status == 504
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        started.get("/stream")
    assert "thrown into its greenlet" in started.wait_for_record("harakiri: GET /wait")
    assert re.search(r":\d+ compute\n", started.wait_for_record("harakiri: GET /compute"))
    assert "stream_slowly" in started.wait_for_record("harakiri: GET /stream")
    with contextlib.closing(clients.connection_to(started.address)) as connection:
        for _ in range(200):
            connection.request("GET", "/")
            # pywsgi sends head and body apart, and Nagle's algorithm holds the second back until the first is
            # acknowledged, which takes 40 ms otherwise.
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"done\n")
    assert started.server.workers() == workers
    wait_until(lambda: not [thread for thread in started.threads() if thread["request"]], "nothing is in flight")
    text = started.server.log_text()
    # A report that the reporter had to write to stderr itself names it too.
    assert "HarakiriTimeout" not in text or "(logging hangs)" in text


@pytest.mark.alone  # the watchdog has to get a CPU before the request ends, right after the C call
@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_what_ended_before_it_could_be_raised_into_is_not_said_to_have_been(
    kind: str, start: Callable[..., Started]
) -> None:
    """A C call keeps the GIL beyond the limit, and its request is complete before the hub can throw."""
    started = start(kind, harakiri="1", slow="0.2", harakiri_action="raise")
    for path in ("/wait-and-compute-in-c", "/compute-in-c"):
        response = started.get(f"{path}?2")
        assert (response.status, response.text) == (200, "done\n")
        started.wait_for_record(f"slow: GET {path} .*; (overdue and reported, ended at last|ended)")
        assert not started.records(f"GET {path} .* ended after HarakiriTimeout was raised")
        assert not started.records(f"GET {path} .*phase app; HarakiriTimeout waits for the next chunk")


@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_thousands_of_connections_leave_nothing(kind: str, start: Callable[..., Started]) -> None:
    """A greenlet each: no thread is filed for it, its core is used again, and its descriptors and memory are back."""
    started = start(kind)
    for _ in range(300):
        started.get("/")
    before = started.holdings()
    for _ in range(1_500):
        started.get("/")
    after = started.holdings()
    assert after["threads"] == before["threads"]
    assert after["cores"] <= 4
    assert abs(after["descriptors"] - before["descriptors"]) <= 2
    assert after["kilobytes"] - before["kilobytes"] < 2_000


@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_it_strikes_nobody_else(kind: str, start: Callable[..., Started]) -> None:
    """Requests that end within a millisecond of their deadline, and beside them some that are far from theirs."""
    started = start(kind, harakiri="0.05", slow="0.05", harakiri_action="raise", samples_per_second="100")
    workers = started.server.workers()
    statuses: dict[int, int] = {}
    wrong: list[object] = []

    def ask(share: int) -> None:
        with contextlib.closing(clients.connection_to(started.address)) as connection:
            for number in range(share):
                for target in (f"/about?{random.uniform(48, 51):.3f}", "/innocent"):
                    connection.request("GET", target)
                    response = connection.getresponse()
                    status, body = response.status, response.read()
                    if target == "/innocent":
                        if (status, body) != (200, b"done\n"):
                            wrong.append((number, status, body))
                    elif (status, body) in ((200, b"done\n"), (504, b"The request took too long.\n")):
                        statuses[status] = statuses.get(status, 0) + 1
                    else:
                        wrong.append((target, status, body))

    threads = [threading.Thread(target=ask, args=(60,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    # Both sides of the race were seen.
    assert statuses[200] > 0
    assert statuses[504] > 0
    assert started.server.workers() == workers
    assert "Timeout" not in started.server.log_text()


@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_a_fork_in_a_worker_takes_nothing_away(kind: str, start: Callable[..., Started], tmp_path: Path) -> None:
    """The hub still hears us, so it is not called blocked; a worker that ends with requests in flight ends in order."""
    started = start(kind, hub_blocked="0.4")
    assert started.get("/fork").text == "done\n"
    gate = tmp_path / "gate"
    with clients.in_flight(started.address, f"/unpatched?{gate}"):
        try:
            started.wait_for_record("is blocked .*by GET /unpatched")
        finally:
            gate.touch()
    started.wait_for_record("hub runs again")
    with clients.in_flight(started.address, "/about?600"):
        wait_until(lambda: started.serving("/about"), "it waits")
        [hub] = [thread for thread in started.threads() if thread["kind"] == "hub"]
        assert hub["hub"]["state"] != "blocked"
        started.server.end_signal = signal.SIGTERM
        started.server.stop()
    assert asking.files(started.base) == []
    assert "wsgi_tracebacker" not in started.server.log_text()
