"""Raising into a request, and nowhere else.

Knows where an asynchronous exception may land and how it is kept from landing anywhere else. Refuses to know when a
request is overdue.

The rules, each of which was paid for by somebody:

- A BaseException outside of the application ends a gunicorn worker. So it is raised only while the thread is inside
  the application's callable, its iterator's ``next`` or its ``close``, and it never leaves this module.
- It must not strike the next request of the thread. Under the core's lock the watchdog marks the request, looks
  whether it is inside, and raises. The request leaves first and then looks at the mark; only if it is set, it takes
  the lock and clears what is pending. Either the watchdog sees that it has left, or it sees the mark.
- It can land in our own code too, in that very end routine. So it is caught in an outer frame (CPython 3.13 skips the
  handlers of the frame it lands in), and the end routine can run twice.
- A result that was finished when it struck is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.errors import HarakiriTimeout, RequestTimedOut
from wsgi_tracebacker.worker.responses import is_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi_tracebacker.worker.requests import Core

_NOTHING = object()

_STATUS = "504 Gateway Timeout"
_BODY = b"The request took too long.\n"

_set_async_exception: Callable[[Any, Any], int] | None = None


def prepare() -> None:
    """Load what raising needs, in the server's start and not in the first overdue request."""
    global _set_async_exception
    if _set_async_exception is not None:
        return
    import ctypes  # noqa: PLC0415  (10 ms, and only with this action)

    function = ctypes.pythonapi.PyThreadState_SetAsyncExc
    function.argtypes = (ctypes.c_ulong, ctypes.py_object)
    function.restype = ctypes.c_int
    # A second prototype: an argument of NULL, which clears what is pending, is no Python object.
    prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
    clear = prototype(("PyThreadState_SetAsyncExc", ctypes.pythonapi))

    def set_async_exception(ident: int, exception: Any) -> int:
        return int(clear(ident, None) if exception is None else function(ident, exception))

    _set_async_exception = set_async_exception


def raise_into(core: Core, token: float) -> bool:
    """Raise HarakiriTimeout in the thread of a request, if it is inside the application now.

    If it is not (the server is sending), the request is marked all the same, and ends at its next chunk.
    """
    if _set_async_exception is None:
        return False
    with core.lock:
        core.marked = token
        if core.inside != token:
            return False
        return _set_async_exception(core.serving_ident(), HarakiriTimeout) == 1


class _Call:
    """One request that may be raised into."""

    __slots__ = (
        "core",
        "has_started",
        "has_written",
        "held",
        "is_held",
        "result",
        "server_start_response",
        "server_write",
        "token",
    )

    def __init__(self, core: Core, start_response: StartResponse) -> None:
        self.core = core
        self.token = core.started
        self.server_start_response = start_response
        #: Until the callable returns or writes, what it told start_response() is kept: a second start_response(),
        #: with a 504, would mix both responses' headers on gunicorn and cheroot.
        self.is_held = True
        self.held: tuple[Any, ...] | None = None
        self.has_started = False
        self.has_written = False
        self.server_write: Any = None
        self.result: Any = _NOTHING

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """The application's ``start_response``."""
        if not self.is_held or (self.held is not None and exc_info is None):
            # The server's own answer to a second call without exc_info is the right one.
            self.release()
            self.has_started = True
            arguments = (status, headers) if exc_info is None else (status, headers, exc_info)
            return self.server_start_response(*arguments)
        self.held = (status, headers) if exc_info is None else (status, headers, exc_info)
        return self._write

    def _write(self, chunk: bytes) -> object:
        self.has_written = True
        write = self.release()
        return write(chunk) if write is not None else None

    def release(self) -> Any:
        """Tell the server what was held back."""
        self.is_held = False
        held, self.held = self.held, None
        if held is not None:
            self.has_started = True
            self.server_write = self.server_start_response(*held)
        return self.server_write

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call into the application and keep its result; HarakiriTimeout may come out, or strike our own end here."""
        try:
            self.core.inside = self.token
            self.result = function(*arguments)
        finally:
            self.leave()

    def leave(self) -> None:
        """Outside again: from here on nothing is raised into this request, and nothing is pending. May run twice."""
        core = self.core
        core.inside = 0.0
        if core.marked == self.token and _set_async_exception is not None:
            with core.lock:
                _set_async_exception(core.serving_ident(), None)

    def guarded(self, function: Callable[..., Any], *arguments: Any) -> bool:
        """The same in an outer frame, where HarakiriTimeout ends: whether there is a result."""
        self.result = _NOTHING
        try:
            self.run(function, *arguments)
        except HarakiriTimeout:
            if self.core.marked != self.token:
                # Not ours: the application raised one by itself.
                self.leave()
                raise RequestTimedOut("the application raised HarakiriTimeout itself") from None
        self.leave()
        return self.result is not _NOTHING

    @property
    def is_overdue(self) -> bool:
        return self.core.marked == self.token


class Interruptible:
    """A WSGI application whose overdue requests are raised into."""

    def __init__(self, app: WSGIApplication, serving_core: Callable[[], Core | None]) -> None:
        """``serving_core`` gives the core of the calling thread."""
        prepare()
        self._app = app
        self._serving_core = serving_core

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request; a 504 instead if it is interrupted before any output."""
        core = self._serving_core()
        if core is None or core.started <= 0.0 or core.outer is not None or core.inside:
            # Not tracked, or a call within a request: that one's limit counts.
            return self._app(environ, start_response)
        call = _Call(core, start_response)
        if not call.guarded(self._app, environ, call.start_response):
            if call.has_started:
                raise RequestTimedOut(_too_long(core))
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(_BODY)))]
            start_response(_STATUS, headers)
            return [_BODY]
        result: Iterable[bytes] = call.result
        call.result = _NOTHING
        call.release()
        if is_whole(result, environ):
            return result
        return _SizedGuardedBody(call, result) if hasattr(type(result), "__len__") else _GuardedBody(call, result)


class _GuardedBody:
    """An iterable that can be interrupted within the application's ``next`` and ``close``, and between chunks."""

    __slots__ = ("_call", "_is_over", "_iterable", "_next")

    def __init__(self, call: _Call, iterable: Iterable[bytes]) -> None:
        self._call = call
        self._iterable = iterable
        self._next: Callable[[], bytes] | None = None
        self._is_over = False

    def __iter__(self) -> _GuardedBody:
        return self

    def __getattr__(self, name: str) -> Any:
        if name in _GuardedBody.__slots__:
            raise AttributeError(name)
        return getattr(self._iterable, name)

    def __next__(self) -> bytes:
        call = self._call
        if self._is_over:
            raise StopIteration
        if call.is_overdue or not call.guarded(self._step):
            self._is_over = True
            if call.has_started:
                raise RequestTimedOut(_too_long(call.core))
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(_BODY)))]
            call.server_start_response(_STATUS, headers)
            return _BODY
        chunk: bytes = call.result
        call.result = _NOTHING
        return chunk

    def _step(self) -> bytes:
        if self._next is None:
            self._next = iter(self._iterable).__next__
        return self._next()

    def close(self) -> None:
        """Close the application's iterable; an interruption becomes an ordinary exception."""
        close = getattr(self._iterable, "close", None)
        if close is not None and not self._call.guarded(close):
            raise RequestTimedOut(_too_long(self._call.core))


class _SizedGuardedBody(_GuardedBody):
    __slots__ = ()

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]


def _too_long(core: Core) -> str:
    method, path = core.noted()
    return f"{method} {path} was interrupted by harakiri after its response had begun"
