"""Shows a reading, all workers at one moment, to people: the overview, the stacks, and what is to be said of workers.

Yields lines without line ends, with colour if it is told so. Takes every time from the snapshots. Every name, path and
source line is escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.model.questions import in_flight, is_serving
from wsgi_tracebacker.text.columns import wrap_all
from wsgi_tracebacker.text.palette import PLAIN, Palette
from wsgi_tracebacker.text.screens.blocks import block
from wsgi_tracebacker.text.screens.overview import MIN_WIDTH, table, totals
from wsgi_tracebacker.text.snapshot import heading, hub_lines, idle_first, resting_lines
from wsgi_tracebacker.text.units import OTHER_USER, duration, plural
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsgi_tracebacker.model.groups import Group
    from wsgi_tracebacker.model.snapshot import Snapshot

#: How many groups are shown.
DEFAULT_LIMIT = 10

#: With no request in flight, so many of the last ones are named.
_MAX_LAST = 3


class Answered(NamedTuple):
    """One worker that can be shown, and its user if that is not the reader's own."""

    snapshot: Snapshot
    other_uid: int | None = None


class Options(NamedTuple):
    """What the reader wants to see."""

    #: Of the terminal.
    columns: int = MIN_WIDTH
    #: How many groups; 0: all.
    limit: int = DEFAULT_LIMIT
    #: What a group is: a place, a wait, a route or a request.
    what: str = "place"
    #: Every frame, and every request.
    full: bool = False
    #: Idle threads, and those that serve no requests, too.
    all_threads: bool = False
    palette: Palette = PLAIN


def lines(
    workers: Sequence[Answered], groups: Sequence[Group], left_out: int = 0, options: Options | None = None
) -> Iterator[str]:
    """The whole text. ``left_out``: how many requests are in none of the groups, because they were not asked for."""
    options = options or Options()
    palette = options.palette
    snapshots = [worker.snapshot for worker in workers]
    requests = sum(len(group.requests) for group in groups)
    is_overview = requests > 1
    if len(workers) != 1 or is_overview or not requests:
        yield from wrap_all(totals(snapshots), max(MIN_WIDTH, options.columns), between=", ")
    yield from worker_lines(workers, palette)
    if is_overview:
        yield ""
        yield from table(groups, columns=options.columns, limit=options.limit, what=options.what, palette=palette)
    bases = {snapshot.worker.base for snapshot in snapshots}
    shown = groups[: options.limit] if options.limit else groups
    for number, group in enumerate(shown, 1):
        yield ""
        yield from block(
            group,
            number=number if is_overview else None,
            columns=max(MIN_WIDTH, options.columns),
            full=options.full,
            names_worker=len(workers) > 1,
            names_base=len(bases) > 1,
            palette=palette,
        )
    yield from _threads(workers, options)
    last = [] if requests or left_out else last_requests(snapshots)
    for line in (*last, counted(snapshots, left_out, all_threads=options.all_threads)):
        if line:
            yield ""
            yield palette.paint(palette.quiet, line)


def worker_lines(workers: Sequence[Answered], palette: Palette) -> Iterator[str]:
    """The lines on workers themselves: on a single one, or else on those of which something is to be said."""
    uids = {worker.other_uid for worker in workers}
    is_same_user = len(uids) == 1
    if is_same_user and len(workers) > 1 and None not in uids:
        # As root sees the workers of a service.
        yield f"all of them {OTHER_USER} {workers[0].other_uid}"
    for worker in workers:
        if len(workers) == 1 or _is_notable(worker.snapshot) or not (is_same_user or worker.other_uid is None):
            yield heading(worker.snapshot, palette, worker.other_uid)
            yield from hub_lines(worker.snapshot, palette)


def _is_notable(snapshot: Snapshot) -> bool:
    is_blocked = any(stack.hub is not None and stack.hub.state == "blocked" for stack in snapshot.stacks)
    return snapshot.state != "alive" or is_blocked


def _threads(workers: Sequence[Answered], options: Options) -> Iterator[str]:
    """The threads that serve no request, worker by worker."""
    if not options.all_threads:
        return
    for worker in workers:
        snapshot = worker.snapshot
        resting = idle_first(stack for stack in snapshot.stacks if not is_serving(stack, snapshot))
        if resting and len(workers) > 1:
            yield ""
            yield heading(snapshot, options.palette, worker.other_uid)
        ownership = CodeOwnership.of_snapshot(snapshot)
        for stack in resting:
            yield ""
            yield from resting_lines(stack, snapshot, ownership, options.palette, full=options.full)


def last_requests(snapshots: Sequence[Snapshot]) -> list[str]:
    """What was served last, for a reader who finds nothing in flight."""
    if any(map(in_flight, snapshots)):
        return []
    found = sorted(
        (stack.last_request.ended_seconds_ago, stack.last_request.method, stack.last_request.path)
        for snapshot in snapshots
        for stack in snapshot.stacks
        if stack.last_request is not None
    )
    if not found:
        return []
    named = [printable(f"{method} {path}") + f" ended {duration(ago)} ago" for ago, method, path in found[:_MAX_LAST]]
    return [f"the last requests: {', '.join(named)}"]


def counted(snapshots: Sequence[Snapshot], left_out: int, *, all_threads: bool) -> str:
    parts = [f"{plural(left_out, 'request')} not shown: younger, or of another path"] if left_out else []
    resting = [stack for each in snapshots for stack in each.stacks if not is_serving(stack, each)]
    if all_threads or not resting:
        return "; ".join(parts)
    counts = []
    idle = sum(stack.core is not None for stack in resting)
    others = len(resting) - idle
    if idle:
        counts.append(plural(idle, "idle thread"))
    if others:
        counts.append(f"{plural(others, 'other thread')} that {'serves' if others == 1 else 'serve'} no requests")
    return "; ".join([*parts, ", ".join(counts), "--all shows them"])
