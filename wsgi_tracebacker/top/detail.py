"""The lines beside the rows: the stack of what is selected, and where that is several requests, of each. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.text.frames import traceback
from wsgi_tracebacker.text.palette import PLAIN, Palette
from wsgi_tracebacker.text.units import duration
from wsgi_tracebacker.text.waits import sentence
from wsgi_tracebacker.top.request_rows import title
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.model.groups import ServedRequest
    from wsgi_tracebacker.top.view import Row

#: So many stacks are shown for a row: the view of requests has the others.
_MAX_STACKS = 10


def lines(row: Row, palette: Palette = PLAIN) -> Iterator[str]:
    """Escaped lines, with the colours of the palette."""
    if row.worker is not None and row.worker.reason is not None:
        yield palette.paint(palette.stuck, printable(f"{row.worker.state}: {row.worker.reason}"))
    if row.idle is not None:
        yield palette.paint(palette.heading, printable(row.idle.name))
        yield from traceback(row.idle.frames, palette)
    for count, served in enumerate(row.requests[:_MAX_STACKS]):
        if count:
            yield ""
        yield from _request(served, palette)
    more = len(row.requests) - _MAX_STACKS
    if more > 0:
        yield ""
        yield palette.paint(palette.quiet, f"{more} more; the view of requests has them")


def _request(served: ServedRequest, palette: Palette) -> Iterator[str]:
    request = served.request
    name = palette.paint(palette.heading, printable(served.stack.name))
    age = "" if request is None else f"  {duration(request.age_seconds)} in {printable(request.phase)}"
    yield f"{name}  {palette.paint(palette.request, title(served).text)}{age}"
    waits = None if request is None else request.waits_for
    said = served.kernel_view if waits is None else sentence(waits)
    if said is not None:
        yield f"  {printable(said)}"
    yield from (f"  {line}" for line in traceback(served.stack.frames, palette))
