"""A wrapped WSGI callable whose requests wait for locks: a deadlock, and what comes after it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

ledger = threading.Lock()
stock = threading.Lock()
_both = threading.Barrier(2)


class Cart:
    """What the locks are about."""

    def __init__(self) -> None:
        self.lock = ledger

    def show(self) -> bytes:
        with self.lock:
            return b"nothing\n"


def buy() -> bytes:
    with ledger:
        _both.wait()
        with stock:
            return b"bought\n"


def refund() -> bytes:
    with stock:
        _both.wait()
        with ledger:
            return b"refunded\n"


PAGES = {"/buy": buy, "/refund": refund, "/cart": Cart().show}


def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    content = PAGES[environ["PATH_INFO"]]()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))])
    return [content]


application = TracebackerMiddleware(page)
