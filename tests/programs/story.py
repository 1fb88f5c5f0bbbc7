"""The application to which the same story happens in every server; the standard library is all it needs.

The first part of the path says how it is wrapped, the last one what it does, the query is a file that the test knows:

    /slow?GATE          waits, some calls deep, until there is a file GATE
    /stream?NOTE        400 chunks, four seconds; when it is closed, NOTE tells how many were made
    /file?FILE          what ``wsgi.file_wrapper`` makes of FILE, or its blocks where there is none
    /quick              a list of one
    /who                what the server says of itself, as JSON

    /bare/…             unwrapped
    /limited/…          with a limit of 0.4 s, logged
    /killing/…          with a limit that nothing reaches, and death for who does
"""

from __future__ import annotations

import inspect
import json
import os
import time
from typing import TYPE_CHECKING

from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

CHUNKS = 400
BLOCK_BYTES = 16 * 1024

#: How long /limited/ lets a request be.
LIMIT_SECONDS = 0.4


def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    wait_in_the_hall(environ["QUERY_STRING"])
    return quick(environ, start_response)


def wait_in_the_hall(gate: str) -> None:
    wait_at_the_gate(gate)


def wait_at_the_gate(gate: str) -> None:
    while not os.path.exists(gate):
        time.sleep(0.05)


#: The functions of a slow request, outermost first, and the line that each is at while it waits.
CHAIN = {
    "serve": "return PAGES[page](environ, start_response)",
    "slow": 'wait_in_the_hall(environ["QUERY_STRING"])',
    "wait_in_the_hall": "wait_at_the_gate(gate)",
    "wait_at_the_gate": "time.sleep(0.05)",
}


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    # No length: the client is to see each chunk when it comes.
    start_response("200 OK", [("Content-Type", "text/plain")])
    return chunks_with_pauses(environ["QUERY_STRING"])


def chunks_with_pauses(note: str) -> Iterator[bytes]:
    number = 0
    try:
        for number in range(1, CHUNKS + 1):
            yield b"chunk %d\n" % number
            time.sleep(0.01)
    finally:
        with open(f"{note}.new", "w", encoding="ascii") as file:
            file.write(str(number))
        os.rename(f"{note}.new", note)


def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["QUERY_STRING"]
    length = str(os.stat(path).st_size)
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", length)])
    opened = open(path, "rb")  # noqa: SIM115  (the server closes it)
    wrapper = environ.get("wsgi.file_wrapper")
    if wrapper is None:
        return iter(lambda: opened.read(BLOCK_BYTES), b"")
    wrapped: Iterable[bytes] = wrapper(opened, BLOCK_BYTES)
    return wrapped


def quick(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    # Without a length: some servers take it from the list.
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"quick\n"]


def who(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    facts = {
        "software": environ.get("SERVER_SOFTWARE"),
        "has_file_wrapper": "wsgi.file_wrapper" in environ,
        "file_wrapper_is_class": inspect.isclass(environ.get("wsgi.file_wrapper")),
        "application_group": environ.get("mod_wsgi.application_group"),
        "pid": os.getpid(),
    }
    return [json.dumps(facts).encode()]


PAGES: dict[str, Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]] = {
    "slow": slow,
    "stream": stream,
    "file": file,
    "quick": quick,
    "who": who,
}


def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    page = environ["PATH_INFO"].rpartition("/")[2]
    return PAGES[page](environ, start_response)


wrapped = TracebackerMiddleware(serve)
WRAPPINGS: dict[str, WSGIApplication] = {
    "bare": serve,
    "limited": TracebackerMiddleware(serve, harakiri=LIMIT_SECONDS),
    "killing": TracebackerMiddleware(serve, harakiri=3600, harakiri_action="kill"),
}


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return WRAPPINGS.get(environ["PATH_INFO"].split("/")[1], wrapped)(environ, start_response)


def make_application(global_config: object, **options: str) -> WSGIApplication:
    """As PasteDeploy asks for it."""
    return application
