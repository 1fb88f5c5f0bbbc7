"""What a request does for its deadline when it begins: decide its limit, and set the timers that may kill it.

Most requests do nothing here: they have one limit for all, and not the action kill. The others call the watchdog and
the timers as seldom as possible.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.model.report import DEFAULT
from wsgi_tracebacker.worker.deadlines.thresholds import NEVER
from wsgi_tracebacker.worker.options import limits
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.tracking.core import Core

if TYPE_CHECKING:
    from wsgi_tracebacker.worker.deadlines.timers.kill_timer import KillTimer
    from wsgi_tracebacker.worker.deadlines.watchdog import Watchdog
    from wsgi_tracebacker.worker.options.settings import Settings

#: Called with the core and the environ of a request that has begun.
Begin = Callable[[Core, dict[str, Any]], None]


def load_timers() -> None:
    """Import the timers, before the server forks: in a forked child an import lock may be held for ever.

    Not at import of this package, because ctypes takes 10 ms, and only action kill and some servers need it.
    """
    try:
        importlib.import_module("wsgi_tracebacker.worker.deadlines.timers.kill_timer")
        importlib.import_module("wsgi_tracebacker.worker.deadlines.timers.stall_timer")
    except ImportError:
        # Without ctypes there are no timers. The first request logs that.
        pass


def on_begin(settings: Settings, watchdog: Watchdog | None, kill_timer: KillTimer | None) -> Begin | None:
    """The function that every request under these settings calls; None if it need not call any."""
    has_limit = settings.harakiri is not None and settings.limit_source != DEFAULT
    if watchdog is None or (settings.decide is None and (not has_limit or kill_timer is None)):
        return None

    def begin(core: Core, environ: dict[str, Any]) -> None:
        if core.outer is not None:
            # A call within a request: the outer request's limit counts.
            return
        # Not those above: this function is kept for as long as they are in use, and must not be what uses them.
        own_settings: Any = core.settings
        # The default limit never kills, so the timers need not know of it.
        seconds = None if own_settings.limit_source == DEFAULT else own_settings.harakiri
        decide = own_settings.decide
        try:
            if decide is not None:
                seconds = decide(environ)
                if type(seconds) is not float or not 0.0 < seconds < NEVER:
                    seconds = limits.checked_seconds("what the harakiri callable returned", seconds)
                core.own_limit = (core.started, 0.0, seconds, own_settings.limit_source)
                if seconds is not None and seconds < watchdog.shortest_limit:
                    watchdog.plan_for(core, seconds)
            if kill_timer is not None:
                deadline = core.started + seconds if seconds is not None else NEVER
                if not kill_timer.covers_from <= deadline <= kill_timer.covers_to:
                    kill_timer.watch()
        except Exception as error:
            # Not BaseException: servers raise SystemExit, KeyboardInterrupt or gevent's Timeout into any running code.
            # An application's own time-out is not a fault either.
            if faults.is_of_signal_handler(error):
                raise
            asked = "the harakiri callable was asked for a limit"
            faults.caught(f"when {asked if decide is not None else 'the kill timer was set'}")

    return begin
