"""Writes durations, ages and counts for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgi_tracebacker.model.snapshot import Request

#: A request that waited less than this for its thread is not said to have been queued.
_QUEUED_SECONDS = 0.1

#: The mark of what is not of the reader's own user; the uid follows.
OTHER_USER = "another user's: uid"

#: Why a stack is not known, and what to change. See ``worker.threads.interpreters``.
#: Why a request of UNREAD_KIND has no stack.
UNREAD_BODY = "its body is open and nobody reads it, while its thread serves another request"

SHARED_IDS = (
    "uWSGI runs this application in a sub-interpreter, whose threads all have one id; start uWSGI with"
    " --single-interpreter"
)


def duration(seconds: float) -> str:
    """A time that people read at a glance: ``0.42 s``, ``12.3 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 4 h``."""
    # A clock that was set back must not make it negative.
    seconds = max(0.0, seconds)
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def age(seconds: float) -> str:
    """The age of a request in a report: ``30.0 s``; a short one with three decimals, ``0.251 s``."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.3f} s"


def queued_before(request: Request) -> str | None:
    """``queued 1.2 s before it got here``; None if it was not, or not for long enough to be named."""
    seconds = request.queued_seconds
    return f"queued {age(seconds)} before it got here" if seconds is not None and seconds >= _QUEUED_SECONDS else None


def size(number_of_bytes: float) -> str:
    """Memory at a glance: ``840K``, ``212M``, ``1.4G``."""
    kibibytes = number_of_bytes / 1024
    if kibibytes < 999.5:
        return f"{kibibytes:.0f}K"
    mebibytes = kibibytes / 1024
    return f"{mebibytes:.0f}M" if mebibytes < 999.5 else f"{mebibytes / 1024:.1f}G"


def plural(count: int, what: str) -> str:
    """``1 request``, ``2 requests``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
