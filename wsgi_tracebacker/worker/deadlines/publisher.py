"""Hand reports to the reporter, which logs them: the first of a kind in full, equal ones within a minute as a number.

An overdue request's report is written to the stacks file before it is logged.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.linux.clock import strftime
from wsgi_tracebacker.model.report import SERVER
from wsgi_tracebacker.text import report as report_format
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire.documents import report_json
from wsgi_tracebacker.worker.deadlines.thresholds import NEVER
from wsgi_tracebacker.worker.reporting import logs
from wsgi_tracebacker.worker.reporting.reporter import Entry, Repeats

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.model.report import HarakiriReport
    from wsgi_tracebacker.model.snapshot import Request
    from wsgi_tracebacker.text.report import Fold
    from wsgi_tracebacker.worker.blackbox.stacks_file import StacksFile
    from wsgi_tracebacker.worker.blackbox.table import Table
    from wsgi_tracebacker.worker.reporting.reporter import Reporter
    from wsgi_tracebacker.worker.tracking.core import Core

#: By kind of report: its logger, its level, and what a summary counts.
_KINDS = {
    "harakiri": (logs.HARAKIRI, logging.ERROR, "request"),
    "slow": (logs.SLOW, logging.WARNING, "request"),
    "hub": (logs.HUB, logging.WARNING, "block"),
    "stall": (logs.STALL, logging.WARNING, "stall"),
}


class Publisher:
    """Hands the reports of one process to its reporter. Used by the watchdog's thread."""

    def __init__(
        self,
        reporter: Reporter,
        stacks_file: Callable[[], StacksFile | None],
        table: Callable[[], Table | None],
        fold: Fold,
    ) -> None:
        #: Makes the lines of a stack.
        self.fold = fold
        self._reporter = reporter
        self._stacks_file = stacks_file
        self._table = table
        self._repeats = {kind: Repeats() for kind in _KINDS}

    def count(self, counter: str) -> None:
        """Add 1 to a counter in the header of the black box."""
        table = self._table()
        if table is not None:
            table.count(counter)

    def describe(self, core: Core, token: float, request: Request, resident_bytes: int | None) -> None:
        """Add details to the row of a slow request in the black box."""
        table = self._table()
        if table is not None and core.number is not None:
            table.describe(core.number, token, request.remote_address, request.request_id, resident_bytes)

    def count_kind(self, action: str, verdict: str) -> None:
        """Count an overdue request by what was done about it, and its verdict."""
        table = self._table()
        if table is not None:
            table.count_kind(action, verdict)

    def admit(self, kind: str, key: object, subject: str, now: float) -> bool:
        """Whether to log a report of this kind; if not, it is counted with those that have the same key."""
        return self._repeats[kind].admit(key, subject, now)

    def log(self, kind: str, text: str, content: dict[str, Any]) -> None:
        """Have a text logged; it is lost if the process dies before that."""
        logger, level, _ = _KINDS[kind]
        self._reporter.post(Entry(logger, level, f"{kind}: %s", text, content=content))

    def write(self, kind: str, text: str) -> None:
        """Write a text to the stacks file: it survives logging that hangs, and the death of the process."""
        stacks_file = self._stacks_file()
        if stacks_file is not None:
            stacks_file.write(f"{strftime('%Y-%m-%d %H:%M:%S%z')} {kind}: {text}\n\n")

    def publish(
        self, report: HarakiriReport, on_harakiri: Callable[[HarakiriReport], object] | None, *, is_logged: bool = True
    ) -> Entry:
        """Write the report on an overdue request, have it logged, and pass it to the callable.

        :param is_logged: False: only pass it to the callable.
        """
        text = "\n".join(report_format.lines(report, self.fold)) if is_logged else ""
        if is_logged:
            self.write("harakiri", text)
        if is_logged and report.limit_source == SERVER:
            text = "\n".join(report_format.lines(report, self.fold, with_stack=False))
        logger, level, _ = _KINDS["harakiri"]
        return self._reporter.post(
            Entry(
                logger,
                level,
                "harakiri: %s",
                text,
                content=report_json.document(report) if is_logged else {},
                callback=functools.partial(on_harakiri, report) if on_harakiri is not None else None,
                is_logged=not is_logged,
            )
        )

    def log_summaries(self, now: float) -> float:
        """For each kind whose minute is over, log how many reports were equal; return when the next minute is over."""
        wake_at = NEVER
        for kind, repeats in self._repeats.items():
            for subject, count in repeats.summary(now):
                more = f"{plural(count, f'more {_KINDS[kind][2]}')} in the last minute"
                text = f"{more} at the same place as {subject}" if subject else f"{more} at other places"
                content = {"kind": f"{kind}-summary", "subject": subject, "count": count, "pid": os.getpid()}
                self.log(kind, text, content)
            ends_at = repeats.ends_at()
            if ends_at is not None:
                wake_at = min(wake_at, ends_at)
        return wake_at
