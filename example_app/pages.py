"""All pages of the example behind one WSGI callable, unwrapped: slow, streaming, busy and quick ones.

Knows the paths and what stands behind each. Refuses to know wsgi_tracebacker: ``example_app.wsgi`` wraps it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

from example_app import slow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: Enough to see that they come one by one.
DEFAULT_CHUNKS = 5
MAX_CHUNKS = 100_000

#: Between two chunks.
DEFAULT_STREAM_SECONDS = 1.0

#: Of CPU time; long enough to be caught at it, short enough not to annoy.
DEFAULT_BURN_SECONDS = 5.0
MAX_BURN_SECONDS = 60.0

INDEX = """\
<!doctype html>
<title>wsgi_tracebacker example</title>
<h1>Something to see</h1>
<ul>
<li><a href="/slow">/slow</a>?seconds=60 sleeps, six calls deep
<li><a href="/stream">/stream</a>?chunks=5&amp;seconds=1 sends its body in chunks, with a pause before each
<li><a href="/burn">/burn</a>?seconds=5 keeps a CPU busy
<li><a href="/quick">/quick</a> answers at once
</ul>
<p>While one of them runs, say <code>wsgi-tb read</code> in a terminal.</p>"""


def index(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return slow.plain(start_response, "200 OK", INDEX, "text/html; charset=utf-8")


def quick(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return slow.plain(start_response, "200 OK", "quick")


def chunks_with_pauses(count: int, seconds: float) -> Iterator[bytes]:
    """A body that takes its time: to be slow is what it is for."""
    for number in range(1, count + 1):
        time.sleep(seconds)
        yield b"chunk %d of %d\n" % (number, count)


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    count = int(slow.number_asked(environ, "chunks", DEFAULT_CHUNKS, MAX_CHUNKS))
    seconds = slow.number_asked(environ, "seconds", DEFAULT_STREAM_SECONDS, slow.MAX_SECONDS)
    # No length: the client is to see each chunk when it comes.
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return chunks_with_pauses(count, seconds)


def keep_busy(seconds: float) -> int:
    """Compute for so many seconds of this thread's CPU time; the number of rounds."""
    rounds = 0
    # The thread's own clock: beside other busy threads it burns as much, it only takes longer.
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        rounds += sum(range(100)) > 0
    return rounds


def burn(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    seconds = slow.number_asked(environ, "seconds", DEFAULT_BURN_SECONDS, MAX_BURN_SECONDS)
    keep_busy(seconds)
    return slow.plain(start_response, "200 OK", f"burnt {seconds:g} seconds of CPU time")


PAGES = Map(
    [
        Rule(path, endpoint=page, methods=["GET"])
        for path, page in {
            "/": index,
            "/slow": slow.application,
            "/stream": stream,
            "/burn": burn,
            "/quick": quick,
        }.items()
    ]
)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Hand the request to the page at its path; 404 where there is none, 400 where the query cannot be used."""
    try:
        page, _ = PAGES.bind_to_environ(environ).match()
    except HTTPException as error:
        return error(environ, start_response)
    try:
        return cast("WSGIApplication", page)(environ, start_response)
    except slow.BadQueryError as error:
        return slow.plain(start_response, "400 Bad Request", str(error))
