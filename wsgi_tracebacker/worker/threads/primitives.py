"""Real operating-system threads, locks and polls, also where gevent or eventlet replaced them.

Knows which functions those two libraries patch and how to get the originals back. Refuses to be asked at import time:
what is patched is only known for sure at the first request (gunicorn's gevent worker patches after a preloaded
application was imported), so everybody binds through here then.

A listener or a watchdog on a patched "thread" would be a greenlet on the very hub it is meant to watch: while the hub
is blocked it could say nothing. ``get_original('threading', 'Thread')`` is a trap: the class is the original, what it
starts is still a greenlet. Only ``_thread.start_new_thread`` is real.
"""

from __future__ import annotations

import _thread
import importlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Primitives:
    """The unpatched originals, bound once a process."""

    start_new_thread: Callable[..., int]
    allocate_lock: Callable[[], _thread.LockType]
    get_ident: Callable[[], int]
    poll: Callable[[], Any]


def original(module: str, name: str) -> Any:
    """Return ``module.name`` as it was before any monkey patching."""
    gevent_monkey = sys.modules.get("gevent.monkey")
    if gevent_monkey is not None and gevent_monkey.is_object_patched(module, name):
        return gevent_monkey.get_original(module, name)
    # Some libraries import both; only one of them patches.
    eventlet_patcher = sys.modules.get("eventlet.patcher")
    if eventlet_patcher is not None:
        return getattr(eventlet_patcher.original(module), name)
    return getattr(importlib.import_module(module), name)


def threads_are_patched() -> bool:
    """Whether gevent or eventlet patched threads in this process, by now."""
    return _thread.start_new_thread is not original("_thread", "start_new_thread")


def bind() -> Primitives:
    """Look everything up, now."""
    return Primitives(
        start_new_thread=original("_thread", "start_new_thread"),
        allocate_lock=original("_thread", "allocate_lock"),
        get_ident=original("_thread", "get_ident"),
        poll=original("select", "poll"),
    )
