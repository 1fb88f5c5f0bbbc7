"""Logs one line with the application's logging, or writes it to stderr where logging would lose it.

Loggers are looked up when they are used: ``logging.config.dictConfig`` disables those that exist when it is called.
emit() blocks as long as the application's handlers do: while requests are served, only the reporter calls it.
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

#: The attribute of a record that holds its structured content.
EXTRA_KEY = "wsgi_tracebacker"

_STDERR = 2


class _Stderr(logging.Handler):
    """Writes records of loggers without a handler to stderr. It needs no lock: a write is one system call."""

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
    """Log, or write to stderr if the logger is disabled or has no handler.

    :param content: the record's structured content, see EXTRA_KEY.
    :param exception: log its traceback too.
    """
    try:
        logger = logging.getLogger(name)
        if logger.disabled or not _has_handler(logger):
            # A logger of the same name that logging does not know: Sentry, which patches Logger.callHandlers, gets the
            # record too.
            logger = logging.Logger(name)  # noqa: LOG001
            # A new handler for each line: logging closes one that lives until the interpreter ends, and needs a lock
            # for that from gevent, which is gone by that time.
            logger.addHandler(_Stderr())
        extra = {EXTRA_KEY: content} if content is not None else None
        ident = threading.get_ident()
        was_known = ident in threading._active  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            logger.log(level, message, *arguments, extra=extra, exc_info=exception)
        finally:
            if not was_known:
                # A record gets the current thread's name. In a thread that threading did not start, as ours, that
                # makes a dummy thread object, which would stay for ever.
                threading._active.pop(ident, None)  # type: ignore[attr-defined]  # noqa: SLF001
        return
    except Exception:
        # A filter or handler raised; the line is written nevertheless.
        failure = traceback.format_exc()
    text = message % arguments if arguments else message
    write_to_stderr(f"{logging.getLevelName(level)} {name}: {text}\n{failure}".rstrip("\n"))


def _has_handler(logger: logging.Logger) -> bool:
    """Whether any handler gets the logger's records, apart from those that do nothing."""
    ancestor: logging.Logger | None = logger
    while ancestor is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in ancestor.handlers):
            return True
        ancestor = ancestor.parent if ancestor.propagate else None
    return False


def leave_out_of_shutdown(ident: int) -> None:
    """Remove the handlers in which a thread of ours hangs from the list of those that ``logging.shutdown()`` closes.

    It would wait for their locks, and the process would never end. Nothing else that the process shares is changed.
    """
    for reference in tuple(logging._handlerList):  # type: ignore[attr-defined]  # noqa: SLF001
        handler = reference()
        # Only its text says who holds an RLock.
        if handler is not None and f" owner={ident} " in repr(handler.lock):
            logging._handlerList.remove(reference)  # type: ignore[attr-defined]  # noqa: SLF001
            write_to_stderr(f"WARNING {PACKAGE}: the log handler {type(handler).__name__} hangs and is not closed")


def write_to_stderr(text: str) -> None:
    """Write a line to descriptor 2: the application may have replaced ``sys.stderr``, or closed it."""
    try:
        # Not eventlet's write(), which may wait in the very hub that is reported as blocked.
        primitives.original("os", "write")(_STDERR, (text + "\n").encode("utf-8", "backslashreplace"))
    except OSError:
        pass
