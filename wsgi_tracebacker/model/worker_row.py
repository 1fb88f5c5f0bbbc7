"""One worker as ``wsgi-tb list`` shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wsgi_tracebacker.model.snapshot import ListenSocket


class WorkerRow(NamedTuple):
    """What is known of one worker; None: not known. The attributes are the keys of the JSON."""

    number: int | None
    socket: str
    base: str
    #: In the worker's own pid namespace, and in the reader's.
    pid: int | None
    visible_pid: int | None
    #: ``alive``, ``busy``, ``stalled``, ``stopped``, ``disk wait``, ``dead`` or ``unknown``.
    state: str
    application: str | None
    requests_in_flight: int | None
    oldest_request_seconds: float | None
    #: Why it did not answer.
    reason: str | None
    other_uid: int | None
    slots: int | None = None
    busy: int | None = None
    inner_queue: int | None = None
    #: Of all its sockets together.
    waiting: int | None = None
    waiting_limit: int | None = None
    memory_bytes: int | None = None
    #: CPU seconds per second.
    cpu_share: float | None = None
    restarts: int | None = None
    #: Of a dead one: the Unix time at which it is known to have lived last.
    last_alive_at: float | None = None
    listen: tuple[ListenSocket, ...] = ()
    #: Of a worker on another host: what the operator calls that.
    host: str | None = None
