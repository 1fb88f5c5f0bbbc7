"""What ``wsgi-tb check`` judges: each worker after one short look, all of them together, and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wsgi_tracebacker.model.snapshot import ListenSocket

#: What a worker did within the look: it answered; it did not, but Python ran in it; nothing; it has ended; it refused.
ANSWERS, MOVES, SILENT, DEAD, REFUSES = "answers", "moves", "silent", "dead", "refuses"


class WorkerHealth(NamedTuple):
    """One worker. None: not known."""

    condition: str
    oldest_request_seconds: float | None = None
    busy: int | None = None
    slots: int | None = None
    inner_queue: int | None = None
    listen: tuple[ListenSocket, ...] = ()
    #: The user that it belongs to, if that is not the reader's own.
    other_uid: int | None = None


class Totals(NamedTuple):
    """All workers together. None: not known of any of them."""

    answering: int
    moving: int
    silent: int
    dead: int
    refusing: int
    #: None also if no request is in flight.
    oldest_request_seconds: float | None
    #: Of the workers whose slots are known.
    busy: int | None
    slots: int | None
    #: Connections that wait, to be accepted or inside the servers.
    waiting: int | None
    #: The users that workers belong to who are not the reader's own.
    other_uids: tuple[int, ...] = ()

    @property
    def workers(self) -> int:
        """All but the dead ones."""
        return self.answering + self.moving + self.silent + self.refusing


class Limits(NamedTuple):
    """What is not healthy. None: that is not judged."""

    #: A request that is at least so old.
    oldest_seconds: float | None = None
    #: This share of all slots is busy, or more.
    saturated_share: float | None = None
    #: So many connections wait, or more.
    waiting: int | None = None
    #: More workers than these are silent, or dead.
    silent: int | None = None
    dead: int | None = None


class Failure(NamedTuple):
    """One thing that is wrong."""

    #: ``none`` (no worker at all answers), or the name of the limit.
    kind: str
    value: float = 0
    limit: float = 0
