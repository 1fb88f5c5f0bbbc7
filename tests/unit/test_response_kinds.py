"""What a response can do by its class, it can do behind us: length, items, ``in``, ``with``, comparison."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.interpreters import needs_raise
from tests.unit.wsgi import environ
from wsgi_tracebacker import TracebackerMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Response:  # noqa: PLW1641  (it is to have no hash)
    """A framework's response, with many special methods."""

    def __init__(self) -> None:
        self.headers = {"X-Shop": "1"}
        self.closed = 0

    def __iter__(self) -> Any:
        return iter([b"whole"])

    def __bytes__(self) -> bytes:
        return b"HTTP/1.1 200 OK\r\n\r\nwhole"

    def __getitem__(self, name: str) -> str:
        return self.headers[name]

    def __setitem__(self, name: str, value: str) -> None:
        self.headers[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self.headers

    def __len__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Response) and self.headers == other.headers

    def __iadd__(self, other: int) -> Any:
        self.closed += other
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return "a response"

    def close(self) -> None:
        self.closed += 1


def django_response() -> Any:
    from django.conf import settings
    from django.http import HttpResponse

    if not settings.configured:
        settings.configure()
    return HttpResponse(b"whole", headers={"X-Shop": "1"})


def werkzeug_response() -> Any:
    from werkzeug.wrappers import Response as WerkzeugResponse

    return WerkzeugResponse(b"whole")


def behind(make: Callable[[], Any], base: str, action: str) -> Any:
    def app(_: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [])
        return make()

    application: Any = TracebackerMiddleware(app, base, harakiri=60, harakiri_action=action)
    return application(environ(), lambda *_: None)


def tried(call: Callable[[Any], Any], response: Any) -> object:
    try:
        return call(response)
    except Exception as error:
        return type(error)


def entered(response: Any) -> object:
    with response as inner:
        return b"".join(inner)


def added(response: Any) -> object:
    before = response
    response += 1
    return response is before, response.closed


CALLS: dict[str, Callable[[Any], Any]] = {
    "bytes": bytes,
    "len": len,
    "truth": bool,
    "str": str,
    "item": lambda response: response["X-Shop"],
    "in": lambda response: "X-Shop" in response,
    "not in": lambda response: "X-Other" in response,
    "with": entered,
    "+=": added,
    "hash": lambda response: hash(response) and None,
    "call": lambda response: b"".join(response(environ(), lambda *_: None)),
}


@needs_raise
@pytest.mark.parametrize("action", ["log", "raise"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("make", [Response, django_response, werkzeug_response])
def test_what_a_class_defines_works_as_without_us(
    make: Callable[[], Any], call: Callable[[Any], Any], action: str, base: str
) -> None:
    """The same value, or the same kind of error."""
    assert tried(call, behind(make, base, action)) == tried(call, make())


def test_two_responses_are_compared_as_without_us(base: str) -> None:
    """Also with one that is not behind the middleware."""
    one, other = behind(Response, base, "log"), behind(Response, base, "log")
    assert one == other
    assert one == Response()
    other["X-Shop"] = "2"
    assert one != other


def test_a_class_is_not_kept_alive(base: str) -> None:
    """An application that makes classes loses none of them here."""
    kind = type("Made", (Response,), {})
    behind(kind, base, "log").close()
    kept = weakref.ref(kind)
    behind(Response, base, "log").close()
    del kind
    gc.collect()
    assert kept() is None
