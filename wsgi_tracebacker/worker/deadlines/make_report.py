"""Make the reports on slow and overdue requests, on blocked hubs, and on time in which Python could not run."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from wsgi_tracebacker.linux import proc
from wsgi_tracebacker.linux import threads as kernel_threads
from wsgi_tracebacker.linux.clock import monotonic, unix_time
from wsgi_tracebacker.model.report import HarakiriReport, HubReport, Memory, OtherRequest, StallReport
from wsgi_tracebacker.model.snapshot import UNKNOWN_KIND, UNREAD_KIND, HubState, Stack
from wsgi_tracebacker.worker.stacks import greenlets
from wsgi_tracebacker.worker.stacks.walk import NO_THREAD, Walked
from wsgi_tracebacker.worker.threads import interpreters
from wsgi_tracebacker.worker.tracking.cores import known_thread, thread_name
from wsgi_tracebacker.worker.tracking.describe import describe, describe_last
from wsgi_tracebacker.worker.waits import other_threads
from wsgi_tracebacker.worker.waits.look import Look

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.linux.source import SourceFile
    from wsgi_tracebacker.model.code_ownership import CodeOwnership
    from wsgi_tracebacker.model.snapshot import Frame, Request
    from wsgi_tracebacker.model.waits import WaitsFor
    from wsgi_tracebacker.worker.deadlines.recording.garbage import GarbageWatch
    from wsgi_tracebacker.worker.deadlines.slow_request import SlowRequest
    from wsgi_tracebacker.worker.stacks.hubs import Hub, Hubs
    from wsgi_tracebacker.worker.stacks.places import Places
    from wsgi_tracebacker.worker.stacks.walk import RawStack
    from wsgi_tracebacker.worker.tracking.core import Core
    from wsgi_tracebacker.worker.tracking.cores import Cores
    from wsgi_tracebacker.worker.waits.calls import Statement
    from wsgi_tracebacker.worker.waits.sources import WaitSources


#: The kinds of waiting for a thread whose stack is shown beside that of the request.
_OTHER_THREADS = ("other_thread", "thread")
#: How often all requests in flight are asked for the timelines of slow ones, at most: at 5 ms for 20 waiting threads.
_ASK_SECONDS = 0.5


class ReportMaker:
    """Makes the reports of one process. Used by the watchdog's thread."""

    def __init__(
        self,
        cores: Cores,
        hubs: Hubs,
        places: Places,
        waits: WaitSources,
        ownership: CodeOwnership,
        worker_number: Callable[[], int | None],
        garbage: GarbageWatch,
    ) -> None:
        self._cores = cores
        self._hubs = hubs
        self._places = places
        self._waits = waits
        self._ownership = ownership
        self._worker_number = worker_number
        self._garbage = garbage
        #: What in_flight() returns during this check; None: not found yet.
        self._in_flight: list[tuple[Core, OtherRequest]] | None = None
        #: The `started` of their cores then.
        self._tokens: dict[Core, float] = {}
        #: What they wait for; None: not asked yet.
        self._waits_for: dict[Core, WaitsFor] | None = None
        #: When that was asked last, in any check.
        self._asked_at = 0.0
        #: The stacks when that was asked.
        self._walked = Walked({})

    def begin_check(self) -> None:
        """Make in_flight() find the requests anew: once a check, in which many requests may be overdue."""
        self._in_flight = self._waits_for = None
        self._walked = Walked({})

    def in_flight(self) -> list[tuple[Core, OtherRequest]]:
        """The requests in flight with their cores, the oldest first."""
        if self._in_flight is None:
            found = []
            self._tokens = {}
            now_monotonic, now_unix = monotonic(), unix_time()
            for core in self._cores.all():
                token = core.started
                request = describe(core, token, now_monotonic, now_unix) if token > 0.0 else None
                if request is not None:
                    self._tokens[core] = token
                    found.append((core, OtherRequest(core.number, request)))
            self._in_flight = sorted(found, key=lambda entry: -entry[1].request.age_seconds)
        return self._in_flight

    def others(self, core: Core) -> tuple[OtherRequest, ...]:
        """The requests in flight on other cores."""
        return tuple(other for other_core, other in self.in_flight() if other_core is not core)

    def may_ask(self, now: float) -> bool:
        """Whether wait_of() is cheap, or was not called for a while: it looks at all requests in flight."""
        return self._waits_for is not None or now - self._asked_at >= _ASK_SECONDS

    def wait_of(self, core: Core, stack: RawStack) -> WaitsFor | None:
        """What the request on a core waits for; None if that is not known, or its stack is not this one any more."""
        found = self._waiting().get(core)
        return found if self._walked.stack_of(core) == stack else None

    def statement(self, core: Core, walked: Walked) -> Statement | None:
        """The statement that the request on a core runs on a database; None if that is not known."""
        return self._waits.statement(core, walked.ident_of(core), walked.threads, walked.served_by_greenlets((core,)))

    def garbage(self, now: float) -> WaitsFor | None:
        """That collections of garbage took most of the last seconds; None if they did not."""
        return self._garbage.cause(now)

    def _waiting(self) -> dict[Core, WaitsFor]:
        """What the requests in flight wait for: asked once a check, for all of its reports."""
        if self._waits_for is None:
            self._asked_at = monotonic()
            in_flight = {core: other.request for core, other in self.in_flight()}
            walked = self._walked = greenlets.walk_with(in_flight, ())
            self._waits_for = self._waits.find(
                walked.threads,
                in_flight,
                {core: walked.ident_of(core) for core in in_flight},
                walked.served_by_greenlets(in_flight),
                min_age_seconds=0.0,
            )
        return self._waits_for

    def make(
        self,
        slow: SlowRequest,
        request: Request,
        *,
        limit_seconds: float | None,
        limit_source: str,
        outcome: str,
        action: str = "log",
        stack: RawStack | None = None,
    ) -> HarakiriReport:
        """Make the report on a request; ``stack`` is its thread's, None if it has ended."""
        core = slow.core
        is_in_flight = stack is not None
        hub = self._hubs.of(core) if is_in_flight else None
        waiting = self._waiting() if is_in_flight else {}
        waits_for = waiting.get(core)
        if waits_for is not None and stack is not None and self.wait_of(core, stack) is not None:
            slow.recorder.add_wait(waits_for.sentence)
        verdict = slow.recorder.verdict(waits_for)
        if waits_for is None and verdict.kind == "frozen" and slow.known_wait and slow.known_wait[0] == stack:
            # Who tries again and again, as SQLite does for a lock, waits for nothing between two tries.
            waits_for = slow.known_wait[1]
            verdict = slow.recorder.verdict(waits_for)
        # If its greenlet is suspended, the thread runs something else, and so its state in the kernel is not reported.
        asked_id = slow.native_id if is_in_flight and slow.greenlet != greenlets.SUSPENDED else None
        own_stack = None
        if stack is not None:
            reader = known_thread(slow.ident) if slow.ident != core.ident else None
            name = (
                reader.name
                if reader is not None
                else self._cores.name_of(core, is_on_its_thread=slow.ident != NO_THREAD)
            )
            kind = UNKNOWN_KIND if not stack and interpreters.ids_are_shared() else "thread"
            own_stack = self._stack(stack, name, core, slow.ident, slow.native_id, asked_id)._replace(
                daemon=core.thread.daemon if core.thread is not None else None,
                greenlet=slow.greenlet,
                kind=kind if slow.ident != NO_THREAD else UNREAD_KIND,
            )
        return HarakiriReport(
            kind="harakiri" if is_in_flight else "slow",
            request=request._replace(waits_for=waits_for),
            worker=self._worker_number(),
            core=core.number,
            pid=os.getpid(),
            limit_seconds=limit_seconds,
            late_seconds=max(0.0, request.age_seconds - (limit_seconds or 0.0)) if is_in_flight else 0.0,
            action=action,
            outcome=outcome,
            timeline=slow.recorder.timeline(),
            verdict=verdict,
            stack=own_stack,
            system_call=kernel_threads.system_call(asked_id) if asked_id is not None else None,
            others=self._others_waiting(core, waiting) if is_in_flight else (),
            hub=hub.state(monotonic()) if hub is not None else None,
            hub_blocked_by=_running_in(hub, self.in_flight())[2] if hub is not None else None,
            memory=Memory(slow.resident_bytes, proc.resident_bytes("/proc/self")),
            other_thread=self._other_thread(core) if waits_for and waits_for.kind in _OTHER_THREADS else None,
            limit_source=limit_source,
        )

    def _other_thread(self, core: Core) -> Stack | None:
        """The stack of the thread that works for a request, or that it joins."""
        ident = self._walked.ident_of(core)
        threads = self._walked.threads
        with contextlib.closing(Look(threads)) as look:
            found = other_threads.find(look, (ident,)).get(ident)
        if found is None:
            return None
        worker = found.ident
        native_id = getattr(known_thread(worker), "native_id", None)
        return self._stack(threads[worker], thread_name(worker), None, worker, native_id, native_id)

    def _others_waiting(self, core: Core | None, waiting: dict[Core, WaitsFor]) -> tuple[OtherRequest, ...]:
        """The requests in flight on other cores, with their places and what they wait for."""
        files: dict[str, SourceFile | None] = {}
        return tuple(
            other._replace(
                request=other.request._replace(waits_for=waiting.get(other_core)), place=self._place(other_core, files)
            )
            for other_core, other in self.in_flight()
            if other_core is not core
        )

    def _place(self, core: Core, files: dict[str, SourceFile | None]) -> Frame | None:
        """The innermost call of the application in a request in flight."""
        stack = self._walked.stack_of(core)
        index = self._ownership.innermost(code.co_filename for code, _ in stack)
        if index is None or core.started != self._tokens[core]:
            # The stack may be another request's.
            return None
        return self._places.place(*stack[index], files).frame

    def make_hub(self, hub: Hub, silent_seconds: float) -> HubReport:
        """Make the report on a blocked hub, with the greenlet that blocks it."""
        stack, core, by = _running_in(hub, self.in_flight())
        name = self._cores.name_of(core) if core is not None else "a greenlet"
        own_stack = self._stack(stack, name, core, hub.ident, hub.native_id, hub.native_id)
        return HubReport(
            hub=HubState(hub.library, "blocked", silent_seconds),
            worker=self._worker_number(),
            pid=os.getpid(),
            by=by,
            stack=own_stack._replace(kind="greenlet", greenlet=greenlets.RUNNING),
            others=self._others_waiting(core, self._waiting()),
        )

    def _stack(
        self, stack: RawStack, name: str, core: Core | None, ident: int, native_id: int | None, asked_id: int | None
    ) -> Stack:
        """A thread's stack, with the state in the kernel of the thread ``asked_id``."""
        status = kernel_threads.thread_status(asked_id) if asked_id is not None else kernel_threads.ThreadStatus()
        places, omitted = self._places.resolve(stack, {})
        return Stack(
            name=name,
            ident=ident,
            native_id=native_id,
            core=core.number if core is not None else None,
            state=status.state,
            wait_channel=status.wait_channel,
            cpu_seconds=status.cpu_seconds,
            frames=tuple(place.frame for place in places),
            frames_omitted=omitted,
        )

    def make_stall(self, now: float, stalled_seconds: float) -> StallReport:
        """Make the report on time in which Python could not run: which requests are in flight, and which ended."""
        last = [describe_last(core, now) for core in self._cores.all()]
        return StallReport(
            stalled_seconds=stalled_seconds,
            worker=self._worker_number(),
            pid=os.getpid(),
            in_flight=tuple(other for _, other in self.in_flight()),
            ended=tuple(request for request in last if request and request.ended_seconds_ago < stalled_seconds),
        )


def _running_in(
    hub: Hub, in_flight: list[tuple[Core, OtherRequest]]
) -> tuple[RawStack, Core | None, OtherRequest | None]:
    """The stack that runs in a hub's thread, and the request that it serves with its core, if any."""
    here = [(core, other) for core, other in in_flight if core.ident == hub.ident]
    walked = greenlets.walk_with([core for core, _ in here], (), (hub.ident,))
    for core, other in here:
        if walked.state_of(core) == greenlets.RUNNING:
            return walked.stack_of(core), core, other
    return walked.threads.get(hub.ident, []), None, None
