"""Deadlines, and what is done when one passes.

Knows when each request in flight becomes slow and overdue, samples those that are slow, makes the reports and takes
the action. Refuses to log (the reporter does, on a thread of its own) and to know how a thread is interrupted.

Guarantees of the thread: one a process, real also under gevent and eventlet, daemon, started at the first request
that has a deadline; it dies with a fork, and the child's first request starts another. It waits in poll(), whose time
limit is monotonic on every interpreter (a timed wait for a lock is not on CPython 3.10), so changes of the clock do
nothing to it. It blocks on nothing else: no lock of the application's, no disk, no handler.

A request costs nothing extra. The thread never sleeps longer than the shortest time after which any request could
need it, so a request that begins now needs it after it wakes up anyway. Where a mapping or a callable gives the limits,
that is by the shortest limit so far. Only a request that begins with a shorter one, or gives itself a limit, compares
that with the next wake-up, and wakes it if it must come sooner.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
from time import monotonic, strftime
from time import time as unix_time
from typing import TYPE_CHECKING

from wsgi_tracebacker.model.report import HarakiriReport, OtherRequest, StallReport
from wsgi_tracebacker.model.snapshot import PHASES, Request, Stack
from wsgi_tracebacker.text import report as report_format
from wsgi_tracebacker.worker import faults, kernel, logs, requests
from wsgi_tracebacker.worker.hub_watch import HubWatch, running_in
from wsgi_tracebacker.worker.interrupt import Throw
from wsgi_tracebacker.worker.recorder import CodeOwnership, Recorder
from wsgi_tracebacker.worker.reporter import Entry, Repeats
from wsgi_tracebacker.worker.stacks import greenlets
from wsgi_tracebacker.worker.wakeup import Waker

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.worker.cores import Cores
    from wsgi_tracebacker.worker.kill_timer import KillTimer
    from wsgi_tracebacker.worker.primitives import Primitives
    from wsgi_tracebacker.worker.reporter import Reporter
    from wsgi_tracebacker.worker.requests import Core
    from wsgi_tracebacker.worker.settings import Settings
    from wsgi_tracebacker.worker.stacks.hubs import Hub, Hubs
    from wsgi_tracebacker.worker.stacks.places import Places
    from wsgi_tracebacker.worker.stacks.walk import RawStack
    from wsgi_tracebacker.worker.stacks_file import StacksFile
    from wsgi_tracebacker.worker.table import Table

#: How long a kill waits for its report to be logged; the stacks file has it by then.
_KILL_WAITS_SECONDS = 1.0
#: Between two looks whether it was. Not a timed wait for a lock: CPython 3.10 measures that by a clock that can be set.
_KILL_LOOKS_SECONDS = 0.01
#: After a fault of ours, before it goes on.
_FAULT_PAUSE_SECONDS = 1.0
#: At least so long between two looks: a limit of a microsecond must not make a loop.
_MIN_SLEEP_SECONDS = 0.002
#: So much of the time between two samples one may come early.
_SAMPLE_EARLY_SHARE = 0.3
#: This thread late by so much: a line in the log says that Python could not run. Beside many threads that compute,
#: half a second is nothing unusual.
_STALLED_SECONDS = 1.0
#: A limit by mapping or callable that is shorter wakes it each time: to plan for a moment is to look all the time.
_MIN_PLANNED_SECONDS = 1.0
#: Nothing to wait for: as good as for ever, and short enough for poll().
_IDLE_SECONDS = 3600.0

#: A greenlet that is to be raised into has so long to give way to its hub, which throws into it.
_GIVES_WAY_SECONDS = 0.3

_NEVER = float("inf")


class _Watch:
    """What is known of one slow request."""

    __slots__ = (
        "begun",
        "core",
        "cpu_seconds",
        "delay_seconds",
        "grace_ends",
        "greenlet",
        "kill_at",
        "kill_entry",
        "last_sample",
        "next_sample",
        "phase",
        "raise_at",
        "raised",
        "recorder",
        "reported",
        "request",
        "settings",
        "thread_before",
        "throw",
        "token",
    )

    def __init__(
        self, core: Core, token: float, settings: Settings, request: Request, recorder: Recorder, now: float
    ) -> None:
        self.core = core
        self.token = token
        self.settings = settings
        #: As it was when it became slow; and the phase that it was seen in last.
        self.request = request
        self.phase = requests.APP
        self.recorder = recorder
        self.begun = core.begun
        self.next_sample = now
        self.last_sample: float | None = None
        #: The limit that its report named; None while it was not overdue.
        self.reported: float | None = None
        self.raised = False
        self.grace_ends = _NEVER
        #: Once its report said so: when this process is killed for it, at the latest, and what is waited for.
        self.kill_at = _NEVER
        self.kill_entry: Entry | None = None
        #: Of a greenlet: whether it runs now; what throws into it, and when that is to be done without its hub.
        self.greenlet: str | None = None
        self.throw: Throw | None = None
        self.raise_at = _NEVER
        #: The share of its thread's CPU and run delay that is its own, and what the thread's were when it last ran.
        self.cpu_seconds = self.delay_seconds = 0.0
        self.thread_before: tuple[float, float] | None = None

    def own_share(self, cpu: float | None, delay: float | None) -> tuple[float | None, float | None]:
        """What a greenlet has used, as far as samples tell: what passed while it ran at both ends of the time."""
        if cpu is None or delay is None:
            return None, None
        if self.greenlet != greenlets.RUNNING:
            self.thread_before = None
        else:
            before_cpu, before_delay = self.thread_before or (cpu, delay)
            self.cpu_seconds += cpu - before_cpu
            self.delay_seconds += delay - before_delay
            self.thread_before = (cpu, delay)
        return self.cpu_seconds, self.delay_seconds


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
        worker_number: Callable[[], int | None],
        interrupt: Callable[[Core, float], bool],
        hubs: Hubs,
    ) -> None:
        """Nothing runs before start().

        :param interrupt: raises into the request ``token`` of a core; whether it could.
        """
        self._primitives = primitives
        self._cores = cores
        self._reporter = reporter
        self._stacks_file = stacks_file
        self._table = table
        self._places = places
        self._worker_number = worker_number
        self._interrupt = interrupt
        self._hubs = hubs
        self._hub_watch = HubWatch(
            hubs, cores, reporter, stacks_file, places, worker_number, lambda: in_flight(cores, monotonic())
        )
        self._ownership = CodeOwnership()
        self._watches: dict[int, _Watch] = {}
        #: The requests in flight with their cores, of the present look; None: nobody has asked yet.
        self._in_flight: list[tuple[Core, OtherRequest]] | None = None
        self._reports = Repeats()
        self._slow_lines = Repeats()
        self._stalls = Repeats()
        #: The shortest time after which a request under any of the settings could need us.
        self._horizon_seconds = _IDLE_SECONDS
        #: When it wakes up; infinite while it looks around, so that a limit set just then wakes it again.
        self.wakes_at = _NEVER
        #: Requests that begin with a limit of their own below this call plan_for().
        self.shortest_limit = _NEVER
        self._started_at = 0.0
        #: When it began to sleep last.
        self._sleeps_at = 0.0
        #: Set where requests may be killed.
        self.kill_timer: KillTimer | None = None
        self._stopping = False
        self._waker = Waker()
        self._ended = primitives.allocate_lock()

    # --- the thread

    def start(self) -> None:
        """Start the thread. Raises RuntimeError when the system gives none."""
        self._ended.acquire()
        # Not when it first runs: the process may be stopped, or its GIL kept, before it does.
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
        """In a forked child: there is no thread."""
        self._waker.close()

    def wake(self) -> None:
        """Make it look around now."""
        self._waker.wake()

    def watch(self, settings: Settings) -> None:
        """From now on, requests under these settings come: look around at least as often as they may need it."""
        first = _first_event(settings)
        if first is not None and first < self._horizon_seconds:
            self._horizon_seconds = first
            self.wake()

    def attend_hubs(self, blocked_seconds: float) -> None:
        """From now on greenlets serve: report a hub that is blocked for so long."""
        if self._hub_watch.attend(blocked_seconds):
            self.wake()

    def plan_for(self, core: Core, seconds: float) -> None:
        """A request begins with a limit that is shorter than all before: from now on look often enough for such."""
        self.shortest_limit = min(self.shortest_limit, max(seconds, _MIN_PLANNED_SECONDS))
        self._horizon_seconds = min(self._horizon_seconds, self.shortest_limit / 2)
        self._wake_for(core)

    def limit_changed(self, core: Core) -> None:
        """A request has given itself a limit."""
        kill_timer = self.kill_timer
        if kill_timer is not None:
            # Not at the next look: the request may stall before that.
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
                    # By what was planned when it began to look: if it was stopped since then, that counts as well.
                    planned = self._look_around(planned)
                except Exception:
                    faults.caught("in the watchdog")
                    planned = monotonic() + _FAULT_PAUSE_SECONDS
                try:
                    planned = self._sleep(planned)
                except Exception:
                    faults.caught("when the watchdog slept")
                    self._primitives.poll().poll(_FAULT_PAUSE_SECONDS * 1000)
            # What was counted is said while there is somebody to say it.
            self._summaries(_NEVER)
        except Exception:
            faults.caught("when the watchdog ended")
        finally:
            self._waker.close()
            self._ended.release()

    def _sleep(self, planned: float) -> float:
        """Until it is time to look around, or somebody wakes it; when the next look was to be."""
        self._sleeps_at = monotonic()
        sleep_seconds = max(0.0, planned - self._sleeps_at)
        is_woken = self._waker.wait(self._primitives.poll(), max(_MIN_SLEEP_SECONDS, sleep_seconds))
        return min(planned, monotonic()) if is_woken else planned

    def _look_around(self, planned: float) -> float:
        """Do what is due; the monotonic time at which something may be due again.

        :param planned: when this look was to be.
        """
        self.wakes_at = _NEVER
        now = monotonic()
        late_seconds = max(0.0, now - planned)
        # Not the time that its own work took.
        stalled_seconds = now - max(planned, self._sleeps_at)
        if stalled_seconds >= _STALLED_SECONDS:
            self._report_stall(now, stalled_seconds)
        wake_at = now + self._horizon_seconds
        due: list[_Watch] = []
        for core in self._cores.all():
            token = core.started
            if token <= 0.0:
                continue
            slow_at, overdue_at = thresholds(core, token)
            watch = self._watches.get(id(core))
            if watch is not None and watch.token == token and watch.reported is None and now < min(slow_at, overdue_at):
                # Its limit was moved or taken away: it is not slow any more.
                del self._watches[id(core)]
                watch = None
            if watch is None or watch.token != token:
                event_at = min(slow_at, overdue_at)
                if now < event_at:
                    wake_at = min(wake_at, event_at)
                    continue
                if watch is not None:
                    self._ended_request(watch, now)
                watch = self._begin(core, token, now)
                if watch is None:
                    wake_at = now
                    continue
            due.append(watch)
        if self.kill_timer is not None and self.kill_timer.look():
            wake_at = min(wake_at, now + self.kill_timer.half_margin_seconds)
        for key, watch in list(self._watches.items()):
            if watch.core.started != watch.token:
                del self._watches[key]
                self._ended_request(watch, now)
        if due:
            wake_at = min(wake_at, self._attend_slow(due, late_seconds))
        wake_at = min(wake_at, self._hub_watch.look(now, late_seconds))
        wake_at = min(wake_at, self._summaries(now))
        self.wakes_at = wake_at
        return wake_at

    def _count(self, counter: str) -> None:
        """In the header of the black box, where its readers and this worker's successors find it."""
        table = self._table()
        if table is not None:
            table.count(counter)

    # --- one slow request

    def _begin(self, core: Core, token: float, now: float) -> _Watch | None:
        settings = core.settings
        request = requests.describe(core, token, now, unix_time())
        if request is None or settings is None:
            return None
        table = self._table()
        if table is not None and core.number is not None:
            table.describe(core.number, token, request.remote_address, request.request_id)
        self._count("slow")
        recorder = Recorder(self._ownership, self._places)
        watch = self._watches[id(core)] = _Watch(core, token, settings, request, recorder, now)
        return watch

    def _attend_slow(self, due: list[_Watch], late_seconds: float) -> float:
        """Sample and judge; when the next of it is due."""
        # One look at the threads for all of them; only theirs are walked.
        self._in_flight = None
        wanted = {watch.core.serving_ident() for watch in due}
        looked = greenlets.look((watch.core for watch in due), (), wanted)
        wake_at = _NEVER
        for watch in due:
            try:
                wake_at = min(wake_at, self._attend_one(watch, looked, late_seconds))
            except Exception:
                # The others are not to pay for it.
                faults.caught("in the watchdog, on one request")
                wake_at = min(wake_at, monotonic() + _FAULT_PAUSE_SECONDS)
        return wake_at

    def _attend_one(self, watch: _Watch, looked: greenlets.Looked, late_seconds: float) -> float:
        now = monotonic()
        core, token, settings = watch.core, watch.token, watch.settings
        stack = looked.stack_of(core)
        watch.greenlet = looked.state_of(core)
        watch.phase = core.phase
        if core.started != token:
            # It ended after the look at its stack, which then may be another's.
            return now
        interval = 1.0 / settings.samples_per_second
        # A little early, if we are awake for another one: soon all are sampled in one look, and not each in its own.
        if now >= watch.next_sample - interval * _SAMPLE_EARLY_SHARE:
            self._sample(watch, stack, now, late_seconds)
            watch.next_sample = now + interval
        if watch.kill_at != _NEVER:
            return self._kill_if_said(watch, now)
        _, overdue_at = thresholds(core, token)
        if now >= overdue_at and watch.reported is None:
            # To the microsecond, as it was given: the sum and difference of floats is a little off.
            self._overdue(watch, settings, stack, round(overdue_at - token, 6), now)
        if now >= watch.grace_ends:
            watch.grace_ends = _NEVER
            self._kill(watch, settings, stack, now, "still there after it was raised into, killing this worker")
        if watch.kill_at != _NEVER:
            return now
        if now >= watch.raise_at:
            watch.raise_at = _NEVER
            if watch.throw is not None and not watch.throw.is_over and not watch.throw.raise_into_running():
                # Another one keeps the hub from running; when that is over, this one may.
                watch.raise_at = now + _GIVES_WAY_SECONDS
        return min(
            watch.next_sample, watch.grace_ends, watch.raise_at, overdue_at if watch.reported is None else _NEVER
        )

    def _sample(self, watch: _Watch, stack: RawStack, now: float, late_seconds: float) -> None:
        native_id = watch.core.native_id
        cpu, delay = kernel.cpu_and_run_delay(native_id) if native_id is not None else (None, None)
        if watch.greenlet is not None:
            cpu, delay = watch.own_share(cpu, delay)
        watch.recorder.sample(now - watch.token, stack, cpu, delay, late_seconds if watch.last_sample else 0.0)
        watch.last_sample = now

    def _overdue(self, watch: _Watch, settings: Settings, stack: RawStack, limit: float, now: float) -> None:
        watch.reported = limit
        self._count("harakiri")
        if watch.last_sample != now:
            self._sample(watch, stack, now, 0.0)
        action = settings.harakiri_action
        if action == "kill":
            self._kill(watch, settings, stack, now, "killing this worker")
            return
        outcome = "logged, still running"
        if action == "raise":
            # Before the report is made: others may be overdue too, and want to be raised into.
            outcome = self._raise(watch, settings, now)
        # A repeat is only counted: in a storm, making a thousand reports would be what is late.
        logged = self._reports.admit(self._key(watch, action), report_format.target(watch.request), now)
        if logged or settings.on_harakiri is not None:
            self._say(self._report(watch, stack, now, limit, action, outcome), settings, logged=logged)

    def _key(self, watch: _Watch, action: str) -> object:
        """What makes two reports the same: the same request, standing in the same place of the application."""
        return (action, watch.request.method, watch.request.path, watch.recorder.standing())

    def _raise(self, watch: _Watch, settings: Settings, now: float) -> str:
        grace = settings.harakiri_grace
        if grace is not None:
            watch.grace_ends = now + grace
        killed = f"; killed in {grace:g} s if it is still there" if grace is not None else ""
        hub = self._hubs.of(watch.core)
        if hub is not None:
            return f"{self._throw(watch, hub, now)}{killed}"
        watch.raised = self._interrupt(watch.core, watch.token)
        if watch.raised:
            return (
                "HarakiriTimeout raised in its thread, which takes effect when Python code runs there again (a C call"
                f" is not interrupted){killed}"
            )
        return f"{self._not_raised(watch)}{killed}"

    @staticmethod
    def _not_raised(watch: _Watch) -> str:
        # True to the phase that the report names, also if the request ends before that is made.
        if watch.core.started == watch.token:
            watch.phase = watch.core.phase
        if watch.phase != requests.BODY:
            return "not raised into: it was not inside the application at that moment"
        return "HarakiriTimeout waits for the next chunk of its body: the server is sending, and is not interrupted"

    def _throw(self, watch: _Watch, hub: Hub, now: float) -> str:
        watch.throw = Throw(watch.core, watch.token)
        if not watch.throw.begin(hub):
            return self._not_raised(watch)
        # One that has not given way by then is raised into without the hub.
        watch.raise_at = now + _GIVES_WAY_SECONDS
        return (
            "HarakiriTimeout is thrown into its greenlet as soon as the hub runs, or raised in the thread if it is this"
            " greenlet that blocks the hub"
        )

    def _kill(self, watch: _Watch, settings: Settings, stack: RawStack, now: float, outcome: str) -> None:
        """Say that this process is killed; it is when that was logged, or logging takes too long."""
        # First, so that a fault of ours in the report does not keep the process alive.
        watch.kill_at = now + _KILL_WAITS_SECONDS
        others = self._others(watch, now)
        if others:
            outcome += f", and with it the {len(others)} other request{'s' if len(others) > 1 else ''} named below"
        report = self._report(watch, stack, now, watch.reported or 0.0, "kill", outcome, others)
        watch.kill_entry = self._say(report, settings)

    def _kill_if_said(self, watch: _Watch, now: float) -> float:
        """Kill this process, or say when to look again. If the request ends meanwhile, nobody dies for it."""
        entry = watch.kill_entry
        if entry is not None and now < watch.kill_at and not entry.is_done:
            return now + _KILL_LOOKS_SECONDS
        if os.getpid() == 1:
            # The kernel keeps pid 1 of a namespace from its own signals.
            os._exit(128 + signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        return _NEVER

    def _ended_request(self, watch: _Watch, now: float) -> None:
        core = watch.core
        # Its end is known to the moment if it is noted by now, and the core has begun no other one since.
        ended = core.ended if core.begun == watch.begun and core.ended > watch.token else now
        age = max(0.0, ended - watch.token)
        watch.recorder.end(age)
        if watch.last_sample is None:
            return
        request = _aged(watch, age)
        outcome = "ended" if watch.reported is None else "overdue and reported, ended at last"
        if watch.raised or (watch.throw is not None and watch.throw.is_raised):
            outcome = "ended after HarakiriTimeout was raised"
        limit = watch.reported
        if limit is None:
            since, limit = _limit(core, watch.token, watch.settings)
            limit = round(since + limit, 6) if limit is not None else None
        report = HarakiriReport(
            kind="slow",
            request=request,
            worker=self._worker_number(),
            core=core.number,
            pid=os.getpid(),
            limit_seconds=limit,
            late_seconds=0.0,
            action="log",
            outcome=outcome,
            timeline=watch.recorder.timeline(),
            verdict=watch.recorder.verdict(),
            stack=None,
            system_call=None,
            others=(),
        )
        line = report_format.one_line(report)
        if self._slow_lines.admit(_slow_key(report), report_format.target(request), now):
            content = report_format.document(report)
            self._reporter.post(Entry(logs.SLOW, logging.WARNING, "slow: %s", line, content=content))

    # --- reports

    def _report_stall(self, now: float, stalled_seconds: float) -> None:
        """Log that Python could not run, with the requests that were in flight: one of them may have kept the GIL."""
        last = [requests.describe_last(core, now) for core in self._cores.all()]
        report = StallReport(
            stalled_seconds=stalled_seconds,
            worker=self._worker_number(),
            pid=os.getpid(),
            in_flight=tuple(other for _, other in in_flight(self._cores, now)),
            ended=tuple(request for request in last if request and request.ended_seconds_ago < stalled_seconds),
        )
        oldest = report_format.target(report.in_flight[0].request) if report.in_flight else "no request"
        # The same requests in flight are the same stall again.
        places = tuple((other.request.method, other.request.path) for other in report.in_flight)
        if self._stalls.admit(places, oldest, now):
            line, document = report_format.stall_line(report), report_format.stall_document(report)
            self._reporter.post(Entry(logs.STALL, logging.WARNING, "stall: %s", line, content=document))

    def _report(
        self,
        watch: _Watch,
        stack: RawStack,
        now: float,
        limit: float,
        action: str,
        outcome: str,
        others: tuple[OtherRequest, ...] | None = None,
    ) -> HarakiriReport:
        core = watch.core
        request = requests.describe(core, watch.token, now, unix_time()) or _aged(watch, now - watch.token)
        native_id = core.native_id
        # A suspended greenlet does not have the thread: what the kernel says of that is not said of it.
        has_the_thread = watch.greenlet != greenlets.SUSPENDED
        status = kernel.ThreadStatus()
        if has_the_thread and native_id is not None:
            status = kernel.thread_status(native_id)
        hub = self._hubs.of(core)
        places, omitted = self._places.resolve(stack, {})
        thread = core.thread
        return HarakiriReport(
            kind="harakiri",
            request=request,
            worker=self._worker_number(),
            core=core.number,
            pid=os.getpid(),
            limit_seconds=limit,
            late_seconds=max(0.0, now - watch.token - limit),
            action=action,
            outcome=outcome,
            timeline=watch.recorder.timeline(),
            verdict=watch.recorder.verdict(),
            stack=Stack(
                name=self._cores.name_of(core),
                ident=core.serving_ident(),
                native_id=native_id,
                core=core.number,
                daemon=thread.daemon if thread is not None else None,
                state=status.state,
                wait_channel=status.wait_channel,
                cpu_seconds=status.cpu_seconds,
                frames=tuple(place.frame for place in places),
                frames_omitted=omitted,
                greenlet=watch.greenlet,
            ),
            system_call=kernel.system_call(native_id) if has_the_thread and native_id is not None else None,
            others=self._others(watch, now) if others is None else others,
            hub=hub.state(now) if hub is not None else None,
            hub_blocked_by=running_in(hub, self._all_in_flight(now))[1] if hub is not None else None,
        )

    def _others(self, watch: _Watch, now: float) -> tuple[OtherRequest, ...]:
        return tuple(other for core, other in self._all_in_flight(now) if core is not watch.core)

    def _all_in_flight(self, now: float) -> list[tuple[Core, OtherRequest]]:
        if self._in_flight is None:
            # Once a look: many may be overdue at once.
            self._in_flight = in_flight(self._cores, now)
        return self._in_flight

    def _say(self, report: HarakiriReport, settings: Settings, *, logged: bool = True) -> Entry | None:
        """Write the report to the stacks file, and hand it over to be logged, or only to the callable."""
        text = "\n".join(report_format.lines(report)) if logged else ""
        stacks_file = self._stacks_file()
        if logged and stacks_file is not None:
            stacks_file.write(f"{_timestamp()} harakiri: {text}\n\n")
        on_harakiri = settings.on_harakiri
        return self._reporter.post(
            Entry(
                logs.HARAKIRI,
                logging.ERROR,
                "harakiri: %s",
                text,
                content=report_format.document(report) if logged else {},
                callback=functools.partial(on_harakiri, report) if on_harakiri is not None else None,
                is_logged=not logged,
            )
        )

    def _summaries(self, now: float) -> float:
        wake_at = _NEVER
        for repeats, logger, level, kind in (
            (self._reports, logs.HARAKIRI, logging.ERROR, "harakiri"),
            (self._slow_lines, logs.SLOW, logging.WARNING, "slow"),
            (self._hub_watch.reports, logs.HUB, logging.WARNING, "hub"),
            (self._stalls, logs.STALL, logging.WARNING, "stall"),
        ):
            for subject, count in repeats.summary(now):
                what = "block" if kind == "hub" else "stall" if kind == "stall" else "request"
                more = f"{count} more {what}{'s' if count > 1 else ''}"
                message = f"{more} in the last minute at the same place as {subject}"
                if not subject:
                    message = f"{more} in the last minute at other places"
                content = {"kind": f"{kind}-summary", "subject": subject, "count": count, "pid": os.getpid()}
                self._reporter.post(Entry(logger, level, f"{kind}: %s", message, content=content))
            ends_at = repeats.ends_at()
            if ends_at is not None:
                wake_at = min(wake_at, ends_at)
        return wake_at


def in_flight(cores: Cores, now: float) -> list[tuple[Core, OtherRequest]]:
    """The requests in flight with their cores, the oldest first."""
    found = []
    for core in cores.all():
        token = core.started
        request = requests.describe(core, token, now, unix_time()) if token > 0.0 else None
        if request is not None:
            found.append((core, OtherRequest(core.number, request)))
    return sorted(found, key=lambda entry: -entry[1].request.age_seconds)


def _limit(core: Core, token: float, settings: Settings) -> tuple[float, float | None]:
    """The age of the request ``token`` of a core when its limit was set, and the limit; both in seconds."""
    own = core.own_limit
    return (own[1], own[2]) if own is not None and own[0] == token else (0.0, settings.harakiri)


def thresholds(core: Core, token: float) -> tuple[float, float]:
    """When the request ``token`` of a core becomes slow and when overdue, on the monotonic clock."""
    settings = core.settings
    if settings is None or token <= 0.0:
        return _NEVER, _NEVER
    since, harakiri = _limit(core, token, settings)
    slow = settings.slow
    if slow is None and harakiri is not None:
        slow = harakiri / 2
    # A limit that was set while the request ran counts from then on: ``since`` seconds after its start.
    overdue_at = token + since + harakiri if harakiri is not None else _NEVER
    if slow is None:
        return _NEVER, overdue_at
    slow_at = token + slow + (since if settings.slow is None else 0.0)
    return min(slow_at, overdue_at), overdue_at


def kill_deadline(core: Core, token: float) -> float:
    """When the process may be killed for the request ``token`` of a core, on the monotonic clock; infinite: never."""
    settings = core.settings
    if settings is None or settings.harakiri_action != "kill" or core.outer is not None:
        return _NEVER
    return thresholds(core, token)[1]


def _first_event(settings: Settings) -> float | None:
    """The shortest time after which a request under these settings can need the watchdog, limits of its own aside."""
    slow = settings.slow
    if slow is None and settings.harakiri is not None:
        slow = settings.harakiri / 2
    times = [seconds for seconds in (slow, settings.harakiri) if seconds is not None]
    return min(times) if times else None


def _aged(watch: _Watch, age: float) -> Request:
    """The request as it was when it became slow, with its age and phase of now."""
    request = watch.request
    return Request(
        method=request.method,
        path=request.path,
        query=request.query,
        remote_address=request.remote_address,
        request_id=request.request_id,
        started_at=request.started_at,
        age_seconds=age,
        phase=PHASES[watch.phase],
    )


def _slow_key(report: HarakiriReport) -> object:
    """What makes two slow lines the same: the same request, most of the time in the same place."""
    longest = max(report.timeline, key=lambda span: span.to_seconds - span.from_seconds, default=None)
    frames = (longest.application, longest.innermost) if longest is not None else ()
    places = tuple((frame.filename, frame.lineno, frame.function) for frame in frames if frame is not None)
    return (report.request.method, report.request.path, places)


def _timestamp() -> str:
    return strftime("%Y-%m-%d %H:%M:%S%z")
