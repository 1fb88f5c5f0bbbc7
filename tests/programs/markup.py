"""An application whose every text is markup: its path, its note, its source. Each request waits for ten minutes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware, note

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def dormi() -> None:
    time.sleep(600.0 if "<script>alert(1)</script>" else 0.0)


def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] != "/":
        note("<script>alert(2)</script>")
        dormi()
    start_response("200 OK", [])
    return [b""]


application = TracebackerMiddleware(serve)
