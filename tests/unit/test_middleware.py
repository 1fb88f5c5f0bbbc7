"""PEP 3333, to the letter: what comes out of a wrapped application is what comes out without us."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import io
import weakref
from types import MappingProxyType, MethodType
from typing import TYPE_CHECKING, Any, cast
from wsgiref.util import FileWrapper

import pytest

from tests.support.interpreters import needs_reference_counts
from tests.unit.wsgi import environ, requests_in, serve, snapshot
from wsgi_tracebacker import TracebackerMiddleware, middleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLAIN = [("Content-Type", "text/plain")]


class Oddity(Exception):
    """An application's own."""


class Exit(BaseException):
    """As a server raises into a request: no Exception."""


class Iterable:
    """An iterable whose parts can be left out or made to raise, and that counts what is done to it."""

    def __init__(self, chunks: list[bytes], fails_at: str | None = None, error: BaseException | None = None) -> None:
        self.chunks = chunks
        self.fails_at = fails_at
        self.error = error or Oddity("at", fails_at)
        self.closed = 0
        self.own = "an attribute of the application's"

    def fail(self, where: str) -> None:
        if self.fails_at == where:
            raise self.error

    def __iter__(self) -> Iterator[bytes]:
        self.fail("iter")
        for number, chunk in enumerate(self.chunks):
            self.fail(f"next {number}")
            yield chunk
        self.fail("end")

    def close(self) -> None:
        self.closed += 1
        self.fail("close")


class Sized(Iterable):
    def __len__(self) -> int:
        self.fail("length")
        return len(self.chunks)


class Bare:
    """An iterator without close()."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.rest = list(chunks)

    def __iter__(self) -> Bare:
        return self

    def __next__(self) -> bytes:
        if not self.rest:
            raise StopIteration
        return self.rest.pop(0)


class Listed(list[bytes]):
    """A list of an application's own kind."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def generated(chunks: list[bytes]) -> Iterator[bytes]:
    yield from chunks


BODIES: dict[str, Callable[[list[bytes]], Any]] = {
    "list": list,
    "tuple": tuple,
    "list subclass": Listed,
    "generator": generated,
    "iterator": iter,
    "iterator without close": Bare,
    "iterable": Iterable,
    "sized iterable": Sized,
    "set": dict.fromkeys,
}


def application_of(result: Any) -> Any:
    def application(request: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        return result

    return application


def test_a_kind_of_response_that_was_followed_is_looked_at_again_under_another_file_wrapper(base: str) -> None:
    """What follows a kind is remembered with the server's file wrapper; where that is no class each one is asked."""
    results: list[Iterable] = []

    def application(*_: object) -> Iterable:
        results.append(Iterable([b"x"]))
        return results[-1]

    def opened(*_: object) -> Iterable:
        results.append(Iterable([b"x"]))
        results[-1].read = results[-1].fileno = print  # type: ignore[attr-defined]
        return results[-1]

    def is_followed(app: Callable[..., Any], wrapper: object = None) -> bool:
        request = environ()
        if wrapper is not None:
            request["wsgi.file_wrapper"] = wrapper
        return app(request, lambda *_: print) is not results[-1]

    # Of another package than the responses.
    function = copy.copy
    wrapped = TracebackerMiddleware(application, base)
    assert [is_followed(wrapped, wrapper) for wrapper in (None, None, FileWrapper, FileWrapper)] == [True] * 4
    assert not is_followed(wrapped, Iterable)
    assert is_followed(wrapped)
    assert is_followed(wrapped, function)
    assert not is_followed(TracebackerMiddleware(opened, base), function)
    mixed = iter([application, opened, application])
    each = TracebackerMiddleware(lambda *_: next(mixed)(), base)
    assert [is_followed(each, function) for _ in range(3)] == [True, False, True]


def test_an_environ_that_is_no_dict_is_served_after_one_that_is(base: str) -> None:
    """A server that breaks PEP 3333 gets the application's response, also of a kind that was followed before."""
    wrapped = TracebackerMiddleware(lambda *_: Iterable([b"x"]), base)
    assert b"".join(wrapped(environ(), lambda *_: print)) == b"x"
    assert b"".join(wrapped(cast("Any", MappingProxyType(environ())), lambda *_: print)) == b"x"


def test_a_file_from_a_wrapper_that_is_a_function_is_returned_untouched(base: str) -> None:
    """As under uWSGI: its wrapper is a function that returns the file; other iterables are still followed."""
    file = FileWithDescriptor(b"content")
    wrapped = TracebackerMiddleware(lambda request, _: request["wsgi.file_wrapper"](file), base)
    request = environ()
    request["wsgi.file_wrapper"] = lambda raw, size=0: raw
    assert wrapped(request, lambda *_: print) is file
    followed = TracebackerMiddleware(lambda request, _: generated([b"x"]), base)
    body = followed(request, lambda *_: print)
    assert type(body) is not type(generated([]))
    assert list(body) == [b"x"]
    body.close()  # type: ignore[attr-defined]


class Sent:
    """What a server sends in its own way."""

    def __init__(self, file: io.BytesIO) -> None:
        self.file = file

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.file)


class Sending(Sent):
    """As when a function makes one of several kinds."""


class Server:
    def wrap(self, file: io.BytesIO, size: int = 0) -> Sent:
        return Sending(file)


def wrapping(file: io.BytesIO, size: int = 0) -> Sent:
    return Sending(file)


@pytest.mark.parametrize("wrapper", [functools.partial(Sent), Server().wrap, wrapping])
def test_what_a_factory_of_the_servers_made_is_returned_untouched(base: str, wrapper: Any) -> None:
    """Where ``wsgi.file_wrapper`` is no class, what it makes is known by the package that both come from."""
    made: list[Any] = []

    def application(request: Any, start_response: Any) -> Any:
        made.append(request["wsgi.file_wrapper"](io.BytesIO(b"content")))
        return made[-1]

    wrapped = TracebackerMiddleware(application, base)
    for _ in range(2):
        request = environ()
        request["wsgi.file_wrapper"] = wrapper
        assert wrapped(request, lambda *_: print) is made[-1]
    assert requests_in(snapshot(base)) == []


def test_an_applications_own_iterable_is_followed_beside_a_factory(base: str) -> None:
    """An iterable from elsewhere than the server's package is the application's, and its request lasts until close."""
    own = type("Own", (Iterable,), {"__module__": "shop.views"})
    request = environ()
    request["wsgi.file_wrapper"] = wrapping
    body: Any = TracebackerMiddleware(application_of(own([b"x"])), base)(request, lambda *_: print)
    assert len(requests_in(snapshot(base))) == 1
    body.close()
    assert requests_in(snapshot(base)) == []


class FileWithDescriptor(io.BytesIO):
    def fileno(self) -> int:
        return 0


@pytest.mark.parametrize("error", [Oddity("mine"), Exit("now"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("call", [1, 2])
def test_an_application_that_raises_raises(base: str, error: BaseException, call: int) -> None:
    """The very exception comes out of the call, on the first request as on later ones, and the request is over."""
    calls = 0

    def application(request: Any, start_response: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return []

    wrapped = TracebackerMiddleware(application, base)
    served = [serve(wrapped) for _ in range(3)]
    assert [one.error for one in served] == [error if number == call else None for number in (1, 2, 3)]
    assert requests_in(snapshot(base)) == []
    assert snapshot(base)["worker"]["requests_finished"] == 3


def test_a_body_that_is_never_iterated_is_closed_once(base: str) -> None:
    """A HEAD request: the server closes without reading, and the application's close() runs."""
    body = Iterable([b"x"])
    result: Any = TracebackerMiddleware(application_of(body), base)(environ(method="HEAD"), lambda *_: print)
    assert len(requests_in(snapshot(base))) == 1
    result.close()
    assert (body.closed, requests_in(snapshot(base))) == (1, [])


@pytest.mark.parametrize("fails", [None, "close"])
def test_a_body_closed_twice_closes_the_applications_once(base: str, fails: str | None) -> None:
    """A second close(), also after one that raised, does nothing: not to the body, not to the next request."""
    body = Iterable([b"x"], fails)
    wrapped = TracebackerMiddleware(application_of(body), base)
    result: Any = wrapped(environ(), lambda *_: print)
    if fails:
        with pytest.raises(Oddity):
            result.close()
    else:
        result.close()
    result.close()
    assert (body.closed, snapshot(base)["worker"]["requests_finished"]) == (1, 1)
    body.fails_at = None
    following: Any = wrapped(environ("/following"), lambda *_: print)
    result.close()
    (request,) = requests_in(snapshot(base))
    assert (request["path"], request["phase"], body.closed) == ("/following", "body", 1)
    following.close()


@pytest.mark.parametrize("kind", ["generator", "iterator without close", "sized iterable"])
def test_a_second_close_counts_no_request(base: str, kind: str) -> None:
    """However often a body is closed, it was one request, and an idle thread stays idle."""
    wrapped = TracebackerMiddleware(application_of(BODIES[kind]([b"x"])), base)
    result: Any = wrapped(environ(), lambda *_: print)
    for _ in range(3):
        result.close()
    document = snapshot(base)
    assert (document["worker"]["requests_finished"], requests_in(document)) == (1, [])


def test_next_without_iter_gives_the_chunks(base: str) -> None:
    """A server that calls next() on what it got is served too, where the application gave an iterator."""
    result: Any = TracebackerMiddleware(application_of(generated([b"1", b"2"])), base)(environ(), lambda *_: print)
    assert [next(result), next(result), next(result, None)] == [b"1", b"2", None]
    result.close()


def test_a_generator_streams_unbuffered(base: str) -> None:
    """The application makes each chunk only when the server asks for it, and its own iterator is what is asked."""
    made = []

    def stream() -> Iterator[bytes]:
        for number in range(3):
            made.append(number)
            yield b"x"

    iterable = stream()
    result: Any = TracebackerMiddleware(application_of(iterable), base)(environ(), lambda *_: print)
    assert iter(result) is iterable
    assert made == []
    next(iter(result))
    assert made == [0]
    result.close()


def test_attributes_pass_through(base: str) -> None:
    """What middleware and body do not know, they ask the application and its iterable for."""
    body = Iterable([b"x"])
    application = application_of(body)
    application.config = {"key": 1}
    wrapped = TracebackerMiddleware(application, base)
    assert (wrapped.config, wrapped.__name__) == ({"key": 1}, "application")
    with pytest.raises(AttributeError):
        _ = wrapped.missing
    result: Any = wrapped(environ(), lambda *_: print)
    assert (result.own, hasattr(result, "missing"), hasattr(result, "__len__")) == (body.own, False, False)
    result.close()


def test_a_subclass_is_called_once(base: str) -> None:
    """A subclass that overrides __call__ is run once for each request, also for the first one of a process."""
    calls = []

    class Mine(TracebackerMiddleware):
        def __call__(self, request: Any, start_response: Any) -> Any:
            calls.append(request["PATH_INFO"])
            return super().__call__(request, start_response)

    wrapped = Mine(application_of([b"x"]), base)
    for path in ("/1", "/2"):
        serve(wrapped, environ(path))
    assert calls == ["/1", "/2"]


def test_it_can_be_called_by_its_class(base: str) -> None:
    """``TracebackerMiddleware.__call__(wrapped, …)``, as a subclass without super() has it, serves the request."""
    wrapped = TracebackerMiddleware(application_of([b"x"]), base)
    for _ in range(2):
        assert list(TracebackerMiddleware.__call__(wrapped, environ(), lambda *_: print)) == [b"x"]
    assert snapshot(base)["worker"]["requests_finished"] == 2


def test_it_looks_like_what_it_is(base: str) -> None:
    """Class, signature and a copy are those of a callable that takes environ and start_response."""
    wrapped = TracebackerMiddleware(application_of([b"x"]), base)
    assert isinstance(wrapped, TracebackerMiddleware)
    assert (type(wrapped).__name__, list(inspect.signature(wrapped).parameters)) == (
        "TracebackerMiddleware",
        ["environ", "start_response"],
    )
    assert "socket" in inspect.signature(TracebackerMiddleware).parameters
    assert serve(copy.copy(wrapped)).chunks == [b"x"]


@needs_reference_counts
def test_other_middleware_may_put_its_own_close_there(base: str) -> None:
    """As on the application's own object: the server calls it, it calls the former one, and the request ends."""
    iterable = Iterable([b"x"])
    events: list[str] = []

    def around(request: Any, start_response: Any) -> Any:
        body: Any = TracebackerMiddleware(application_of(iterable), base)(request, start_response)
        former = body.close

        def close() -> None:
            events.append("other")
            former()

        body.close = close
        body.note = "an attribute of other middleware's"
        assert (body.note, body.own) == ("an attribute of other middleware's", "an attribute of the application's")
        return body

    served = serve(around)
    assert (served.chunks, served.error, events, iterable.closed) == ([b"x"], None, ["other"], 1)
    assert requests_in(snapshot(base)) == []


@pytest.mark.parametrize("make", [generated, Iterable], ids=["generator", "object"])
def test_a_body_can_be_referred_to_weakly(base: str, make: Callable[[list[bytes]], Any]) -> None:
    """As generators and the objects of frameworks can."""
    body: Any = TracebackerMiddleware(application_of(make([b"x"])), base)(environ(), lambda *_: print)
    reference: Any = weakref.ref(body)
    assert reference() is body
    body.close()


@needs_reference_counts
def test_a_middleware_goes_when_nobody_has_it(base: str) -> None:
    """Nothing of ours keeps a wrapped application alive, and no collection is needed to let it go."""

    class Application:
        def __call__(self, request: Any, start_response: Any) -> Any:
            return []

    application = Application()
    pointer = weakref.ref(application)
    wrapped = TracebackerMiddleware(application, base)
    serve(wrapped)
    gc.disable()
    try:
        del wrapped, application
        assert pointer() is None
    finally:
        gc.enable()


def test_a_generator_can_be_asked_what_it_is_asked_without_us(base: str) -> None:
    """Whatever a generator knows or takes, its body does too; but for what a class has only for itself."""
    plain = generated([b"1", b"2"])
    body: Any = TracebackerMiddleware(application_of(generated([b"1", b"2"])), base)(environ(), lambda *_: print)
    for name in sorted(
        set(dir(plain)) - set(dir(object())) - {"__del__", "__qualname__", "__class_getitem__", "__weakref__"}
    ):
        assert type(getattr(body, name)) in (type(getattr(plain, name)), MethodType), name
    assert (body.send(None), body.gi_running, body.__name__) == (b"1", False, "generated")
    with pytest.raises(Oddity):
        body.throw(Oddity("thrown"))
    body.close()
    assert requests_in(snapshot(base)) == []


@pytest.mark.parametrize("kind", ["list", "generator"])
def test_one_frame_of_ours_is_in_the_way(base: str, kind: str) -> None:
    """The first request of a thread shows as many frames of ours around the application as the next: one."""
    shown: list[int] = []

    def application(request: Any, start_response: Any) -> Any:
        (thread,) = [thread for thread in snapshot(base)["threads"] if thread["request"]]
        shown.append(sum(frame["filename"] == middleware.__file__ for frame in thread["frames"]))
        return BODIES[kind]([b"x"])

    wrapped = TracebackerMiddleware(application, base)
    for _ in range(2):
        assert serve(wrapped).error is None
    assert shown == [1, 1]
