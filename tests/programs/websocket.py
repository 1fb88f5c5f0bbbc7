"""A websocket that echoes, with a limit that raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Flask
from flask_sock import Sock

from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable

app = Flask(__name__)
_route: Callable[[str], Callable[[Any], Any]] = Sock(app).route


@_route("/echo")
def echo(connection: Any) -> None:
    while True:
        connection.send(connection.receive())


application = TracebackerMiddleware(app, harakiri=0.5, harakiri_action="raise")
