"""Calls a function when this process ends in order, also under servers whose workers run no ``atexit``.

None of these servers is imported: one that is not loaded does not serve here.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.worker.reporting import faults, reporter

if TYPE_CHECKING:
    from collections.abc import Callable

#: How long the end of a process waits until its last lines are logged.
_FLUSH_SECONDS = 2.0

#: Whether register_at_import() was called.
_is_registered_at_import = False

#: The process that has registered, and the one that ends.
_registered_in = 0
_ends_in = 0


def register_at_import(stop: Callable[[], object]) -> None:
    """Have ``atexit`` call ``stop`` after all that is registered later: a worker that hangs there can still be read.

    :param stop: it may leave to ``last_act`` what has to stay until the interpreter is taken down.
    """
    global _is_registered_at_import
    _is_registered_at_import = True
    atexit.register(_end, stop)


def register(stop: Callable[[], object]) -> None:
    """Call ``stop`` when this process ends in order, perhaps twice. Further calls in the same process do nothing."""
    global _registered_in
    # In a child that multiprocessing forked, what its parent registered is not called.
    if _registered_in == os.getpid():
        return
    _registered_in = os.getpid()

    def end(*_: object, **__: object) -> None:
        _end(stop)

    if not _is_registered_at_import or _is_lost():
        atexit.register(end)
    for register_with in (_multiprocessing, _mod_wsgi, _twisted):
        try:
            register_with(end)
        except Exception:
            faults.caught("when the end of the process was registered with a server")


def _end(stop: Callable[[], object]) -> None:
    global _ends_in
    _ends_in = os.getpid()
    try:
        stop()
    except Exception:
        faults.caught("at the end of the process")
    # Also where stop() finds nothing to end, and for a fault that was just caught.
    reporter.current().end(_FLUSH_SECONDS)


def _is_lost() -> bool:
    """Whether what was registered at the import may not be called in this process.

    A child that is forked keeps it, except those of multiprocessing; twice does no harm.
    """
    process: Any = sys.modules.get("multiprocessing.process")
    is_child = process is not None and process.parent_process() is not None
    return is_child or getattr(atexit, "_ncallbacks", lambda: 0)() == 0


def has_begun() -> bool:
    """Whether this process ends. Daemon threads may go on serving, but nothing would remove what they start."""
    return _ends_in == os.getpid()


def _multiprocessing(end: Callable[..., None]) -> None:
    """Its children, granian's workers among them, leave by ``os._exit()`` after their finalizers."""
    util: Any = sys.modules.get("multiprocessing.util")
    process: Any = sys.modules.get("multiprocessing.process")
    # In other processes atexit runs the finalizers.
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, end, exitpriority=0)


def _mod_wsgi(end: Callable[..., None]) -> None:
    """It runs ``atexit`` in the first interpreter of a process only, and calls subscribers in each of them."""
    subscribe = getattr(sys.modules.get("mod_wsgi"), "subscribe_shutdown", None)
    if subscribe is not None:
        subscribe(end)


def _twisted(end: Callable[..., None]) -> None:
    """Its reactor raises the signal that ended it once more, after its own end; its threads have ended by then."""
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    # An application that only uses Twisted may run and stop a reactor as it likes.
    if reactor is not None and "twisted.web.wsgi" in sys.modules:
        # The first request is on a thread of its pool.
        reactor.callFromThread(reactor.addSystemEventTrigger, "after", "shutdown", end)
