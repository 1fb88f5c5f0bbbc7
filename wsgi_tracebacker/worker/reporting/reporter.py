"""Logs our lines on a thread of its own: a log handler may hang, and no request and no part of ours waits for it.

Each process has one reporter. Its thread runs while lines wait: it gives one after the other to a second thread, which
calls the application's handlers and ``on_harakiri``, and waits for that thread. Logging that takes longer than
HANGS_AFTER_SECONDS hangs: that line, and all that come until it returns, are written to stderr. So lines are at most a
second late, and never lost. Both threads are real (also under gevent and eventlet) and daemons. The text of a report is
in the stacks file before it is posted here.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.worker.reporting import logs
from wsgi_tracebacker.worker.threads import primitives

if TYPE_CHECKING:
    from collections.abc import Callable

#: Of several reports on requests at the same place in the code, one is logged within so many seconds; the others are
#: counted.
REPEAT_SECONDS = 60.0
#: Reports that are logged in full within that time, however different they are. A stack is 2-20 KB of log.
MAX_FULL_REPORTS = 20
#: Reports that wait to be logged. With one more, the oldest is not logged; it is in the stacks file.
_MAX_WAITING = 1_000
#: How much longer a line may take at the end of the process.
_LAST_LINE_SECONDS = 1.0
#: Logging that takes longer hangs. A kill waits longer than this, so that its report is on stderr by then.
HANGS_AFTER_SECONDS = 0.75

# Bound when this module is loaded: applications patch these modules, and not only gevent and eventlet do.
_allocate_lock = primitives.original("_thread", "allocate_lock")
_get_ident = primitives.original("_thread", "get_ident")


class Entry:
    """One line to be logged."""

    __slots__ = ("_arguments", "_callback", "_message", "content", "is_done", "is_logged", "level", "logger")

    def __init__(
        self,
        logger: str,
        level: int,
        message: str,
        *arguments: object,
        content: dict[str, Any] | None = None,
        callback: Callable[[], object] | None = None,
        is_logged: bool = False,
    ) -> None:
        """Nothing is logged yet.

        :param message: the same for all lines of a kind: Sentry groups them by it.
        :param content: structured content of the record, for programs.
        :param callback: called after the line was logged.
        :param is_logged: log nothing, only call the callback.
        """
        self.logger = logger
        self.level = level
        self._message = message
        self._arguments = arguments
        self.content = content
        self._callback = callback
        #: Whether it was logged or written to stderr.
        self.is_logged = is_logged
        #: Whether the callback has returned, too, or will not be waited for.
        self.is_done = False

    def text(self) -> str:
        return self._message % self._arguments if self._arguments else self._message

    def log(self) -> None:
        """Log it and call the callback. Takes as long as the application's handlers and callback do."""
        if not self.is_logged:
            self.emit()
            self.is_logged = True
        if self._callback is not None:
            try:
                self._callback()
            except BaseException as error:
                logs.emit(logs.HARAKIRI, logging.ERROR, "on_harakiri raised", exception=error)
        # Not before: a kill waits for the callback too.
        self.is_done = True

    def emit(self) -> None:
        logs.emit(self.logger, self.level, self._message, *self._arguments, content=self.content)

    def give_up(self, why: str, *, waits: bool = True) -> None:
        """Write it to stderr, if it was not logged. ``waits``: also if somebody has to read from stderr first."""
        if not self.is_logged:
            self.is_logged = True
            text = f"{logging.getLevelName(self.level)} {self.logger} ({why}): {self.text()}"
            logs.write_to_stderr(text, waits=waits)
            self.is_done = True


class Repeats:
    """Counts equal reports, so that a thousand slow requests do not log a thousand stacks."""

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
        """When the next summary is due; None if no report was logged since the last one."""
        return self._window_ends if self._counts else None

    def summary(self, now: float) -> list[tuple[str, int]]:
        """At the end of a minute: how many reports were only counted, for the first request of each kind."""
        if not self._counts or now < self._window_ends:
            return []
        counted = [(subject, count) for subject, count in self._counts.values() if count]
        self._counts.clear()
        return counted


class Reporter:
    """Logs the lines of one process."""

    def __init__(self) -> None:
        """Until begin(), a line is logged where it is posted."""
        self._start_thread: Callable[..., object] | None = None
        self._waiting: deque[Entry] = deque(maxlen=_MAX_WAITING)
        #: The line that the thread is handling.
        self._current: Entry | None = None
        #: The line that it was handling when flush() gave up.
        self._stuck_with: Entry | None = None
        #: Held while the thread runs.
        self._running_lock = _allocate_lock()
        #: Held while the second thread has a line, which is as long as the application's logging takes for it.
        self._logging_lock = _allocate_lock()
        #: The second thread that held it last.
        self._logging_ident = 0

    def begin(self, start_thread: Callable[..., object]) -> None:
        """Log on a thread from now on, because this process serves requests.

        Before that no request can wait for a line: it comes from the import of the application, or from gunicorn's
        master. No thread may be started there: workers that are forked later would not have it.
        """
        self._start_thread = start_thread

    def post(self, entry: Entry) -> Entry:
        """Have a line logged; returns at once."""
        if self._start_thread is None and self._logging_lock.locked():
            # Only after end(): this thread would wait for the lock of the handler that hangs.
            entry.give_up("logging hangs", waits=False)
        elif self._start_thread is None:
            entry.log()
        else:
            self._waiting.append(entry)
            self._start()
        return entry

    def flush(self, timeout_seconds: float) -> None:
        """Wait until every line is logged; write those to stderr that are not logged by then."""
        if self._running_lock.acquire(timeout=0 if self._is_stuck() else timeout_seconds):
            self._running_lock.release()
            # For a line that was posted while we held the lock.
            self._start()
        else:
            current = self._stuck_with = self._current
            if current is not None:
                current.give_up("logging hangs", waits=False)
            self._give_up_waiting("logging hangs")

    def end(self, timeout_seconds: float) -> None:
        """Flush, because the process ends. A later line is logged by the thread that posts it, as before begin()."""
        self.flush(timeout_seconds)
        self._start_thread = None
        if self._logging_lock.acquire(timeout=0 if self._is_stuck() else _LAST_LINE_SECONDS):
            self._logging_lock.release()
        else:
            logs.leave_out_of_shutdown(self._logging_ident)

    def _is_stuck(self) -> bool:
        """Whether the thread still has the line that it had when flush() gave up: nobody reads from stderr."""
        return self._stuck_with is not None and self._current is self._stuck_with

    def _start(self) -> None:
        """Start the thread, if lines wait and it does not run. Never waits for the lock: a signal handler may post."""
        start_thread = self._start_thread
        if self._waiting and start_thread is not None and self._running_lock.acquire(blocking=False):
            try:
                start_thread(self._run, (start_thread,))
            except RuntimeError:
                self._running_lock.release()
                self._give_up_waiting("no thread")

    def _next(self) -> Entry | None:
        # Without a check before: flush() may remove lines meanwhile.
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def _give_up_waiting(self, why: str) -> None:
        while (entry := self._next()) is not None:
            entry.give_up(why, waits=False)

    def _run(self, start_thread: Callable[..., object]) -> None:
        try:
            while (entry := self._next()) is not None:
                self._current = entry
                entry.give_up(self._log_in_time(entry, start_thread))
                self._current = None
        finally:
            self._running_lock.release()
        # For a line that was posted after the loop had ended, while we still held the lock.
        self._start()

    def _log_in_time(self, entry: Entry, start_thread: Callable[..., object]) -> str:
        """Have the second thread log a line; returns the reason if it was not logged."""
        if not self._logging_lock.acquire(blocking=False):
            return "logging hangs"
        try:
            start_thread(self._log, (entry,))
        except RuntimeError:
            # The process ends (CPython 3.12.1), or has as many threads as it may.
            self._log(entry)
            return "logging failed"
        if not self._logging_lock.acquire(timeout=HANGS_AFTER_SECONDS):
            return "logging hangs"
        self._logging_lock.release()
        return "logging failed"

    def _log(self, entry: Entry) -> None:
        # SystemExit, too: if a handler raises, the line was not logged, and nothing else happens.
        self._logging_ident = _get_ident()
        with contextlib.suppress(BaseException):
            entry.log()
        self._logging_lock.release()


#: The reporter of each process, by its pid: the one that a forked child inherits has no thread there.
_reporters: dict[int, Reporter] = {}


def current() -> Reporter:
    """The reporter of this process."""
    pid = os.getpid()
    # setdefault(): two threads that call this at the same time get the same one.
    return _reporters.get(pid) or _reporters.setdefault(pid, Reporter())
