"""Compares several snapshots of the same workers, taken one after the other: which requests are stuck, and which move.

A request is the same one if its worker, its thread and its start are. It is at the same place if its calls of the
application's own code are the same, as in ``places``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.model.groups import Looks

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from wsgi_tracebacker.model.groups import ServedRequest

#: The start of a request is computed anew for each snapshot, from a clock that may be adjusted meanwhile.
_SAME_START_SECONDS = 0.1


def compare(looks: Sequence[Sequence[ServedRequest]]) -> list[ServedRequest]:
    """The requests of the last look, each with what the earlier looks show of it; the oldest look is the first."""
    *earlier, last = looks
    by_thread = [{_thread(request): request for request in look} for look in earlier]
    return [_compared(request, [found.get(_thread(request)) for found in by_thread]) for request in last]


def _compared(request: ServedRequest, earlier: Sequence[ServedRequest | None]) -> ServedRequest:
    seen = [found for found in earlier if found is not None and _is_same(found, request)]
    same = 1 + sum(_place(found) == _place(request) for found in seen)
    cpu_seconds = seconds = None
    if seen:
        before, after = seen[0].stack.cpu_seconds, request.stack.cpu_seconds
        if before is not None and after is not None:
            cpu_seconds = max(0.0, after - before)
        if seen[0].age_seconds is not None and request.age_seconds is not None:
            seconds = max(0.0, request.age_seconds - seen[0].age_seconds)
    return request._replace(looks=Looks(same, 1 + len(earlier), 1 + len(seen), cpu_seconds, seconds))


def _thread(request: ServedRequest) -> Hashable:
    return request.host, request.base, request.worker, request.pid, request.stack.name, request.stack.ident


def _is_same(one: ServedRequest, other: ServedRequest) -> bool:
    first, second = one.request, other.request
    if first is None or second is None:
        # uWSGI names no request: a thread that still serves may serve another one.
        return False
    is_same_target = (first.method, first.path) == (second.method, second.path)
    return is_same_target and abs(first.started_at - second.started_at) < _SAME_START_SECONDS


def _place(request: ServedRequest) -> Hashable:
    frames = request.own_frames or ((request.innermost,) if request.innermost is not None else ())
    return tuple([(frame.filename, frame.lineno, frame.function) for frame in frames])
