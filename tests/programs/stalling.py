"""A wrapped WSGI callable that can do to its worker what applications do: hold the GIL for ever, wait, die.

``/stall…`` backtracks for ever, ``/wait…`` waits for ever, ``/die/exit`` and ``/die/fault`` end the process on the
spot; anything else answers at once.
"""

from __future__ import annotations

import faulthandler
import os
import re
import threading
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def choose(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path.startswith("/stall"):
        backtrack_for_ever()
    elif path.startswith("/wait"):
        threading.Event().wait()
    elif path == "/die/exit":
        # 3 and 4 would have gunicorn give up.
        os._exit(7)
    elif path == "/die/fault":
        faulthandler._sigsegv()  # type: ignore[attr-defined]  # there for tests such as this
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"done\n"]


def backtrack_for_ever() -> None:
    re.match("(a+)+$", "a" * 40 + "b")


application = TracebackerMiddleware(choose)
