"""The same for gevent and eventlet: which greenlets serve, where each of them stands, and whether their hub runs.

Knows that many requests share one thread there, that one of them runs and the others are suspended, and that all of
them wait if the one that runs does not give way: a blocked hub. Refuses to search for greenlets: each request notes
the one that serves it, so nothing is ever looked for on the heap.

Facts that this is built on, each of them measured on greenlet 3.5, gevent 26.9 and eventlet 0.41:

- ``sys._current_frames()`` has one stack for the thread of a hub, that of the greenlet that runs.
- ``gr_frame`` of a suspended greenlet is its innermost frame, readable from another thread; of one that runs, and of
  one that has ended, it is None; only one that lives is true as a condition.
- What a real thread can ask of a hub is to call something soon: gevent's ``run_callback_threadsafe``; eventlet has no
  such thing, but its hub calls us when a descriptor becomes readable.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib
import os
import sys
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from wsgi_tracebacker.model import HubState
from wsgi_tracebacker.worker import faults, primitives, stacks
from wsgi_tracebacker.worker.wakeup import Waker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from wsgi_tracebacker.worker.requests import Core
    from wsgi_tracebacker.worker.stacks import RawStack

#: What a core's greenlet is doing.
RUNNING, SUSPENDED = "running", "suspended"

#: An answer from a hub that takes longer than this was not given at once: a hub that is merely busy answers sooner.
#: gevent's own monitor calls a hub blocked after 0.1 s.
_AT_ONCE_SECONDS = 0.1

_get_ident = primitives.original("_thread", "get_ident")


def current() -> Any:
    """The greenlet that calls this, or None in an ordinary thread.

    A thread's own greenlet, which has no parent, counts where gevent or eventlet patched threads: what blocks in it
    lets the others run. Where the thread has no hub, nothing does: so it is in gevent's and eventlet's own pools of
    real threads, also in the greenlets that these have for themselves.
    """
    library = sys.modules.get("greenlet")
    if library is None:
        return None
    found = library.getcurrent()
    if _library() is None:
        return None
    return found if found.parent is not None or primitives.threads_are_patched() else None


def _library() -> str | None:
    """Whose greenlets the calling thread has; None if neither library has a hub here."""
    gevent_hubs = sys.modules.get("gevent._hub_local")
    if gevent_hubs is not None and gevent_hubs.get_hub_if_exists() is not None:
        return "gevent"
    eventlet_hubs = sys.modules.get("eventlet.hubs")
    if eventlet_hubs is not None and getattr(eventlet_hubs._threadlocal, "hub", None) is not None:  # noqa: SLF001
        return "eventlet"
    return None


def local_storage() -> Any:
    """A local storage for the calling code: of its own for each greenlet, where it is in one."""
    if current() is None or primitives.threads_are_patched():
        # The real one, or what the library put into its place.
        return _thread._local()  # noqa: SLF001  (threading.local, without what gevent does to that)
    module = "eventlet.corolocal" if _library() == "eventlet" else "gevent.local"
    return importlib.import_module(module).local()


def is_running(greenlet: Any) -> bool:
    """Whether a greenlet is the one that its thread runs."""
    return greenlet.gr_frame is None and bool(greenlet)


# -------------------------------------------------------------------------------------------------------------- hubs


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
        if not os.path.exists(f"/proc/self/task/{self.native_id}"):
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
        return HubState(self.library, "idle" if is_running(self.greenlet) else "running", None)


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
        if _library() == "gevent":
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


# ------------------------------------------------------------------------------------------------------------- stacks


class Looked(NamedTuple):
    """All that one look at the threads and greenlets saw."""

    #: By thread ident, innermost frame first.
    threads: dict[int, RawStack]
    #: By id() of the core: where its greenlet stands, and whether it runs. Cores of ordinary threads are not here.
    greenlets: dict[int, tuple[RawStack, str]]
    #: By thread ident: where the hub of it stands; nothing if it runs.
    hubs: dict[int, RawStack]

    def stack_of(self, core: Core) -> RawStack:
        """The stack of the thread or greenlet that works on a core's request."""
        own = self.greenlets.get(id(core))
        return self.threads.get(core.serving_ident(), []) if own is None else own[0]

    def state_of(self, core: Core) -> str | None:
        """What a core's greenlet is doing; None for a thread."""
        own = self.greenlets.get(id(core))
        return None if own is None else own[1]


def look(
    cores: Iterable[Core],
    skipped_idents: Collection[int],
    only: Collection[int] | None = None,
    hubs: Iterable[Hub] = (),
) -> Looked:
    """The stacks of all threads (or only of some), and of the greenlets of these cores and hubs, at one instant."""
    hubs = list(hubs)
    served = [(core, core.greenlet()) for core in cores if core.greenlet is not None]
    there = [(core, greenlet) for core, greenlet in served if greenlet is not None]
    threads, of_greenlets, live = stacks.walk(
        skipped_idents, only, [*(greenlet for _, greenlet in there), *(hub.greenlet for hub in hubs)]
    )
    seen: dict[int, tuple[RawStack, str]] = {id(core): ([], SUSPENDED) for core, _ in served}
    for (core, _), stack, lives in zip(there, of_greenlets, live, strict=False):
        runs = lives and not stack
        seen[id(core)] = (threads.get(core.ident, []), RUNNING) if runs else (stack, SUSPENDED)
    of_hubs = of_greenlets[len(there) :]
    return Looked(threads, seen, {hub.ident: stack for hub, stack in zip(hubs, of_hubs, strict=True)})


def reference_to(greenlet: Any) -> weakref.ref[Any] | None:
    """What a core keeps of its greenlet: it must not keep it alive, because the greenlet's end frees the core."""
    return None if greenlet is None else weakref.ref(greenlet)
