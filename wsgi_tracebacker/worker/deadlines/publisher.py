"""Hand reports over to be logged: the first of each kind in full, the same ones again within a minute as a number.

Knows which logger and level a kind of report has, and that some stand in the stacks file before they are logged.
Refuses to make a report, and to log: the reporter does, on a thread of its own.
"""

from __future__ import annotations

import functools
import logging
import os
from time import strftime
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.text import report as report_format
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire import report_json
from wsgi_tracebacker.worker.deadlines.thresholds import NEVER
from wsgi_tracebacker.worker.reporting import logs
from wsgi_tracebacker.worker.reporting.reporter import Entry, Repeats

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_tracebacker.model.report import HarakiriReport
    from wsgi_tracebacker.worker.blackbox.stacks_file import StacksFile
    from wsgi_tracebacker.worker.blackbox.table import Table
    from wsgi_tracebacker.worker.reporting.reporter import Reporter

#: By kind of report: its logger, its level, and what a summary counts.
_KINDS = {
    "harakiri": (logs.HARAKIRI, logging.ERROR, "request"),
    "slow": (logs.SLOW, logging.WARNING, "request"),
    "hub": (logs.HUB, logging.WARNING, "block"),
    "stall": (logs.STALL, logging.WARNING, "stall"),
}


class Publisher:
    """Hands the reports of one process to its reporter. Used by one thread, the watchdog's."""

    def __init__(
        self,
        reporter: Reporter,
        stacks_file: Callable[[], StacksFile | None],
        table: Callable[[], Table | None],
    ) -> None:
        self._reporter = reporter
        self._stacks_file = stacks_file
        self._table = table
        self._repeats = {kind: Repeats() for kind in _KINDS}

    def count(self, counter: str) -> None:
        """Count in the header of the black box, where its readers and this worker's successors find it."""
        table = self._table()
        if table is not None:
            table.count(counter)

    def admit(self, kind: str, key: object, subject: str, now: float) -> bool:
        """Whether a report of this kind is to be logged; if not, it is one more of those with the same key."""
        return self._repeats[kind].admit(key, subject, now)

    def log(self, kind: str, text: str, content: dict[str, Any]) -> None:
        """Have a text logged that may be lost."""
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
        """Publish the report on an overdue request: write it, have it logged, and hand it to the callable.

        :param is_logged: False: the callable alone gets it.
        """
        text = "\n".join(report_format.lines(report)) if is_logged else ""
        if is_logged:
            self.write("harakiri", text)
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
        """Of each kind whose minute is over, log how many reports were the same; when the next minute is over."""
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
