"""Make the reports on slow and overdue requests, and on time in which Python could not run."""

from __future__ import annotations

import os
from time import monotonic
from time import time as unix_time
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import threads as kernel_threads
from wsgi_tracebacker.model.report import HarakiriReport, OtherRequest, StallReport
from wsgi_tracebacker.model.snapshot import Stack
from wsgi_tracebacker.worker.deadlines.hub_watch import running_in
from wsgi_tracebacker.worker.stacks import greenlets
from wsgi_tracebacker.worker.tracking.describe import describe, describe_last

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.model.snapshot import Request
    from wsgi_tracebacker.worker.deadlines.slow_request import SlowRequest
    from wsgi_tracebacker.worker.stacks.hubs import Hubs
    from wsgi_tracebacker.worker.stacks.places import Places
    from wsgi_tracebacker.worker.stacks.walk import RawStack
    from wsgi_tracebacker.worker.tracking.core import Core
    from wsgi_tracebacker.worker.tracking.cores import Cores


class ReportMaker:
    """Makes the reports of one process. Used by the watchdog's thread."""

    def __init__(self, cores: Cores, hubs: Hubs, places: Places, worker_number: Callable[[], int | None]) -> None:
        self._cores = cores
        self._hubs = hubs
        self._places = places
        self._worker_number = worker_number
        #: What in_flight() returns during this check; None: not found yet.
        self._in_flight: list[tuple[Core, OtherRequest]] | None = None

    def begin_check(self) -> None:
        """Make in_flight() find the requests anew: once a check, in which many requests may be overdue."""
        self._in_flight = None

    def in_flight(self) -> list[tuple[Core, OtherRequest]]:
        """The requests in flight with their cores, the oldest first."""
        if self._in_flight is None:
            self._in_flight = find_in_flight(self._cores)
        return self._in_flight

    def others(self, core: Core) -> tuple[OtherRequest, ...]:
        """The requests in flight on other cores."""
        return tuple(other for other_core, other in self.in_flight() if other_core is not core)

    def make(
        self,
        slow: SlowRequest,
        request: Request,
        *,
        limit_seconds: float | None,
        outcome: str,
        action: str = "log",
        stack: RawStack | None = None,
    ) -> HarakiriReport:
        """Make the report on a request; ``stack`` is its thread's, None if it has ended."""
        core = slow.core
        native_id = core.native_id
        is_in_flight = stack is not None
        # If its greenlet is suspended, the thread runs something else, and so its state in the kernel is not reported.
        has_thread = is_in_flight and native_id is not None and slow.greenlet != greenlets.SUSPENDED
        hub = self._hubs.of(core) if is_in_flight else None
        return HarakiriReport(
            kind="harakiri" if is_in_flight else "slow",
            request=request,
            worker=self._worker_number(),
            core=core.number,
            pid=os.getpid(),
            limit_seconds=limit_seconds,
            late_seconds=max(0.0, request.age_seconds - (limit_seconds or 0.0)) if is_in_flight else 0.0,
            action=action,
            outcome=outcome,
            timeline=slow.recorder.timeline(),
            verdict=slow.recorder.verdict(),
            stack=self._stack(slow, stack, native_id if has_thread else None) if stack is not None else None,
            system_call=kernel_threads.system_call(native_id) if has_thread and native_id is not None else None,
            others=self.others(core) if is_in_flight else (),
            hub=hub.state(monotonic()) if hub is not None else None,
            hub_blocked_by=running_in(hub, self.in_flight())[1] if hub is not None else None,
        )

    def _stack(self, slow: SlowRequest, stack: RawStack, asked_id: int | None) -> Stack:
        """The stack of a request's thread, with the state in the kernel of the thread ``asked_id``."""
        core = slow.core
        status = kernel_threads.thread_status(asked_id) if asked_id is not None else kernel_threads.ThreadStatus()
        places, omitted = self._places.resolve(stack, {})
        return Stack(
            name=self._cores.name_of(core),
            ident=core.serving_ident(),
            native_id=core.native_id,
            core=core.number,
            daemon=core.thread.daemon if core.thread is not None else None,
            state=status.state,
            wait_channel=status.wait_channel,
            cpu_seconds=status.cpu_seconds,
            frames=tuple(place.frame for place in places),
            frames_omitted=omitted,
            greenlet=slow.greenlet,
        )

    def make_stall(self, now: float, stalled_seconds: float) -> StallReport:
        """Make the report on time in which Python could not run: which requests are in flight, and which ended."""
        last = [describe_last(core, now) for core in self._cores.all()]
        return StallReport(
            stalled_seconds=stalled_seconds,
            worker=self._worker_number(),
            pid=os.getpid(),
            in_flight=tuple(other for _, other in find_in_flight(self._cores)),
            ended=tuple(request for request in last if request and request.ended_seconds_ago < stalled_seconds),
        )


def find_in_flight(cores: Cores) -> list[tuple[Core, OtherRequest]]:
    """The requests in flight now with their cores, the oldest first."""
    found = []
    now_monotonic, now_unix = monotonic(), unix_time()
    for core in cores.all():
        token = core.started
        request = describe(core, token, now_monotonic, now_unix) if token > 0.0 else None
        if request is not None:
            found.append((core, OtherRequest(core.number, request)))
    return sorted(found, key=lambda entry: -entry[1].request.age_seconds)
