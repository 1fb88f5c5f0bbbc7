"""The view of workers: a row for each, those that have vanished for a while too. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.model.questions import busy_slots, oldest_seconds, waiting_connections
from wsgi_tracebacker.text.screens.grid import UNKNOWN, Column
from wsgi_tracebacker.text.units import OTHER_USER, duration, plural, size
from wsgi_tracebacker.top.view import PLAIN, QUIET, STUCK, Cell, Row, number, percent, text
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.analysis.live import Picture, WorkerReading
    from wsgi_tracebacker.model.snapshot import Snapshot

COLUMNS = (
    Column("WORKER", is_right=True),
    Column("PID", is_right=True),
    Column("STATE"),
    Column("BUSY", is_right=True),
    Column("WAITING", is_right=True, rank=1),
    Column("OLDEST", is_right=True),
    Column("REQ/S", is_right=True, rank=1),
    Column("RSS", is_right=True, rank=1),
    Column("CPU", is_right=True, rank=1),
    Column("RESTARTS", is_right=True, rank=3),
    Column("OTHER UID", is_right=True, rank=2, is_optional=True),
    Column("UP", is_right=True, rank=3),
    Column("APPLICATION", least=14, rank=2),
    Column("SOCKET", least=12, rank=4, cuts_begin=True),
    Column("WHY", least=14),
)


def rows(picture: Picture, _with_idle: bool) -> Iterator[Row]:
    for worker in picture.reading.workers:
        yield _row(picture, worker, STUCK if worker.reason is not None else PLAIN)
    for lost in picture.lost:
        yield _row(picture, lost.worker._replace(state="gone", snapshot=None, reason="it has ended"), QUIET)


def _row(picture: Picture, worker: WorkerReading, look: str) -> Row:
    snapshot = worker.snapshot
    started_at = None if snapshot is None else snapshot.worker.started_at
    cells = (
        Cell(printable(worker.label), worker.number),
        number(worker.pid),
        text(worker.state),
        _busy(snapshot),
        _waiting(snapshot),
        number(None if snapshot is None else oldest_seconds(snapshot), duration),
        number(picture.rates.get(worker.key), "{:.1f}".format),
        number(worker.memory_bytes, size),
        number(picture.cpu_shares.get(worker.key), percent),
        number(None if snapshot is None else snapshot.worker.restarts),
        number(worker.other_uid),
        number(None if snapshot is None or started_at is None else snapshot.taken_at - started_at, duration),
        text(worker.application),
        text(worker.socket),
        text(worker.reason),
    )
    serving = [live.served for live in picture.requests if live.worker.key == worker.key]
    serving.sort(key=lambda served: -(served.age_seconds or 0.0))
    return Row(worker.key, cells, look, tuple(serving), worker=worker)


def _busy(snapshot: Snapshot | None) -> Cell:
    """Slots that are taken, of how many: ``7/8``."""
    if snapshot is None:
        return text(None)
    busy, slots = busy_slots(snapshot), snapshot.worker.slots
    return Cell(f"{busy}/{UNKNOWN if slots is None else slots}", busy)


def _waiting(snapshot: Snapshot | None) -> Cell:
    """Connections that wait to be accepted and in the process, of how many that the kernel lets wait."""
    if snapshot is None or (waiting := waiting_connections([snapshot])) is None:
        return text(None)
    limits = [socket.limit for socket in snapshot.worker.listen if socket.limit is not None]
    return Cell(f"{waiting}/{sum(limits) if limits else UNKNOWN}", waiting)


# ------------------------------------------------------------------------------------------------------------ the head


class Part(NamedTuple):
    """A part of the head."""

    text: str
    #: Parts with a higher rank are left out first where there is no room for all.
    rank: int = 0


def head(picture: Picture) -> list[Part]:
    """The totals: application, workers by state, busy slots, what waits, requests a second, the oldest.

    A part of which nothing is known is left out.
    """
    workers = picture.reading.workers
    snapshots = [worker.snapshot for worker in workers if worker.snapshot is not None]
    parts = []
    names = sorted({worker.application for worker in workers if worker.application})
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        parts.append(Part(printable(names[0]) + more, rank=3))
    states = sorted(Counter(worker.state for worker in workers).items())
    counted = ": " + " ".join(f"{count} {printable(state)}" for state, count in states) if states else ""
    parts.append(Part(plural(len(workers), "worker") + counted))
    uids = sorted({worker.other_uid for worker in workers if worker.other_uid is not None})
    if uids:
        # If not all are, their rows say which.
        parts.append(Part(f"{OTHER_USER} {', '.join(map(str, uids))}"))
    slots = [snapshot.worker.slots for snapshot in snapshots]
    all_slots = UNKNOWN if None in slots or not slots else sum(filter(None, slots))
    parts.append(Part(f"{sum(map(busy_slots, snapshots))}/{all_slots} busy"))
    waiting = waiting_connections(snapshots)
    if waiting is not None:
        parts.append(Part(f"{waiting} waiting", rank=1))
    if picture.rates:
        parts.append(Part(f"{sum(picture.rates.values()):.1f} req/s", rank=2))
    oldest = max((live.age_seconds for live in picture.requests if live.age_seconds is not None), default=None)
    if oldest is not None:
        parts.append(Part(f"oldest {duration(oldest)}"))
    return parts
