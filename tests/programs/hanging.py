"""A wrapped WSGI callable that hangs in every way a request can, each in a function of its own name.

The path says how, the environment what is done about it: ``HARAKIRI_LOG`` is a file for the log.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

if "HARAKIRI_LOG" in os.environ:
    logging.basicConfig(filename=os.environ["HARAKIRI_LOG"], format="%(levelname)s %(name)s %(process)d %(message)s")

#: Longer than any test waits.
FOR_EVER_SECONDS = 60.0

_never_released = threading.Lock()
_never_released.acquire()


def sleep() -> None:
    time.sleep(FOR_EVER_SECONDS)


def spin() -> None:
    until = time.monotonic() + FOR_EVER_SECONDS
    while time.monotonic() < until:
        pass


def wait_for_a_lock() -> None:
    _never_released.acquire(timeout=FOR_EVER_SECONDS)


def read_a_socket() -> None:
    silent, peer = socket.socketpair()
    with silent, peer:
        silent.recv(1)


def sleep_in_small_pieces() -> None:
    until = time.monotonic() + FOR_EVER_SECONDS
    while time.monotonic() < until:
        time.sleep(0.005)


def stream_slowly() -> Iterator[bytes]:
    yield b"first\n"
    for _ in range(int(FOR_EVER_SECONDS / 0.01)):
        time.sleep(0.01)
        yield b"next\n"


def end_about_then(environ: WSGIEnvironment) -> None:
    """Wait for as many milliseconds as the query says."""
    time.sleep(float(environ["QUERY_STRING"]) / 1000)


def end_in_c(environ: WSGIEnvironment) -> Iterator[Any]:
    """The last act is C code that waits so long, and then is at its end."""
    lock = threading.Lock()
    lock.acquire()
    return iter(functools.partial(lock.acquire, True, float(environ["QUERY_STRING"]) / 1000), False)


HANGING: dict[str, Callable[[], object]] = {
    "/sleep": sleep,
    "/spin": spin,
    "/lock": wait_for_a_lock,
    "/socket": read_a_socket,
    "/pieces": sleep_in_small_pieces,
}


def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/write":
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"first\n")
        sleep_in_small_pieces()
    if path in HANGING:
        HANGING[path]()
    if path == "/about":
        end_about_then(environ)
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/stream":
        return stream_slowly()
    if path == "/c":
        return end_in_c(environ)
    return [b"done\n"]


application = TracebackerMiddleware(serve)
