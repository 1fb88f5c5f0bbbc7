"""Serve a request that HarakiriTimeout may be raised into.

If it is interrupted, the server gets a 504 before any output, and an ordinary exception afterwards. HarakiriTimeout
never leaves this module. ``interrupt`` raises it, and has the states of that handshake.

- The exception may land in our own code, after the application has finished. So an outer frame catches it, and keeps a
  result that was finished by then.
- Where the application is called and its result is kept, only C code runs, so that nothing can land in between.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.errors import HarakiriTimeout, RequestTimedOut
from wsgi_tracebacker.worker.deadlines.raising import interrupt
from wsgi_tracebacker.worker.threads import primitives
from wsgi_tracebacker.worker.tracking.describe import is_websocket
from wsgi_tracebacker.worker.tracking.responses import is_finished_body
from wsgi_tracebacker.worker.tracking.stand_in import StandIns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi_tracebacker.worker.tracking.core import Core

_close = operator.methodcaller("close")
_get_ident = primitives.original("_thread", "get_ident")

_STATUS = "504 Gateway Timeout"
_BODY = b"The request took too long.\n"


class _GuardedCall:
    """One request that may be raised into: calls its application, and ends its response if it is interrupted."""

    __slots__ = ("core", "has_started", "held", "is_held", "results", "server_start_response", "server_write", "token")

    def __init__(self, core: Core, start_response: StartResponse) -> None:
        self.core = core
        self.token = core.started
        self.server_start_response = start_response
        #: Until the first chunk, the arguments of the application's start_response() are held back: a second call, with
        #: a 504, would mix both responses' headers on gunicorn and cheroot.
        self.is_held = True
        self.held: tuple[Any, ...] | None = None
        self.has_started = False
        self.server_write: Any = None
        #: What the last call returned, if it did.
        self.results: list[Any] = []

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """The application's ``start_response``."""
        # A copy: most servers take one when called, and an application may change its list afterwards.
        headers = [*headers] if type(headers) is list else headers
        if not self.is_held or (self.held is not None and exc_info is None):
            # A second call without exc_info is an error of the application, which the server handles.
            self.release()
            self.has_started = True
            arguments = (status, headers) if exc_info is None else (status, headers, exc_info)
            return self.server_start_response(*arguments)
        self.held = (status, headers) if exc_info is None else (status, headers, exc_info)
        return self._write

    def _write(self, chunk: bytes) -> object:
        write = self.release()
        return write(chunk) if write is not None else None

    def release(self) -> Any:
        """Start the server's response with the arguments that were held back."""
        self.is_held = False
        held, self.held = self.held, None
        if held is not None:
            self.has_started = True
            self.server_write = self.server_start_response(*held)
        return self.server_write

    def run(self, function: Callable[..., Any], *arguments: tuple[Any]) -> None:
        """Call the application and keep the result; HarakiriTimeout may come out, also of our own last lines."""
        core = self.core
        # keep(call) is self.results.append(function(*arguments)), but in C code alone: otherwise a close() might not be
        # called, or a result be lost.
        call, keep = map(function, *arguments), self.results.extend
        core.inside_ident = _get_ident()
        try:
            core.inside_token = self.token
            keep(call)
        finally:
            # The first line of interrupt.leave(), which is called only if there is more to do.
            core.inside_token = 0.0
            if core.interrupt_token == self.token:
                interrupt.leave(core, self.token)

    def guarded(self, function: Callable[..., Any], *arguments: tuple[Any]) -> bool:
        """Do run() in an outer frame, which HarakiriTimeout does not leave; whether there is a result.

        Each argument is a tuple of one, because run() uses map().
        """
        self.results.clear()
        try:
            self.run(function, *arguments)
        except BaseException as error:
            if not self.is_interruption(error):
                raise
            # There is a result if the exception landed in the last lines of run().
            return bool(self.results)
        if not self.results:
            # The application raised it, and map() took it for its own end.
            raise StopIteration
        return True

    def is_interruption(self, error: BaseException) -> bool:
        """Whether this is the exception that was raised into the request; if so, nothing is pending afterwards."""
        if not _is_timeout(error):
            return False
        interrupt.leave(self.core, self.token)
        if self.core.interrupt_token != self.token:
            raise RequestTimedOut("the application raised HarakiriTimeout itself") from None
        return True

    def time_out(self) -> bytes:
        """End the response with a 504, and return its body; raise an ordinary exception if something was sent."""
        if self.has_started:
            raise RequestTimedOut(f"{self.core.request_line()} was interrupted by harakiri in mid-response")
        self.is_held = False
        self.has_started = True
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(_BODY)))]
        self.server_start_response(_STATUS, headers)
        return _BODY


def serve(core: Core, app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Serve the request of a core that has begun; a 504 instead if it is interrupted before any output."""
    if core.outer is not None or is_websocket(environ):
        # A call within a request (the outer request's limit counts), or one whose connection the application takes
        # over: a 504 would be written into its stream.
        return app(environ, start_response)
    call = _GuardedCall(core, start_response)
    if not call.guarded(app, (environ,), (call.start_response,)):
        return [call.time_out()]
    result: Any = call.results.pop()
    if type(result) is list or is_finished_body(result, environ):
        try:
            call.release()
        except BaseException:
            # If the server refuses the headers, it never gets the result, and cannot close it.
            close = getattr(result, "close", None)
            if close is not None:
                close()
            raise
        whole: Iterable[bytes] = result
        return whole
    body: Iterable[bytes] = _GUARDED_BODIES.of(type(result))(call, result)
    return body


class _GuardedBody:
    """An iterable that can be interrupted within the application's ``next`` and ``close``, and between chunks."""

    __slots__ = ("__weakref__", "_call", "_is_over", "_iterable", "_next")

    def __init__(self, call: _GuardedCall, iterable: Iterable[bytes]) -> None:
        self._call = call
        self._iterable = iterable
        #: The application's, once iter() was called.
        self._next: Callable[[], bytes] | None = None
        self._is_over = False

    def __iter__(self) -> _GuardedBody:
        # The application's __iter__ is called here and not for the first chunk, where a StopIteration out of it would
        # look like the end of the body. If it is interrupted, the first __next__ ends the response.
        call = self._call
        if call.core.interrupt_token == call.token or not call.guarded(iter, (self._iterable,)):
            return self
        iterator = call.results.pop()
        # Whoever calls iter() on an iterator, as chain() does, goes on with it. iter() of this body begins anew.
        body = self if iterator is self._iterable else _GuardedBody(call, iterator)
        body._next = iterator.__next__  # noqa: SLF001  (of this class)
        return body

    def __getattr__(self, name: str) -> Any:
        if name in _GuardedBody.__slots__:
            raise AttributeError(name)
        return getattr(self._iterable, name)

    def __next__(self) -> bytes:
        # Two frames, as guarded() and run(), but cheaper: a body may have a million chunks.
        call = self._call
        if self._is_over:
            raise StopIteration
        if call.core.interrupt_token != call.token:
            try:
                chunk = self._advance()
            except StopIteration:
                call.release()
                raise
            except BaseException as error:
                if not call.is_interruption(error):
                    raise
                if isinstance(error.__context__, StopIteration):
                    # It landed in the last lines of _advance(), and the body is complete.
                    call.release()
                    raise StopIteration from None
            else:
                if call.is_held:
                    call.release()
                return chunk
        self._is_over = True
        return call.time_out()

    def _advance(self) -> bytes:
        call = self._call
        core = call.core
        try:
            core.inside_ident = _get_ident()
            core.inside_token = call.token
            step = self._next
            if step is None:
                # The server has called next() without iter(), which it should not.
                step = self._next = iter(self._iterable).__next__
            return step()
        finally:
            # As in run().
            core.inside_token = 0.0
            if core.interrupt_token == call.token:
                interrupt.leave(core, call.token)

    def close(self) -> None:
        """Close the application's iterable; if that is interrupted, raise an ordinary exception."""
        if hasattr(self._iterable, "close") and not self._call.guarded(_close, (self._iterable,)):
            what = self._call.core.request_line()
            raise RequestTimedOut(f"{what} was interrupted by harakiri while it was closed")


#: By the kind of response: bodies with the special methods that it has.
_GUARDED_BODIES = StandIns(_GuardedBody, "_iterable")


def _is_timeout(error: BaseException) -> bool:
    """Whether it is HarakiriTimeout, or a group of exceptions (asyncio's task groups make them) with one in it."""
    return isinstance(error, HarakiriTimeout) or (
        not isinstance(error, Exception) and any(map(_is_timeout, getattr(error, "exceptions", ())))
    )
