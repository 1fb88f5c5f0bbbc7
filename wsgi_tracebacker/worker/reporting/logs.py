"""Logs one line with the application's logging, whatever the application did to that; stderr is the way out.

Knows the loggers' names. Refuses to keep a logger: ``logging.config.dictConfig`` disables those that exist when it is
called, so each is looked up when it is used. Blocks as long as the application's handlers do: only the reporter calls
it while requests are served.
"""

from __future__ import annotations

import logging
import threading
import traceback

from wsgi_tracebacker.worker.threads import primitives

PACKAGE = "wsgi_tracebacker"
HARAKIRI = "wsgi_tracebacker.harakiri"
SLOW = "wsgi_tracebacker.slow"
POSTMORTEM = "wsgi_tracebacker.postmortem"
HUB = "wsgi_tracebacker.hub"
STALL = "wsgi_tracebacker.stall"

#: The one key under which a record carries its structured content.
EXTRA_KEY = "wsgi_tracebacker"

_STDERR = 2


class _Stderr(logging.Handler):
    """Writes records to stderr, for loggers that would lose them. Without a lock: a write is one system call."""

    def createLock(self) -> None:  # noqa: N802  (the name that logging calls)
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        text = f"{record.levelname} {record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[0] is not None:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        write_to_stderr(text)
        return True


def emit(
    name: str,
    level: int,
    message: str,
    *arguments: object,
    content: dict[str, object] | None = None,
    exception: BaseException | None = None,
) -> None:
    """Log, or write to stderr where the logger would lose it. May block as long as the application's handlers do.

    :param content: what the record carries under EXTRA_KEY.
    :param exception: add its traceback.
    """
    try:
        logger = logging.getLogger(name)
        if logger.disabled or not _is_heard(logger):
            # A logger of the same name that nobody else knows, so that those who listen to all loggers without being
            # a handler (Sentry patches Logger.callHandlers) hear it too.
            logger = logging.Logger(name)  # noqa: LOG001
            # Made for this one line: one that lives as long as this module is taken down when the interpreter ends, and
            # logging then asks gevent, which is gone by that time, for a lock.
            logger.addHandler(_Stderr())
        extra = {EXTRA_KEY: content} if content is not None else None
        ident = threading.get_ident()
        was_known = ident in threading._active  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            logger.log(level, message, *arguments, extra=extra, exc_info=exception)
        finally:
            if not was_known:
                # A record asks for the current thread's name: for a thread that Python did not start, as ours
                # are, that makes a dummy which stays for ever.
                threading._active.pop(ident, None)  # type: ignore[attr-defined]  # noqa: SLF001
        return
    except Exception:
        # A filter or handler raised: the line is written all the same.
        failure = traceback.format_exc()
    text = message % arguments if arguments else message
    write_to_stderr(f"{logging.getLevelName(level)} {name}: {text}\n{failure}".rstrip("\n"))


def _is_heard(logger: logging.Logger) -> bool:
    """Whether any handler gets the logger's records: one that does nothing is none."""
    here: logging.Logger | None = logger
    while here is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in here.handlers):
            return True
        here = here.parent if here.propagate else None
    return False


def write_to_stderr(text: str) -> None:
    """Write a line to descriptor 2: the application may have replaced ``sys.stderr``, or closed it."""
    try:
        # Not what eventlet puts there, which may wait in a hub that is to be reported as blocked.
        primitives.original("os", "write")(_STDERR, (text + "\n").encode("utf-8", "backslashreplace"))
    except OSError:
        pass
