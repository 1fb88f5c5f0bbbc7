"""The application that real servers serve in measurements: a small page, bare or wrapped, as ``BENCH_WRAP`` says.

``bare`` is the page alone, ``wrapped`` has our middleware around it, ``manhole`` has manhole in its process,
``fixed`` has a thread that does what any answer on a socket takes and nothing else.
Requests of ``WAIT_PATH`` never end; those of ``COMPUTE_PATH`` compute for COMPUTE_SECONDS.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

BARE, WRAPPED, MANHOLE, FIXED = "bare", "wrapped", "manhole", "fixed"

WAIT_PATH = "/wait"
_WAIT_FRAMES = 20
COMPUTE_PATH, COMPUTE_SECONDS = "/compute", 0.001

_PAGE = b"<!doctype html><title>Articles</title>" + b"<p>Here is an article." * 40


def wait(depth: int) -> None:
    if depth:
        wait(depth - 1)
    else:
        threading.Event().wait()


def compute(seconds: float) -> None:
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        pass


def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == WAIT_PATH:
        wait(_WAIT_FRAMES)
    elif environ["PATH_INFO"] == COMPUTE_PATH:
        compute(COMPUTE_SECONDS)
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(_PAGE)))])
    return [_PAGE]


class FromTheFirstRequest:
    """Something beside the page that begins with the first request: before that, a server may fork."""

    def __init__(self, app: WSGIApplication, begin: Callable[[], object]) -> None:
        self._app = app
        self._begin = begin
        self._has_begun = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not self._has_begun:
            self._has_begun = True
            self._begin()
        return self._app(environ, start_response)


def open_manhole() -> None:
    import manhole  # noqa: PLC0415

    path = os.environ["BENCH_MANHOLE"]
    manhole.install(verbose=False, socket_path=path, daemon_connection=True, strict=False)


#: As long as a text dump of this server's.
FIXED_ANSWER = b"x" * 8_000


def serve_fixed_answer() -> None:
    """A thread that accepts, reads a question, and answers the same bytes to each."""
    threading.Thread(target=_serve_fixed_answer, daemon=True).start()


def _serve_fixed_answer() -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.environ["WSGI_TB_SOCKET"] + "1")
        listening.listen()
        while True:
            connection, _ = listening.accept()
            connection.recv(16_384)
            connection.send(FIXED_ANSWER)
            connection.close()


def _application() -> WSGIApplication:
    wrap = os.environ.get("BENCH_WRAP", BARE)
    if wrap == WRAPPED:
        # A bare worker loads nothing of ours.
        from wsgi_tracebacker import TracebackerMiddleware  # noqa: PLC0415

        return TracebackerMiddleware(page)
    if wrap == FIXED:
        return FromTheFirstRequest(page, serve_fixed_answer)
    return FromTheFirstRequest(page, open_manhole) if wrap == MANHOLE else page


application = _application()
