"""What a request does about its deadline when it begins: decide its limit, set the timers that may kill it.

Knows what an option costs each request, and that the watchdog and the timers are to be called by as few of them as can
be. Most requests do nothing here: one limit for all, and no action kill.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.worker import limits
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.tracking.core import Core

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.deadlines.kill_timer import KillTimer
    from wsgi_tracebacker.worker.deadlines.watchdog import Watchdog
    from wsgi_tracebacker.worker.settings import Settings

#: Called with the core and the environ of a request that has begun.
Begin = Callable[[Core, dict[str, Any]], None]

_NEVER = float("inf")


def load_kill_timer() -> None:
    """Import what on_begin() may need, before the server forks.

    A child that is forked while another thread imports it would wait for ever for the lock of that import. And not when
    this package is imported: ctypes is 10 ms, and only action kill needs it.
    """
    try:
        importlib.import_module("wsgi_tracebacker.worker.deadlines.kill_timer")
    except ImportError:
        # Without ctypes there are no timers, as the first request says.
        pass


def on_begin(settings: Settings, watchdog: Watchdog | None, kill_timer: KillTimer | None) -> Begin | None:
    """What every request under these settings calls; None: nothing."""
    limit, decide = settings.harakiri, settings.decide
    if watchdog is None or (decide is None and (limit is None or kill_timer is None)):
        return None

    def begin(core: Core, environ: dict[str, Any]) -> None:
        if core.outer is not None:
            # A call within a request: that one's limit counts.
            return
        try:
            seconds = limit
            if decide is not None:
                seconds = decide(environ)
                if type(seconds) is not float or not 0.0 < seconds < _NEVER:
                    seconds = limits.checked_seconds("what the harakiri callable returned", seconds)
                core.own_limit = (core.started, 0.0, seconds)
                if seconds is not None and seconds < watchdog.shortest_limit:
                    watchdog.plan_for(core, seconds)
            if kill_timer is not None:
                deadline = core.started + seconds if seconds is not None else _NEVER
                if not kill_timer.covers_from <= deadline <= kill_timer.covers_to:
                    kill_timer.watch()
        except Exception as error:
            # SystemExit, KeyboardInterrupt, gevent's Timeout are not caught: servers raise them into whatever runs. An
            # application's own time-out neither.
            if faults.is_of_signal_handler(error):
                raise
            asked = "the harakiri callable was asked for a limit"
            faults.caught(f"when {asked if decide is not None else 'the kill timer was set'}")

    return begin
