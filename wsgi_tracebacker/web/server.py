"""Serves the page on an address: werkzeug's server, with a thread for each connection."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from wsgi_tracebacker.errors import CannotListen

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

#: How long a client may be silent.
_SILENCE_SECONDS = 15.0


class _Handler(WSGIRequestHandler):
    timeout = _SILENCE_SECONDS

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  (its name there)
        """Nothing is logged: each page asks once a second."""

    def version_string(self) -> str:
        return "wsgi-tb"


def bind(host: str, port: int) -> socket.socket:
    """A socket on which nobody listens yet. Raises CannotListen."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise CannotListen(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return bound


def server(listening: socket.socket, application: WSGIApplication) -> BaseWSGIServer:
    """The server on this socket, which need not listen before it serves."""
    host, port, *_ = listening.getsockname()
    made = make_server(host, port, application, threaded=True, request_handler=_Handler, fd=listening.fileno())
    made.daemon_threads = True  # type: ignore[attr-defined]  # of its threads
    return made
