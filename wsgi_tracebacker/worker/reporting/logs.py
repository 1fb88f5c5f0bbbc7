"""Logs one line with the application's logging, or writes it to stderr where logging would lose it.

Loggers are looked up when they are used: ``logging.config.dictConfig`` disables those that exist when it is called.
emit() blocks as long as the application's handlers do: while requests are served, only the reporter calls it.

A log file in latin-1 or ASCII cannot hold every path and source line, and its handler would drop the whole record. So
characters beyond ASCII are escaped unless all handlers that get the record are known to write them. What the record
carries for programs keeps them.
"""

from __future__ import annotations

import io
import logging
import logging.handlers
import select
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


#: Handlers that send bytes of UTF-8, or nothing. (`WatchedFileHandler` and the like are streams.)
_UTF8_HANDLERS = (
    logging.NullHandler,
    logging.handlers.SocketHandler,
    logging.handlers.SysLogHandler,
    logging.handlers.HTTPHandler,
    _Stderr,
)


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
        message, arguments, exception = _encodable(logger, message, arguments, exception)
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


def encodable(logger: logging.Logger, text: str) -> str:
    """The text as every handler of the logger can write it: characters beyond ASCII are escaped if one might fail."""
    return text if text.isascii() or _can_write(logger, text) else _escaped(text)


def _encodable(
    logger: logging.Logger, message: str, arguments: tuple[object, ...], exception: BaseException | None
) -> tuple[str, tuple[object, ...], BaseException | None]:
    text = message % arguments if arguments else message
    raised = "" if exception is None else "".join(traceback.format_exception(exception)).rstrip("\n")
    if (text.isascii() and raised.isascii()) or _can_write(logger, text + raised):
        return message, arguments, exception
    # The message stays, because Sentry groups by it. Numbers stay, because it may format them.
    escaped = tuple(each if isinstance(each, (int, float)) else _escaped(str(each)) for each in arguments)
    if raised.isascii():
        return message, escaped, exception
    # The handler would format the exception itself.
    return f"{message}\n%s", (*escaped, _escaped(raised)), None


def _escaped(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")


def _can_write(logger: logging.Logger, text: str) -> bool:
    """Whether all handlers that get the logger's records are known to write these characters."""
    ancestor: logging.Logger | None = logger
    try:
        text.encode("utf-8")
        while ancestor is not None:
            if not all(_handler_can_write(handler, text) for handler in ancestor.handlers):
                return False
            ancestor = ancestor.parent if ancestor.propagate else None
    except Exception:
        # Not even UTF-8 has the character, the encoding is no codec's name ("locale", of a FileHandler that has not
        # opened its file), or a stream of the application's own raises.
        return False
    return True


def _handler_can_write(handler: object, text: str) -> bool:
    if isinstance(handler, _UTF8_HANDLERS):
        return True
    if isinstance(handler, logging.handlers.MemoryHandler):
        return _handler_can_write(handler.target, text)
    # A file that is opened with the first record (``delay``) has no stream yet, but these attributes.
    stream = getattr(handler, "stream", None) or handler
    if isinstance(stream, io.StringIO):
        return True
    encoding = getattr(stream, "encoding", None)
    if not isinstance(encoding, str):
        # What it does is not known: another thread's handlers behind a queue, a stream of the application's own.
        return False
    text.encode(encoding, getattr(stream, "errors", None) or "strict")
    return True


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
            warning = f"WARNING {PACKAGE}: the log handler {type(handler).__name__} hangs and is not closed"
            write_to_stderr(warning, waits=False)


def _has_room(descriptor: int) -> bool:
    """Whether ``select.PIPE_BUF`` bytes can be written at once."""
    poll = primitives.original("select", "poll")()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def write_to_stderr(text: str, *, waits: bool = True) -> None:
    """Write a line to descriptor 2: the application may have replaced ``sys.stderr``, or closed it.

    :param waits: whether to wait if it is a full pipe, which nobody reads perhaps; if not, the rest is left out.
    """
    content = (text + "\n").encode("utf-8", "backslashreplace")
    try:
        # Not eventlet's write(), which may wait in the very hub that is reported as blocked.
        write = primitives.original("os", "write")
        while content and (waits or _has_room(_STDERR)):
            content = content[write(_STDERR, content if waits else content[: select.PIPE_BUF]) :]
    except OSError:
        pass
