"""A WSGI server in a function: what a test needs to see all that comes out of an application."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

from tests.support import clients

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def environ(path: str = "/", method: str = "GET", **more: Any) -> WSGIEnvironment:
    """A whole environ, valid for wsgiref.validate; ``path`` as it comes from the wire: text that is really Latin-1."""
    made: dict[str, Any] = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": ""}
    made.update({"wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "REMOTE_ADDR": "192.0.2.7"})
    made.update(more)
    setup_testing_defaults(made)
    return made


class Served:
    """Everything that a server sees of one request."""

    def __init__(self) -> None:
        self.status: str | None = None
        self.headers: list[tuple[str, str]] = []
        self.started = 0
        self.written: list[bytes] = []
        self.chunks: list[bytes] = []
        self.length: int | None = None
        self.error: BaseException | None = None
        self.stage = "call"
        self.result: Any = None

    def start_response(self) -> StartResponse:
        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
            self.status, self.headers = status, headers
            self.started += 1
            return self.written.append

        return start_response

    def outcome(self) -> tuple[object, ...]:
        """What must be the same with and without the middleware."""
        error = None if self.error is None else (type(self.error), self.error.args)
        headers, written = tuple(self.headers), tuple(self.written)
        return self.status, headers, self.started, written, tuple(self.chunks), self.length, error, self.stage


def serve(application: WSGIApplication, request: WSGIEnvironment | None = None, *, closes: bool = True) -> Served:
    """Call, iterate and close as PEP 3333 has it, and note what happens; exceptions are kept and not raised."""
    served = Served()
    result: Any = None
    try:
        result = served.result = application(request if request is not None else environ(), served.start_response())
        served.stage = "length"
        try:
            served.length = len(result)
        except TypeError:
            served.length = None
        served.stage = "iteration"
        for chunk in result:
            served.chunks.append(chunk)
        served.stage = "close"
    except BaseException as error:
        served.error = error
    finally:
        try:
            if closes and hasattr(result, "close"):
                result.close()
        except BaseException as error:
            served.error = error
    return served


def snapshot(base: str, number: int = 1) -> dict[str, Any]:
    """What this process's worker answers to GET /snapshot."""
    response = clients.request(f"{base}{number}", "/snapshot")
    assert response.status == 200, response.text
    document: dict[str, Any] = json.loads(response.body)
    return document


def requests_in(document: dict[str, Any]) -> list[dict[str, Any]]:
    """All requests in flight of a snapshot."""
    return [thread["request"] for thread in document["threads"] if thread["request"] is not None]


def request_in_flight(base: str) -> dict[str, Any]:
    """The one request in flight."""
    (only,) = requests_in(snapshot(base))
    return only
