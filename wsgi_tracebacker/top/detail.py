"""The lines beside the rows: the requests of what is selected, and the stack of each place they stand at. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.analysis.places import group
from wsgi_tracebacker.text.frames import traceback
from wsgi_tracebacker.text.palette import PLAIN, Palette
from wsgi_tracebacker.text.threads import request_lines, stack_lines
from wsgi_tracebacker.text.units import plural
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.model.groups import Group
    from wsgi_tracebacker.top.view import Row

#: So many places are shown for a row, and so many requests at each: the other views have the rest.
_MAX_PLACES = 10
_MAX_REQUESTS = 10


def lines(row: Row, palette: Palette = PLAIN) -> Iterator[str]:
    """Escaped lines, with the colours of the palette."""
    if row.worker is not None and row.worker.reason is not None:
        yield palette.paint(palette.stuck, printable(f"{row.worker.state}: {row.worker.reason}"))
    if row.idle is not None:
        yield palette.paint(palette.heading, printable(row.idle.name))
        yield from traceback(row.idle.frames, palette)
    places = group(row.requests)
    for count, place in enumerate(places[:_MAX_PLACES]):
        if count:
            yield ""
        yield from _place(place, palette)
    if len(places) > _MAX_PLACES:
        yield ""
        yield palette.paint(palette.quiet, f"{plural(len(places) - _MAX_PLACES, 'more place')}; their view has them")


def has_one_stack(row: Row) -> bool:
    """Whether there is only one stack, whose innermost call is what people look for."""
    return len(group(row.requests)) == 1


def _place(place: Group, palette: Palette) -> Iterator[str]:
    for served in place.requests[:_MAX_REQUESTS]:
        yield from request_lines(served.stack.name, served.stack, served.source, palette=palette)
    more = len(place.requests) - _MAX_REQUESTS
    if more > 0:
        yield palette.paint(palette.quiet, f"{plural(more, 'more request')} at the same place")
    if place.waits_for is not None:
        yield f"  {printable(place.waits_for)}"
    oldest = place.oldest
    for line in stack_lines(oldest.stack, oldest.source, oldest.ownership, cwd=oldest.cwd, palette=palette):
        yield f"  {line}"
