"""Readings with requests in them, for the tests of the live view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.analysis.served import snapshot
from wsgi_tracebacker.analysis.live import Picture, Reading, WorkerReading, advance

if TYPE_CHECKING:
    from wsgi_tracebacker.model.snapshot import Snapshot, Stack


def worker(
    *stacks: Stack, number: int = 1, pid: int | None = None, requests_finished: int | None = None
) -> WorkerReading:
    """A worker that answered."""
    taken = snapshot(*stacks, worker=number)
    taken = taken._replace(worker=taken.worker._replace(requests_finished=requests_finished))
    return silent(number, pid=pid, state="alive", reason=None)._replace(snapshot=taken, application="shop.wsgi:app")


def silent(
    number: int = 1,
    *,
    pid: int | None = None,
    state: str = "busy",
    reason: str | None = "timed out: it did not answer within 1 s",
    table: Snapshot | None = None,
) -> WorkerReading:
    """A worker that did not answer."""
    label = str(number)
    return WorkerReading(f"/run/tb{number}", number, pid or 4000 + number, state, label, reason=reason, snapshot=table)


def reading(at: float, *workers: WorkerReading, missing: tuple[str, ...] = ()) -> Reading:
    return Reading(at, 1_700_000_000.0 + at, workers, missing)


def picture(*workers: WorkerReading) -> Picture:
    """The first picture of these workers."""
    return advance(None, reading(0.0, *workers))
