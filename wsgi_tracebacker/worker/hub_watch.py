"""Blocked hubs: found, reported as what they are, and reported again when they run.

Knows when a hub has been silent for too long, and who makes it so. Refuses to know how a hub is asked, and has no
thread: the watchdog calls it.

A greenlet that computes, or waits in a call that the library did not patch, does not give way, and every other request
of its worker waits: the failure that people hunt for under gevent and eventlet. A hub that owes a sign of life for
longer than the limit is blocked, and the greenlet that its thread runs then is what blocks it.

A C call that keeps the GIL blocks the hub and stops the watchdog, and a hub that was asked before has answered by then,
and answers again as soon as the call has ended. There a watchdog that is late is the proof, if the hub's thread is what
kept the GIL; and who blocked it is whoever runs at the first moment after that.
"""

from __future__ import annotations

import logging
import os
from time import process_time, strftime
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.formats import report as report_format
from wsgi_tracebacker.model import HubState, Stack
from wsgi_tracebacker.reports import HubReport, OtherRequest
from wsgi_tracebacker.worker import greenlets, kernel, logs
from wsgi_tracebacker.worker.reporter import Repeats

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from wsgi_tracebacker.worker import stacks
    from wsgi_tracebacker.worker.blackbox import StacksFile
    from wsgi_tracebacker.worker.cores import Cores
    from wsgi_tracebacker.worker.reporter import Reporter
    from wsgi_tracebacker.worker.requests import Core

    #: The requests in flight, each with the core that serves it.
    InFlight = Collection[tuple[Core, OtherRequest]]

#: A hub is asked for a sign of life so many times within the time after which it counts as blocked.
_ASKED_IN_A_LIMIT = 2

#: Of the CPU time of the process, what a thread has that kept the GIL all the time: beside many that compute and take
#: turns, which make the watchdog late as well, it has little.
_KEPT_CPU_SHARE = 0.6
#: One that slept with the GIL: the whole process used less than this of a CPU.
_SLEPT_CPU_SHARE = 0.1
#: A request that began or ended within so much of the late time, counted from its end: Python ran.
_KEPT_SHARE = 0.9

_NEVER = float("inf")


class _Seen(NamedTuple):
    """What the thread of a hub ran at one moment."""

    stack: stacks.RawStack
    #: The request that this serves, if it serves one.
    by: OtherRequest | None
    #: All that were in flight, with that one among them.
    in_flight: InFlight


class _Block(NamedTuple):
    """A hub that is blocked, and what was said of it."""

    #: When it was asked for the sign of life that it owes.
    asked_at: float
    report: HubReport
    was_logged: bool


class HubWatch:
    """Watches the hubs of one process. Used by one thread, the watchdog's."""

    def __init__(
        self,
        hubs: greenlets.Hubs,
        cores: Cores,
        reporter: Reporter,
        stacks_file: Callable[[], StacksFile | None],
        places: stacks.Places,
        worker_number: Callable[[], int | None],
        in_flight: Callable[[], InFlight],
    ) -> None:
        """Nothing is watched before attend()."""
        self._hubs = hubs
        self._cores = cores
        self._reporter = reporter
        self._stacks_file = stacks_file
        self._places = places
        self._worker_number = worker_number
        self._in_flight = in_flight
        #: Seconds after which a hub is blocked; None: nobody wants to know.
        self._limit_seconds: float | None = None
        #: This process was not stopped since then, on the monotonic clock.
        self._runs_since = 0.0
        self._blocks: dict[int, _Block] = {}
        #: By a hub's ident: the CPU time of its thread and of the process, in seconds, at the last look.
        self._used: dict[int, tuple[float, float]] = {}
        #: What blocked each hub while Python could not run, and the look at which that was found out.
        self._seized: dict[int, _Seen] = {}
        self._seized_at = 0.0
        #: What was reported in the present minute.
        self.reports = Repeats()

    def attend(self, limit_seconds: float) -> bool:
        """From now on, report a hub that is blocked for so long; whether that is news."""
        known = self._limit_seconds
        if known is not None and known <= limit_seconds:
            return False
        self._limit_seconds = limit_seconds
        return True

    def seize(self, now: float, late_seconds: float) -> None:
        """Note what kept the GIL, and the hub from running, for so long; the next look reports it.

        To be called before anything that gives up the GIL, and not if the process was stopped. A request counts that
        runs now, and ran all that time: no other one of its thread has begun or ended meanwhile.
        """
        self._seized.clear()
        self._seized_at = now
        limit = self._limit_seconds
        if limit is None or late_seconds < limit:
            return
        since = now - late_seconds * _KEPT_SHARE
        for hub in self._hubs.all():
            block = self._blocks.get(hub.ident)
            if (block is not None and block.asked_at == hub.asked_at) or not self._kept_the_gil(hub, late_seconds):
                continue
            cores = [core for core in self._cores.all() if core.ident == hub.ident]
            if any(core.started > since or core.ended > since for core in cores):
                continue
            serving = {core: core.started for core in cores if core.started > 0.0}
            looked = greenlets.look(serving, (), (hub.ident,))
            in_flight = self._in_flight()
            for core, other in in_flight:
                if looked.state_of(core) == greenlets.RUNNING and core.started == serving[core]:
                    self._seized[hub.ident] = _Seen(looked.stack_of(core), other, in_flight)

    def _kept_the_gil(self, hub: greenlets.Hub, late_seconds: float) -> bool:
        """Whether the thread of a hub did, as far as its CPU time since the last look tells."""
        cpu_seconds = kernel.cpu_seconds(hub.native_id)
        if cpu_seconds is None:
            return False
        before, process_before = self._used.get(hub.ident, (0.0, 0.0))
        used_seconds = process_time() - process_before
        return cpu_seconds - before >= used_seconds * _KEPT_CPU_SHARE or used_seconds < late_seconds * _SLEPT_CPU_SHARE

    def look(self, now: float, late_seconds: float) -> float:
        """Ask each hub for a sign of life, and report those that owe one for too long; when to do it again."""
        limit = self._limit_seconds
        if limit is None:
            return _NEVER
        hubs = self._hubs.all()
        wake_at = now + limit / _ASKED_IN_A_LIMIT
        for hub in hubs:
            block = self._blocks.get(hub.ident)
            if block is not None and block.asked_at != hub.asked_at:
                block = None
                self._say_runs_again(self._blocks.pop(hub.ident), now)
            asked_at = hub.asked_at
            seen = self._seized.get(hub.ident) if self._seized_at == now else None
            if block is None and seen is not None:
                if asked_at is None:
                    # Asked now, it answers at once; it would not have, had it been asked when that began.
                    asked_at = now - late_seconds
                    hub.ask(asked_at)
                self._blocks[hub.ident] = self._say_blocked(hub, seen, asked_at, now, late_seconds)
                # It is over as a rule: when, is seen at once.
                wake_at = now
            elif (
                block is None
                and asked_at is not None
                and now - max(asked_at, self._runs_since) >= limit
                and self._is_waited_in(hub)
            ):
                in_flight = self._in_flight()
                seen = _Seen(*running_in(hub, in_flight), in_flight)
                self._blocks[hub.ident] = self._say_blocked(hub, seen, asked_at, now, late_seconds)
            hub.ask(now)
        self._used = {hub.ident: (kernel.cpu_seconds(hub.native_id) or 0.0, process_time()) for hub in hubs}
        return wake_at

    def process_was_stopped(self, now: float) -> None:
        """By a debugger, say. What a hub did not do while nothing ran in this process is not held against it."""
        self._runs_since = now

    def _is_waited_in(self, hub: greenlets.Hub) -> bool:
        """Whether that hub ought to run: of a thread that is no server's, nobody can say that it waits there.

        A pool's real thread has a hub as soon as its job has slept once, and waits elsewhere for the next job.
        """
        if not hub.check_thread():
            return False
        return hub.native_id == os.getpid() or any(core.ident == hub.ident for core, _ in self._in_flight())

    def _say_blocked(self, hub: greenlets.Hub, seen: _Seen, asked_at: float, now: float, late_seconds: float) -> _Block:
        stack, by, in_flight = seen
        core = next((core for core, other in in_flight if other is by), None)
        places, omitted = self._places.resolve(stack, {})
        status = kernel.thread_status(hub.native_id)
        report = HubReport(
            hub=HubState(hub.library, "blocked", now - asked_at),
            worker=self._worker_number(),
            pid=os.getpid(),
            by=by,
            stack=Stack(
                name=self._cores.name_of(core) if core is not None else "a greenlet",
                ident=hub.ident,
                native_id=hub.native_id,
                core=core.number if core is not None else None,
                kind="greenlet",
                state=status.state,
                wait_channel=status.wait_channel,
                cpu_seconds=status.cpu_seconds,
                frames=tuple(place.frame for place in places),
                frames_omitted=omitted,
                greenlet=greenlets.RUNNING,
            ),
            others=tuple(other for _, other in in_flight if other is not by),
            late_seconds=late_seconds,
        )
        # Where it is, without the line: a loop is at another one each time.
        place = tuple((frame.filename, frame.function) for frame in report.stack.frames)
        subject = report_format.target(by.request) if by is not None else "a greenlet that serves no request"
        logged = self.reports.admit((subject, place), subject, now)
        if logged:
            text = "\n".join(report_format.hub_lines(report))
            stacks_file = self._stacks_file()
            if stacks_file is not None:
                stacks_file.write(f"{strftime('%Y-%m-%d %H:%M:%S%z')} hub: {text}\n\n")
            self._reporter.post(logs.HUB, logging.WARNING, "hub", text, report_format.hub_document(report))
        return _Block(asked_at, report, logged)

    def _say_runs_again(self, block: _Block, now: float) -> None:
        if block.was_logged:
            line = report_format.hub_runs_again(block.report, now - block.asked_at)
            content = {**report_format.hub_document(block.report), "kind": "hub-runs-again"}
            self._reporter.post(logs.HUB, logging.WARNING, "hub", line, content)


def running_in(hub: greenlets.Hub, in_flight: InFlight) -> tuple[stacks.RawStack, OtherRequest | None]:
    """What runs in a hub's thread, and the request that it serves, if it serves one."""
    here = [(core, other) for core, other in in_flight if core.ident == hub.ident]
    looked = greenlets.look([core for core, _ in here], (), (hub.ident,))
    for core, other in here:
        if looked.state_of(core) == greenlets.RUNNING:
            return looked.stack_of(core), other
    return looked.threads.get(hub.ident, []), None
