"""Raise HarakiriTimeout in the thread or greenlet of one request, and in nothing else.

What the server gets instead of the response is in ``interruptible``.

The states of one request, whose token is T. "Serving thread" is the one that runs the application, "watchdog" is any
other one, the hub's included. Each of these fields of ``Core`` has one writer: ``inside_token`` the serving thread,
``interrupt_token`` the watchdog, under ``Core.lock``.

=========  ============  ===============  ==============================================================================
state      inside_token  interrupt_token  what may happen next
=========  ============  ===============  ==============================================================================
OUTSIDE    0             not T            serving thread calls into the application: INSIDE
                                          watchdog sets ``interrupt_token``, finds it outside: MARKED
INSIDE     T             not T            serving thread clears ``inside_token``, finds no mark: OUTSIDE
                                          watchdog sets ``interrupt_token``, finds it inside, raises: RAISED
RAISED     T             T                the exception leaves the application, is caught in it, or comes too late
                                          serving thread clears ``inside_token``, finds the mark: LEAVING
LEAVING    0             T                serving thread takes and releases ``Core.lock``, which waits for a watchdog
                                          that has read ``inside_token`` and has not raised yet; then it clears what
                                          is pending: MARKED
MARKED     0             T                nothing is pending, and nothing is raised into this request any more
                                          serving thread does not fetch the next chunk, but ends the response
                                          serving thread calls ``close()``: as RAISED, with nothing pending
=========  ============  ===============  ==============================================================================

The watchdog writes ``interrupt_token``, then reads ``inside_token``; the serving thread writes ``inside_token``, then
reads ``interrupt_token``. So either the watchdog sees that the request has left, or the request sees the mark.

What makes this hard, each point seen in practice:

- A BaseException outside of the application ends a gunicorn worker. So it is raised only in state INSIDE.
- It can land in our own code, in LEAVING too. So ``leave`` may run twice, and an outer frame calls it again (CPython
  3.13 skips the handlers of the frame that the exception lands in).
- On CPython 3.14 an exception can land between ``with lock`` and its body, and then the lock is never released. So the
  serving thread takes and releases ``Core.lock`` in C code alone.
- Clearing a pending exception must leave no trace in the interpreter: see ``_clear_pending``.
"""

from __future__ import annotations

import itertools
import operator
import sys
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.errors import HarakiriTimeout
from wsgi_tracebacker.worker.threads import current_greenlet

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.worker.stacks.hubs import Hub
    from wsgi_tracebacker.worker.tracking.core import Core

#: Both in C code alone: one raises in the thread of an ident, one clears what is pending for it.
_raise_async: Callable[[int, Any], int] | None = None
_clear_async: Callable[[int, None], int] | None = None
_frame_of = operator.attrgetter("gr_frame")
_call = operator.methodcaller("__call__")

#: Up to 3.12, clearing the exception of a thread sets the interpreter's flag that one is pending, and only an exception
#: that lands resets it. Until then every thread checks for pending exceptions in the slow way; and on 3.11 a traced
#: thread (by a debugger or for coverage) never gets past the first check in a call.
_MUST_LAND = sys.version_info < (3, 13)
#: Instructions at which the interpreter checks for a pending exception. One is enough.
_CHECKS = 100

#: On 3.14 an exception can land when a ``with`` statement has just taken its lock, and always does so in a thread that
#: waits for that lock: it is never released. Seen on 3.14.10; not on 3.10 to 3.13, nor on 3.15.2.
LEAVES_LOCKS = sys.implementation.name == "cpython" and sys.version_info[:2] == (3, 14)


def prepare() -> None:
    """Load what raising needs when the server starts, and not for the first overdue request."""
    global _clear_async, _raise_async
    if _raise_async is not None:
        return
    import ctypes  # noqa: PLC0415  (10 ms, and only with this action)

    # Two function objects of our own: an attribute of ctypes.pythonapi is shared by the whole process, and argument
    # types that we set there would break other libraries that raise in threads.
    function = ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
    raise_async = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)(function)
    # NULL, which clears what is pending, is no Python object.
    clear_async = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(function)
    _raise_async, _clear_async = raise_async, clear_async


def raise_into(core: Core, token: float) -> bool:
    """Raise HarakiriTimeout in the thread of a request; whether it was raised.

    If the request is not inside the application now (the server is sending), it is only marked, and its response ends
    at the next chunk.
    """
    if _raise_async is None:
        return False
    with core.lock:
        core.interrupt_token = token
        return core.inside_token == token and _raise_async(core.inside_ident, HarakiriTimeout) == 1


def leave(core: Core, token: float) -> None:
    """Leave the application, on the serving thread: afterwards nothing is pending, and nothing more is raised.

    May run twice for the same call.
    """
    core.inside_token = 0.0
    if core.interrupt_token == token:
        # In C code alone, between whose calls nothing can land.
        list(map(_call, (core.lock.acquire, core.lock.release)))
        _clear_pending(core.inside_ident)


def _clear_pending(ident: int) -> None:
    """Clear an exception that may be pending for the calling thread, which has this ident."""
    if _raise_async is None or _clear_async is None:
        return
    if _MUST_LAND:
        try:
            # Replaces the one that is pending, if any.
            _raise_async(ident, HarakiriTimeout)
            for _ in range(_CHECKS):
                pass
        except HarakiriTimeout:
            return
    _clear_async(ident, None)


class Throw:
    """HarakiriTimeout on its way into a greenlet.

    Into a greenlet that waits, its hub throws as soon as it runs: nothing else may switch to the greenlet. A greenlet
    that does not give way keeps its hub from running; it has the thread, so the exception is raised in the thread.
    """

    def __init__(self, core: Core, token: float) -> None:
        self._core = core
        self._token = token
        #: The exception was thrown or raised.
        self.is_raised = False
        #: That, or the request had left the application.
        self.is_over = False

    def begin(self, hub: Hub) -> bool:
        """Mark the request and ask its hub to throw; whether the request is inside the application now."""
        core = self._core
        with core.lock:
            core.interrupt_token = self._token
            is_inside = core.inside_token == self._token
        if is_inside:
            hub.call_soon(self._throw)
        else:
            self.is_over = True
        return is_inside

    def _throw(self) -> None:
        """Throw into the greenlet. The hub calls this, on its own greenlet."""
        with self._core.lock:
            greenlet = self._find(should_run=False)
            # If it is not inside now, nothing is thrown later: not into the close() of a response that has timed out.
            self.is_over = True
            self.is_raised = self.is_raised or greenlet is not None
        if greenlet is not None:
            # Returns when that greenlet waits again, or has ended.
            greenlet.throw(HarakiriTimeout)

    def raise_into_running(self) -> bool:
        """If its greenlet runs, and has not given way to the hub since begin(), raise into its thread.

        Under the lock, so that a request that leaves meanwhile clears what is pending. The last lines are this::

            if greenlet.gr_frame is None and greenlet:  # it runs, and has not ended
                self.is_over = self.is_raised = _raise_async(core.inside_ident, HarakiriTimeout) == 1

        But they are C code alone: between two lines of Python code another thread can get the GIL, and the exception
        would land in the hub or in the greenlet that runs by then.
        """
        core = self._core
        with core.lock:
            greenlet = self._find(should_run=True)
            if greenlet is None or _raise_async is None:
                return False
            runs = map(operator.not_, map(_frame_of, (greenlet,)))
            lives = map(operator.truth, (greenlet,))
            idents = itertools.compress(itertools.compress((core.inside_ident,), runs), lives)
            self.is_over = self.is_raised = list(map(_raise_async, idents, (HarakiriTimeout,))) == [1]
            return self.is_over

    def _find(self, *, should_run: bool) -> Any:
        """The greenlet, if the request is still inside and the greenlet runs (``should_run``) or waits."""
        core, token = self._core, self._token
        if self.is_over or core.started != token or core.interrupt_token != token or core.inside_token != token:
            return None
        greenlet = core.greenlet() if core.greenlet is not None else None
        if greenlet is None or not greenlet or current_greenlet.is_running(greenlet) != should_run:
            return None
        return greenlet
