"""Shows the requests of all workers on one screen: a line of totals, then a row for each group of requests.

It fits the width that it is given and breaks no word: what does not fit is continued on the row's next line, and cut
with an ellipsis beyond that.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.model.questions import in_flight, oldest_seconds
from wsgi_tracebacker.text.columns import cut, share, width, wrap
from wsgi_tracebacker.text.folding import place
from wsgi_tracebacker.text.palette import PLAIN, Palette
from wsgi_tracebacker.text.screens import looks
from wsgi_tracebacker.text.threads import age_style
from wsgi_tracebacker.text.units import duration, plural
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsgi_tracebacker.model.groups import Group
    from wsgi_tracebacker.model.snapshot import Snapshot

#: Columns below this many are too few for words. A terminal that is narrower breaks the lines itself.
MIN_WIDTH = 80

_GAP = 2
#: The most lines of a row, besides the one with the source.
_MAX_LINES = 2
#: No column is made wider than it has to be for a word that is longer than this.
_MAX_WORD = 34
#: A request up to this long stands on one line, unless the words beside it need the room.
_MAX_REQUEST = 20
#: The column is made wider for a source line beside its place only up to this.
_MAX_SOURCE = 72

#: The names of the columns.
HEADINGS = ("AGE", "N", "REQUEST", "WAITS FOR", "WHERE")


class Row(NamedTuple):
    """What is shown of one group."""

    age: str
    age_seconds: float | None
    #: How many requests.
    requests: str
    request: str
    waits_for: str
    where: str
    source: str


def totals(snapshots: Sequence[Snapshot]) -> str:
    """``30 requests in 4 workers, 30 of 32 threads busy, 12 connections wait, oldest 41.2 s``."""
    workers = [snapshot.worker for snapshot in snapshots]
    requests = sum(map(in_flight, snapshots))
    facts = [f"{plural(requests, 'request') if requests else 'no request'} in {plural(len(snapshots), 'worker')}"]
    slots = [worker.slots for worker in workers if worker.slots is not None]
    if slots and len(slots) == len(workers):
        busy = sum(in_flight(each) if each.worker.busy is None else each.worker.busy for each in snapshots)
        facts.append(f"{busy} of {plural(sum(slots), 'thread')} busy")
    # A socket that forked workers share is counted once; the queue of a server is each worker's own.
    sockets = {socket.inode: socket.waiting or 0 for worker in workers for socket in worker.listen}
    waiting = sum(sockets.values()) + sum(worker.inner_queue or 0 for worker in workers)
    if waiting:
        facts.append(f"{plural(waiting, 'connection')} {'waits' if waiting == 1 else 'wait'}")
    oldest = max((age for each in snapshots if (age := oldest_seconds(each)) is not None), default=None)
    if oldest is not None:
        facts.append(f"oldest {duration(oldest)}")
    return ", ".join(facts)


def table(
    groups: Sequence[Group],
    *,
    columns: int = MIN_WIDTH,
    limit: int = 0,
    what: str = "place",
    palette: Palette = PLAIN,
) -> Iterator[str]:
    """The rows under their headings, as many as ``limit`` (0: all), and a line on those that are left out.

    :param what: what a group is: a place, a wait, a route or a request.
    """
    shown = groups[:limit] if limit else groups
    rows = list(map(row, shown))
    yield from _laid_out(rows, max(MIN_WIDTH, columns), palette)
    left_out = groups[len(shown) :]
    if left_out:
        yield palette.paint(palette.quiet, more_groups(left_out, what))


def more_groups(left_out: Sequence[Group], what: str) -> str:
    """``5 more places, 27 requests; --limit 0 shows them``."""
    if what == "request":
        return f"{plural(len(left_out), 'more request')}; --limit 0 shows them"
    requests = sum(len(group.requests) for group in left_out)
    return f"{plural(len(left_out), f'more {what}')}, {plural(requests, 'request')}; --limit 0 shows them"


def without_waits_for(sentence: str) -> str:
    """A sentence on a wait as it stands under the heading of its column."""
    return sentence.removeprefix("waits for ")


def row(group: Group) -> Row:
    oldest, age = group.oldest, group.age_seconds
    route = printable(group.routes[0]) if group.routes else "(not known)"
    more = len(group.routes) - 1
    frame = oldest.innermost
    source = (frame.source or "").strip() if frame is not None else ""
    return Row(
        age="-" if age is None else duration(age),
        age_seconds=age,
        # "14" and a sign for times: fourteen of the same.
        requests=f"{len(group.requests)}\N{MULTIPLICATION SIGN}",
        request=route + (f" and {plural(more, 'more route')}" if more else ""),
        waits_for=_waits_for(group),
        where=place(frame, oldest.ownership, oldest.cwd) if frame is not None else "(no stack)",
        source=printable(source),
    )


def _waits_for(group: Group) -> str:
    waits = "-" if group.waits_for is None else printable(without_waits_for(group.waits_for))
    words = dict.fromkeys(looks.word(served.looks) for served in group.requests if served.looks is not None)
    # As short as it can be: "sleeps; stuck", "on a CPU; busy, moves".
    return f"{waits}; {', '.join(words)}" if words else waits


def _laid_out(rows: Sequence[Row], columns: int, palette: Palette) -> Iterator[str]:
    age_columns = max(width(HEADINGS[0]), *(width(each.age) for each in rows), 0)
    count_columns = max(width(HEADINGS[1]), *(width(each.requests) for each in rows), 0)
    available = columns - age_columns - count_columns - _GAP * (len(HEADINGS) - 1)
    flexible = [[each.request for each in rows], [each.waits_for for each in rows], [_where(each) for each in rows]]
    least = [_longest_word(cells, heading) for cells, heading in zip(flexible, HEADINGS[2:], strict=True)]
    short = [width(each.request) for each in rows if width(each.request) <= _MAX_REQUEST]
    least[0] = max(least[0], *short, 0)
    wanted = [max(width(heading), *map(width, cells)) for cells, heading in zip(flexible, HEADINGS[2:], strict=True)]
    request_columns, wait_columns, where_columns = share(wanted, least, available)
    gap = " " * _GAP

    def line(age: str, count: str, request: str, waits_for: str, where: str, age_painted: str = "") -> str:
        left = (_right(age, age_columns, age_painted), _right(count, count_columns), _left(request, request_columns))
        return gap.join((*left, _left(waits_for, wait_columns), where)).rstrip()

    yield palette.paint(palette.quiet, line(*HEADINGS))
    for each in rows:
        requests = wrap(each.request, request_columns, _MAX_LINES)
        waits = wrap(each.waits_for, wait_columns, _MAX_LINES + 1)
        where = _where_lines(each, where_columns, palette)
        age, count = each.age, each.requests
        age_painted = palette.paint(age_style(each.age_seconds, palette), age)
        for request, waits_for, place_or_source in zip_longest(requests, waits, where, fillvalue=""):
            yield line(age, count, request, waits_for, place_or_source, age_painted)
            age = age_painted = count = ""


def _where(row: Row) -> str:
    return f"{row.where}  {row.source[:_MAX_SOURCE]}" if row.source else row.where


def _where_lines(row: Row, columns: int, palette: Palette) -> list[str]:
    """The place and its source: on one line if there is room, else the source below."""
    places = wrap(row.where, columns, _MAX_LINES, keep_end=True)
    left = columns - width(places[-1]) - _GAP
    painted = [palette.paint(palette.own, line) for line in places]
    if not row.source:
        return painted
    if len(places) == 1 and left >= width(row.source):
        painted[0] += " " * _GAP + row.source
        return painted
    return [*painted, cut(row.source, columns)]


def _longest_word(cells: Sequence[str], heading: str) -> int:
    words = (width(word) for cell in (*cells, heading) for word in cell.split(" "))
    return min(max(words), _MAX_WORD)


def _left(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def _right(text: str, columns: int, painted: str = "") -> str:
    return " " * (columns - width(text)) + (painted or text)
