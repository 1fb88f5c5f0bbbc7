"""Every error this package raises: whose fault it is, what to try, and the exit code.

Callers tell them apart by type, never by message. None is raised into a request, unless the application asked for it.
"""

from __future__ import annotations


class TracebackerError(Exception):
    """The root of the tree. ``exit_code`` is what ``wsgi-tb`` ends with when it meets this error."""

    exit_code = 1


class ConfigurationError(TracebackerError, ValueError):
    """The programmer's: an option of the wrong type, or a value that can never work. Raised at construction."""

    exit_code = 2


class WorkerUnreachable(TracebackerError):
    """The environment's: one worker did not answer. The subclass is the reason, ``str()`` is the line for people."""

    #: The word in ``wsgi-tb``'s output and JSON.
    reason = "unreachable"


class WorkerDead(WorkerUnreachable):
    """Nothing listens on the socket any more: the process ended."""

    reason = "dead"


class PermissionDenied(WorkerUnreachable):
    """The socket belongs to somebody else: read it as that user, or as root."""

    reason = "no permission"


class WorkerTimedOut(WorkerUnreachable):
    """The worker lives but did not answer within the time limit."""

    reason = "timed out"


class BadReply(WorkerUnreachable):
    """The answer is neither ours nor uWSGI's: another program listens there, or the answer is incomplete."""

    reason = "bad reply"


class WrongPeer(BadReply):
    """The reply or the card names another process or user than the kernel, which says who listens there."""


class WrongCard(WrongPeer):
    """Only the card does so: it may be that of a predecessor, which ended just now."""


class MemoryUnreadable(WorkerUnreachable):
    """Its memory cannot be read from outside, or is not laid out as is known here."""

    reason = "memory not readable"


class NoWorkersFound(TracebackerError):
    """The operator's: there is no worker at the base path."""

    exit_code = 3


class Misuse(TracebackerError):
    """The operator's: the command line cannot be understood."""

    exit_code = 2


class LibraryMissing(TracebackerError):
    """The operator's: a verb needs a library that is not installed."""

    exit_code = 2


class CannotWrite(TracebackerError):
    """The operator's: the output could not be written to stdout, because a disk is full for instance."""

    exit_code = 4


class CannotListen(TracebackerError):
    """The operator's: an address to serve at is taken, is none of this machine, or may not be used."""

    exit_code = 4


class FormatError(TracebackerError, ValueError):
    """Bytes that are not what they should be: a card, a reply or a dump, cut short, garbled, or of another version."""


class NotInRequest(TracebackerError, RuntimeError):
    """The programmer's: a function that needs a request in flight was called where there is none."""

    exit_code = 2


class RequestTimedOut(TracebackerError):
    """Raised to the server if harakiri interrupted a request after its response had begun.

    An ordinary exception, which servers log and survive.
    """


class HarakiriTimeout(BaseException):
    """Raised in the thread of an overdue request, with ``harakiri_action="raise"``.

    Not an Exception, so that ``except Exception`` in the application does not take it for a failure of what it
    called. It never leaves the middleware: a server would end its worker for it.
    """
