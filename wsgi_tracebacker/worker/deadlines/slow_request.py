"""One request that is slow: sampled, reported when it is overdue, interrupted or killed for, reported when it ends.

Knows what becomes of a request after its first threshold, step by step. Refuses to sleep, and to know other requests:
the watchdog calls it.
"""

from __future__ import annotations

import os
import signal
from time import monotonic
from time import time as unix_time
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import threads as kernel_threads
from wsgi_tracebacker.model.snapshot import PHASES, Request
from wsgi_tracebacker.text import report as report_format
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire import report_json
from wsgi_tracebacker.worker.deadlines import interrupt
from wsgi_tracebacker.worker.deadlines.interrupt import Throw
from wsgi_tracebacker.worker.deadlines.thresholds import NEVER, limit_of, thresholds
from wsgi_tracebacker.worker.stacks import greenlets
from wsgi_tracebacker.worker.tracking.core import APP, BODY
from wsgi_tracebacker.worker.tracking.describe import describe

if TYPE_CHECKING:
    from wsgi_tracebacker.model.report import HarakiriReport
    from wsgi_tracebacker.worker.deadlines.make_report import ReportMaker
    from wsgi_tracebacker.worker.deadlines.publisher import Publisher
    from wsgi_tracebacker.worker.deadlines.recorder import Recorder
    from wsgi_tracebacker.worker.reporting.reporter import Entry
    from wsgi_tracebacker.worker.settings import Settings
    from wsgi_tracebacker.worker.stacks.hubs import Hub, Hubs
    from wsgi_tracebacker.worker.stacks.walk import RawStack, Walked
    from wsgi_tracebacker.worker.tracking.core import Core

#: How long a kill waits for its report to be logged; the stacks file has it by then.
_KILL_WAITS_SECONDS = 1.0
#: Between two looks whether it was. Not a timed wait for a lock: CPython 3.10 measures that by a clock that can be set.
_KILL_LOOKS_SECONDS = 0.01
#: A sample may be taken so much of its interval early, so that several slow requests share one wake-up.
_SAMPLE_EARLY_SHARE = 0.3
#: A greenlet that is to be raised into has so long to give way to its hub, which throws into it.
_GIVES_WAY_SECONDS = 0.3


class SlowRequest:
    """One request that the watchdog records. Used by the watchdog's thread alone."""

    __slots__ = (
        "_begun",
        "_cpu_seconds",
        "_delay_seconds",
        "_grace_ends",
        "_hubs",
        "_is_raised",
        "_kill_at",
        "_kill_entry",
        "_last_sample",
        "_maker",
        "_next_sample",
        "_phase",
        "_publisher",
        "_raise_at",
        "_reported_limit",
        "_request",
        "_settings",
        "_thread_before",
        "_throw",
        "core",
        "greenlet",
        "recorder",
        "token",
    )

    def __init__(
        self,
        core: Core,
        token: float,
        settings: Settings,
        request: Request,
        recorder: Recorder,
        *,
        hubs: Hubs,
        maker: ReportMaker,
        publisher: Publisher,
    ) -> None:
        """Its first sample is due at once.

        :param request: as it is now.
        """
        self.core = core
        self.token = token
        self.recorder = recorder
        #: Of a greenlet: whether it runs now.
        self.greenlet: str | None = None
        self._settings = settings
        self._hubs = hubs
        self._maker = maker
        self._publisher = publisher
        #: As it was when it became slow, and the phase that it was seen in last.
        self._request = request
        self._phase = APP
        self._begun = core.begun
        self._next_sample = 0.0
        self._last_sample: float | None = None
        #: The limit that its report named; None while it was not overdue.
        self._reported_limit: float | None = None
        #: HarakiriTimeout was raised in its thread.
        self._is_raised = False
        #: When the time that it has after that is over.
        self._grace_ends = NEVER
        #: Once its report said so: when this process is killed for it, at the latest, and what is waited for.
        self._kill_at = NEVER
        self._kill_entry: Entry | None = None
        #: Of a greenlet: what throws into it, and when that is to be done without its hub.
        self._throw: Throw | None = None
        self._raise_at = NEVER
        #: Of a greenlet: its share of its thread's CPU and run delay, and what the thread's were when it last ran.
        self._cpu_seconds = self._delay_seconds = 0.0
        self._thread_before: tuple[float, float] | None = None

    def is_slow(self, now: float) -> bool:
        """False once its limit was moved or taken away before it was reported."""
        return self._reported_limit is not None or now >= thresholds(self.core, self.token)[0]

    def check(self, walked: Walked, late_seconds: float) -> float:
        """Do what is due for it; when something is due again.

        :param walked: the stacks of now.
        :param late_seconds: how much later than planned the watchdog runs.
        """
        now = monotonic()
        stack = walked.stack_of(self.core)
        self.greenlet = walked.state_of(self.core)
        self._phase = self.core.phase
        if self.core.started != self.token:
            # It ended after the look at its stack, which then may be another's.
            return now
        interval = 1.0 / self._settings.samples_per_second
        if now >= self._next_sample - interval * _SAMPLE_EARLY_SHARE:
            self._sample(stack, now, late_seconds)
            self._next_sample = now + interval
        if self._kill_at != NEVER:
            return self._kill_when_logged(now)
        _, overdue_at = thresholds(self.core, self.token)
        if now >= overdue_at and self._reported_limit is None:
            # To the microsecond, as it was given: the sum and difference of floats is a little off.
            self._report_overdue(stack, round(overdue_at - self.token, 6), now)
        if now >= self._grace_ends:
            self._grace_ends = NEVER
            self._announce_kill(stack, now, "still there after it was raised into, killing this worker")
        if self._kill_at != NEVER:
            return now
        if now >= self._raise_at:
            self._raise_at = NEVER
            if self._throw is not None and not self._throw.is_over and not self._throw.raise_into_running():
                # Another one keeps the hub from running; when that is over, this one may.
                self._raise_at = now + _GIVES_WAY_SECONDS
        return min(
            self._next_sample,
            self._grace_ends,
            self._raise_at,
            overdue_at if self._reported_limit is None else NEVER,
        )

    def end(self, now: float) -> None:
        """It has ended: log one line with its timeline."""
        core = self.core
        # Its end is known to the moment if it is noted by now, and the core has begun no other one since.
        ended = core.ended if core.begun == self._begun and core.ended > self.token else now
        age = max(0.0, ended - self.token)
        self.recorder.end(age)
        if self._last_sample is None:
            return
        outcome = "ended" if self._reported_limit is None else "overdue and reported, ended at last"
        if self._is_raised or (self._throw is not None and self._throw.is_raised):
            outcome = "ended after HarakiriTimeout was raised"
        limit = self._reported_limit
        if limit is None:
            since, limit = limit_of(core, self.token, self._settings)
            limit = round(since + limit, 6) if limit is not None else None
        report = self._maker.make(self, self._aged(age), limit_seconds=limit, outcome=outcome)
        if self._publisher.admit("slow", _key_of_ended(report), report_format.target(report.request), now):
            self._publisher.log("slow", report_format.one_line(report), report_json.document(report))

    def _sample(self, stack: RawStack, now: float, late_seconds: float) -> None:
        native_id = self.core.native_id
        cpu, delay = kernel_threads.cpu_and_run_delay(native_id) if native_id is not None else (None, None)
        if self.greenlet is not None:
            cpu, delay = self._own_share(cpu, delay)
        late_seconds = late_seconds if self._last_sample is not None else 0.0
        self.recorder.sample(now - self.token, stack, cpu, delay, late_seconds)
        self._last_sample = now

    def _own_share(self, cpu: float | None, delay: float | None) -> tuple[float | None, float | None]:
        """What a greenlet has used, as far as samples tell: what passed while it ran at both ends of the time."""
        if cpu is None or delay is None:
            return None, None
        if self.greenlet != greenlets.RUNNING:
            self._thread_before = None
        else:
            before_cpu, before_delay = self._thread_before or (cpu, delay)
            self._cpu_seconds += cpu - before_cpu
            self._delay_seconds += delay - before_delay
            self._thread_before = (cpu, delay)
        return self._cpu_seconds, self._delay_seconds

    # --- overdue

    def _report_overdue(self, stack: RawStack, limit: float, now: float) -> None:
        self._reported_limit = limit
        self._publisher.count("harakiri")
        if self._last_sample != now:
            self._sample(stack, now, 0.0)
        action = self._settings.harakiri_action
        if action == "kill":
            self._announce_kill(stack, now, "killing this worker")
            return
        outcome = "logged, still running"
        if action == "raise":
            # Before the report is made: others may be overdue too, and want to be raised into.
            outcome = self._raise(now)
        # The same request, standing in the same place of the application, is only counted: in a storm, making a
        # thousand reports would be what is late.
        key = (action, self._request.method, self._request.path, self.recorder.standing())
        is_logged = self._publisher.admit("harakiri", key, report_format.target(self._request), now)
        if is_logged or self._settings.on_harakiri is not None:
            report = self._make_report(stack, now, action, outcome)
            self._publisher.publish(report, self._settings.on_harakiri, is_logged=is_logged)

    def _make_report(self, stack: RawStack, now: float, action: str, outcome: str) -> HarakiriReport:
        request = describe(self.core, self.token, now, unix_time()) or self._aged(now - self.token)
        limit = self._reported_limit
        return self._maker.make(self, request, limit_seconds=limit, action=action, outcome=outcome, stack=stack)

    def _aged(self, age: float) -> Request:
        """The request as it was when it became slow, with its age and phase of now."""
        request = self._request
        return Request(
            method=request.method,
            path=request.path,
            query=request.query,
            remote_address=request.remote_address,
            request_id=request.request_id,
            started_at=request.started_at,
            age_seconds=age,
            phase=PHASES[self._phase],
        )

    def _raise(self, now: float) -> str:
        """Raise into it, or ask its hub to; what was done, for the report."""
        grace = self._settings.harakiri_grace
        if grace is not None:
            self._grace_ends = now + grace
        killed = f"; killed in {grace:g} s if it is still there" if grace is not None else ""
        hub = self._hubs.of(self.core)
        if hub is not None:
            return f"{self._throw_by(hub, now)}{killed}"
        self._is_raised = interrupt.raise_into(self.core, self.token)
        if self._is_raised:
            return (
                "HarakiriTimeout raised in its thread, which takes effect when Python code runs there again (a C call"
                f" is not interrupted){killed}"
            )
        return f"{self._not_raised()}{killed}"

    def _throw_by(self, hub: Hub, now: float) -> str:
        self._throw = Throw(self.core, self.token)
        if not self._throw.begin(hub):
            return self._not_raised()
        # One that has not given way by then is raised into without the hub.
        self._raise_at = now + _GIVES_WAY_SECONDS
        return (
            "HarakiriTimeout is thrown into its greenlet as soon as the hub runs, or raised in the thread if it is this"
            " greenlet that blocks the hub"
        )

    def _not_raised(self) -> str:
        # True to the phase that the report names, also if the request ends before that is made.
        if self.core.started == self.token:
            self._phase = self.core.phase
        if self._phase != BODY:
            return "not raised into: it was not inside the application at that moment"
        return "HarakiriTimeout waits for the next chunk of its body: the server is sending, and is not interrupted"

    # --- kill

    def _announce_kill(self, stack: RawStack, now: float, outcome: str) -> None:
        """Report that this process is killed; it is when that was logged, or logging takes too long."""
        # First, so that a fault of ours in the report does not keep the process alive.
        self._kill_at = now + _KILL_WAITS_SECONDS
        others = len(self._maker.others(self.core))
        if others:
            outcome += f", and with it the {plural(others, 'other request')} named below"
        report = self._make_report(stack, now, "kill", outcome)
        self._kill_entry = self._publisher.publish(report, self._settings.on_harakiri)

    def _kill_when_logged(self, now: float) -> float:
        """Kill this process, or say when to look again. If the request ends meanwhile, nobody dies for it."""
        entry = self._kill_entry
        if entry is not None and now < self._kill_at and not entry.is_done:
            return now + _KILL_LOOKS_SECONDS
        if os.getpid() == 1:
            # The kernel keeps pid 1 of a namespace from its own signals.
            os._exit(128 + signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        return NEVER


def _key_of_ended(report: HarakiriReport) -> object:
    """What makes two slow lines the same: the same request, most of the time in the same place."""
    longest = max(report.timeline, key=lambda span: span.to_seconds - span.from_seconds, default=None)
    frames = (longest.application, longest.innermost) if longest is not None else ()
    places = tuple((frame.filename, frame.lineno, frame.function) for frame in frames if frame is not None)
    return (report.request.method, report.request.path, places)
