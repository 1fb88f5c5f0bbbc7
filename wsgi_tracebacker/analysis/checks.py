"""Judges the health of all workers together, for probes and monitors.

Without limits the only failure is that no worker lives: long work is no ill health, and a prober asks again before it
acts. What is not known is no failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.model.health import ANSWERS, DEAD, MOVES, REFUSES, SILENT, Failure, Totals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsgi_tracebacker.model.health import Limits, WorkerHealth


def add_up(workers: Sequence[WorkerHealth]) -> Totals:
    """Add up all workers. A socket that several of them share counts once."""
    conditions = [worker.condition for worker in workers]
    with_slots = [worker for worker in workers if worker.slots is not None]
    queues = {each.inode: each.waiting for worker in workers for each in worker.listen if each.waiting is not None}
    waiting = [*queues.values(), *(worker.inner_queue for worker in workers if worker.inner_queue is not None)]
    ages = [worker.oldest_request_seconds for worker in workers if worker.oldest_request_seconds is not None]
    return Totals(
        answering=conditions.count(ANSWERS),
        moving=conditions.count(MOVES),
        silent=conditions.count(SILENT),
        dead=conditions.count(DEAD),
        refusing=conditions.count(REFUSES),
        oldest_request_seconds=max(ages, default=None),
        busy=sum(worker.busy or 0 for worker in with_slots) if with_slots else None,
        slots=sum(worker.slots or 0 for worker in with_slots) if with_slots else None,
        waiting=sum(waiting) if waiting else None,
        other_uids=tuple(sorted({worker.other_uid for worker in workers if worker.other_uid is not None})),
    )


def failures(totals: Totals, limits: Limits) -> Iterator[Failure]:
    """What is wrong, the worst first."""
    if not totals.answering + totals.moving:
        yield Failure("none")
    oldest = totals.oldest_request_seconds
    if limits.oldest_seconds is not None and oldest is not None and oldest >= limits.oldest_seconds:
        yield Failure("oldest", oldest, limits.oldest_seconds)
    share = busy_share(totals)
    if limits.saturated_share is not None and share is not None and share >= limits.saturated_share:
        yield Failure("saturated", share, limits.saturated_share)
    if limits.waiting is not None and totals.waiting is not None and totals.waiting >= limits.waiting:
        yield Failure("waiting", totals.waiting, limits.waiting)
    if limits.silent is not None and totals.silent > limits.silent:
        yield Failure("silent", totals.silent, limits.silent)
    if limits.dead is not None and totals.dead > limits.dead:
        yield Failure("dead", totals.dead, limits.dead)


def cannot_judge(totals: Totals, limits: Limits) -> Iterator[str]:
    """The limits that were set in vain, because what they are about is not known."""
    if limits.saturated_share is not None and busy_share(totals) is None:
        yield "saturated"
    if limits.waiting is not None and totals.waiting is None:
        yield "waiting"


def busy_share(totals: Totals) -> float | None:
    """Which share of the known slots is busy; None if none is known."""
    return totals.busy / totals.slots if totals.slots and totals.busy is not None else None
