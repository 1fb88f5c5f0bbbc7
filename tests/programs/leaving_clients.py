"""An application whose requests outlive their clients, or send more than these read."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_never = threading.Event()
#: Far more than the buffers of both ends and of waitress hold.
_CHUNK = b"x" * (1 << 20)


def endless() -> Iterator[bytes]:
    while True:
        yield _CHUNK


def plain(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if path == "/endless":
        return endless()
    if path == "/event":
        _never.wait()
    while path in ("/polls", "/waits"):
        time.sleep(0.05)
    if path == "/sleep":
        time.sleep(600)
    return [b"served\n"]


application = TracebackerMiddleware(plain)
