"""The watchdog and the kill timer of one process: each is started by the first request that may need it."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

from wsgi_tracebacker.worker.deadlines.begin import on_begin
from wsgi_tracebacker.worker.deadlines.raising import interrupt
from wsgi_tracebacker.worker.deadlines.thresholds import NEVER, kill_deadline
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.tracking.admission import STARTED_HERE

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.worker.deadlines.begin import Begin
    from wsgi_tracebacker.worker.deadlines.timers.kill_timer import KillTimer
    from wsgi_tracebacker.worker.deadlines.timers.stall_timer import StallTimer
    from wsgi_tracebacker.worker.deadlines.watchdog import Watchdog
    from wsgi_tracebacker.worker.lifecycle import Lifecycle
    from wsgi_tracebacker.worker.options.settings import Settings
    from wsgi_tracebacker.worker.tracking.core import Core
    from wsgi_tracebacker.worker.tracking.cores import Cores

_LEAVES_LOCKS = (
    'CPython 3.14 does not give back the lock of a "with" statement that harakiri_action="raise" interrupts while it '
    "waits for that lock: whoever wants it next waits for ever; other versions give it back"
)


class DeadlineParts:
    """Starts both when they are needed; the watcher of all cores."""

    def __init__(
        self,
        *,
        lifecycle: Lifecycle,
        cores: Cores,
        make_watchdog: Callable[[], Watchdog],
        dump_signal: Callable[[], int | None],
        warn_if_not_replaced: Callable[[], None],
    ) -> None:
        """Nothing is started before watch() or limit_changed().

        :param dump_signal: the signal that this process answers with its stacks, if any.
        :param warn_if_not_replaced: called if requests may kill the process.
        """
        self._pid = os.getpid()
        self._lifecycle = lifecycle
        self._cores = cores
        self._make_watchdog = make_watchdog
        self._dump_signal = dump_signal
        self._warn_if_not_replaced = warn_if_not_replaced
        self.watchdog: Watchdog | None = None
        self.kill_timer: KillTimer | None = None
        self._stall_timer: StallTimer | None = None
        self._server_timeout: tuple[float, Callable[[], float]] | None = None
        #: By the id of the settings under which requests come: those, and what each request calls when it begins.
        #: Weakly: an application may be wrapped anew for each request, and callables of its own be in the settings.
        self._watched: dict[int, tuple[weakref.ref[Settings], Begin | None]] = {}
        #: The shortest time after which a hub is reported as blocked.
        self._hub_blocked_seconds = NEVER

    def watch(self, settings: Settings, *, serves_greenlets: bool) -> Begin | None:
        """Have requests under these settings watched, if they may need it; what each calls when it begins."""
        if self.watchdog is not None:
            self.watchdog.request_admitted()
        if serves_greenlets and settings.hub_blocked is not None and settings.hub_blocked < self._hub_blocked_seconds:
            self._watch_hubs(settings.hub_blocked)
        if not settings.needs_watchdog:
            return None
        # Not by comparing settings: that would compare the callables which the application put into them.
        known = self._watched.get(id(settings))
        if known is not None:
            return known[1]
        with self._lifecycle.starting() as may_start:
            if not may_start:
                # The next request asks again.
                STARTED_HERE[0] = 0
                return None
            known = self._watched.get(id(settings))
            if known is not None:
                return known[1]
            watchdog = self._ensure_watchdog()
            kill_timer = None
            if settings.harakiri_action == "kill" and watchdog is not None:
                kill_timer = self._ensure_kill_timer(settings, watchdog)
            begin = on_begin(settings, watchdog, kill_timer)
            # Not before: another thread's first request would go on, and may stall before there are timers to set.
            watched, key = self._watched, id(settings)
            watched[key] = weakref.ref(settings, lambda _: watched.pop(key, None)), begin
        if watchdog is not None:
            watchdog.watch(settings)
        if settings.harakiri_action == "kill" or settings.harakiri_grace is not None:
            self._warn_if_not_replaced()
        if settings.harakiri_action == "raise" and interrupt.LEAVES_LOCKS:
            faults.warn_once("locks", _LEAVES_LOCKS)
        return begin

    def set_server_timeout(self, timeout_seconds: float, silent_seconds: Callable[[], float]) -> None:
        """Tell that the server kills this process: see StallTimer. Before the first request."""
        self._server_timeout = timeout_seconds, silent_seconds

    def limit_changed(self, core: Core) -> None:
        """See tracking.core.Watcher."""
        watchdog = self.watchdog
        if watchdog is None:
            with self._lifecycle.starting() as may_start:
                watchdog = self._ensure_watchdog() if may_start else None
        if watchdog is not None:
            watchdog.limit_changed(core)

    def request_ended(self, core: Core) -> None:  # noqa: ARG002  (whichever it was)
        """See tracking.core.Watcher."""
        # Read once: stop() sets it to None.
        kill_timer = self.kill_timer
        if kill_timer is not None:
            kill_timer.request_ended()

    def stop(self, timeout_seconds: float) -> None:
        """End the thread and delete the timers."""
        self._delete_timers()
        if self.watchdog is not None:
            self.watchdog.stop(timeout_seconds)
            self.watchdog = None

    def forget(self) -> None:
        """In a forked child: neither exists there."""
        self._delete_timers()
        if self.watchdog is not None:
            self.watchdog.forget()

    def _delete_timers(self) -> None:
        if self.kill_timer is not None:
            self.kill_timer.close()
            self.kill_timer = None
        if self._stall_timer is not None:
            if self.watchdog is not None:
                self.watchdog.stall_timer = None
            if os.getpid() == self._pid:
                self._stall_timer.delete()
            self._stall_timer = None

    def _watch_hubs(self, blocked_seconds: float) -> None:
        with self._lifecycle.starting() as may_start:
            watchdog = self._ensure_watchdog() if may_start else None
        if watchdog is not None:
            self._hub_blocked_seconds = blocked_seconds
            watchdog.watch_hubs(blocked_seconds)

    def _ensure_watchdog(self) -> Watchdog | None:
        if self.watchdog is not None:
            return self.watchdog
        watchdog = None
        try:
            watchdog = self._make_watchdog()
            watchdog.start()
        except (OSError, RuntimeError) as error:
            if watchdog is not None:
                watchdog.forget()
            faults.warn_once("watchdog", "no watchdog can be started (%s); harakiri is off in this worker", error)
            return None
        self._make_stall_timer(watchdog)
        self.watchdog = watchdog
        return watchdog

    def _make_stall_timer(self, watchdog: Watchdog) -> None:
        dump_signal = self._dump_signal()
        if self._server_timeout is None or dump_signal is None:
            return
        try:
            # Here and not above: ctypes is 10 ms. The server's configuration has loaded it already.
            from wsgi_tracebacker.worker.deadlines.timers.stall_timer import StallTimer  # noqa: PLC0415

            watchdog.stall_timer = self._stall_timer = StallTimer(dump_signal, *self._server_timeout)
        except (ImportError, OSError, AttributeError, RuntimeError) as error:
            faults.warn_once("timers", "no timers (%s); a worker that the server kills may leave no stacks", error)

    def _ensure_kill_timer(self, settings: Settings, watchdog: Watchdog) -> KillTimer | None:
        if self.kill_timer is not None:
            return self.kill_timer
        try:
            # Here and not above: ctypes is 10 ms, and only with this action. The middleware has loaded it already.
            from wsgi_tracebacker.worker.deadlines.timers.kill_timer import KillTimer  # noqa: PLC0415

            watchdog.kill_timer = self.kill_timer = KillTimer(
                dump_signal=self._dump_signal(),
                margin_seconds=settings.harakiri_margin,
                serving=self._cores.serving,
                deadline_of=kill_deadline,
                wake=watchdog.wake,
            )
        except (ImportError, OSError, AttributeError, RuntimeError) as error:
            faults.warn_once("timers", "no timers (%s); a worker in which Python cannot run will not be killed", error)
        return self.kill_timer
