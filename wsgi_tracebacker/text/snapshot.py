"""Shows one worker to people: who it is, and what its hubs and threads do.

Yields lines without line ends, with colour if it is told so. Takes every time from the snapshot. Every name, path and
source line is escaped. ``screens.reading`` shows the requests of many workers, put together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.model.questions import in_flight, innermost_call, is_serving, works_for
from wsgi_tracebacker.model.snapshot import UNKNOWN_KIND
from wsgi_tracebacker.text.palette import PLAIN, Palette
from wsgi_tracebacker.text.threads import kernel_state, other_thread, request_lines, stack_lines
from wsgi_tracebacker.text.units import OTHER_USER, duration
from wsgi_tracebacker.text.waits import beside
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wsgi_tracebacker.model.snapshot import HubState, Snapshot, Stack


def lines(snapshot: Snapshot, *, all_threads: bool = False) -> Iterator[str]:
    """The worker, its requests, the longest first, each with its stack, and if wanted its other threads."""
    ownership = CodeOwnership.of_snapshot(snapshot)
    yield heading(snapshot)
    yield from hub_lines(snapshot)
    serving = [stack for stack in snapshot.stacks if is_serving(stack, snapshot)]
    serving.sort(key=lambda stack: (-stack.request.age_seconds if stack.request else 0.0, stack.core or 0))
    for stack in serving:
        yield ""
        yield from serving_lines(stack, snapshot, ownership)
        if (worker_thread := works_for(stack, snapshot)) is not None:
            yield f"  {other_thread(worker_thread)}"
            yield from _stack(worker_thread, snapshot, ownership, PLAIN, full=False)
    if all_threads:
        for stack in idle_first(stack for stack in snapshot.stacks if not is_serving(stack, snapshot)):
            yield ""
            yield from resting_lines(stack, snapshot, ownership)


def heading(snapshot: Snapshot, palette: Palette = PLAIN, other_uid: int | None = None) -> str:
    """The line that says who a worker is."""
    worker = snapshot.worker
    name = "worker" if worker.number is None else f"worker {worker.number}"
    if worker.host is not None:
        name = f"{printable(worker.host)} {name}"
    facts = [f"pid {worker.pid}" if worker.pid is not None else None]
    facts += [f"{OTHER_USER} {other_uid}" if other_uid is not None else None, worker.server, worker.application]
    if worker.started_at is not None:
        facts.append(f"up {duration(snapshot.taken_at - worker.started_at)}")
    facts.append(f"{in_flight(snapshot)} in flight")
    line = palette.paint(palette.heading, name) + "".join(f"  {printable(fact)}" for fact in facts if fact)
    if snapshot.state == "alive":
        return line
    return f"{line}  {palette.paint(palette.stuck, f'{printable(snapshot.state)}, no answer')}"


def hub_lines(snapshot: Snapshot, palette: Palette = PLAIN) -> Iterator[str]:
    """A line on each hub of gevent or eventlet."""
    for stack in snapshot.stacks:
        if stack.hub is not None:
            yield f"  {_hub(stack.hub, snapshot, palette)}"


def _hub(hub: HubState, snapshot: Snapshot, palette: Palette) -> str:
    whose = f"{printable(hub.library)}'s hub"
    if hub.state != "blocked":
        return palette.paint(palette.quiet, f"{whose} {'is ' if hub.state == 'idle' else ''}{printable(hub.state)}")
    since = "" if hub.blocked_seconds is None else f" for {duration(hub.blocked_seconds)} at least"
    running = next((stack for stack in snapshot.stacks if stack.greenlet == "running"), None)
    if running is None:
        by = ""
    elif running.request is None:
        by = " by a greenlet that serves no request; --all shows it"
    else:
        by = f" by {printable(running.name)}, {printable(f'{running.request.method} {running.request.path}')}"
    return f"{palette.paint(palette.stuck, f'{whose} is blocked{since}')}{by}"


def serving_lines(
    stack: Stack, snapshot: Snapshot, ownership: CodeOwnership, palette: Palette = PLAIN, *, full: bool = False
) -> Iterator[str]:
    """A thread that serves a request."""
    for line in request_lines(stack.name, stack, snapshot.source, palette=palette):
        yield f"  {line}"
    if stack.request is not None and stack.request.waits_for is not None:
        told = beside(stack.request.waits_for.sentence, innermost_call(stack.frames, ownership))
        yield f"    {palette.paint(palette.heading, printable(told))}"
    yield from _stack(stack, snapshot, ownership, palette, full=full)


def idle_first(stacks: Iterable[Stack]) -> list[Stack]:
    """Threads that serve no request: first those that wait for one."""
    return sorted(stacks, key=lambda stack: stack.core is None)


def resting_lines(
    stack: Stack, snapshot: Snapshot, ownership: CodeOwnership, palette: Palette = PLAIN, *, full: bool = False
) -> Iterator[str]:
    """A thread that serves no request, and its stack."""
    yield f"  {resting_line(stack, snapshot, palette)}"
    yield from _stack(stack, snapshot, ownership, palette, full=full)


def resting_line(stack: Stack, snapshot: Snapshot, palette: Palette = PLAIN) -> str:
    """A thread that serves no request: what it is there for, and what the kernel says of it."""
    if stack.core is not None:
        what = "idle"
    else:
        what = f"{'daemon ' if stack.daemon else ''}{printable(stack.kind)}, serves no requests"
        if stack.kind == UNKNOWN_KIND:
            what = "serves no requests" if snapshot.source != "worker" else "which thread this is, is not known"
        if stack.hub is not None:
            what = f"{printable(stack.hub.library)}'s hub, which all its greenlets wait in"
    last = stack.last_request
    if last is not None:
        request = printable(f"{last.method} {last.path}")
        what += f", last request {request} ended {duration(last.ended_seconds_ago)} ago"
    return f"{printable(stack.name)}  {palette.paint(palette.quiet, what + kernel_state(stack))}"


def _stack(
    stack: Stack, snapshot: Snapshot, ownership: CodeOwnership, palette: Palette, *, full: bool
) -> Iterator[str]:
    for line in stack_lines(stack, snapshot.source, ownership, cwd=snapshot.worker.cwd, full=full, palette=palette):
        yield f"    {line}"
