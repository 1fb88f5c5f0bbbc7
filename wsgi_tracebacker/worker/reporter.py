"""Reports go out on a thread of their own: logging may block, and then neither watching nor killing may wait for it.

Knows which reports are the same, how many may be logged in full, and what to do when logging hangs. Refuses to make a
report.

Guarantees of the thread: real, daemon, started with the first report. While it hangs in somebody's handler or
callable, a second one writes what waits to stderr, the report that it hangs with first, so that reports are late by a
second and never lost. The text of a report is in the stacks file before it comes here.
"""

from __future__ import annotations

import logging
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.text import report as report_format
from wsgi_tracebacker.worker import faults, logs
from wsgi_tracebacker.worker.wakeup import Waker

if TYPE_CHECKING:
    import _thread
    from collections.abc import Callable

    from wsgi_tracebacker.model.report import HarakiriReport
    from wsgi_tracebacker.worker.primitives import Primitives

#: Reports on requests that stand in the same place are the same; within so many seconds one is logged and the others
#: are counted.
REPEAT_SECONDS = 60.0
#: Reports that are logged in full within that time, however different they are. A stack is 2-20 KB of log.
MAX_FULL_REPORTS = 20
#: Reports that wait to be logged; above it the oldest goes. It is in the stacks file.
_MAX_WAITING = 1_000
#: How often it looks by itself whether anything waits.
_LOOKS_SECONDS = 2.0
#: Logging that takes longer hangs. Less than a kill waits, so that its report is on stderr by then.
HANGS_AFTER_SECONDS = 0.75


class Entry:
    """One report on its way out."""

    __slots__ = ("callback", "content", "done", "kind", "level", "logger", "message", "report", "said")

    def __init__(
        self,
        logger: str,
        level: int,
        kind: str,
        message: str,
        content: dict[str, Any],
        done: _thread.LockType,
    ) -> None:
        self.logger = logger
        #: ``harakiri`` or ``slow``: how the message begins.
        self.kind = kind
        self.level = level
        self.message = message
        self.content = content
        self.callback: Callable[[HarakiriReport], object] | None = None
        self.report: HarakiriReport | None = None
        #: Whether anything is to be logged still.
        self.said = False
        #: Held until it was logged.
        self.done = done


class Repeats:
    """Counts what is the same, so that a storm of a thousand slow requests does not log a thousand stacks."""

    def __init__(self) -> None:
        self._window_ends = 0.0
        self._counts: dict[object, list[Any]] = {}

    def admit(self, key: object, subject: str, now: float) -> bool:
        """Whether a report with this key is logged in full; if not, it is counted."""
        if not self._counts:
            self._window_ends = now + REPEAT_SECONDS
        known = self._counts.get(key)
        if known is not None:
            known[1] += 1
            return False
        if len(self._counts) >= MAX_FULL_REPORTS:
            rest = self._counts.setdefault(None, ["", 0])
            rest[1] += 1
            return False
        self._counts[key] = [subject, 0]
        return True

    def ends_at(self) -> float | None:
        """When the next summary is due; None if nothing was counted."""
        return self._window_ends if self._counts else None

    def summary(self, now: float) -> list[tuple[str, int]]:
        """At the end of a minute: what was counted, each with the first request of its kind."""
        if not self._counts or now < self._window_ends:
            return []
        counted = [(subject, count) for subject, count in self._counts.values() if count]
        self._counts.clear()
        return counted


class Reporter:
    """Logs reports on a thread of its own."""

    def __init__(self, primitives: Primitives) -> None:
        """Nothing runs before the first report."""
        self._primitives = primitives
        self._waiting: deque[Entry] = deque()
        #: What the thread is busy with.
        self._current: Entry | None = None
        self._waker: Waker | None = None
        self._ended: _thread.LockType | None = None
        self._stopping = False
        #: Since when the thread has been busy with one report; None while it is not.
        self._busy_since: float | None = None
        self._spare_runs = False

    def post(
        self,
        logger: str,
        level: int,
        kind: str,
        message: str,
        content: dict[str, Any],
        *,
        report: HarakiriReport | None = None,
        callback: Callable[[HarakiriReport], object] | None = None,
        logged: bool = True,
    ) -> Entry:
        """Hand a report over; returns at once. ``logged`` False: only the callback gets it."""
        done = self._primitives.allocate_lock()
        done.acquire()
        entry = Entry(logger, level, kind, message, content, done)
        entry.said = not logged
        entry.report, entry.callback = report, callback
        if len(self._waiting) >= _MAX_WAITING:
            self._waiting.popleft()
        self._waiting.append(entry)
        self._start()
        if self._waker is not None:
            self._waker.wake()
        return entry

    @property
    def is_busy(self) -> bool:
        """Whether a report is being logged just now, or waits for that."""
        return self._busy_since is not None or bool(self._waiting)

    def hangs(self, now: float) -> bool:
        """Whether the thread has been busy with one report for longer than logging takes."""
        since = self._busy_since
        return since is not None and now - since > HANGS_AFTER_SECONDS

    def rescue(self, now: float) -> None:
        """If the thread hangs, write what it hangs with and what waits behind it to stderr."""
        if self.hangs(now) and not self._spare_runs and self._unsaid():
            self._spare_runs = True
            try:
                self._primitives.start_new_thread(self._run_spare, ())
            except RuntimeError:
                self._spare_runs = False

    def stop(self, timeout_seconds: float) -> None:
        """Log what waits, then end the thread; at most ``timeout_seconds`` if it hangs."""
        self._stopping = True
        if self._ended is None or self._waker is None:
            return
        self._waker.wake()
        if self._ended.acquire(timeout=timeout_seconds):
            self._ended.release()
            self._close()
        elif not self._spare_runs:
            # It hangs, and the process is about to end with it.
            self._run_spare()

    def _unsaid(self) -> list[Entry]:
        current = self._current
        entries = [*self._waiting] if current is None else [current, *self._waiting]
        return [entry for entry in entries if not entry.said]

    def forget(self) -> None:
        """In a forked child: there is no thread."""
        self._close()

    def _close(self) -> None:
        if self._waker is not None:
            self._waker.close()
            self._waker = None

    def _start(self) -> None:
        if self._ended is not None:
            return
        self._ended = self._primitives.allocate_lock()
        self._ended.acquire()
        try:
            self._waker = Waker()
            self._primitives.start_new_thread(self._run, ())
        except (OSError, RuntimeError):
            # No descriptor or thread to be had: better here, on the watchdog's, than not at all.
            self._ended.release()
            self._ended = None
            self._close()
            self._work_off()

    def _run(self) -> None:
        try:
            waker = self._waker
            while waker is not None and not (self._stopping and not self._waiting):
                try:
                    if not self._waiting:
                        # Not for ever: its waker may have lost its descriptors.
                        waker.wait(self._primitives.poll(), _LOOKS_SECONDS)
                    self._work_off()
                except Exception:
                    faults.caught("in the reporter")
                    self._primitives.poll().poll(_LOOKS_SECONDS * 1000)
        finally:
            if self._ended is not None:
                self._ended.release()

    def _work_off(self) -> None:
        while self._waiting:
            self._busy_since = monotonic()
            entry = self._current = self._waiting.popleft()
            # SystemExit too: a handler or callable that raises it would end this thread, and all later reports.
            if not entry.said:
                try:
                    # A template that is the same for all of a kind: that is how Sentry groups them.
                    logs.emit(entry.logger, entry.level, f"{entry.kind}: %s", entry.message, content=entry.content)
                except BaseException:
                    _write(entry, "logging failed")
            entry.said = True
            if entry.callback is not None and entry.report is not None:
                try:
                    entry.callback(entry.report)
                except BaseException as error:
                    logs.emit(logs.HARAKIRI, logging.ERROR, "on_harakiri raised", exception=error)
            # Now: who kills waits for the callable too.
            _set_done(entry)
            self._current = None
            self._busy_since = None

    def _run_spare(self) -> None:
        try:
            for entry in self._unsaid():
                entry.said = True
                _write(entry, "logging hangs")
                _set_done(entry)
        except Exception:
            faults.caught("while reports were written to stderr")
        finally:
            self._spare_runs = False


def _write(entry: Entry, why: str) -> None:
    level = logging.getLevelName(entry.level)
    logs.write_to_stderr(f"{level} {entry.logger} ({why}): {entry.kind}: {entry.message}")


def _set_done(entry: Entry) -> None:
    try:
        entry.done.release()
    except RuntimeError:
        pass


def full_text(report: HarakiriReport) -> str:
    """The whole report, as it is logged."""
    return "\n".join(report_format.lines(report))
