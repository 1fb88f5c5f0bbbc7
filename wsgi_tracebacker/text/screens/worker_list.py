"""The table of ``wsgi-tb list``: one line for each worker that lives, one for all dead workers of a base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.text.columns import table
from wsgi_tracebacker.text.units import duration, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wsgi_tracebacker.model.snapshot import ListenSocket
    from wsgi_tracebacker.model.worker_row import WorkerRow

#: Stands for the connections that wait on the sockets of the line above, which are the same ones.
_SAME = '"'

_LEFT = ("STATE", "APPLICATION")


def lines(rows: Sequence[WorkerRow], local_time: Callable[[float], str]) -> Iterator[str]:
    """The workers of one base. ``local_time`` writes a Unix time for people."""
    dead = [row for row in rows if row.state == "dead"]
    living = [row for row in rows if row.state != "dead"]
    if living:
        yield from _table(living)
    if dead:
        yield dead_line([row.last_alive_at for row in dead], local_time)


def dead_line(last_alive: Sequence[float | None], local_time: Callable[[float], str]) -> str:
    """How many are dead, since when, and what shows more. ``last_alive``: when each is known to have lived last."""
    times = [each for each in last_alive if each is not None]
    since = f" since {local_time(min(times))}" if times else ""
    return f"{len(last_alive)} dead{since}; wsgi-tb postmortem shows what they served"


def _table(rows: Sequence[WorkerRow]) -> Iterator[str]:
    columns: dict[str, list[object]] = {
        "WORKER": [row.number for row in rows],
        "PID": [row.pid if row.visible_pid is None else row.visible_pid for row in rows],
        "STATE": [row.state for row in rows],
        "BUSY": [_of(row.busy, row.slots) for row in rows],
        "QUEUED": [row.inner_queue for row in rows],
        "WAITING": list(_waiting(rows)),
        "OLDEST": [_or_none(duration, row.oldest_request_seconds) for row in rows],
        "RSS": [_or_none(size, row.memory_bytes) for row in rows],
        "CPU": [_or_none(_percent, row.cpu_share) for row in rows],
        "RESTARTS": [row.restarts for row in rows],
        "OTHER UID": [row.other_uid for row in rows],
        "APPLICATION": [row.application for row in rows],
    }
    # These are of no interest where they say nothing.
    for name in ("QUEUED", "RESTARTS", "OTHER UID"):
        if not any(value or (value == 0 and name == "OTHER UID") for value in columns[name]):
            del columns[name]
    right_aligned = [name for name in columns if name not in _LEFT]
    yield from table(tuple(columns), list(zip(*columns.values(), strict=True)), right_aligned)


def _waiting(rows: Sequence[WorkerRow]) -> Iterator[str | None]:
    above: tuple[ListenSocket, ...] = ()
    for row in rows:
        inodes = {each.inode for each in row.listen}
        if inodes and inodes == {each.inode for each in above}:
            yield _SAME
        else:
            yield _of(row.waiting, row.waiting_limit)
        above = row.listen


def _of(count: int | None, limit: int | None) -> str | None:
    """``3/8``, or ``3/-`` if the limit is not known; None if neither is."""
    if count is None and limit is None:
        return None
    return f"{'-' if count is None else count}/{'-' if limit is None else limit}"


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _or_none(write: Callable[[float], str], value: float | None) -> str | None:
    return None if value is None else write(value)
