"""The end of this process in order: who calls what takes our files away.

Knows the servers that run no ``atexit`` in their workers, and what they call instead. Refuses to import any of them:
what is not loaded does not serve here.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.worker import faults

if TYPE_CHECKING:
    from collections.abc import Callable

#: The process that has asked to be called.
_asked_in = 0


def call(stop: Callable[[], object]) -> None:
    """Have ``stop`` called when this process ends in order, perhaps twice. Once for each process is enough."""
    global _asked_in
    # A child that multiprocessing forked has lost what its parent had asked for.
    if _asked_in == os.getpid():
        return
    _asked_in = os.getpid()

    def ended(*_: object, **__: object) -> None:
        try:
            stop()
        except Exception:
            faults.caught("at the end of the process")

    atexit.register(ended)
    for server in (_ask_multiprocessing, _ask_mod_wsgi, _ask_twisted):
        try:
            server(ended)
        except Exception:
            faults.caught("when a server was asked to say its end")


def _ask_multiprocessing(ended: Callable[..., None]) -> None:
    """Whose children, granian's workers among them, leave by ``os._exit()`` after their finalizers."""
    util: Any = sys.modules.get("multiprocessing.util")
    process: Any = sys.modules.get("multiprocessing.process")
    # Elsewhere they are run by atexit.
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, ended, exitpriority=0)


def _ask_mod_wsgi(ended: Callable[..., None]) -> None:
    """Which runs ``atexit`` in the first interpreter of a process only, and tells every one that the process stops."""
    subscribe = getattr(sys.modules.get("mod_wsgi"), "subscribe_shutdown", None)
    if subscribe is not None:
        subscribe(ended)


def _ask_twisted(ended: Callable[..., None]) -> None:
    """Whose reactor raises the signal that ended it once more, after its own end; its threads have ended by then."""
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    # An application that only uses Twisted may run and stop a reactor as it likes.
    if reactor is not None and "twisted.web.wsgi" in sys.modules:
        # The first request is on a thread of its pool.
        reactor.callFromThread(reactor.addSystemEventTrigger, "after", "shutdown", ended)
