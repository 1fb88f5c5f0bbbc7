"""Which greenlet of gevent or eventlet runs: the calling code's, and whether another one does in its thread."""

from __future__ import annotations

import _thread
import importlib
import sys
from typing import Any

from wsgi_tracebacker.worker.threads import primitives


def current() -> Any:
    """The greenlet that calls this, or None in an ordinary thread.

    A thread's own greenlet, which has no parent, counts where gevent or eventlet patched threads: what blocks in it
    lets the others run. Where the thread has no hub, nothing does: so it is in gevent's and eventlet's own pools of
    real threads, also in the greenlets that these have for themselves.
    """
    module = sys.modules.get("greenlet")
    if module is None:
        return None
    found = module.getcurrent()
    if library() is None:
        return None
    return found if found.parent is not None or primitives.threads_are_patched() else None


def library() -> str | None:
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
    module = "eventlet.corolocal" if library() == "eventlet" else "gevent.local"
    return importlib.import_module(module).local()


def is_running(greenlet: Any) -> bool:
    """Whether a greenlet is the one that its thread runs."""
    return greenlet.gr_frame is None and bool(greenlet)
