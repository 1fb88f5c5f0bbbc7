"""A wrapped WSGI callable whose work another thread does: an async view, run as Django runs it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from asgiref.sync import async_to_sync

from wsgi_tracebacker import TracebackerMiddleware, note

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


async def view(gate: str) -> bytes:
    compute_until(gate)
    return b"computed\n"


def compute_until(gate: str) -> None:
    while not os.path.exists(gate):
        sum(range(1000))


def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    note("computing")
    content = async_to_sync(view)(environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))])
    return [content]


application = TracebackerMiddleware(page)
