"""Finds the real functions for threads, locks and polls, also where gevent or eventlet replaced them.

Call bind() at the first request and not earlier: gunicorn's gevent worker patches after a preloaded application was
imported.

A listener or a watchdog on a patched "thread" would be a greenlet on the very hub that it watches, and could not run
while that hub is blocked. ``get_original('threading', 'Thread')`` does not help: the class is the original, but it
starts a greenlet. Only ``_thread.start_new_thread`` is real.
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
    """The unpatched functions, found once in each process."""

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
    """Find all of them, as of now."""
    return Primitives(
        start_new_thread=original("_thread", "start_new_thread"),
        allocate_lock=original("_thread", "allocate_lock"),
        get_ident=original("_thread", "get_ident"),
        poll=original("select", "poll"),
    )
