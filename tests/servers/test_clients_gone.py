"""Clients that close their connection, or do not read, in front of real servers."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import asking
from tests.support import clients
from tests.support.servers import Server, SimpleServer, Uwsgi
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import StartGunicorn
    from tests.support.clients import Address

    Start = Callable[[], tuple[Server, Address]]

APPLICATION = "tests.programs.leaving_clients:application"
#: Its requests never end, so its workers are not waited for.
AT_ONCE = ("--timeout", "60", "--graceful-timeout", "1")
KINDS = ("sync", "gthread", "gevent", "werkzeug", "waitress", "uwsgi")


@pytest.fixture(params=KINDS)
def started(request: pytest.FixtureRequest, gunicorn: StartGunicorn, base: str, tmp_path: Path) -> Any:
    """A server of this kind, and its address."""
    kind = request.param
    env = {"WSGI_TB_SOCKET": base, "WSGI_TB_HARAKIRI": "2"}
    if kind in ("werkzeug", "waitress"):
        pytest.importorskip(kind)
        with SimpleServer(kind, tmp_path / "server.log", env, APPLICATION.partition(":")[0]) as server:
            yield server, server.address
    elif kind == "uwsgi":
        with Uwsgi("--module", APPLICATION, log=tmp_path / "server.log", env=env) as uwsgi:
            yield uwsgi, uwsgi.address
            # Its requests never end.
            uwsgi.end_signal = signal.SIGQUIT
    else:
        if kind == "gevent":
            pytest.importorskip("gevent")
        started_gunicorn = gunicorn(APPLICATION, "--worker-class", kind, *AT_ONCE, env=env)
        yield started_gunicorn, started_gunicorn.address


def _waits_for(base: str, path: str, kind: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        waits = [each["request"]["waits_for"] for each in asking.serving(base, path)]
        return [each for each in waits if each and (each["kind"] == kind or each["client_gone"])]

    return wait_until(found, lambda: f"{kind}: {asking.serving(base, path)}")[0]


def test_a_client_that_has_gone_is_named(started: Any, base: str) -> None:
    """While a request sleeps: in the snapshot, in the report as its cause, and with no verdict on the worker."""
    server, address = started
    with clients.in_flight(address, "/sleep"):
        [waiting] = wait_until(lambda: asking.serving(base, "/sleep"), "it is in flight")
        assert waiting["request"]["waits_for"] is None or not waiting["request"]["waits_for"]["client_gone"]
    found = _waits_for(base, "/sleep", "client_gone")
    assert (found["kind"], found["peer"], found["client_gone"]) == ("client_gone", "127.0.0.1", True)
    report = server.wait_for_log(r"(?s)\n  because: ([^\n]*)\n.*?  verdict: (\w+)")
    assert report[1] == found["sentence"]
    assert report[2] == "waiting"


# Of a greenlet that waits for an event nothing else is known.
@pytest.mark.parametrize("started", [kind for kind in KINDS if kind != "gevent"], indirect=True)
def test_what_a_request_waits_for_is_said_although_its_client_has_gone(started: Any, base: str) -> None:
    """The client may have gone because of that."""
    _, address = started
    with clients.in_flight(address, "/event"):
        wait_until(lambda: asking.serving(base, "/event"), "it is in flight")
    found = _waits_for(base, "/event", "signal")
    assert (found["kind"], found["client_gone"]) == ("signal", True)


def test_a_client_that_does_not_read_is_named(started: Any, base: str) -> None:
    """The server sends a body, and nobody takes it."""
    _, address = started
    with clients.in_flight(address, "/endless"):
        found = _waits_for(base, "/endless", "client_slow")
        assert (found["kind"], found["peer"], found["client_gone"]) == ("client_slow", "127.0.0.1", None)


def test_a_client_that_has_gone_may_change_the_limit(gunicorn: StartGunicorn, base: str) -> None:
    """With `client_gone`, only of the request that it left: it is overdue, and raised into."""
    env = {"WSGI_TB_HARAKIRI": "600", "WSGI_TB_CLIENT_GONE": "0.2", "WSGI_TB_HARAKIRI_ACTION": "raise"}
    server = gunicorn(APPLICATION, "--threads", "4", *AT_ONCE, env=env)
    with clients.in_flight(server.address, "/waits"):
        wait_until(lambda: asking.serving(base, "/waits"), "it is in flight")
        with clients.in_flight(server.address, "/polls"):
            wait_until(lambda: asking.serving(base, "/polls"), "it is in flight")
        report = server.wait_for_log(r"harakiri: (GET \S+) .*\n  because: ([^\n]*)")
        assert report[1] == "GET /polls"
        assert "the client 127.0.0.1 has gone" in report[2]
        wait_until(lambda: not asking.serving(base, "/polls"), "it was interrupted")
        assert asking.serving(base, "/waits")
    wait_until(lambda: not asking.serving(base, "/waits"), "its client has gone too")
