"""A shop whose pages hang, each for a reason of its own. It knows nothing of wsgi_tracebacker."""

from __future__ import annotations

import os
import re
import threading
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

stock, ledger = threading.Lock(), threading.Lock()
both = threading.Barrier(2)

#: A server that never answers.
BANK = os.environ["BANK"]


def buy() -> None:
    with stock:
        both.wait()
        ledger.acquire()


def refund() -> None:
    with ledger:
        both.wait()
        stock.acquire()


def charge() -> None:
    urllib.request.urlopen(f"{BANK}/v2/charge")


def report() -> None:
    while True:
        sum(range(1000))


def search() -> None:
    re.match(r"(a+)+$", 60 * "a" + "b")


PAGES = {"/buy": buy, "/refund": refund, "/charge": charge, "/report": report, "/search": search}


def shop(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Each page that is not in PAGES says which worker it is."""
    page = PAGES.get(environ["PATH_INFO"])
    if page is not None:
        page()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
