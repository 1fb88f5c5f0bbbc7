"""What a document of ``wsgi-tb read --format json`` holds: the workers of a host at one moment, or those of several."""

from __future__ import annotations

from typing import NamedTuple

from wsgi_tracebacker.model.snapshot import Snapshot  # noqa: TC001  (a value needs it)


class Unanswered(NamedTuple):
    """A worker, or a whole host, that did not answer. None: not known."""

    number: int | None = None
    socket: str | None = None
    pid: int | None = None
    #: ``WorkerUnreachable.reason``.
    reason: str = "unreachable"
    #: As ``wsgi-tb list`` says it.
    state: str = "unknown"
    #: The user of its socket; None if that is the reader's own.
    other_uid: int | None = None
    host: str | None = None
    #: The reason for people.
    message: str | None = None


class Document(NamedTuple):
    """One document."""

    workers: tuple[Snapshot, ...]
    unanswered: tuple[Unanswered, ...]
