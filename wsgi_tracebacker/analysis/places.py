"""Puts the requests of many snapshots together: by the place where they stand, by what they wait for, by their route.

The same place: the same frames of the application's own code, and the same wait. How deep a library is in something
differs each time, so its frames do not count, unless there are no others. A wait that is not known is
equal to any at the same frames: a thread that has just been woken up waits for nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from wsgi_tracebacker.analysis.routes import Routes, route_of
from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.model.groups import Group, ServedRequest
from wsgi_tracebacker.model.questions import innermost_call, is_serving, works_for
from wsgi_tracebacker.model.waits import WaitsFor
from wsgi_tracebacker.text.kernel_waits import ON_A_CPU, kernel_view
from wsgi_tracebacker.text.waits import beside, sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from wsgi_tracebacker.model.snapshot import Snapshot


def served_requests(snapshots: Iterable[Snapshot]) -> list[ServedRequest]:
    """The requests in flight of all these workers, worker by worker."""
    routes = Routes()
    return [found for snapshot in snapshots for found in _served_by(snapshot, routes)]


def _served_by(snapshot: Snapshot, routes: Routes) -> Iterable[ServedRequest]:
    ownership = CodeOwnership.of_snapshot(snapshot)
    for stack in snapshot.stacks:
        if not is_serving(stack, snapshot):
            continue
        own_frames = tuple([frame for frame in stack.frames if ownership.is_own(frame.filename)])
        request = stack.request
        yield ServedRequest(
            worker=snapshot.worker.number,
            pid=snapshot.worker.pid,
            stack=stack,
            own_frames=own_frames,
            innermost=innermost_call(stack.frames, ownership),
            ownership=ownership,
            kernel_view=kernel_view(stack),
            route=routes.route(request.method, request.path) if request is not None else "",
            source=snapshot.source,
            state=snapshot.state,
            other_thread=works_for(stack, snapshot),
            base=snapshot.worker.base,
            cwd=snapshot.worker.cwd,
            host=snapshot.worker.host,
        )


# ---------------------------------------------------------------------------------------------------------- grouping


def group(requests: Sequence[ServedRequest], by: str = "place", order: str = "age") -> list[Group]:
    """The groups, and the requests in each; ``by`` is one of GROUPINGS, ``order`` one of ORDERS."""
    grouped: list[list[ServedRequest]]
    if by == "place":
        grouped = _by_place(requests)
    elif by == "none":
        grouped = [[request] for request in requests]
    else:
        key: Callable[[ServedRequest], Hashable] = _wait if by == "wait" else _route
        grouped = list(_collect(requests, key).values())
    # The oldest first, in any order of the groups: people compare ages.
    groups = [_group(sorted(members, key=_ORDER_KEYS["age"])) for members in grouped]
    first = _ORDER_KEYS[order]
    return sorted(groups, key=lambda found: min(map(first, found.requests)))


def _by_place(requests: Sequence[ServedRequest]) -> list[list[ServedRequest]]:
    places: list[list[ServedRequest]] = []
    for members in _collect(requests, _frames).values():
        # The worker's own knowledge first: if one is known to wait for a database, the kernel's "a socket" is that too.
        by_wait = _collect(members, _wait_of_place)
        unknown = by_wait.pop(None, [])
        if not by_wait:
            by_wait = _collect(unknown, _kernel_wait)
            unknown = by_wait.pop(None, [])
        if by_wait:
            # Those whose wait is not known stand with the most, which they are most likely like.
            max(by_wait.values(), key=len).extend(unknown)
            places += by_wait.values()
        else:
            places.append(unknown)
    return places


def _collect(
    requests: Iterable[ServedRequest], key: Callable[[ServedRequest], Hashable]
) -> dict[Hashable, list[ServedRequest]]:
    found: dict[Hashable, list[ServedRequest]] = {}
    for request in requests:
        found.setdefault(key(request), []).append(request)
    return found


def _group(requests: Sequence[ServedRequest]) -> Group:
    routes = Counter(request.route for request in requests if request.route)
    return Group(tuple(requests), _waits_for(requests), tuple(route for route, _ in routes.most_common()))


def _waits_for(requests: Sequence[ServedRequest]) -> str | None:
    """The sentence on what these requests wait for, without what differs from one to the other, and their place."""
    known = [found for request in requests if (found := _known_wait(request)) is not None]
    if known:
        kind = _most_frequent(found.kind for found in known)
        common = sentence(_common([found for found in known if found.kind == kind]))
        return beside(common, requests[0].innermost)
    views = [view for request in requests if (view := _kernel_wait(request)) is not None]
    return _most_frequent(views) if views else requests[0].kernel_view


def _most_frequent(words: Iterable[str]) -> str:
    """The first of them if there are several."""
    # Not Counter.most_common(1), which loads heapq: a twentieth of the command's start.
    counts = Counter(words)
    return max(counts, key=counts.__getitem__)


def _common(waits: Sequence[WaitsFor]) -> WaitsFor:
    first, *others = waits
    differing = [name for name in first._fields if any(getattr(first, name) != getattr(one, name) for one in others)]
    # As none of them: not even the number of connections in use is the same at each look.
    return first._replace(**{name: WaitsFor._field_defaults[name] for name in differing})


def _frames(request: ServedRequest) -> Hashable:
    frames = request.own_frames or ((request.innermost,) if request.innermost is not None else ())
    if not frames:
        # Requests of which no stack is known are told apart by what is.
        return request.state, request.route
    return tuple([(frame.filename, frame.lineno, frame.function) for frame in frames])


def _known_wait(request: ServedRequest) -> WaitsFor | None:
    return None if request.request is None else request.request.waits_for


def _wait_of_place(request: ServedRequest) -> Hashable:
    """What tells known waits at the same frames apart: all but what differs from one such request to the next."""
    known = _known_wait(request)
    if known is None:
        return None
    what = (known.kind, known.service, known.host, known.peer, known.connecting, known.lock, known.pool, known.call)
    # Numbers in a name are ids: of orders, users and threads.
    names = (known.url, known.file, None if known.kind == "other_thread" else known.thread)
    asked = (known.program, known.method, known.statement)
    return (*what, *asked, *(route_of(name) if name else None for name in names))


def _kernel_wait(request: ServedRequest) -> str | None:
    """What tells waits apart; None for a thread that was on a CPU at this moment, and where nothing is known."""
    return None if request.kernel_view == ON_A_CPU else request.kernel_view


def _wait(request: ServedRequest) -> Hashable:
    """What a request waits for, without what differs from one to the next: statements, ports, holders."""
    known = _known_wait(request)
    if known is None:
        return request.kernel_view
    return known.kind, known.service, known.host, known.peer, known.lock, known.pool, known.file


def _route(request: ServedRequest) -> str:
    return request.route


def _age(request: ServedRequest) -> tuple[float, int, int]:
    age = request.age_seconds
    # uWSGI's requests, whose age is not known, are last.
    return (0.0 if age is None else -age, *_worker(request))


def _worker(request: ServedRequest) -> tuple[int, int]:
    core = request.stack.core
    return (-1 if request.worker is None else request.worker, -1 if core is None else core)


_ORDER_KEYS: dict[str, Callable[[ServedRequest], tuple[float | str | int, ...]]] = {
    "age": _age,
    "cpu": lambda request: (-(request.stack.cpu_seconds or 0.0), *_age(request)),
    "worker": _worker,
    "route": lambda request: (request.route, *_age(request)),
}
