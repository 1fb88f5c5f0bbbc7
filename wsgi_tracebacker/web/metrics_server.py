"""Serves the metrics over HTTP to Prometheus, with the standard library only: ``GET /metrics``, and nothing else.

However many clients ask, the workers are asked once a second at most.
"""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from wsgi_tracebacker.web.shared import Shared
from wsgi_tracebacker.wire.prometheus_text import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable

#: How long a client may be silent.
_SILENCE_SECONDS = 10.0


class MetricsServer(ThreadingHTTPServer):
    """Listens from its construction on. Raises OSError if that is not possible."""

    daemon_threads = True

    def __init__(self, host: str, port: int, make: Callable[[], bytes]) -> None:
        """``make`` makes the exposition."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.shared = Shared(make)
        super().__init__((host, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = _SILENCE_SECONDS
    server_version = "wsgi-tb"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def _answer(self, *, has_body: bool) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "only /metrics is here")
            return
        try:
            content = self.server.shared.get()
        except Exception as error:
            # One scrape that fails must not look like one without workers.
            self.send_error(500, f"no reading: {type(error).__name__}")
            return
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if has_body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name there)
        """Nothing is logged: Prometheus asks four times a minute."""
