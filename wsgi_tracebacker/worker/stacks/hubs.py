"""Detects blocked hubs of gevent and eventlet. A hub is the event loop that switches between a thread's greenlets.

If the running greenlet neither waits nor ends, all others of its thread have to wait: the hub is blocked. To find out,
another thread asks the hub to call a function. gevent has ``run_callback_threadsafe`` for it; eventlet's hub calls a
function when a descriptor becomes readable. (Measured on gevent 26.9 and eventlet 0.41.)
"""

from __future__ import annotations

import _thread
import contextlib
import importlib
from collections import deque
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.linux import threads as kernel_threads
from wsgi_tracebacker.model.snapshot import HubState
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.threads import current_greenlet, primitives
from wsgi_tracebacker.worker.threads.waker import Waker

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.worker.tracking.core import Core

#: A hub that has not answered for this long is blocked; one that is merely busy answers sooner. gevent's own monitor
#: has the same limit.
_BLOCKED_SECONDS = 0.1

_get_ident = primitives.original("_thread", "get_ident")


class Hub:
    """The hub of one thread, and since when it has owed an answer."""

    def __init__(
        self, library: str, ident: int, native_id: int, greenlet: Any, call_soon: Callable[..., object]
    ) -> None:
        """Made by Hubs.

        :param greenlet: the hub's own.
        :param call_soon: makes the hub call a function; may be called from any thread.
        """
        self.library = library
        self.ident = ident
        self.native_id = native_id
        self.greenlet = greenlet
        self._call_soon = call_soon
        #: Monotonic time of a question that it has not answered yet.
        self.asked_at: float | None = None
        #: Whether it was destroyed, or its thread has ended.
        self.is_gone = False

    def call_soon(self, function: Callable[[], object]) -> bool:
        """Make the hub call ``function`` as soon as it runs again; return False if the hub is gone."""
        try:
            self._call_soon(function)
        except Exception:
            # It was destroyed, as at the end of a worker.
            self.is_gone = True
            return False
        return True

    def ask(self, now: float) -> None:
        """Ask the hub to answer, unless the last question is still open."""
        if self.asked_at is None:
            self.asked_at = now
            if not self.call_soon(self._answer):
                self.asked_at = None

    def _answer(self) -> None:
        self.asked_at = None

    def check_thread(self) -> bool:
        """Return whether its thread still runs. A hub whose thread has ended is not destroyed, and never answers."""
        if not kernel_threads.exists(self.native_id):
            self.is_gone = True
        return not self.is_gone

    def silent_seconds(self, now: float) -> float:
        """Return for how long, at least, the hub has not run; 0.0 if no question is open."""
        asked_at = self.asked_at
        return 0.0 if asked_at is None else max(0.0, now - asked_at)

    def state(self, now: float) -> HubState:
        """Return ``blocked``, ``idle`` or ``running``."""
        silent = self.silent_seconds(now)
        if silent >= _BLOCKED_SECONDS:
            return HubState(self.library, "blocked", silent)
        return HubState(self.library, "idle" if current_greenlet.is_running(self.greenlet) else "running", None)


class Hubs:
    """The hubs of this process that serve requests: at most one a thread, and nearly always one in all."""

    def __init__(self) -> None:
        self._hubs: dict[int, Hub] = {}
        self._bells: list[_Bell] = []

    def note(self) -> Hub | None:
        """Register the hub of the calling greenlet, and return it; None if that failed."""
        ident = _get_ident()
        hub = self._hubs.get(ident)
        if hub is not None and not hub.is_gone:
            return hub
        try:
            hub = self._make(ident)
        except Exception:
            faults.caught("when a hub was looked for")
            return None
        self._hubs[ident] = hub
        return hub

    def _make(self, ident: int) -> Hub:
        native_id = _thread.get_native_id()
        if current_greenlet.library() == "gevent":
            found = importlib.import_module("gevent").get_hub()

            def call_soon(function: Callable[[], object]) -> None:
                found.loop.run_callback_threadsafe(function)

            return Hub("gevent", ident, native_id, found, call_soon)
        hub = importlib.import_module("eventlet.hubs").get_hub()
        bell = _Bell(hub)
        self._bells.append(bell)
        return Hub("eventlet", ident, native_id, hub.greenlet, bell.call_soon)

    def all(self) -> list[Hub]:
        """Return those that are not gone."""
        return [hub for hub in list(self._hubs.values()) if not hub.is_gone]

    def of(self, core: Core) -> Hub | None:
        """Return the hub of a core's greenlet; None for a core of an ordinary thread."""
        return self._hubs.get(core.ident) if core.greenlet is not None else None

    def close(self) -> None:
        """Forget all of them, and remove what eventlet's hubs have of ours."""
        self._hubs.clear()
        for bell in self._bells:
            bell.close()
        self._bells.clear()

    def forget(self) -> None:
        """In a forked child: forget the hubs of the parent."""
        self._hubs.clear()
        for bell in self._bells:
            bell.forget()
        self._bells.clear()


class _Bell:
    """A descriptor that an eventlet hub waits for; writing to it makes the hub call the functions that are queued."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._queue: deque[Callable[[], object]] = deque()
        self._waker = Waker()
        self._listener: Any = hub.add(hub.READ, self._waker.descriptor, self._rung, self._closed, self._closed)

    def call_soon(self, function: Callable[[], object]) -> None:
        self._queue.append(function)
        self._waker.wake()

    def _rung(self, _: object = None) -> None:
        self._waker.clear()
        while self._queue:
            try:
                self._queue.popleft()()
            except Exception:
                # eventlet would remove this listener if it raised.
                faults.caught("when a hub called us")

    def _closed(self, *_: object) -> None:
        """eventlet calls this if the descriptor was closed; there is nothing to do."""

    def close(self) -> None:
        """Remove the listener. Only in the hub's own thread, or when the process does not serve any more."""
        if self._waker.is_ours():
            with contextlib.suppress(Exception):  # the hub is gone already
                self._hub.remove(self._listener)
        self.forget()

    def forget(self) -> None:
        """In a forked child: close the descriptor. remove() would change the epoll that it shares with the parent."""
        self._waker.close()
