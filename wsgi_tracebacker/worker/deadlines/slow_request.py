"""Watch one slow request to its end: sample it, report it when it is overdue, then log, raise or kill.

The watchdog calls it, and knows when; it never sleeps.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.linux import threads as kernel_threads
from wsgi_tracebacker.linux.clock import monotonic, unix_time
from wsgi_tracebacker.model.report import DEFAULT, SERVER
from wsgi_tracebacker.model.snapshot import PHASES, Request
from wsgi_tracebacker.text import report as report_format
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire.documents import report_json
from wsgi_tracebacker.worker.deadlines.raising.timeout_delivery import TimeoutDelivery
from wsgi_tracebacker.worker.deadlines.recording.repeated_statement import RepeatedStatement
from wsgi_tracebacker.worker.deadlines.thresholds import NEVER, Limit, limit_of, thresholds
from wsgi_tracebacker.worker.stacks import greenlets
from wsgi_tracebacker.worker.tracking.core import APP, BODY
from wsgi_tracebacker.worker.tracking.cores import known_thread, native_id_of
from wsgi_tracebacker.worker.tracking.describe import describe, is_websocket
from wsgi_tracebacker.worker.tracking.handle import notes_of

if TYPE_CHECKING:
    from wsgi_tracebacker.model.report import HarakiriReport
    from wsgi_tracebacker.model.waits import WaitsFor
    from wsgi_tracebacker.worker.deadlines.make_report import ReportMaker
    from wsgi_tracebacker.worker.deadlines.publisher import Publisher
    from wsgi_tracebacker.worker.deadlines.recording.recorder import Recorder
    from wsgi_tracebacker.worker.options.settings import Settings
    from wsgi_tracebacker.worker.reporting.reporter import Entry
    from wsgi_tracebacker.worker.stacks.hubs import Hubs
    from wsgi_tracebacker.worker.stacks.walk import RawStack, Walked
    from wsgi_tracebacker.worker.tracking.core import Core

#: How long a kill waits until its report is logged. The stacks file has the report by then.
_KILL_WAITS_SECONDS = 1.0
#: How often it checks that. Not a timed wait for a lock: CPython 3.10 measures that by a clock that can be set.
_KILL_CHECK_SECONDS = 0.01
#: A sample may be taken by this share of its interval early, so that several slow requests share one wake-up.
_SAMPLE_EARLY_SHARE = 0.3


class SlowRequest:
    """One request that the watchdog records. Used by the watchdog's thread."""

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
        """``request`` is the request as it is now. Its first sample is due at once."""
        self.core = core
        self.token = token
        self.recorder = recorder
        #: The thread that worked on it when it was checked last: its ident, and its native id if that is known.
        self.ident = core.ident
        self.native_id = core.native_id
        #: Whether the greenlet that serves it runs or is suspended; None on an ordinary thread.
        self.greenlet: str | None = None
        self._repeated = RepeatedStatement()
        self._settings = settings
        self._hubs = hubs
        self._maker = maker
        self._publisher = publisher
        #: As it was when it became slow.
        self._request = request
        #: The worker's resident size after the first sample. Not before: reading it releases the GIL, and a request
        #: that kept it would end unseen.
        self.resident_bytes: int | None = None
        #: What it was last known to wait for, and its stack then.
        self.known_wait: tuple[RawStack, WaitsFor] | None = None
        #: The phase that it was seen in last.
        self._phase = APP
        self._begun = core.begun
        self._next_sample = 0.0
        self._last_sample: float | None = None
        #: The limit that its report named; None while it was not overdue.
        self._reported_limit: float | None = None
        #: The stack that its report left out, for which the server's own log was to be the place.
        self._stack_lines: tuple[str, ...] = ()
        self._delivery = TimeoutDelivery(core, token)
        #: When ``harakiri_grace`` ends.
        self._grace_ends = NEVER
        #: Once the kill was reported: its latest time, and the report that it waits for.
        self._kill_at = NEVER
        self._kill_entry: Entry | None = None
        #: Of a greenlet: its part of its thread's CPU time and run delay, and the thread's when the greenlet last ran.
        self._cpu_seconds = self._delay_seconds = 0.0
        self._thread_before: tuple[float, float] | None = None

    def is_slow(self, now: float) -> bool:
        """False if its limit was extended or taken away before it was reported, and once it is past the default one."""
        if self._reported_limit is not None and not self._is_past_default():
            return True
        return now >= thresholds(self.core, self.token)[0]

    def _is_past_default(self) -> bool:
        """Whether its body has begun, which has no limit by default: it may last for hours, and is not recorded."""
        return self._limit().source == DEFAULT and self.core.phase != APP

    def _limit(self) -> Limit:
        return limit_of(self.core, self.token, self._settings)

    def check(self, walked: Walked, late_seconds: float) -> float:
        """Do what is due, and return when something is due again.

        :param walked: the present stacks.
        :param late_seconds: how much later than planned the watchdog runs.
        """
        now = monotonic()
        stack = walked.stack_of(self.core)
        self._find_thread(walked)
        self.greenlet = walked.state_of(self.core)
        self._phase = self.core.phase
        if self.core.started != self.token:
            # It has ended, so the stack may be another request's.
            return now
        interval = 1.0 / self._settings.samples_per_second
        if now >= self._next_sample - interval * _SAMPLE_EARLY_SHARE:
            is_first = self._last_sample is None
            self._sample(walked, now, late_seconds)
            self._next_sample = now + interval
            if is_first:
                self.resident_bytes = proc.resident_bytes("/proc/self")
                self._publisher.describe(self.core, self.token, self._request, self.resident_bytes)
        if self._kill_at != NEVER:
            return self._kill_when_logged(now)
        _, overdue_at = thresholds(self.core, self.token)
        if now >= overdue_at and self._reported_limit is None:
            # Rounded, because sums of floats are a little off what the user set.
            self._report_overdue(walked, round(overdue_at - self.token, 6), now)
        if now >= self._grace_ends:
            self._grace_ends = NEVER
            self._announce_kill(stack, now, "still there after it was raised into, killing this worker")
        if self._kill_at != NEVER:
            return now
        if now >= self._delivery.retry_at:
            self._delivery.retry(now)
        return min(
            self._next_sample,
            self._grace_ends,
            self._delivery.retry_at,
            overdue_at if self._reported_limit is None else NEVER,
        )

    def let_go(self, now: float) -> None:
        """Log that line when a request is not slow any more because its body has begun."""
        if self._is_past_default():
            self._phase = self.core.phase
            outcome = (
                "its body has begun" if self._reported_limit is None else "overdue and reported, its body has begun"
            )
            self._log_line(now - self.token, outcome, now)

    def end(self, now: float) -> None:
        """Log one line with its timeline, after the request has ended."""
        core = self.core
        # The core has the exact time, unless the end is not noted yet or another request has begun since.
        ended = core.ended if core.begun == self._begun and core.ended > self.token else now
        outcome = "ended" if self._reported_limit is None else "overdue and reported, ended at last"
        if self._delivery.is_raised:
            outcome = "ended after HarakiriTimeout was raised"
        self._log_line(max(0.0, ended - self.token), outcome, now)

    def _log_line(self, age: float, outcome: str, now: float) -> None:
        self.recorder.end(age)
        if self._last_sample is None:
            return
        since, limit, source = self._limit()
        if self._reported_limit is not None:
            limit = self._reported_limit
        elif limit is not None:
            limit = round(since + limit, 6)
        report = self._maker.make(self, self._aged(age), limit_seconds=limit, limit_source=source, outcome=outcome)
        if self._publisher.admit("slow", _key_of_ended(report), report_format.target(report.request), now):
            text = "\n".join([report_format.one_line(report), *self._stack_lines])
            self._publisher.log("slow", text, report_json.document(report))

    def _find_thread(self, walked: Walked) -> None:
        core, ident = self.core, walked.ident_of(self.core)
        if ident != self.ident:
            self.ident = ident
            self.native_id = core.native_id if ident == core.ident else native_id_of(known_thread(ident))
            # The CPU time of the other thread is not this one's.
            self.recorder.change_thread()

    def _sample(self, walked: Walked, now: float, late_seconds: float) -> None:
        stack = walked.stack_of(self.core)
        native_id = self.native_id
        cpu, delay = kernel_threads.cpu_and_run_delay(native_id) if native_id is not None else (None, None)
        if self.greenlet is not None:
            cpu, delay = self._greenlet_times(cpu, delay)
        late_seconds = late_seconds if self._last_sample is not None else 0.0
        self.recorder.sample(now - self.token, stack, cpu, delay, late_seconds)
        self._last_sample = now
        self._repeated.look(self._maker.statement(self.core, walked))
        cause = self._repeated.cause() or self._maker.garbage(now)
        self.core.cause = (self.token, cause) if cause is not None else None
        if self.recorder.wants_wait() and self._maker.may_ask(now):
            waits_for = self._maker.wait_of(self.core, stack)
            self.recorder.add_wait(waits_for.sentence if waits_for is not None else None)
            if waits_for is not None:
                self.known_wait = stack, waits_for

    def _greenlet_times(self, cpu: float | None, delay: float | None) -> tuple[float | None, float | None]:
        """A greenlet's part of its thread's times: what passed between two samples that both saw it running."""
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

    def _report_overdue(self, walked: Walked, limit: float, now: float) -> None:
        stack = walked.stack_of(self.core)
        self._reported_limit = limit
        self._publisher.count("harakiri")
        if self._last_sample != now:
            self._sample(walked, now, 0.0)
        action = "log" if self._limit().source == DEFAULT else self._settings.harakiri_action
        if action == "kill":
            report = self._announce_kill(stack, now, "killing this worker")
            self._publisher.count_kind(action, report.verdict.kind)
            return
        outcome = "logged, still running"
        if action == "raise" and is_websocket(self.core.environ):
            outcome = "logged and not interrupted: a websocket"
        elif action == "raise":
            # Before the report is made: other requests may be overdue too.
            outcome = self._raise(now)
        # Equal requests in the same place are only counted: making a thousand reports would delay every one of them.
        key = (action, self._request.method, self._request.path, self.recorder.application_calls())
        is_logged = self._publisher.admit("harakiri", key, report_format.target(self._request), now)
        if is_logged or self._settings.on_harakiri is not None:
            report = self._make_report(stack, now, action, outcome)
            self._publisher.publish(report, self._settings.on_harakiri, is_logged=is_logged)
            if is_logged and self._limit().source == SERVER:
                self._stack_lines = tuple(report_format.stack_lines(report, self._publisher.fold))
            verdict_kind = report.verdict.kind
        else:
            verdict_kind = self.recorder.verdict_kind()
        self._publisher.count_kind(action, verdict_kind)

    def _make_report(self, stack: RawStack, now: float, action: str, outcome: str) -> HarakiriReport:
        request = describe(self.core, self.token, now, unix_time()) or self._aged(now - self.token)
        limit = self._reported_limit
        return self._maker.make(
            self,
            request,
            limit_seconds=limit,
            limit_source=self._limit().source,
            action=action,
            outcome=outcome,
            stack=stack,
        )

    def _aged(self, age: float) -> Request:
        """The request as it was when it became slow, with its present age and phase."""
        return self._request._replace(age_seconds=age, phase=PHASES[self._phase], notes=notes_of(self.core, self.token))

    def _raise(self, now: float) -> str:
        """Raise into it; the outcome for the report."""
        grace = self._settings.harakiri_grace
        if grace is not None:
            self._grace_ends = now + grace
        outcome = self._delivery.begin(self._hubs.of(self.core), now)
        if outcome is None:
            # The report names the phase that the outcome is true for, also if the request ends before it is made.
            if self.core.started == self.token:
                self._phase = self.core.phase
            outcome = (
                "HarakiriTimeout waits for the next chunk of its body: the server is sending, and is not interrupted"
                if self._phase == BODY
                else "not raised into: it was not inside the application at that moment"
            )
        return outcome if grace is None else f"{outcome}; killed in {grace:g} s if it is still there"

    # --- kill

    def _announce_kill(self, stack: RawStack, now: float, outcome: str) -> HarakiriReport:
        """Report that this process will be killed: when the report is logged, or logging takes too long."""
        # First, so that a fault in the report does not prevent the kill.
        self._kill_at = now + _KILL_WAITS_SECONDS
        others = len(self._maker.others(self.core))
        if others:
            outcome += f", and with it the {plural(others, 'other request')} named below"
        report = self._make_report(stack, now, "kill", outcome)
        self._kill_entry = self._publisher.publish(report, self._settings.on_harakiri)
        return report

    def _kill_when_logged(self, now: float) -> float:
        """Kill this process, or return when to check again. If the request ends before that, there is no kill."""
        entry = self._kill_entry
        if entry is not None and now < self._kill_at and not entry.is_done:
            return now + _KILL_CHECK_SECONDS
        if os.getpid() == 1:
            # The kernel ignores a SIGKILL that pid 1 of a namespace sends itself.
            os._exit(128 + signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        return NEVER


def _key_of_ended(report: HarakiriReport) -> object:
    """Equal for equal requests that spent most of their time in the same place."""
    longest = max(report.timeline, key=lambda span: span.to_seconds - span.from_seconds, default=None)
    frames = (longest.application, longest.innermost) if longest is not None else ()
    places = tuple((frame.filename, frame.lineno, frame.function) for frame in frames if frame is not None)
    return (report.request.method, report.request.path, places)
