"""A WSGI callable whose stacks are easy to recognise: it calls, and calls, and waits for a file to appear.

``/wait?path=…`` waits within four calls; anything else answers at once.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/wait":
        take_the_order(environ["QUERY_STRING"].removeprefix("path="))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"done\n"]


def take_the_order(path: str) -> None:
    ask_the_kitchen(path)


def ask_the_kitchen(path: str) -> None:
    wait_for_the_dish(path)


def wait_for_the_dish(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.05)
