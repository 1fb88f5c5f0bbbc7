"""How many requests the server can serve at once in this process, how many of these slots are taken, and what waits.

Each server says it in another place: the thread pool of gunicorn's gthread, waitress's dispatcher, the modules of uWSGI
and mod_wsgi. The cores that were seen say nothing about slots: gthread starts its threads when it needs them.

Read on our own thread, so no code of the application may run here: only exact types of the standard library and of the
servers, and only what is in the ``__dict__`` of an instance. All of it is None where the server does not say.
"""

from __future__ import annotations

import sys
from threading import Thread, main_thread
from types import MethodType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_tracebacker.worker.tracking.core import Core

try:
    # Not from ``queue``, where gevent puts a class of its own.
    from _queue import SimpleQueue
except ImportError:  # PyPy
    from queue import SimpleQueue  # type: ignore[assignment,unused-ignore]


class ServerSlots(NamedTuple):
    """The slots of one process."""

    #: How many requests the server can serve at once.
    slots: int | None = None
    #: How many of them are taken, also by a response that is still being sent. Without it: as many as requests.
    busy: int | None = None
    #: Connections that the server has accepted and that wait in the process until a slot is free.
    inner_queue: int | None = None
    #: The descriptors on which the server listens.
    descriptors: tuple[int, ...] | None = None


def read(cores: Sequence[Core]) -> ServerSlots:
    """Ask the server of this process. ``cores``: all of them, by number."""
    for name, of_module in (("uwsgi", _of_uwsgi), ("mod_wsgi", _of_mod_wsgi)):
        module = sys.modules.get(name)
        found = of_module(module.__dict__) if type(module) is ModuleType else None
        if found is not None:
            return found
    if not cores:
        return ServerSlots()
    # The first one: an application may call others in threads of its own.
    core = cores[0]
    if core.greenlet is not None:
        return ServerSlots()
    if core.ident == main_thread().ident:
        # A server that serves on the main thread serves nothing else meanwhile: gunicorn's sync worker.
        return ServerSlots(slots=1)
    return _of_thread(core.thread)


def _of_uwsgi(names: dict[str, Any]) -> ServerSlots | None:
    slots, sockets = names.get("cores"), names.get("sockets")
    if type(slots) is not int or slots < 1:
        return None
    descriptors = tuple(each for each in sockets if type(each) is int) if type(sockets) is list else None
    return ServerSlots(slots=slots, descriptors=descriptors)


def _of_mod_wsgi(names: dict[str, Any]) -> ServerSlots | None:
    slots = names.get("threads_per_process")
    return ServerSlots(slots=slots) if type(slots) is int and slots >= 1 else None


def _of_thread(thread: Thread | None) -> ServerSlots:
    """From what the serving thread was started with, which its Thread object has until it ends."""
    if type(thread) is not Thread:
        return ServerSlots()
    started_with = thread.__dict__
    arguments, target = started_with.get("_args"), started_with.get("_target")
    if type(arguments) is tuple and arguments and type(arguments[0]) is ref:
        return _of_executor(arguments[0]())
    if type(target) is MethodType:
        return _of_waitress(target.__self__)
    return ServerSlots()


def _of_executor(executor: object) -> ServerSlots:
    """gunicorn's gthread, a2wsgi and others that serve in a pool of the standard library."""
    if executor is None or type(executor) is not _class_in("concurrent.futures.thread", "ThreadPoolExecutor"):
        return ServerSlots()
    names = executor.__dict__
    slots, queue, threads = names.get("_max_workers"), names.get("_work_queue"), names.get("_threads")
    if type(slots) is not int:
        return ServerSlots()
    idle = getattr(names.get("_idle_semaphore"), "__dict__", {}).get("_value")
    busy = len(threads) - idle if type(threads) is set and type(idle) is int else None
    return ServerSlots(
        slots=slots,
        busy=None if busy is None else min(max(0, busy), slots),
        inner_queue=queue.qsize() if type(queue) is SimpleQueue else None,
    )


def _of_waitress(dispatcher: object) -> ServerSlots:
    if type(dispatcher) is not _class_in("waitress.task", "ThreadedTaskDispatcher"):
        return ServerSlots()
    names = dispatcher.__dict__
    # The counters are the class's until the dispatcher has changed them.
    threads, stops, busy = names.get("threads"), names.get("stop_count", 0), names.get("active_count")
    queue: Any = names.get("queue")
    if type(threads) is not set or type(stops) is not int:
        return ServerSlots()
    slots = max(0, len(threads) - stops)
    return ServerSlots(
        slots=slots,
        busy=min(max(0, busy), slots) if type(busy) is int else None,
        inner_queue=len(queue) if type(queue) is _class_in("collections", "deque") else None,
    )


def _class_in(module_name: str, name: str) -> object:
    """The class of that name in a module that is loaded; None if it is not."""
    module = sys.modules.get(module_name)
    return module.__dict__.get(name) if type(module) is ModuleType else None
