"""The views that put requests together: places, routes, and locks and pools. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.analysis.places import group
from wsgi_tracebacker.text.screens.grid import UNKNOWN, Column
from wsgi_tracebacker.text.units import duration
from wsgi_tracebacker.text.waits import holder_name
from wsgi_tracebacker.top.request_rows import UNNAMED, where, without_verb
from wsgi_tracebacker.top.view import Row, look_of_age, number, text

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from wsgi_tracebacker.analysis.live import Picture
    from wsgi_tracebacker.model.groups import Group, ServedRequest
    from wsgi_tracebacker.model.waits import WaitsFor
    from wsgi_tracebacker.top.view import Cell

#: The kinds of waits in which a request of the same application has what is waited for. See ``model.waits``.
_HELD_KINDS = ("deadlock", "lock", "pool", "file_lock", "import", "queue", "signal", "thread")

_AGE = Column("OLDEST", is_right=True)
_COUNT = Column("N", is_right=True)
_WAITS_FOR = Column("WAITS FOR", least=15)
_ROUTES = Column("REQUESTS", least=18)
_WHERE = Column("WHERE", least=18, cuts_begin=True)

PLACE_COLUMNS = (_AGE, _COUNT, _ROUTES, _WAITS_FOR._replace(rank=1), _WHERE)
ROUTE_COLUMNS = (
    _AGE,
    _COUNT,
    _ROUTES._replace(title="ROUTE"),
    Column("WORKERS", is_right=True, rank=2),
    _WAITS_FOR._replace(rank=1),
    _WHERE,
)
LOCK_COLUMNS = (
    _AGE,
    _COUNT,
    _WAITS_FOR,
    Column("IN USE", is_right=True, rank=2),
    Column("HELD BY", least=18),
    _ROUTES._replace(rank=1),
)


def place_rows(picture: Picture, _with_idle: bool) -> Iterator[Row]:
    for found in group(_in_flight(picture), "place"):
        innermost = found.oldest.innermost
        key = (None if innermost is None else innermost[:3], _wait(found.oldest), found.oldest.route)
        yield _row(key, found, (_routes(found), text(without_verb(found.waits_for)), text(where(innermost))))


def route_rows(picture: Picture, _with_idle: bool) -> Iterator[Row]:
    for found in group(_in_flight(picture), "route"):
        oldest = found.oldest
        workers = len({(each.worker, each.pid) for each in found.requests})
        cells = (
            text(oldest.route or UNNAMED),
            number(workers),
            text(without_verb(found.waits_for)),
            text(where(oldest.innermost)),
        )
        yield _row(oldest.route, found, cells)


def lock_rows(picture: Picture, _with_idle: bool) -> Iterator[Row]:
    """What requests of the application keep from each other; of a request that says no more, what the kernel says."""
    held = [served for served in _in_flight(picture) if (wait := _wait(served)) is None or wait.kind in _HELD_KINDS]
    for found in group(held, "wait"):
        wait = _wait(found.oldest)
        in_use, holders = None, None
        key: Hashable = found.waits_for
        if wait is not None:
            key = (wait.kind, wait.lock, wait.pool, wait.file, wait.call)
            holders = "; ".join(map(holder_name, wait.holders))
            if wait.pool_in_use is not None:
                in_use = f"{wait.pool_in_use}/{UNKNOWN if wait.pool_size is None else wait.pool_size}"
        cells = (text(without_verb(found.waits_for)), text(in_use), text(holders), _routes(found))
        yield _row(key, found, cells)


def _in_flight(picture: Picture) -> list[ServedRequest]:
    return [live.served for live in picture.requests]


def _wait(served: ServedRequest) -> WaitsFor | None:
    return None if served.request is None else served.request.waits_for


def _row(key: Hashable, found: Group, cells: tuple[Cell, ...]) -> Row:
    first = (number(found.age_seconds, duration), number(len(found.requests)))
    return Row(key, (*first, *cells), look_of_age(found.age_seconds), found.requests)


def _routes(found: Group) -> Cell:
    """The most frequent route, and how many others there are."""
    if not found.routes:
        return text(UNNAMED)
    more = len(found.routes) - 1
    return text(found.routes[0] + (f" and {more} more" if more else ""))
