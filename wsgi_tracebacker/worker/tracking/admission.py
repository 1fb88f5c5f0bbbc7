"""Finds a core for each request that is not the ordinary next one of its thread.

| the request                                                  | gets                                              |
|--------------------------------------------------------------|---------------------------------------------------|
| is the first of its thread, or of its greenlet               | a new core                                        |
| comes after one whose body was dropped without close()       | its thread's core; the earlier request is ended   |
| begins while the body of another is still being read         | a new core; the body keeps the old one            |
| is a WSGI call that the application makes while it serves     | a core within that of the outer request           |
| passes a second middleware of ours (its environ is tracked)  | none: it is tracked already                       |
| is the first one after a fork, or after stop()               | a new core, of the new agent                      |
"""

from __future__ import annotations

import _thread
import mmap
import os
import weakref
from typing import TYPE_CHECKING, Any, Final

from wsgi_tracebacker.linux.clock import monotonic
from wsgi_tracebacker.worker.threads import current_greenlet, primitives
from wsgi_tracebacker.worker.tracking.core import APP, Core, value_in
from wsgi_tracebacker.worker.tracking.cores import known_thread
from wsgi_tracebacker.worker.tracking.handle import HANDLE_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi_tracebacker.worker.tracking.cores import Cores

#: From <linux/mman.h>; the mmap module has no name for it. Linux 4.14 and up.
_MADV_WIPEONFORK = 18


class _PidMark:
    """Does what the wiped page does, where the kernel has none: ten times slower, see os.getpid()."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = 0

    def __getitem__(self, index: int) -> int:
        return int(self._pid == os.getpid())

    def __setitem__(self, index: int, value: int) -> None:
        self._pid = os.getpid() if value else 0


def _make_started_here() -> mmap.mmap | _PidMark:
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
    except (OSError, AttributeError, ValueError):
        return _PidMark()
    return page


#: ``STARTED_HERE[0]`` is 1 in a process whose agent was made in it, and 0 in a child that was forked since: the kernel
#: wipes this page then. ``os.register_at_fork`` is not enough: uWSGI and mod_wsgi fork in C.
STARTED_HERE: Final = _make_started_here()

#: The real ident of a thread, the key of sys._current_frames(); under monkey patching ``threading.get_ident`` is the
#: greenlet's. Bound when this module is loaded: the original is the same at any time.
get_ident: Final = primitives.original("_thread", "get_ident")


class Admission:
    """Where each thread of one process finds its core."""

    def __init__(self, cores: Cores, register_hub: Callable[[], object]) -> None:
        """``register_hub``: called by each greenlet that begins to serve."""
        self._cores = cores
        self._register_hub = register_hub
        #: Holds ``core`` and ``marker`` for each thread (each greenlet, where those serve).
        self.local = current_greenlet.local_storage()
        self.serves_greenlets = False

    def detect_greenlets(self) -> None:
        """Find out whether greenlets serve here: a server may patch threads after this was made."""
        if not self.serves_greenlets and current_greenlet.current() is not None:
            self.serves_greenlets = True
            # One local storage for the whole thread would give all its greenlets one core.
            self.local = current_greenlet.local_storage()

    def own_core(self) -> Core | None:
        """The core of the request that the calling thread serves, idle perhaps; None if it never served one."""
        core: Core | None = getattr(self.local, "core", None)
        return core

    def forget_own_core(self) -> None:
        """In a forked child: the only thread must not take its core for one of the new process."""
        vars(self.local).clear()

    def idle_core(self, environ: dict[str, Any]) -> Core | None:
        """Make an idle core the calling thread's; None for a request that it is already seen to serve."""
        core = self.own_core()
        if core is None:
            return self._new_core(environ)
        if core.phase != APP:
            # Perhaps its body was dropped without close().
            self._cores.settle(core)
        elif core.started > 0.0 and core.environ is None:
            # It was on its way out when the handler of a signal raised.
            core.end(monotonic())
        if core.started == 0.0:
            return core
        if core.started < 0.0:
            # Of another process, or of an agent that was stopped.
            return self._new_core(environ)
        requests = [core]
        while requests[-1].outer is not None:
            requests.append(requests[-1].outer)
        if any(request.environ is environ for request in requests):
            return None
        if core.phase == APP or _is_made_from(environ, requests):
            return self._nested_core(core)
        return self._new_core(environ)

    def _new_core(self, environ: dict[str, Any]) -> Core:
        greenlet = current_greenlet.current()
        if greenlet is not None:
            self._register_hub()
        # uWSGI says there which of its cores serves, if it has more than one.
        of_server = value_in(environ, "uwsgi.core")
        core, marker = self._cores.take(
            get_ident(),
            _thread.get_native_id(),
            # A thread that has many greenlets cannot be named after one of them.
            known_thread(_thread.get_ident()) if greenlet is None or greenlet.parent is None else None,
            # The end of the greenlet frees the core, so the core must not keep it alive.
            weakref.ref(greenlet) if greenlet is not None else None,
            of_server if type(of_server) is int else None,
        )
        self.local.core = core
        # This drops the thread's former marker, and so frees its former core.
        self.local.marker = marker
        return core

    def _nested_core(self, outer: Core) -> Core:
        core = Core(None, outer.ident, outer.native_id, outer.thread)
        core.greenlet = outer.greenlet
        core.outer = outer
        # Those that have ended are not shown any more, nor those whose body the application dropped.
        self._cores.settle(outer)
        outer.nested = [other for other in outer.nested if other.started > 0.0]
        outer.nested.append(core)
        self.local.core = core
        return core


def _is_made_from(environ: object, requests: Iterable[Core]) -> bool:
    """Whether this is a call that the application makes while its body is read, and not the server's next request.

    A call's environ is a copy of that request's, as a rule. Whether the body runs just now would tell it whatever the
    environ is, but nothing of ours may hold the body.
    """
    handle = value_in(environ, HANDLE_KEY)
    return any(request.handle is handle for request in requests)


class NestedCall:
    """The application of a request within a request: when it is left, its thread has the outer one's core again."""

    def __init__(self, app: WSGIApplication, local: Any, outer: Core) -> None:
        self._app = app
        self._local = local
        self._outer = outer

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return self._app(environ, start_response)
        finally:
            self._local.core = self._outer
