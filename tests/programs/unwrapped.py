"""A WSGI callable that knows nothing of us, for tests of the ways to wrap it from outside.

``IMPORT_WAITS_FOR`` is a file that its import waits for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def wait_for_the_file(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.02)


def stay_whatever_comes() -> None:
    while True:
        with contextlib.suppress(SystemExit):
            time.sleep(60)


def spin() -> None:
    while True:
        pass


def hold_the_gil() -> None:
    re.match("(a+)+$", "a" * 40 + "b")


def wait_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def wait_in_c(library: ctypes.CDLL) -> None:
    """For a lock that nobody frees, in a call that no signal interrupts."""
    mutex = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


PAGES: dict[str, Callable[[], object]] = {
    "/c": lambda: wait_in_c(ctypes.CDLL(None)),
    "/c-gil": lambda: wait_in_c(ctypes.PyDLL(None)),
    "/deaf": stay_whatever_comes,
    "/spin": spin,
    "/gil": hold_the_gil,
    "/lock": wait_for_a_lock,
}


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/wait":
        wait_for_the_file(environ["QUERY_STRING"])
    PAGES.get(path, int)()
    # What uWSGI says of itself.
    core = str(environ.get("uwsgi.core", "none"))
    threads = str(getattr(sys.modules.get("uwsgi"), "has_threads", "unknown"))
    headers = [("X-Core", core), ("X-Threads", threads)]
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5"), *headers])
    return [b"done\n"]


def create_application(answer: str = "made") -> object:
    def made(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [answer.encode()]

    return made


class Site:
    app = staticmethod(application)


site = Site()
not_an_application = "text"

if "IMPORT_WAITS_FOR" in os.environ:
    wait_for_the_file(os.environ["IMPORT_WAITS_FOR"])
