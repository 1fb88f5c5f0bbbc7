"""What the server gets from a request that is raised into. The races are in the integration tests."""

from __future__ import annotations

import builtins
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.interpreters import needs_raise
from tests.support.own_threads import running
from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import HarakiriTimeout, RequestTimedOut, TracebackerMiddleware
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.deadlines.raising import interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

pytestmark = needs_raise

OK: Any = ("200 OK", [("Content-Type", "text/plain")])


def strike() -> None:
    """Raise into the request that the calling thread serves, as the watchdog does, from another thread."""
    # On CPython 3.10 and 3.11 a started thread that does not run yet has the ident of the one that started it.
    wait_until(lambda: len(running()) == 2, "listener and watchdog run")
    core = agent.serving_core()
    assert core is not None
    outcomes: list[bool] = []
    thread = threading.Thread(target=lambda: outcomes.append(interrupt.raise_into(core, core.started)))
    thread.start()
    thread.join()
    assert outcomes == [core.inside_token != 0.0] or not outcomes


def wrapped(application: WSGIApplication, base: str) -> TracebackerMiddleware:
    return TracebackerMiddleware(application, base, harakiri=3600, harakiri_action="raise")


TOO_LATE = ("504 Gateway Timeout", b"The request took too long.\n")


def test_before_start_response(base: str) -> None:
    """The server gets a plain 504."""

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        strike()
        start_response(*OK)
        return [b"never"]

    served = serve(wrapped(application, base))
    assert (served.status, b"".join(served.chunks), served.started) == (*TOO_LATE, 1)
    assert dict(served.headers) == {"Content-Type": "text/plain; charset=utf-8", "Content-Length": "27"}
    assert served.length == 1


def test_in_a_destructor_it_is_lost(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python ignores every exception in it, so the request goes on to its end."""
    ignored: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: ignored.append(unraisable.exc_type))

    class Struck:
        def __del__(self) -> None:
            strike()

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        struck = Struck()
        del struck
        start_response(*OK)
        return [b"whole"]

    served = serve(wrapped(application, base))
    assert (served.status, b"".join(served.chunks), served.error) == ("200 OK", b"whole", None)
    assert ignored == [HarakiriTimeout]


def test_after_start_response_before_any_output(base: str) -> None:
    """The application's status and headers do not mix with those of the 504."""

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Set-Cookie", "a=b")])
        strike()
        return [b"never"]

    served = serve(wrapped(application, base))
    assert (served.status, b"".join(served.chunks), served.started) == (*TOO_LATE, 1)
    assert "Set-Cookie" not in dict(served.headers)


@pytest.mark.parametrize("when", ["at once", "after start_response"])
def test_a_generator_before_its_first_chunk(when: str, base: str) -> None:
    """Nothing was sent yet, so the server gets a 504 too, and the connection is not broken off."""

    def application(_: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        if when == "at once":
            strike()
        start_response(*OK)
        strike()
        yield b"never"

    served = serve(wrapped(application, base))
    assert (served.status, b"".join(served.chunks), served.started, served.error) == (*TOO_LATE, 1, None)


def test_in_mid_body(base: str) -> None:
    """The body ends with an ordinary exception, and the application's iterator is closed."""
    closed = []

    def application(_: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response(*OK)
        try:
            yield b"one"
            strike()
            yield b"never"
        finally:
            closed.append(True)

    served = serve(wrapped(application, base))
    assert (served.status, served.chunks) == ("200 OK", [b"one"])
    assert type(served.error) is RequestTimedOut
    assert closed == [True]


def test_between_chunks(base: str) -> None:
    """While the server sends, nothing is raised; but the next chunk is not fetched."""
    application = wrapped(lambda _, start_response: (start_response(*OK), iter([b"one", b"two"]))[1], base)
    body = application(environ(), lambda *_: lambda _: None)
    chunks = iter(body)
    assert next(chunks) == b"one"
    strike()
    with pytest.raises(RequestTimedOut):
        next(chunks)
    with pytest.raises(StopIteration):
        next(chunks)
    body.close()  # type: ignore[attr-defined]


def test_after_write(base: str) -> None:
    """Something was sent, so there is no second response."""

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response(*OK)(b"one")
        strike()
        return [b"never"]

    served = serve(wrapped(application, base))
    assert (served.status, served.written, served.started) == ("200 OK", [b"one"], 1)
    assert type(served.error) is RequestTimedOut


def test_in_close(base: str) -> None:
    """The response is whole; the server sees an ordinary exception; the request has ended."""

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"one"])

        def close(self) -> None:
            strike()

    def application(_: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response(*OK)
        return Body()

    served = serve(wrapped(application, base))
    assert served.chunks == [b"one"]
    assert type(served.error) is RequestTimedOut
    core = agent.serving_core()
    assert core is not None
    assert core.started == 0.0


def test_an_application_that_swallows_it_is_served(base: str) -> None:
    """It is raised once; an application that ignores it is left to harakiri_grace."""
    swallowed: list[type[BaseException]] = []

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        try:
            strike()
        except BaseException as error:
            swallowed.append(type(error))
        start_response(*OK)
        return [b"whole"]

    served = serve(wrapped(application, base))
    assert (served.status, served.chunks, served.error) == ("200 OK", [b"whole"], None)
    assert swallowed == [HarakiriTimeout]


def test_it_passes_an_except_exception(base: str) -> None:
    """So an application does not mistake it for a failure of its own calls."""

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        try:
            strike()
        except Exception:
            pytest.fail("it was taken for an Exception")
        start_response(*OK)
        return []

    assert serve(wrapped(application, base)).status == TOO_LATE[0]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups of exceptions are new in 3.11")
def test_a_group_of_exceptions_with_it_in_it(base: str) -> None:
    """Task groups raise one; it is a BaseException too, and would end a gunicorn worker."""

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        try:
            strike()
        except BaseException as error:
            group = getattr(builtins, "BaseExceptionGroup")  # noqa: B009  (3.10 has none)
            raise group("tasks", [ValueError(), group("", [error])]) from None
        start_response(*OK)
        return []

    assert serve(wrapped(application, base)).status == TOO_LATE[0]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError, StopIteration])
def test_other_exceptions_pass(error: type[BaseException], base: str) -> None:
    """The exceptions by which a server ends a worker, and the application's errors, reach the server."""

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        raise error

    served = serve(wrapped(application, base))
    assert type(served.error) is error
    assert served.status is None


def test_one_that_the_application_raises_itself_is_an_error_of_its_own(base: str) -> None:
    """It becomes an ordinary exception: HarakiriTimeout would end the server's worker."""

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        raise HarakiriTimeout

    assert type(serve(wrapped(application, base)).error) is RequestTimedOut


def test_close_on_another_thread(base: str) -> None:
    """It is raised in the thread that is inside, also if another thread called the application and read the body."""
    inside = threading.Event()
    errors: list[BaseException] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"one"])

        def close(self) -> None:
            inside.set()
            for _ in range(10_000_000):
                threading.get_ident()

    def application(_: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response(*OK)
        return Body()

    body: Any = wrapped(application, base)(environ(), lambda *_: lambda _: None)
    assert list(body) == [b"one"]
    core = agent.serving_core()
    assert core is not None

    def close() -> None:
        try:
            body.close()
        except RequestTimedOut as error:
            errors.append(error)

    thread = threading.Thread(target=close)
    thread.start()
    assert inside.wait(10)
    assert interrupt.raise_into(core, core.started)
    thread.join()
    assert len(errors) == 1


@pytest.mark.parametrize("calls_twice", [False, True])
def test_start_response_is_held_back_unseen(calls_twice: bool, base: str) -> None:
    """The server gets what the application passed, and handles a second call itself."""

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("X", "1")])
        if calls_twice:
            start_response("201 Created", [("X", "2")])
        return [b"whole"]

    served = serve(wrapped(application, base))
    assert served.started == (2 if calls_twice else 1)
    assert served.headers == [("X", "2" if calls_twice else "1")]


def test_exc_info_replaces_what_was_held(base: str) -> None:
    """Before anything was sent, as PEP 3333 demands."""

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        try:
            raise ValueError
        except ValueError:
            start_response("500 Oops", [], sys.exc_info())
        return [b"sorry"]

    served = serve(wrapped(application, base))
    assert (served.status, served.started, served.chunks) == ("500 Oops", 1, [b"sorry"])


class File:
    """A server's file wrapper: the body is complete, and must be closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_what_the_server_refuses_to_start_is_closed(base: str) -> None:
    """The server refuses headers after the application returned, so it never gets the result, and we close it."""
    file = File()

    def application(_: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Bad\n", "")])
        return file

    def refuse(*_: object) -> Callable[[bytes], object]:
        raise AssertionError("bad header")

    with pytest.raises(AssertionError, match="bad header"):
        wrapped(application, base)({**environ(), "wsgi.file_wrapper": File}, refuse)
    assert file.closed == 1


@pytest.mark.parametrize("times", [1, 2, 3])
def test_an_iterator_of_a_body_goes_on_where_it_stands(times: int, base: str) -> None:
    """``iter()`` of an iterator gives that iterator, as ``itertools.chain()`` expects; of the body, a new one."""

    class Page:
        def __iter__(self) -> Iterator[bytes]:
            yield from (b"one", b"two", b"three")

    def application(_: WSGIEnvironment, start_response: StartResponse) -> Page:
        start_response(*OK)
        return Page()

    body = wrapped(application, base)(environ(), serve(application).start_response())
    iterator = iter(body)
    read = [next(iterator)]
    for _ in range(times):
        iterator = iter(iterator)
    assert read + list(iterator) == list(body) == [b"one", b"two", b"three"]
    body.close()  # type: ignore[attr-defined]
