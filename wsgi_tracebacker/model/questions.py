"""Answers what is asked of a snapshot in more than one place: what is in flight, how old it is, who serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wsgi_tracebacker.model.code_ownership import CodeOwnership
    from wsgi_tracebacker.model.snapshot import Frame, Snapshot, Stack


def in_flight(snapshot: Snapshot) -> int:
    """How many requests a worker serves; for uWSGI, whose counters are not on its socket, as its stacks have it."""
    if snapshot.worker.requests_in_flight is not None:
        return snapshot.worker.requests_in_flight
    return sum(1 for stack in snapshot.stacks if is_serving(stack, snapshot))


def busy_slots(snapshot: Snapshot) -> int:
    """How many slots of a worker are taken; of a worker that does not say, how many requests it serves."""
    return in_flight(snapshot) if snapshot.worker.busy is None else snapshot.worker.busy


def waiting_connections(snapshots: Iterable[Snapshot]) -> int | None:
    """Connections that wait: to be accepted, or in a process for a slot; None if no worker says so.

    Workers that were forked share a socket: it is counted once.
    """
    by_inode: dict[tuple[str | None, int], int] = {}
    inside: list[int] = []
    for snapshot in snapshots:
        worker = snapshot.worker
        by_inode |= {(worker.host, each.inode): each.waiting for each in worker.listen if each.waiting is not None}
        if worker.inner_queue is not None:
            inside.append(worker.inner_queue)
    return sum(by_inode.values()) + sum(inside) if by_inode or inside else None


def oldest_seconds(snapshot: Snapshot) -> float | None:
    """The age of the oldest request, None if there is none or nobody knows."""
    if snapshot.worker.oldest_request_seconds is not None:
        return snapshot.worker.oldest_request_seconds
    return max((stack.request.age_seconds for stack in snapshot.stacks if stack.request is not None), default=None)


def is_serving(stack: Stack, snapshot: Snapshot) -> bool:
    """Whether a thread serves a request.

    uWSGI's socket does not say which one, but a thread of a core has Python frames only while it serves one.
    """
    return stack.request is not None or (snapshot.source == "uwsgi" and stack.core is not None)


def innermost_call(frames: Sequence[Frame], ownership: CodeOwnership) -> Frame | None:
    """The application's innermost call, in a stack that may have none of it: then the innermost call of all."""
    index = ownership.innermost(frame.filename for frame in reversed(frames))
    return frames[-1 if index is None else -1 - index] if frames else None


def works_for(stack: Stack, snapshot: Snapshot) -> Stack | None:
    """The thread that works for the request of this one, or that it joins, if its name says which thread it is."""
    waits_for = stack.request.waits_for if stack.request is not None else None
    if waits_for is None or waits_for.kind not in ("other_thread", "thread"):
        return None
    found = [other for other in snapshot.stacks if other.name == waits_for.thread]
    return found[0] if len(found) == 1 else None
