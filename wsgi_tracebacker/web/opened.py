"""What an open row of the page shows: the stacks of its requests, who has what they wait for, a button that records."""

from __future__ import annotations

import hashlib
from html import escape
from typing import TYPE_CHECKING

from wsgi_tracebacker.analysis.places import group
from wsgi_tracebacker.text.screens.page import html, place_block
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsgi_tracebacker.analysis.live import LiveRequest, Picture, WorkerReading
    from wsgi_tracebacker.model.groups import Group
    from wsgi_tracebacker.model.waits import Holder
    from wsgi_tracebacker.top.view import Row

#: The places of one row that are shown with their stacks.
_MAX_PLACES = 10
#: The links to holders at one place.
_MAX_HOLDERS = 10


def id_of(key: object) -> str:
    """Of the thing that a row is about, the same in every reading."""
    return hashlib.blake2b(repr(key).encode("utf-8", "backslashreplace"), digest_size=6).hexdigest()


def name_of(worker: WorkerReading) -> str:
    """What names a worker in the form: not its socket, which would let the form name any."""
    return id_of(worker.key)


def opened(row: Row, picture: Picture, address_of: Callable[[str], str], *, full: bool) -> Iterator[str]:
    """``address_of``: the address at which the row of a request with this id is open."""
    if row.worker is not None and row.worker.reason is not None:
        yield f'<p class="stuck">{escape(printable(f"{row.worker.state}: {row.worker.reason}"))}</p>'
    places = group(row.requests)
    for place in places[:_MAX_PLACES]:
        yield '<section class="place">'
        if place.waits_for is not None:
            yield f'<p class="heading">{html(printable(place.waits_for))}</p>'
        holders = list(_holders(place, picture))
        if holders:
            links = ", ".join(_link(each, address_of) for each in holders[:_MAX_HOLDERS])
            yield f"<p>Held by {links}</p>"
        yield from place_block(place, names_worker=True, names_base=False, is_open=full)
        yield "</section>"
    if len(places) > _MAX_PLACES:
        yield f'<p class="quiet">{plural(len(places) - _MAX_PLACES, "more place")}</p>'
    if row.worker is not None:
        label = escape(f"Record worker {printable(row.worker.label)}")
        yield (
            f'<button form="record-form" name="worker" value="{name_of(row.worker)}" id="w{id_of(row.key)}">'
            f"{label}</button>"
        )


def _holders(place: Group, picture: Picture) -> Iterator[LiveRequest]:
    """The requests in flight that have what those at a place wait for, each once."""
    waiting = {id(served) for served in place.requests}
    seen = set()
    for live in picture.requests:
        request = live.served.request
        if id(live.served) not in waiting or request is None or request.waits_for is None:
            continue
        for holder in request.waits_for.holders:
            found = next((each for each in picture.requests if _is(each, holder, live.worker)), None)
            if found is not None and found.key not in seen:
                seen.add(found.key)
                yield found


def _is(live: LiveRequest, holder: Holder, asker: WorkerReading) -> bool:
    """Whether this request is the holder that a request of a worker has named."""
    request = live.served.request
    if request is None or live.served.stack.core != holder.core:
        return False
    if holder.worker is None:
        is_there = live.worker.key == asker.key
    else:
        is_there = live.worker.number == holder.worker and _host(live.worker) == _host(asker)
    return is_there and (request.method, request.path) == (holder.method, holder.path)


def _host(worker: WorkerReading) -> str | None:
    return None if worker.snapshot is None else worker.snapshot.worker.host


def _link(live: LiveRequest, address_of: Callable[[str], str]) -> str:
    request = live.served.request
    assert request is not None
    named = f"{request.method} {request.path}, worker {live.worker.label} core {live.served.stack.core}"
    return f'<a data-live href="{escape(address_of(id_of(live.key)))}">{escape(printable(named))}</a>'
