"""Where log lines of ours go, whatever the application did to its logging.

Knows the loggers' names and the way out when one is disabled or has no handler: stderr. Refuses to raise, and to keep
a logger: ``logging.config.dictConfig`` disables those that exist when it is called, so each is looked up when used.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback

PACKAGE = "wsgi_tracebacker"
HARAKIRI = "wsgi_tracebacker.harakiri"
SLOW = "wsgi_tracebacker.slow"
POSTMORTEM = "wsgi_tracebacker.postmortem"

#: The one key under which a record carries its structured content.
EXTRA_KEY = "wsgi_tracebacker"

_STDERR = 2


def emit(
    name: str,
    level: int,
    message: str,
    *arguments: object,
    content: dict[str, object] | None = None,
    with_exception: bool = False,
) -> None:
    """Log, or write to stderr where the logger would lose it. May block as long as the application's handlers do.

    :param content: what the record carries under EXTRA_KEY.
    :param with_exception: add the traceback of the exception that is being handled.
    """
    try:
        logger = logging.getLogger(name)
        if not logger.disabled and logger.hasHandlers():
            extra = {EXTRA_KEY: content} if content is not None else None
            logger.log(level, message, *arguments, extra=extra, exc_info=with_exception)
            return
    except Exception:
        # A filter or handler that raises: what was to be said is said all the same.
        failure = traceback.format_exc()
    else:
        failure = ""
    text = message % arguments if arguments else message
    if with_exception and sys.exc_info()[0] is not None:
        text += "\n" + traceback.format_exc()
    write_to_stderr(f"{logging.getLevelName(level)} {name}: {text}{failure}")


def write_to_stderr(text: str) -> None:
    """Write a line to descriptor 2: the application may have replaced ``sys.stderr``, or closed it."""
    try:
        os.write(_STDERR, (text + "\n").encode("utf-8", "backslashreplace"))
    except OSError:
        pass
