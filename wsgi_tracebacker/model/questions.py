"""Answers what is asked of a snapshot in more than one place: what is in flight, how old it is, who serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgi_tracebacker.model.snapshot import Snapshot, Stack


def in_flight(snapshot: Snapshot) -> int:
    """How many requests a worker serves; for uWSGI, whose counters are not on its socket, as its stacks have it."""
    if snapshot.worker.requests_in_flight is not None:
        return snapshot.worker.requests_in_flight
    return sum(1 for stack in snapshot.stacks if is_serving(stack, snapshot))


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
