"""Real uWSGI: its own tracebacker beside ours, on the same application, and our middleware inside it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from example_app import slow
from tests.servers import asking
from tests.support import clients
from tests.support.programs import PROJECT
from tests.support.waiting import wait_until
from wsgi_tracebacker.wire import uwsgi_text as uwsgi_format

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator

    from tests.conftest import StartGunicorn
    from tests.servers.conftest import StartUwsgi
    from tests.support.servers import Uwsgi

WRAPPED = ("--module", "example_app.wsgi:application")


def read_json(base: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "wsgi_tracebacker", "read", "--format", "json", base]
    output = subprocess.run(command, capture_output=True, cwd=PROJECT, check=True, timeout=30).stdout
    document = json.loads(output)
    assert isinstance(document, dict)
    return document


def chain_lines(dump: bytes) -> list[str]:
    """The lines of the slow page in a dump, without the names of their threads."""
    lines = [line.partition(" filename = ")[2] for line in dump.decode().splitlines()]
    return [line for line in lines if line.startswith(slow.__file__)]


def test_both_tracebackers_say_the_same_of_the_same_application(
    uwsgi: StartUwsgi, gunicorn: StartGunicorn, base: str
) -> None:
    """What uWSGI's own socket says of the bare page, ours says of the wrapped one, line for line; and the reader shows
    every frame of uWSGI's.
    """
    theirs = f"{base}-uwsgi."
    bare = uwsgi("--py-tracebacker", theirs, "--wsgi-file", slow.__file__)
    wrapped = gunicorn("example_app.wsgi:application")
    with clients.in_flight(bare.address, "/?seconds=60"), clients.in_flight(wrapped.address, "/slow?seconds=60"):
        wait_until(lambda: any(map(asking.sleeps_six_calls_deep, asking.serving(base))), "ours sleeps")
        wait_until(lambda: b"= dormi line" in clients.read_to_end(f"{theirs}1"), "theirs sleeps")
        dump = clients.read_to_end(f"{theirs}1")
        assert chain_lines(dump) == chain_lines(clients.read_to_end(f"{base}1"))
        assert len(chain_lines(dump)) == len(asking.CHAIN)

        [worker] = read_json(theirs)["workers"]
        assert worker["worker"]["pid"] == bare.worker_pids()[1]
        [thread] = worker["threads"]
        [stack] = uwsgi_format.parse(dump)
        shown = [(f["filename"], f["lineno"], f["function"], f["source"]) for f in thread["frames"]]
        assert shown == [(f.filename, f.lineno, f.function, f.source) for f in stack.frames]
        assert [function for _, _, function, _ in shown] == list(asking.CHAIN)
        assert thread["name"] == "uWSGIWorker1Core0"


@pytest.mark.parametrize("lazy", [(), ("--lazy-apps",)], ids=["plain", "lazy-apps"])
def test_the_middleware_inside_uwsgi(lazy: tuple[str, ...], uwsgi: StartUwsgi, base: str) -> None:
    """Two workers with two threads each: our numbers are uWSGI's, every slow request is seen by our socket and uWSGI's
    alike, and a stream is in phase body.
    """
    theirs = f"{base}-uwsgi."
    server = uwsgi(*WRAPPED, *lazy, "--processes", "2", "--threads", "2", "--py-tracebacker", theirs)
    with contextlib.ExitStack() as connections:
        for _ in range(4):
            connections.enter_context(clients.in_flight(server.address, "/slow?seconds=60"))

        def all_asleep() -> bool:
            threads = asking.serving(base, "/slow")
            return len(threads) == 4 and all(map(asking.sleeps_six_calls_deep, threads))

        wait_until(all_asleep, lambda: f"all are asleep: {asking.serving(base)}")
        for document in asking.snapshots(base):
            worker = document["worker"]
            assert worker["pid"] == server.worker_pids()[worker["number"]]
            ours = [thread for thread in document["threads"] if thread["request"] is not None]
            for thread in ours:
                asking.check_chain(thread)
            number = worker["number"]
            assert {thread["name"] for thread in ours} == {f"WSGIWorker{number}Core0", f"WSGIWorker{number}Core1"}
            lines = chain_lines(clients.read_to_end(f"{theirs}{number}"))
            assert lines == chain_lines(clients.read_to_end(f"{base}{number}"))
            assert len(lines) == 2 * len(asking.CHAIN)
        # Its workers would let their requests finish first.
        for pid in (*server.worker_pids().values(), server.pid):
            os.kill(pid, signal.SIGKILL)
        server.end_signal = signal.SIGKILL
        server.stop()


TWO_APPLICATIONS = (
    *("--mount", "/first=example_app.wsgi:application", "--mount", "/second=example_app.wsgi:application"),
    *("--manage-script-name", "--threads", "3"),
    *("--env", "WSGI_TB_HARAKIRI=1", "--env", "WSGI_TB_HARAKIRI_ACTION=raise"),
)


@contextlib.contextmanager
def three_asleep(server: Uwsgi, base: str) -> Iterator[list[http.client.HTTPConnection]]:
    """One request of the first application and two of the second, once they are overdue."""
    with contextlib.ExitStack() as connections:
        asleep = []
        for name in ("first", "second", "second"):
            asleep.append(connections.enter_context(clients.in_flight(server.address, f"/{name}/slow?seconds=3")))
            # The second interpreter names the first one's worker if that has its card by then.
            wait_until(lambda: asking.serving(base, "/first/slow"), "the first one's worker is there")
        # The second report on /second/slow is only counted.
        for name in ("first", "second"):
            server.wait_for_log(f"harakiri: GET /{name}/slow")
        yield asleep


@pytest.mark.parametrize("lazy", [(), ("--lazy-apps",)], ids=["plain", "lazy-apps"])
def test_an_interpreter_for_each_application(lazy: tuple[str, ...], uwsgi: StartUwsgi, base: str) -> None:
    """The threads of the second one share an id: no request has another's stack or exception, each text names uWSGI's
    option, and an end in order leaves nothing of either.
    """
    server = uwsgi(*TWO_APPLICATIONS, *lazy)
    with three_asleep(server, base) as connections:
        assert len(asking.serving(base, "/first/slow")) == 1
        found = asking.serving(base, "/second/slow")
        assert [(thread["kind"], thread["frames"]) for thread in found] == [("unknown", [])] * 2
        for document in asking.snapshots(base):
            for thread in document["threads"]:
                assert not (thread["core"] is not None and thread["request"] is None and thread["frames"])
        command = [sys.executable, "-m", "wsgi_tracebacker", "read", base]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
        assert text.count("--single-interpreter") >= 1
        assert [connection.getresponse().status for connection in connections] == [504, 200, 200]
    server.wait_for_log("is in the same process as worker")
    log = server.log_text()
    assert log.count("is in the same process as worker") == 1
    assert "WSGIApplicationGroup" not in log
    assert "not raised into: uWSGI runs this application in a sub-interpreter" in log
    assert asking.files(base) == asking.expected_files(1, 2)
    wait_until(lambda: asking.are_idle(base) and server.is_idle(), "it is done with the requests")
    server.stop()
    assert asking.files(base) == []


def test_one_interpreter_for_all_applications(uwsgi: StartUwsgi, base: str) -> None:
    """With uWSGI's option there is one worker that knows the stack of every request."""
    server = uwsgi(*TWO_APPLICATIONS, "--single-interpreter")
    with three_asleep(server, base) as connections:
        assert asking.files(base) == asking.expected_files(1)
        for thread in asking.serving(base):
            asking.check_chain(thread)
        for connection in connections:
            connection.getresponse().read()
    assert "single-interpreter" not in server.log_text()


@pytest.mark.parametrize("lazy", [(), ("--lazy-apps",)], ids=["plain", "lazy-apps"])
def test_the_first_interpreter_removes_what_others_leave(lazy: tuple[str, ...], uwsgi: StartUwsgi, base: str) -> None:
    """Also if it never served a request, so that nothing of its own runs."""
    server = uwsgi(*TWO_APPLICATIONS, *lazy)
    clients.request(server.address, "/second/quick")
    assert asking.files(base) == asking.expected_files(1)
    wait_until(lambda: asking.are_idle(base) and server.is_idle(), "it is done with the request")
    server.stop()
    assert asking.files(base) == []


@pytest.mark.parametrize("lazy", [(), ("--lazy-apps",)], ids=["plain", "lazy-apps"])
def test_uwsgis_respawned_worker_has_its_number(lazy: tuple[str, ...], uwsgi: StartUwsgi, base: str) -> None:
    """Forked in C, and killed: the new process takes over its predecessor's files; so does a new server."""
    server = uwsgi(*WRAPPED, *lazy)
    clients.request(server.address, "/quick")
    killed = server.worker_pids()[1]
    assert asking.pids(base) == {1: killed}
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: server.worker_pids()[1] != killed, lambda: f"it is respawned: {server.log_text()}")
    clients.request(server.address, "/quick")
    assert asking.pids(base) == {1: server.worker_pids()[1]}
    assert asking.files(base) == asking.expected_files(1)
    os.killpg(server.pid, signal.SIGKILL)
    server.stop()
    assert asking.files(base) == asking.expected_files(1)
    successor = uwsgi(*WRAPPED, *lazy)
    clients.request(successor.address, "/quick")
    assert asking.pids(base) == {1: successor.worker_pids()[1]}
    assert asking.files(base) == asking.expected_files(1)


@pytest.mark.parametrize(
    ("end_signal", "arguments"),
    [(signal.SIGINT, ()), (signal.SIGINT, ("--lazy-apps",)), (signal.SIGTERM, ("--die-on-term",))],
    ids=["SIGINT", "SIGINT lazy-apps", "SIGTERM die-on-term"],
)
def test_an_end_in_order_leaves_no_file(
    end_signal: signal.Signals, arguments: tuple[str, ...], uwsgi: StartUwsgi, base: str
) -> None:
    """A worker that uWSGI knows to be idle runs atexit, also in a process that was forked in C."""
    server = uwsgi(*WRAPPED, *arguments)
    clients.request(server.address, "/quick")
    assert asking.files(base) == asking.expected_files(1)
    wait_until(lambda: asking.are_idle(base) and server.is_idle(), "it is done with the request")
    server.end_signal = end_signal
    server.stop()
    assert asking.files(base) == []
