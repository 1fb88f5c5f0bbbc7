"""The thread that watches all requests: it sleeps until the next one may be slow, overdue or due for a sample.

One a process: a real daemon thread, also under gevent and eventlet, started by the first request with a deadline. It
does not survive a fork; the child's first request starts another. It waits in poll(), whose time limit is monotonic on
every interpreter (a timed wait for a lock is not on CPython 3.10), so a change of the clock does not affect it. It
blocks on nothing else: no lock of the application, no disk, no logging handler.

Requests do not wake it. While they come, it never sleeps longer than the shortest time after which any request could
become slow, so it is awake before a request that begins now does so. If a mapping or a callable decides the limits, the
shortest limit so far counts. Only a request that begins with a shorter one, or changes its own limit, wakes the thread,
if the next wake-up is too late for it.

While none can become slow or overdue, it clears ``STARTED_HERE``, so that the next request goes through
``agent.admit()``, which sets that again and calls ``request_admitted()``. If it is still clear at the next check, the
thread sleeps until that call:

=============  ============  ===========================================================================================
state          STARTED_HERE  what may happen next
=============  ============  ===========================================================================================
requests come  1             a check finds no request that may become slow: cleared, PERHAPS IDLE
perhaps idle   0             a request is admitted: REQUESTS COME
                             after a second, a check finds it still cleared, and no request that may become slow: IDLE
idle           0             a request is admitted, and wakes the thread: REQUESTS COME
=============  ============  ===========================================================================================

"Perhaps idle" is for a request that saw a 1 before it was cleared, and has not yet stored its start in its core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.linux.clock import monotonic, unix_time
from wsgi_tracebacker.text import report as report_format
from wsgi_tracebacker.wire.documents import report_json
from wsgi_tracebacker.worker.deadlines.client_watch import CHECK_SECONDS, ClientWatch
from wsgi_tracebacker.worker.deadlines.hub_watch import HubWatch
from wsgi_tracebacker.worker.deadlines.make_report import ReportMaker
from wsgi_tracebacker.worker.deadlines.publisher import Publisher
from wsgi_tracebacker.worker.deadlines.recording.garbage import GarbageWatch
from wsgi_tracebacker.worker.deadlines.recording.recorder import Recorder
from wsgi_tracebacker.worker.deadlines.slow_request import SlowRequest
from wsgi_tracebacker.worker.deadlines.thresholds import NEVER, first_threshold, thresholds
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.stacks import greenlets
from wsgi_tracebacker.worker.threads.waker import Waker
from wsgi_tracebacker.worker.tracking.admission import STARTED_HERE
from wsgi_tracebacker.worker.tracking.describe import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.model.code_ownership import CodeOwnership
    from wsgi_tracebacker.text.report import Fold
    from wsgi_tracebacker.worker.blackbox.stacks_file import StacksFile
    from wsgi_tracebacker.worker.blackbox.table import Table
    from wsgi_tracebacker.worker.deadlines.timers.kill_timer import KillTimer
    from wsgi_tracebacker.worker.deadlines.timers.stall_timer import StallTimer
    from wsgi_tracebacker.worker.options.settings import Settings
    from wsgi_tracebacker.worker.reporting.reporter import Reporter
    from wsgi_tracebacker.worker.stacks.hubs import Hubs
    from wsgi_tracebacker.worker.stacks.places import Places
    from wsgi_tracebacker.worker.threads.primitives import Primitives
    from wsgi_tracebacker.worker.tracking.core import Core
    from wsgi_tracebacker.worker.tracking.cores import Cores
    from wsgi_tracebacker.worker.waits.sources import WaitSources

#: Pause after a fault of ours.
_FAULT_PAUSE_SECONDS = 1.0
#: The shortest sleep between two checks: a limit of a microsecond must not make a busy loop.
_MIN_SLEEP_SECONDS = 0.002
#: If this thread wakes up that late, Python could not run, and a stall is logged. Beside many threads that compute, it
#: is often half a second late.
_STALLED_SECONDS = 1.0
#: How often the resident size of the process is measured, at most, at some 20 µs.
_MEASURE_SECONDS = 0.5
#: A shorter limit by mapping or callable wakes the thread each time: planning for it would mean to check all the time.
_MIN_PLANNED_SECONDS = 1.0
#: How long it is "perhaps idle", far longer than a thread waits for the GIL between two lines; and how long after the
#: last request that was admitted it may begin to be. So one request in a second, at most, is admitted for this.
_QUIET_SECONDS = 1.0


class Watchdog:
    """Watches the requests of one process."""

    def __init__(
        self,
        *,
        primitives: Primitives,
        cores: Cores,
        reporter: Reporter,
        stacks_file: Callable[[], StacksFile | None],
        table: Callable[[], Table | None],
        places: Places,
        waits: WaitSources,
        ownership: CodeOwnership,
        fold: Fold,
        worker_number: Callable[[], int | None],
        hubs: Hubs,
    ) -> None:
        """Nothing runs before start()."""
        self._primitives = primitives
        self._cores = cores
        self._table = table
        self._places = places
        self._ownership = ownership
        self._hubs = hubs
        self._publisher = Publisher(reporter, stacks_file, table, fold)
        self._garbage = GarbageWatch()
        self._maker = ReportMaker(cores, hubs, places, waits, ownership, worker_number, self._garbage)
        self._hub_watch = HubWatch(hubs, self._maker, self._publisher)
        self._client_watch = ClientWatch(self._publisher.count)
        #: The requests that are slow, by the id of their core.
        self._slow: dict[int, SlowRequest] = {}
        #: The shortest time after which a request under any of the settings could become slow.
        self._horizon_seconds = NEVER
        #: When it wakes up; infinite during a check, so that a limit which is set meanwhile wakes it again.
        self.wakes_at = NEVER
        #: Requests that begin with a shorter limit by mapping or callable call plan_for().
        self.shortest_limit = NEVER
        self._started_at = 0.0
        #: When it last began to sleep, and when it was last woken.
        self._sleeps_at = self._woken_at = 0.0
        #: When STARTED_HERE was last cleared, and when a request was last admitted.
        self._cleared_at = self._admitted_at = 0.0
        #: When the resident size of the process was last measured.
        self._measured_at = 0.0
        #: Set where requests may be killed.
        self.kill_timer: KillTimer | None = None
        #: Set where a server kills a worker that is silent for too long.
        self.stall_timer: StallTimer | None = None
        self._stopping = False
        self._waker = Waker()
        self._ended = primitives.allocate_lock()

    # --- the thread

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if the system gives none."""
        self._ended.acquire()
        # Not in the thread: a stall may begin before it first runs.
        self._started_at = self._sleeps_at = monotonic()
        try:
            self._primitives.start_new_thread(self._run, ())
        except BaseException:
            self._ended.release()
            raise

    def stop(self, timeout_seconds: float) -> None:
        """End the thread."""
        self._stopping = True
        self.wake()
        if self._ended.acquire(timeout=timeout_seconds):
            self._ended.release()

    def forget(self) -> None:
        """Release what is left in a forked child, which has no such thread."""
        self._garbage.stop()
        self._waker.close()

    def wake(self) -> None:
        """Make it check all requests now."""
        now = self._woken_at = monotonic()
        stall_timer = self.stall_timer
        if stall_timer is not None:
            # Not at the next check: Python may be unable to run before that.
            stall_timer.push(now)
        self._waker.wake()

    def watch(self, settings: Settings) -> None:
        """From now on, check often enough for requests under these settings."""
        first = first_threshold(settings)
        if settings.client_gone is not None:
            first = min(first or NEVER, CHECK_SECONDS)
        if self.stall_timer is not None:
            first = min(first or NEVER, self.stall_timer.check_seconds)
        if first is not None and first < self._horizon_seconds:
            self._horizon_seconds = first
            self.wake()

    def request_admitted(self) -> None:
        """Check in time for a request that may be the first one after a while without any: see above."""
        self._admitted_at = monotonic()
        # It is idle, or in a check that may just have found STARTED_HERE cleared; otherwise it wakes up in time.
        if self.wakes_at > self._admitted_at + self._horizon_seconds:
            self.wake()

    def watch_hubs(self, blocked_seconds: float) -> None:
        """From now on, report a hub that is blocked for that long."""
        if self._hub_watch.watch(blocked_seconds):
            self.wake()

    def plan_for(self, core: Core, seconds: float) -> None:
        """From now on, check often enough for limits as short as that of this request, the shortest so far."""
        self.shortest_limit = min(self.shortest_limit, max(seconds, _MIN_PLANNED_SECONDS))
        self._horizon_seconds = min(self._horizon_seconds, self.shortest_limit / 2)
        self._wake_for(core)

    def limit_changed(self, core: Core) -> None:
        """Check in time for the limit that a request has set for itself."""
        kill_timer = self.kill_timer
        if kill_timer is not None:
            # Not at the next check: the request may stall before that.
            kill_timer.watch()
        self._wake_for(core)

    def _wake_for(self, core: Core) -> None:
        slow_at, _ = thresholds(core, core.started)
        if slow_at < self.wakes_at:
            self.wake()

    def _run(self) -> None:
        try:
            planned = self._started_at
            while not self._stopping:
                try:
                    # Counted from when the check began, so that a pause of the process during the check is noticed.
                    planned = self._check(planned)
                except Exception:
                    faults.caught("in the watchdog")
                    planned = monotonic() + _FAULT_PAUSE_SECONDS
                try:
                    planned = self._sleep(planned)
                except Exception:
                    faults.caught("when the watchdog slept")
                    self._primitives.poll().poll(_FAULT_PAUSE_SECONDS * 1000)
            # Log what was counted while the reporter still runs.
            self._publisher.log_summaries(NEVER)
        except Exception:
            faults.caught("when the watchdog ended")
        finally:
            self._garbage.stop()
            self._waker.close()
            self._ended.release()

    def _sleep(self, planned: float) -> float:
        """Sleep until the planned time or a call of wake(), and return the time from which the next check is late."""
        self._sleeps_at = monotonic()
        sleep_seconds = max(0.0, planned - self._sleeps_at)
        is_woken = self._waker.wait(self._primitives.poll(), max(_MIN_SLEEP_SECONDS, sleep_seconds))
        if not is_woken:
            return planned
        # Not from now: Python may have been unable to run since. The application may close our descriptors: that wakes.
        return min(planned, self._woken_at if self._woken_at >= self._sleeps_at else monotonic())

    def _check(self, planned: float) -> float:
        """Do what is due, and return the monotonic time at which something may be due again.

        :param planned: when this check was due.
        """
        self.wakes_at = NEVER
        self._maker.begin_check()
        now = monotonic()
        table = self._table()
        if table is not None:
            table.beat(now)
        late_seconds = max(0.0, now - planned)
        # Without the time of the check before.
        stalled_seconds = now - max(planned, self._sleeps_at)
        self._forget_slow(now)
        cores = self._cores.all()
        # First, because it changes limits.
        wake_at = self._client_watch.check(cores, self._slow, now)
        for core in cores:
            token = core.started
            if token <= 0.0 or id(core) in self._slow:
                continue
            slow_at, _ = thresholds(core, token)
            wake_at = min(wake_at, slow_at if now < slow_at else self._begin(core, token, now))
        if stalled_seconds >= _STALLED_SECONDS:
            # Not before: the requests that kept the GIL go on while this is made, and would end unseen.
            self._report_stall(now, stalled_seconds)
        wake_at = min(wake_at, self._next_look(now, is_quiet=wake_at == NEVER and not self._slow))
        if self.kill_timer is not None and self.kill_timer.update():
            wake_at = min(wake_at, now + self.kill_timer.half_margin_seconds)
        if self._slow:
            self._garbage.check(now)
            wake_at = min(wake_at, self._check_slow(late_seconds))
        else:
            self._garbage.stop()
        wake_at = min(wake_at, self._hub_watch.check(now, late_seconds))
        wake_at = min(wake_at, self._publisher.log_summaries(now))
        if table is not None and wake_at != NEVER and now >= self._measured_at + _MEASURE_SECONDS:
            # At the end, because it releases the GIL; not in an idle worker.
            self._measured_at = now
            table.set_resident(proc.resident_bytes("/proc/self") or 0)
        self._set_stall_timer(wake_at)
        self.wakes_at = wake_at
        return wake_at

    def _set_stall_timer(self, wake_at: float) -> None:
        stall_timer = self.stall_timer
        if stall_timer is not None:
            if wake_at == NEVER:
                stall_timer.pause()
            else:
                stall_timer.push(monotonic())

    def _next_look(self, now: float, *, is_quiet: bool) -> float:
        """When it must check for the sake of requests that begin from now on; infinite: when one is admitted.

        :param is_quiet: no request in flight may become slow or overdue.
        """
        if is_quiet and not STARTED_HERE[0]:
            if now - self._cleared_at >= _QUIET_SECONDS and self._waker.is_ours():
                return NEVER
        elif is_quiet and now - self._admitted_at >= _QUIET_SECONDS:
            self._cleared_at = now
            STARTED_HERE[0] = 0
        return now + self._horizon_seconds

    def _forget_slow(self, now: float) -> None:
        for key, slow in list(self._slow.items()):
            if slow.core.started != slow.token:
                del self._slow[key]
                slow.end(now)
            elif not slow.is_slow(now):
                del self._slow[key]
                slow.let_go(now)

    def _begin(self, core: Core, token: float, now: float) -> float:
        """Record a request that is slow from now on; the next check that it needs."""
        settings = core.settings
        request = describe(core, token, now, unix_time())
        if request is None or settings is None:
            # It has ended, and another may have begun.
            return now
        self._publisher.count("slow")
        recorder = Recorder(self._places, self._ownership)
        self._slow[id(core)] = SlowRequest(
            core, token, settings, request, recorder, hubs=self._hubs, maker=self._maker, publisher=self._publisher
        )
        return NEVER

    def _check_slow(self, late_seconds: float) -> float:
        """Do what is due for each slow request, and return when something is due again."""
        # One walk over the threads of all of them, and of no others.
        wanted = {slow.core.serving_ident() for slow in self._slow.values()}
        watched = [slow.core for slow in self._slow.values()]
        walked = greenlets.walk_with(watched, (), wanted, serving=self._cores.serving())
        wake_at = NEVER
        for slow in self._slow.values():
            try:
                wake_at = min(wake_at, slow.check(walked, late_seconds))
            except Exception:
                # It must not delay the other requests.
                faults.caught("in the watchdog, on one request")
                wake_at = min(wake_at, monotonic() + _FAULT_PAUSE_SECONDS)
        return wake_at

    def _report_stall(self, now: float, stalled_seconds: float) -> None:
        """Log that Python could not run, with the requests that were in flight: one of them may have kept the GIL."""
        report = self._maker.make_stall(now, stalled_seconds)
        oldest = report_format.target(report.in_flight[0].request) if report.in_flight else "no request"
        # The same requests in flight are the same stall again.
        key = tuple((other.request.method, other.request.path) for other in report.in_flight)
        if self._publisher.admit("stall", key, oldest, now):
            self._publisher.log("stall", report_format.stall_line(report), report_json.stall_document(report))
