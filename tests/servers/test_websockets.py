"""A request whose connection the application takes over: nothing of ours may be written into it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from simple_websocket import Client

from tests.support.servers import Gunicorn, Server, SimpleServer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["gunicorn gthread", "gunicorn sync", "werkzeug"])
def test_a_websocket_is_reported_and_goes_on(kind: str, base: str, tmp_path: Path) -> None:
    """With ``raise``, far beyond its limit it still echoes."""
    log, env = tmp_path / "log", {"WSGI_TB_SOCKET": base}
    server: Server
    if kind == "werkzeug":
        server = simple = SimpleServer("werkzeug", log, env, "tests.programs.websocket")
        address: Any = simple.address
    else:
        worker_class = kind.split()[1]
        arguments = ("--worker-class", worker_class, "--threads", "2" if worker_class == "gthread" else "1")
        server = gunicorn = Gunicorn("tests.programs.websocket:application", *arguments, log=log, env=env)
        address = gunicorn.address
    with server, contextlib.closing(Client(f"ws://{address[0]}:{address[1]}/echo")) as client:
        client.send("one")
        assert client.receive(timeout=10) == "one"
        server.wait_for_log(r"harakiri: GET /echo .*; logged and not interrupted: a websocket")
        client.send("two")
        assert client.receive(timeout=10) == "two"
