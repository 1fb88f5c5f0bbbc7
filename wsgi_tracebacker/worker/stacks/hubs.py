"""The hubs of gevent and eventlet: the loop that all greenlets of a thread wait in, and whether it runs.

All greenlets of a thread wait if the one that runs does not give way: a blocked hub. What a real thread can ask of a
hub is to call something soon: gevent's ``run_callback_threadsafe``; eventlet has no such thing, but its hub calls us
when a descriptor becomes readable. (Measured on gevent 26.9 and eventlet 0.41.)
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
from wsgi_tracebacker.worker.stacks import greenlets
from wsgi_tracebacker.worker.threads import current_greenlet, primitives
from wsgi_tracebacker.worker.threads.waker import Waker

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.worker.tracking.core import Core

#: An answer from a hub that takes longer than this was not given at once: a hub that is merely busy answers sooner.
#: gevent's own monitor calls a hub blocked after 0.1 s.
_AT_ONCE_SECONDS = 0.1

_get_ident = primitives.original("_thread", "get_ident")


class Hub:
    """The loop of one thread, which all its greenlets wait in, and when it last gave a sign of life."""

    def __init__(
        self, library: str, ident: int, native_id: int, greenlet: Any, call_soon: Callable[..., object]
    ) -> None:
        """Not to be called directly: see Hubs.

        :param greenlet: the hub's own.
        :param call_soon: has the hub call a function; may be called from any thread.
        """
        self.library = library
        self.ident = ident
        self.native_id = native_id
        self.greenlet = greenlet
        self._call_soon = call_soon
        #: When it was asked for a sign of life that has not come yet, on the monotonic clock.
        self.asked_at: float | None = None
        #: It was destroyed, or its thread has ended.
        self.is_gone = False

    def call_soon(self, function: Callable[[], object]) -> bool:
        """Have the hub call ``function`` as soon as it runs again; whether there is still a hub to do it."""
        try:
            self._call_soon(function)
        except Exception:
            # Destroyed, as at the end of a worker.
            self.is_gone = True
            return False
        return True

    def ask(self, now: float) -> None:
        """Ask for a sign of life, unless the last one is still owed."""
        if self.asked_at is None:
            self.asked_at = now
            if not self.call_soon(self._answer):
                self.asked_at = None

    def _answer(self) -> None:
        self.asked_at = None

    def check_thread(self) -> bool:
        """Whether its thread is still there. One that has ended may have left its hub as it was, and never answers."""
        if not kernel_threads.exists(self.native_id):
            self.is_gone = True
        return not self.is_gone

    def silent_seconds(self, now: float) -> float:
        """For how long, at least, the hub has not run; 0.0 if it gave its last sign of life, or was not asked."""
        asked_at = self.asked_at
        return 0.0 if asked_at is None else max(0.0, now - asked_at)

    def state(self, now: float) -> HubState:
        """What the hub is doing now."""
        silent = self.silent_seconds(now)
        if silent >= _AT_ONCE_SECONDS:
            return HubState(self.library, "blocked", silent)
        return HubState(self.library, "idle" if greenlets.is_running(self.greenlet) else "running", None)


class Hubs:
    """The hubs of this process that serve requests: one a thread, and nearly always one in all."""

    def __init__(self) -> None:
        self._hubs: dict[int, Hub] = {}
        self._bells: list[_Bell] = []

    def note(self) -> Hub | None:
        """The hub of the calling greenlet."""
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
        """Those that are still there."""
        return [hub for hub in list(self._hubs.values()) if not hub.is_gone]

    def of(self, core: Core) -> Hub | None:
        """The hub that a core's greenlet waits in; None for a core of an ordinary thread."""
        return self._hubs.get(core.ident) if core.greenlet is not None else None

    def close(self) -> None:
        """Let go of all of them."""
        self._hubs.clear()
        for bell in self._bells:
            bell.close()
        self._bells.clear()

    def forget(self) -> None:
        """In a forked child: let go of what is the parent's."""
        self._hubs.clear()
        for bell in self._bells:
            bell.forget()
        self._bells.clear()


class _Bell:
    """A descriptor that an eventlet hub listens to: who rings it has the hub call something."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._waiting: deque[Callable[[], object]] = deque()
        self._waker = Waker()
        self._listener: Any = hub.add(hub.READ, self._waker.descriptor, self._rung, self._closed, self._closed)

    def call_soon(self, function: Callable[[], object]) -> None:
        self._waiting.append(function)
        self._waker.wake()

    def _rung(self, _: object = None) -> None:
        self._waker.clear()
        while self._waiting:
            try:
                self._waiting.popleft()()
            except Exception:
                # eventlet would take this listener away for it.
                faults.caught("when a hub called us")

    def _closed(self, *_: object) -> None:
        """What eventlet wants to tell a listener whose descriptor was closed."""

    def close(self) -> None:
        """Give the descriptor back. In the hub's own thread, or when its process has ended serving."""
        if self._waker.is_ours():
            with contextlib.suppress(Exception):  # the hub is gone already
                self._hub.remove(self._listener)
        self.forget()

    def forget(self) -> None:
        """In a forked child. Not remove(): the child's epoll is its parent's, who would not hear the bell any more."""
        self._waker.close()
