"""Serves the metrics over HTTP to Prometheus, with the standard library only: ``GET /metrics``, and nothing else.

However many clients ask, the workers are asked once a second at most.
"""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from wsgi_tracebacker.wire.prometheus_text import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable

#: A reading is given to everybody who asks within this.
SHARED_SECONDS = 1.0

#: How long a client may be silent.
_SILENCE_SECONDS = 10.0


class Shared:
    """The result of a function that is costly: who asks while it is made, or shortly after, gets the same."""

    def __init__(self, make: Callable[[], bytes], clock: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        self._made: tuple[float, bytes] | None = None

    def get(self) -> bytes:
        """Raises what the function raises."""
        with self._lock:
            if self._made is None or self._clock() - self._made[0] >= SHARED_SECONDS:
                content = self._make()
                self._made = self._clock(), content
            return self._made[1]


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
