"""What has to be the same whatever server it is: from the first request to the end of the process."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.servers import asking
from tests.support import clients
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import StartGunicorn
    from tests.servers.conftest import SimpleServer, StartSimpleServer
    from tests.support.servers import Gunicorn


class Kind(NamedTuple):
    """A server and what it is expected to do."""

    server: str
    #: gunicorn's arguments.
    arguments: tuple[str, ...] = ()
    #: The threads that serve when as many requests are in flight at a time.
    thread_names: tuple[str, ...] = ("WSGIWorker1Core0",)
    #: Ends it in order.
    end_signal: signal.Signals = signal.SIGTERM
    #: How the server calls itself.
    software: str = "gunicorn/"


SYNC = ("--workers", "2")
SYNC_NAMES = ("WSGIWorker1Core0", "WSGIWorker2Core0")
GTHREAD = ("--worker-class", "gthread", "--threads", "3")
THREE_CORES = ("WSGIWorker1Core0", "WSGIWorker1Core1", "WSGIWorker1Core2")

KINDS = {
    "gunicorn sync": Kind("gunicorn", SYNC, SYNC_NAMES),
    "gunicorn sync preload": Kind("gunicorn", (*SYNC, "--preload"), SYNC_NAMES),
    "gunicorn gthread": Kind("gunicorn", GTHREAD, THREE_CORES),
    "gunicorn gthread preload": Kind("gunicorn", (*GTHREAD, "--preload"), THREE_CORES),
    "wsgiref": Kind("wsgiref", end_signal=signal.SIGINT, software="WSGIServer/"),
    "werkzeug": Kind("werkzeug", thread_names=THREE_CORES, end_signal=signal.SIGINT, software="Werkzeug/"),
}


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def server(kind: Kind, gunicorn: StartGunicorn, simple_server: StartSimpleServer) -> Gunicorn | SimpleServer:
    if kind.server == "gunicorn":
        return gunicorn("example_app.wsgi:application", *kind.arguments)
    return simple_server(kind.server)


def test_from_the_first_request_to_the_end(kind: Kind, server: Gunicorn | SimpleServer, base: str) -> None:
    """Nothing is opened before the first request; then the worker is there by its number, and at the end nothing is."""
    assert asking.files(base) == []
    assert clients.request(server.address, "/quick").text == "quick\n"
    assert asking.files(base) == ["1", "1.worker"]
    worker = asking.ask(base, 1, "/worker")["worker"]
    assert worker["pid"] in {*server.workers(), server.pid}
    assert worker["ppid"] in {server.pid, os.getpid()}
    assert worker["application"] == "example_app.pages:application"
    assert worker["server"].startswith(kind.software)
    assert (worker["requests_finished"], worker["requests_in_flight"]) == (1, 0)
    for name in asking.files(base):
        assert os.stat(f"{base}{name}").st_mode & 0o777 == 0o600
    server.end_signal = kind.end_signal
    server.stop()
    assert asking.files(base) == []


def test_slow_requests_are_seen(kind: Kind, server: Gunicorn | SimpleServer, base: str) -> None:
    """As many as the server takes at a time, each with its request, its thread's name, and every line of its stack."""
    with contextlib.ExitStack() as connections:
        for number in range(len(kind.thread_names)):
            headers = {"X-Request-ID": f"id-{number}"}
            connections.enter_context(clients.in_flight(server.address, "/slow?seconds=60&secret=1", headers=headers))

        def all_asleep() -> bool:
            threads = asking.serving(base, "/slow")
            return len(threads) == len(kind.thread_names) and all(map(asking.sleeps_six_calls_deep, threads))

        wait_until(all_asleep, lambda: f"all are asleep: {asking.serving(base)}")
        threads = asking.serving(base)
        text = b"".join(clients.read_to_end(f"{base}{number}") for number in asking.numbers(base)).decode()
        # A server that waits for the end of its requests would have to wait for a minute.
        server.end_signal = signal.SIGQUIT if kind.server == "gunicorn" else signal.SIGKILL
        server.stop()

    assert sorted(thread["name"] for thread in threads) == sorted(kind.thread_names)
    assert {thread["request"]["request_id"] for thread in threads} == {f"id-{n}" for n in range(len(threads))}
    for thread in threads:
        asking.check_chain(thread)
        request = thread["request"]
        assert (request["method"], request["path"], request["query"]) == ("GET", "/slow", None)
        assert (request["remote_address"], request["phase"]) == ("127.0.0.1", "app")
        assert 0 < request["age_seconds"] < 60
        assert thread["state"] == "S"
        lines = [line for line in text.splitlines() if line.startswith(f"thread_id = {thread['name']} ")]
        functions = [line.partition(" function = ")[2] for line in lines[-len(asking.CHAIN) :]]
        pairs = zip(asking.CHAIN, asking.CHAIN_LINES, strict=True)
        assert functions == [f"{function} line = {line}" for function, line in pairs]


def test_a_stream_is_seen_while_it_flows(server: Gunicorn | SimpleServer, base: str) -> None:
    """A request whose chunks are on their way is in phase body; a client that leaves ends it."""
    with clients.in_flight(server.address, "/stream?chunks=100000&seconds=0.01") as connection:
        response = connection.getresponse()
        assert response.readline() == b"chunk 1 of 100000\n"

        def at_its_pause() -> dict[str, Any] | None:
            [thread] = asking.serving(base)
            return thread if thread["frames"][-1]["function"] == "chunks_with_pauses" else None

        thread = wait_until(at_its_pause, lambda: f"it pauses: {asking.serving(base)}")
        assert thread is not None
        assert (thread["name"], thread["request"]["path"]) == ("WSGIWorker1Core0", "/stream")
        assert thread["request"]["phase"] == "body"
        # Most of the time it sleeps; for a moment it is at the chunk it hands over.
        source = thread["frames"][-1]["source"].strip()
        assert source in ("time.sleep(seconds)", r'yield b"chunk %d of %d\n" % (number, count)')
        response.close()
    wait_until(lambda: not asking.serving(base), lambda: f"the request has ended: {asking.serving(base)}")
    assert asking.ask(base, 1, "/worker")["worker"]["requests_finished"] == 1


@pytest.mark.parametrize("server_name", ["wsgiref", "werkzeug"])
def test_what_a_killed_server_left_behind_is_taken_over(
    server_name: str, simple_server: StartSimpleServer, base: str
) -> None:
    """Without atexit the files stay; the next process is worker 1 again, and its end takes them away."""
    first = simple_server(server_name)
    clients.request(first.address, "/quick")
    assert asking.pids(base) == {1: first.pid}
    first.end_signal = signal.SIGKILL
    first.stop()
    assert asking.files(base) == ["1", "1.worker"]
    second = simple_server(server_name)
    clients.request(second.address, "/quick")
    assert asking.pids(base) == {1: second.pid}
    second.end_signal = signal.SIGINT
    second.stop()
    assert asking.files(base) == []


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
