"""Raising into a request, and nowhere else.

Knows where an asynchronous exception may land and how it is kept from landing anywhere else. Refuses to know when a
request is overdue.

The rules, each of which was paid for by somebody:

- A BaseException outside of the application ends a gunicorn worker. So it is raised only while the thread is inside
  the application's callable, its iterator's ``next`` or its ``close``, and it never leaves this module.
- It must not strike the next request of the thread. Under the core's lock the watchdog marks the request, looks
  whether it is inside, and raises. The request leaves first and then looks at the mark; only if it is set, it waits
  for the lock and takes back what is pending. Either the watchdog sees that it has left, or it sees the mark.
- It can land in our own code too, in that very end routine. So it is caught in an outer frame (CPython 3.13 skips the
  handlers of the frame it lands in), and the end routine can run twice. And so nothing there holds the lock for the
  length of an instruction: on CPython 3.14 an exception lands between ``with lock`` and its body, and the lock is never
  given back.
- Taking it back must leave no trace in the interpreter: see ``_take_back``.
- A result that was finished when it struck is kept.
- Whether it reached the request is known afterwards: ``Core.struck`` stays only if it came out, was thrown, ended the
  response, or was not pending any more at the end, because the application has caught it.
"""

from __future__ import annotations

import itertools
import operator
import sys
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.errors import HarakiriTimeout, RequestTimedOut
from wsgi_tracebacker.worker import greenlets, primitives
from wsgi_tracebacker.worker.responses import is_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi_tracebacker.worker.greenlets import Hub
    from wsgi_tracebacker.worker.requests import Core

_close = operator.methodcaller("close")
_get_ident = primitives.original("_thread", "get_ident")

_STATUS = "504 Gateway Timeout"
_BODY = b"The request took too long.\n"

#: Each without a line of Python: what raises in a thread, what clears that which is pending for one, and what counts
#: the references to a class.
_raise_async: Callable[[int, Any], int] | None = None
_clear_async: Callable[[int, None], int] | None = None
_references: Callable[[object], int] | None = None
_frame_of = operator.attrgetter("gr_frame")
_call = operator.methodcaller("__call__")

#: Up to 3.12, clearing the exception of a thread tells the interpreter that there is one, and only an exception that
#: lands tells it otherwise. Until then each of its looks at what is pending takes the long way, in every thread; and
#: on 3.11 a thread that is traced, by a debugger or for coverage, never gets past the first look in a call.
_MUST_LAND = sys.version_info < (3, 13)
#: Instructions that look. One is enough.
_LOOKS = 100

#: On 3.14 an exception can land when a ``with`` statement has taken its lock and does not know it yet, and always does
#: in a thread that waits for that lock: nobody ever gives it back. Seen on 3.14.10; not on 3.10 to 3.13, nor on 3.15.2.
LEAVES_LOCKS = sys.implementation.name == "cpython" and sys.version_info[:2] == (3, 14)


def prepare() -> None:
    """Load what raising needs, in the server's start and not in the first overdue request."""
    global _clear_async, _raise_async, _references
    if _raise_async is not None:
        return
    import ctypes  # noqa: PLC0415  (10 ms, and only with this action)

    function = ctypes.pythonapi.PyThreadState_SetAsyncExc
    function.argtypes = (ctypes.c_ulong, ctypes.py_object)
    function.restype = ctypes.c_int
    # A second prototype: an argument of NULL, which clears what is pending, is no Python object.
    prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
    clear = prototype(("PyThreadState_SetAsyncExc", ctypes.pythonapi))
    _raise_async, _clear_async = function, clear
    _references = sys.getrefcount


def raise_into(core: Core, token: float) -> bool:
    """Raise HarakiriTimeout in the thread of a request, if it is inside the application now.

    If it is not (the server is sending), the request is marked all the same, and ends at its next chunk.
    """
    if _raise_async is None:
        return False
    with core.lock:
        core.marked = token
        if core.inside != token:
            return False
        is_raised = _raise_async(core.inside_ident, HarakiriTimeout) == 1
        if is_raised:
            core.struck = token
        return is_raised


def _take_back(ident: int) -> bool:
    """Take back what may be pending for the calling thread, whose ident this is; whether it was.

    One that is pending holds a reference to its class. They are counted before and after by C code alone, between whose
    calls no other thread runs: the same number if one took the place of another, one less if one was cleared.
    """
    if _references is None or _raise_async is None or _clear_async is None:
        return False
    idents, classes = (ident,), (HarakiriTimeout,)
    # In place of the one that is pending, if there is one. Made before: what allocates may run the garbage collector,
    # and one that is pending lands in what that calls.
    take = map(_raise_async, idents, classes) if _MUST_LAND else map(_clear_async, idents, (None,))
    calls = itertools.chain(map(_references, classes), take, map(_references, classes))
    counts: list[int] = []
    try:
        counts.extend(calls)
        for _ in range(_LOOKS):
            pass
    except HarakiriTimeout:
        if len(counts) < 3:
            # It landed before it could be taken back.
            return True
    else:
        if _MUST_LAND:
            _clear_async(ident, None)
    return counts[2] - counts[0] == (0 if _MUST_LAND else -1)


class Throw:
    """HarakiriTimeout on its way into a greenlet.

    A greenlet that waits is thrown into by its hub, as soon as that runs: nothing else may switch to it. One that
    does not give way keeps its hub from running; it has the thread, so it is raised into like a thread.
    """

    def __init__(self, core: Core, token: float) -> None:
        self._core = core
        self._token = token
        #: It was thrown or raised, or there is nothing left to do it to.
        self.is_over = False

    def begin(self, hub: Hub) -> bool:
        """Mark the request and ask its hub; whether it is inside the application now."""
        core = self._core
        with core.lock:
            core.marked = self._token
            is_inside = core.inside == self._token
        if is_inside:
            hub.call_soon(self._throw)
        else:
            self.is_over = True
        return is_inside

    def _throw(self) -> None:
        """Run by the hub, on the greenlet of its own."""
        core = self._core
        with core.lock:
            greenlet = self._find(should_run=False)
            # If it is not inside now, it is not to be struck later: not in a close() that ends what was timed out.
            self.is_over = True
            if greenlet is not None:
                core.struck = self._token
        if greenlet is not None:
            # Comes back here when that greenlet waits again, or has ended.
            greenlet.throw(HarakiriTimeout)

    def raise_into_running(self) -> bool:
        """If its greenlet runs, and has not given way to the hub since begin(), raise into its thread.

        Once more whether it runs, and the raising, in C code alone: in Python code the GIL can change hands between
        them, and then the hub is struck, or whichever greenlet runs by then. Under the lock, so that a request which
        is left meanwhile clears what is pending.
        """
        core = self._core
        with core.lock:
            greenlet = self._find(should_run=True)
            if greenlet is None or _raise_async is None:
                return False
            runs = map(operator.not_, map(_frame_of, (greenlet,)))
            lives = map(operator.truth, (greenlet,))
            idents = itertools.compress(itertools.compress((core.inside_ident,), runs), lives)
            self.is_over = list(map(_raise_async, idents, (HarakiriTimeout,))) == [1]
            if self.is_over:
                core.struck = self._token
            return self.is_over

    def _find(self, *, should_run: bool) -> Any:
        """Its greenlet, if the request is still inside and the greenlet runs or waits, as asked."""
        core, token = self._core, self._token
        if self.is_over or core.started != token or core.marked != token or core.inside != token:
            return None
        greenlet = core.greenlet() if core.greenlet is not None else None
        if greenlet is None or not greenlet or greenlets.is_running(greenlet) != should_run:
            return None
        return greenlet


class _Call:
    """One request that may be raised into."""

    __slots__ = (
        "core",
        "has_started",
        "held",
        "is_held",
        "results",
        "server_start_response",
        "server_write",
        "token",
    )

    def __init__(self, core: Core, start_response: StartResponse) -> None:
        self.core = core
        self.token = core.started
        self.server_start_response = start_response
        #: Until there is a first chunk, what the application told start_response() is kept: a second
        #: start_response(), with a 504, would mix both responses' headers on gunicorn and cheroot.
        self.is_held = True
        self.held: tuple[Any, ...] | None = None
        self.has_started = False
        self.server_write: Any = None
        #: What the application returned, if it did.
        self.results: list[Any] = []

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """The application's ``start_response``."""
        # As they are now: most servers take them over when called, and an application may change its list afterwards.
        headers = [*headers] if type(headers) is list else headers
        if not self.is_held or (self.held is not None and exc_info is None):
            # The server's own answer to a second call without exc_info is the right one.
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
        """Tell the server what was held back."""
        self.is_held = False
        held, self.held = self.held, None
        if held is not None:
            self.has_started = True
            self.server_write = self.server_start_response(*held)
        return self.server_write

    def run(self, function: Callable[..., Any], *arguments: tuple[Any]) -> None:
        """Call into the application and keep its result; HarakiriTimeout may come out, or strike our own end here."""
        core = self.core
        # From here into the function, and from its end to its result's place in the list, nothing can strike: only
        # C code runs there. A close() that was not called, or a result that was lost, would never be made good.
        call, keep = map(function, *arguments), self.results.extend
        core.inside_ident = _get_ident()
        try:
            core.inside = self.token
            keep(call)
        finally:
            self.leave()

    def leave(self) -> None:
        """Outside again: from here on nothing is raised into this request, and nothing is pending. May run twice."""
        core = self.core
        core.inside = 0.0
        if core.marked == self.token:
            # Whoever holds the lock has not seen yet that this has left, and may be about to raise. Taken and given
            # back by C code, between whose calls nothing can land.
            list(map(_call, (core.lock.acquire, core.lock.release)))
            if _take_back(core.inside_ident):
                core.struck = 0.0

    def guarded(self, function: Callable[..., Any], *arguments: tuple[Any]) -> bool:
        """The same in an outer frame, where HarakiriTimeout ends: whether there is a result.

        Each argument comes as a tuple of one, as map() takes them.
        """
        self.results.clear()
        try:
            self.run(function, *arguments)
        except BaseException as error:
            if not self.was_struck(error):
                raise
            if self.results:
                # It struck our own end routine.
                self.core.struck = 0.0
            return bool(self.results)
        if not self.results:
            # What map() took for its own end.
            raise StopIteration
        return True

    def was_struck(self, error: BaseException) -> bool:
        """Whether that is what comes out of a request that was raised into; if so, nothing is pending after this."""
        if not _is_timeout(error):
            return False
        self.leave()
        if self.core.marked != self.token:
            raise RequestTimedOut("the application raised HarakiriTimeout itself") from None
        return True

    def time_out(self) -> bytes:
        """End the response: with a 504, whose body this is, if nothing was sent, else with an ordinary exception."""
        self.core.struck = self.token
        if self.has_started:
            raise RequestTimedOut(f"{self.core.noted_request()} was interrupted by harakiri in mid-response")
        self.is_held = False
        self.has_started = True
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(_BODY)))]
        self.server_start_response(_STATUS, headers)
        return _BODY


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
        if not call.guarded(self._app, (environ,), (call.start_response,)):
            return [call.time_out()]
        result: Any = call.results.pop()
        if is_whole(result, environ):
            try:
                call.release()
            except BaseException:
                # The server that refuses the headers never sees what it would have to close.
                close = getattr(result, "close", None)
                if close is not None:
                    close()
                raise
            whole: Iterable[bytes] = result
            return whole
        return _SizedGuardedBody(call, result) if hasattr(type(result), "__len__") else _GuardedBody(call, result)


class _GuardedBody:
    """An iterable that can be interrupted within the application's ``next`` and ``close``, and between chunks."""

    __slots__ = ("_call", "_is_over", "_iterable", "_next")

    def __init__(self, call: _Call, iterable: Iterable[bytes]) -> None:
        self._call = call
        self._iterable = iterable
        #: The application's own, from iter() on.
        self._next: Callable[[], bytes] | None = None
        self._is_over = False

    def __iter__(self) -> _GuardedBody:
        # The application's own iter() is called here and not with the first chunk, where a StopIteration that comes out
        # of it would look like the end of the body. If it is interrupted, the first chunk is the time-out's.
        call = self._call
        if call.core.marked != call.token and call.guarded(iter, (self._iterable,)):
            self._next = call.results.pop().__next__
        return self

    def __getattr__(self, name: str) -> Any:
        if name in _GuardedBody.__slots__:
            raise AttributeError(name)
        return getattr(self._iterable, name)

    def __next__(self) -> bytes:
        # The same two frames as guarded() and run() are, written out: a body may have a million chunks.
        call = self._call
        if self._is_over:
            raise StopIteration
        if call.core.marked != call.token:
            try:
                chunk = self._advance()
            except StopIteration:
                call.release()
                raise
            except BaseException as error:
                if not call.was_struck(error):
                    raise
                if isinstance(error.__context__, StopIteration):
                    # It struck our own end routine, and the body is complete.
                    call.core.struck = 0.0
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
            core.inside = call.token
            step = self._next
            if step is None:
                # A server that calls next() on what it got, without iter(): no server should.
                step = self._next = iter(self._iterable).__next__
            return step()
        finally:
            core.inside = 0.0
            if core.marked == call.token:
                call.leave()

    def close(self) -> None:
        """Close the application's iterable; an interruption becomes an ordinary exception."""
        if hasattr(self._iterable, "close") and not self._call.guarded(_close, (self._iterable,)):
            what = self._call.core.noted_request()
            raise RequestTimedOut(f"{what} was interrupted by harakiri while it was closed")


class _SizedGuardedBody(_GuardedBody):
    __slots__ = ()

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]


def _is_timeout(error: BaseException) -> bool:
    """Whether it is HarakiriTimeout, or a group of exceptions (asyncio's task groups make them) with one in it."""
    return isinstance(error, HarakiriTimeout) or (
        not isinstance(error, Exception) and any(map(_is_timeout, getattr(error, "exceptions", ())))
    )
