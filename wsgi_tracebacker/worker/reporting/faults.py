"""Logs and counts faults of ours, so that they never reach the application; logs warnings. Each is logged once.

Nothing here raises or waits: the reporter logs the lines.
"""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from types import CodeType, TracebackType

from wsgi_tracebacker.worker.reporting import logs, reporter

#: Different faults that are remembered; far more than there are places that catch one.
_MAX_REMEMBERED = 256

_seen: set[str] = set()
_count = 0


def caught(where: str) -> None:
    """Count the exception that the caller is handling; log the first one for each place ``where``."""
    global _count
    _count += 1
    if _is_new(where):
        message = "a fault of wsgi_tracebacker, %s; requests are served on\n%s"
        reporter.current().post(reporter.Entry(logs.PACKAGE, logging.ERROR, message, where, _formatted()))


def warn_once(key: str, message: str, *arguments: object) -> None:
    """Log a warning the first time that ``key`` is given in this process."""
    if _is_new(key):
        # Exceptions as text: a traceback holds the frames of a request, and handlers may keep records.
        arguments = tuple(str(argument) if isinstance(argument, BaseException) else argument for argument in arguments)
        reporter.current().post(reporter.Entry(logs.PACKAGE, logging.WARNING, message, *arguments))


def warn_once_here(key: str, text: str) -> None:
    """Log a warning once, on the caller's thread: for where the reporter's does not run."""
    if _is_new(key):
        logs.emit(logs.PACKAGE, logging.WARNING, "%s", text)


def _is_new(key: str) -> bool:
    if key in _seen or len(_seen) >= _MAX_REMEMBERED:
        return False
    _seen.add(key)
    return True


def _formatted() -> str:
    """The exception that is being handled as text, for the same reason, with its traceback if possible."""
    error = sys.exc_info()[1]
    try:
        return traceback.format_exc().rstrip("\n")
    except Exception:
        # The traceback module imports and reads files, and may be out of descriptors.
        return f"{type(error).__name__}: {error}"


def is_of_signal_handler(error: BaseException) -> bool:
    """Whether an exception that was caught around our code was raised by a signal handler.

    Such a handler (a time-out) interrupts whatever runs just then; its exception is meant for the application.
    """
    raised_through = error.__traceback__
    if raised_through is None or raised_through.tb_next is None:
        # Raised in the frame that caught it: no handler ran. Any client can have this happen, and to ask for all
        # handlers takes 80 µs.
        return False
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    here: TracebackType | None = raised_through
    while here is not None:
        if here.tb_frame.f_code in handlers:
            return True
        here = here.tb_next
    return False


def _code_of(handler: object) -> CodeType | None:
    code = getattr(getattr(handler, "__func__", handler), "__code__", None)
    return code if type(code) is CodeType else None


def count() -> int:
    """How many faults were caught in this process."""
    return _count


def forget() -> None:
    """Forget all of them: a process that was just forked has logged nothing yet."""
    global _count
    _count = 0
    _seen.clear()
