"""Every error this package raises: whose fault it is, what to try, and the exit code it means.

Told apart by type, never by message. Nothing here is raised into a request, except where the application itself
asked for it.
"""

from __future__ import annotations


class TracebackerError(Exception):
    """The root of the tree. ``exit_code`` is what ``wsgi-tb`` ends with when it meets this error."""

    exit_code = 1


class ConfigurationError(TracebackerError, ValueError):
    """The programmer's: an option of the wrong type, or a value that can never work. Raised at construction."""

    exit_code = 2


class WorkerUnreachable(TracebackerError):
    """The environment's: one worker did not answer. The subclass says why, ``str()`` is the line for people."""

    #: The word in ``wsgi-tb``'s output and JSON.
    reason = "unreachable"


class WorkerDead(WorkerUnreachable):
    """Nobody listens behind the socket any more: the process ended."""

    reason = "dead"


class PermissionDenied(WorkerUnreachable):
    """The socket belongs to somebody else: read it as that user, or as root."""

    reason = "no permission"


class WorkerTimedOut(WorkerUnreachable):
    """The worker lives but did not answer within the time limit."""

    reason = "timed out"


class BadReply(WorkerUnreachable):
    """What came back is neither ours nor uWSGI's: something else listens there, or it broke off half-way."""

    reason = "bad reply"


class NoWorkersFound(TracebackerError):
    """The operator's: there is nothing behind the base path."""

    exit_code = 3


class CannotWrite(TracebackerError):
    """The operator's: what was asked for could not be written to stdout, because a disk is full for instance."""

    exit_code = 4


class FormatError(TracebackerError, ValueError):
    """Bytes that are not what they should be: a card, a reply or a dump, cut short, garbled, or of another version."""


class NotInRequest(TracebackerError, RuntimeError):
    """The programmer's: something that concerns the current request was asked for where there is none."""

    exit_code = 2


class RequestTimedOut(TracebackerError):
    """A request was interrupted by harakiri after its response had begun: what the server sees of it.

    An ordinary exception, which servers log and survive.
    """


class HarakiriTimeout(BaseException):
    """Raised in the thread of an overdue request, with ``harakiri_action="raise"``.

    Not an Exception, so that ``except Exception`` in the application does not take it for a failure of what it
    called. It never leaves the middleware: a server would end its worker for it.
    """
