"""The slow page: a request that sits six calls deep in a sleep, as in the documentation of uWSGI's tracebacker.

Knows nothing of wsgi_tracebacker, so that it runs bare, in any server, also under uWSGI's own tracebacker::

    uwsgi --http-socket :8000 --wsgi-file example_app/slow.py --enable-threads --py-tracebacker /tmp/uwsgi.

Needs the standard library only. ``?seconds=`` says how long it sleeps.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: Long enough to start a reader in another terminal; it is what uWSGI's example sleeps.
DEFAULT_SECONDS = 60.0

#: An hour, so that a slip of the finger does not hold a thread for good.
MAX_SECONDS = 3600.0


class BadQueryError(ValueError):
    """The client's: a value in the query that cannot be used. ``str()`` is the line for the client."""


def number_asked(environ: WSGIEnvironment, name: str, default: float, maximum: float) -> float:
    """The number that the query gives for ``name``, or the default; BadQueryError if it is none that can be used."""
    texts = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True).get(name)
    if texts is None:
        return default
    try:
        number = float(texts[-1])
    except ValueError:
        number = math.nan
    if not 0 <= number <= maximum:  # false for a NaN too
        message = f"{name} has to be a number from 0 to {maximum:g}"
        raise BadQueryError(message)
    return number


def plain(
    start_response: StartResponse, status: str, text: str, content_type: str = "text/plain; charset=utf-8"
) -> list[bytes]:
    """Answer with a line of text."""
    body = text.encode() + b"\n"
    start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))])
    return [body]


def dormi(seconds: float) -> None:
    """Sleep: the function that hangs, as in uWSGI's own example."""
    time.sleep(seconds)


def dormi2(seconds: float) -> None:
    dormi(seconds)


def dormi3(seconds: float) -> None:
    dormi2(seconds)


def dormi4(seconds: float) -> None:
    dormi3(seconds)


def dormi5(seconds: float) -> None:
    dormi4(seconds)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    try:
        seconds = number_asked(environ, "seconds", DEFAULT_SECONDS, MAX_SECONDS)
    except BadQueryError as error:
        return plain(start_response, "400 Bad Request", str(error))
    dormi5(seconds)
    return plain(start_response, "200 OK", f"slept {seconds:g} seconds")
