"""A wrapped WSGI callable for tests that decide when a request ends: it waits until a file is there.

The path of the file is the query; without one the answer comes at once. Every path is served.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def take_a_seat(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    wait_to_be_called(environ.get("QUERY_STRING", ""))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"next\n"]


def wait_to_be_called(path: str) -> None:
    while path and not os.path.exists(path):
        time.sleep(0.02)


application = TracebackerMiddleware(take_a_seat)
