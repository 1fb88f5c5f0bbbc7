"""Report the hubs of gevent and eventlet that are blocked, and that run again.

While a greenlet computes, or waits in a call that the library did not patch, it does not give way to the hub, and every
other request of its worker waits. A hub that does not answer within the limit is blocked, by the greenlet that its
thread runs at that moment. Time in which Python could not run at all does not count: the watchdog reports that.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.text import report as report_format
from wsgi_tracebacker.wire.documents import report_json
from wsgi_tracebacker.worker.deadlines.thresholds import NEVER

if TYPE_CHECKING:
    from wsgi_tracebacker.model.report import HubReport
    from wsgi_tracebacker.worker.deadlines.make_report import ReportMaker
    from wsgi_tracebacker.worker.deadlines.publisher import Publisher
    from wsgi_tracebacker.worker.stacks.hubs import Hub, Hubs

#: How often a hub is asked for an answer within the time after which it counts as blocked.
_ASKED_IN_A_LIMIT = 2


class _Block(NamedTuple):
    """A hub that is blocked, and its report."""

    #: When it was asked for the answer that has not come.
    asked_at: float
    report: HubReport
    was_logged: bool


class HubWatch:
    """Watches the hubs of one process. Used by the watchdog's thread."""

    def __init__(self, hubs: Hubs, maker: ReportMaker, publisher: Publisher) -> None:
        """Nothing is watched before watch()."""
        self._hubs = hubs
        self._maker = maker
        self._publisher = publisher
        #: Seconds after which a hub counts as blocked; None: no hub is watched.
        self._limit_seconds: float | None = None
        #: Since when Python has run without a longer pause, on the monotonic clock.
        self._runs_since = 0.0
        #: By a hub's ident.
        self._blocks: dict[int, _Block] = {}

    def watch(self, limit_seconds: float) -> bool:
        """From now on, report a hub that is blocked for that long; whether this changed anything."""
        known = self._limit_seconds
        if known is not None and known <= limit_seconds:
            return False
        self._limit_seconds = limit_seconds
        return True

    def check(self, now: float, late_seconds: float) -> float:
        """Ask each hub for an answer, report those that owe one for too long, and return when to do it again.

        :param late_seconds: how much later than planned this check is.
        """
        limit = self._limit_seconds
        if limit is None:
            return NEVER
        pause = limit / _ASKED_IN_A_LIMIT
        if late_seconds >= pause:
            self._runs_since = now
        for hub in self._hubs.all():
            block = self._blocks.get(hub.ident)
            if block is not None and block.asked_at != hub.asked_at:
                block = None
                self._report_runs_again(self._blocks.pop(hub.ident), now)
            asked_at = hub.asked_at
            if (
                block is None
                and asked_at is not None
                and now - max(asked_at, self._runs_since) >= limit
                and self._serves(hub)
            ):
                self._blocks[hub.ident] = self._report_blocked(hub, asked_at, now)
            hub.ask(now)
        return now + pause

    def _serves(self, hub: Hub) -> bool:
        """Whether it is a server's hub, which should always run.

        A real thread of a pool gets a hub when a job first sleeps, and waits for the next job elsewhere.
        """
        if not hub.check_thread():
            return False
        return hub.native_id == os.getpid() or any(core.ident == hub.ident for core, _ in self._maker.in_flight())

    def _report_blocked(self, hub: Hub, asked_at: float, now: float) -> _Block:
        report = self._maker.make_hub(hub, now - asked_at)
        # Without the lines, because a loop is at another one each time.
        place = tuple((frame.filename, frame.function) for frame in report.stack.frames)
        subject = report_format.target(report.by.request) if report.by is not None else report_format.NO_REQUEST
        is_logged = self._publisher.admit("hub", (subject, place), subject, now)
        if is_logged:
            text = "\n".join(report_format.hub_lines(report, self._publisher.fold))
            self._publisher.write("hub", text)
            self._publisher.log("hub", text, report_json.hub_document(report))
        return _Block(asked_at, report, is_logged)

    def _report_runs_again(self, block: _Block, now: float) -> None:
        if block.was_logged:
            line = report_format.hub_runs_again(block.report, now - block.asked_at)
            content = {**report_json.hub_document(block.report), "kind": "hub-runs-again"}
            self._publisher.log("hub", line, content)
