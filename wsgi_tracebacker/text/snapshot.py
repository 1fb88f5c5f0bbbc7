"""Shows a snapshot to people: who the worker is, what each of its requests does, and for how long.

Yields lines without line ends, with colour if it is told so. Takes every time from the snapshot. Every name, path and
source line is escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_tracebacker.model.questions import in_flight, is_serving
from wsgi_tracebacker.model.snapshot import UNKNOWN_KIND, UNKNOWN_PHASE
from wsgi_tracebacker.text.frames import traceback
from wsgi_tracebacker.text.palette import PLAIN, Palette
from wsgi_tracebacker.text.units import OTHER_USER, SHARED_IDS, duration, plural
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsgi_tracebacker.model.snapshot import HubState, Request, Snapshot, Stack

#: A request of this age is shown in yellow: people notice it. One of the next age is shown in red: somebody waits.
_SLOW_SECONDS = 1.0
_STUCK_SECONDS = 10.0

#: The states of proc_pid_stat(5) in words. A thread in Z or X has ended, and is not in a snapshot.
_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a disk",
    "T": "stopped",
    "t": "traced",
    "I": "idle",
}

#: The sources of the snapshots that a reader made without the worker.
_FROM_OUTSIDE = ("table", "faulthandler")


def lines(
    snapshot: Snapshot,
    *,
    all_threads: bool = False,
    older_seconds: float | None = None,
    palette: Palette = PLAIN,
    other_uid: int | None = None,
) -> Iterator[str]:
    """One worker: its heading, the requests it serves, the longest first, and a count of its other threads.

    ``all_threads`` shows those threads as well; ``older_seconds`` leaves out requests that are younger.
    ``other_uid`` is the user of a worker that is not the reader's own.
    """
    sorted_out = _sort_out(snapshot, older_seconds)
    yield heading(snapshot, palette, other_uid)
    for stack in snapshot.stacks:
        if stack.hub is not None:
            yield f"  {_hub(stack.hub, snapshot, palette)}"
    for stack in sorted_out.serving:
        yield ""
        yield from _serving_lines(stack, palette, snapshot.source)
        yield from _other_thread_lines(stack, snapshot, palette)
    if all_threads:
        for stack in (*sorted_out.idle, *sorted_out.others):
            yield ""
            yield from _resting_lines(stack, palette, snapshot.source)
    counted = _counted(sorted_out, all_threads)
    if counted:
        yield ""
        yield "  " + palette.paint(palette.quiet, counted)


def heading(snapshot: Snapshot, palette: Palette = PLAIN, other_uid: int | None = None) -> str:
    """The line that says who a worker is."""
    worker = snapshot.worker
    name = "worker" if worker.number is None else f"worker {worker.number}"
    facts = [f"pid {worker.pid}" if worker.pid is not None else None]
    facts += [f"{OTHER_USER} {other_uid}" if other_uid is not None else None, worker.server, worker.application]
    if worker.started_at is not None:
        facts.append(f"up {duration(snapshot.taken_at - worker.started_at)}")
    facts.append(f"{in_flight(snapshot)} in flight")
    line = palette.paint(palette.heading, name) + "".join(f"  {printable(fact)}" for fact in facts if fact)
    if snapshot.state == "alive":
        return line
    return f"{line}  {palette.paint(palette.stuck, f'{printable(snapshot.state)}, no answer')}"


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


# ---------------------------------------------------------------------------------------------------------- threads


class _SortedOut(NamedTuple):
    serving: Sequence[Stack]
    younger: int
    idle: Sequence[Stack]
    others: Sequence[Stack]


def _sort_out(snapshot: Snapshot, older_seconds: float | None) -> _SortedOut:
    serving, idle, others = [], [], []
    younger = 0
    for stack in snapshot.stacks:
        if is_serving(stack, snapshot):
            if older_seconds is not None and stack.request is not None and stack.request.age_seconds < older_seconds:
                younger += 1
            else:
                serving.append(stack)
        elif stack.core is not None:
            idle.append(stack)
        else:
            others.append(stack)
    serving.sort(key=lambda stack: (-stack.request.age_seconds if stack.request else 0.0, stack.core or 0))
    return _SortedOut(serving, younger, idle, others)


def _serving_lines(stack: Stack, palette: Palette, source: str) -> Iterator[str]:
    request = stack.request
    name = palette.paint(palette.heading, printable(stack.name))
    if request is None:
        yield f"  {name}  {palette.paint(palette.quiet, 'a request, uWSGI does not say which')}"
    else:
        facts = f"{_state(stack)}{_holder(stack, palette)}{_origin(request, palette)}"
        yield f"  {name}  {_request(request, palette)}{facts}"
        if source in _FROM_OUTSIDE:
            yield f"    {palette.paint(palette.quiet, _ids(stack))}"
        if request.waits_for is not None:
            yield f"    {palette.paint(palette.heading, printable(request.waits_for.sentence))}"
        for nested in _nested(request):
            yield f"    inside it {_request(nested, palette)}"
    yield from _frames(stack, palette, source)


def _other_thread_lines(stack: Stack, snapshot: Snapshot, palette: Palette) -> Iterator[str]:
    """The thread that works for a request, if its name says which one it is."""
    waits_for = stack.request.waits_for if stack.request is not None else None
    if waits_for is None or waits_for.kind != "other_thread":
        return
    found = [other for other in snapshot.stacks if other.name == waits_for.thread]
    if len(found) == 1:
        yield f"  {palette.paint(palette.heading, printable(found[0].name))}  works for it{_state(found[0])}"
        yield from _frames(found[0], palette, snapshot.source)


def _resting_lines(stack: Stack, palette: Palette, source: str) -> Iterator[str]:
    if stack.core is not None:
        what = "idle"
    else:
        what = f"{'daemon ' if stack.daemon else ''}{printable(stack.kind)}, serves no requests"
        if stack.kind == UNKNOWN_KIND:
            what = "serves no requests" if source != "worker" else "which thread this is, is not known"
        if stack.hub is not None:
            what = f"{printable(stack.hub.library)}'s hub, which all its greenlets wait in"
    last = stack.last_request
    if last is not None:
        request = printable(f"{last.method} {last.path}")
        what += f", last request {request} ended {duration(last.ended_seconds_ago)} ago"
    yield f"  {printable(stack.name)}  {palette.paint(palette.quiet, what + _state(stack))}"
    yield from _frames(stack, palette, source)


def _request(request: Request, palette: Palette) -> str:
    target = request.path if request.query is None else f"{request.path}?{request.query}"
    age = duration(request.age_seconds)
    if request.age_seconds >= _STUCK_SECONDS:
        age = palette.paint(palette.stuck, age)
    elif request.age_seconds >= _SLOW_SECONDS:
        age = palette.paint(palette.slow, age)
    what = palette.paint(palette.request, printable(f"{request.method} {target}"))
    # The table of requests does not have it.
    phase = "" if request.phase == UNKNOWN_PHASE else f"  in {printable(request.phase)}"
    return f"{what}  {age}{phase}"


def _state(stack: Stack) -> str:
    if stack.greenlet is not None:
        return f", {printable(stack.greenlet)}"
    if stack.state is None:
        return ""
    words = _STATES.get(stack.state) or f"in state {printable(stack.state)}"
    # The kernel writes 0 for a thread that waits for nothing.
    if stack.wait_channel and stack.wait_channel != "0" and stack.state != "R":
        words += f" in {printable(stack.wait_channel)}"
    return f", {words}"


def _holder(stack: Stack, palette: Palette) -> str:
    return f", {palette.paint(palette.stuck, 'holds the GIL')}" if stack.holds_gil else ""


def _ids(stack: Stack) -> str:
    """The ids by which other tools show the thread, for a snapshot that may not have its stack."""
    ident = "?" if stack.ident is None else f"{stack.ident:#x}"
    return f"thread {ident}, native id {'?' if stack.native_id is None else stack.native_id}, core {stack.core}"


def _origin(request: Request, palette: Palette) -> str:
    origin = ""
    if request.remote_address:
        origin += f"  from {printable(request.remote_address)}"
    if request.request_id:
        origin += f"  id {printable(request.request_id)}"
    if request.trace_id:
        origin += f"  trace {printable(request.trace_id)}"
    if request.note:
        origin += f"  note: {printable(request.note)}"
    return palette.paint(palette.quiet, origin) if origin else ""


def _nested(request: Request) -> Iterator[Request]:
    # Depth first, without recursion: the sender chooses how deep it goes.
    waiting = list(reversed(request.nested))
    while waiting:
        nested = waiting.pop()
        yield nested
        waiting.extend(reversed(nested.nested))


def _counted(sorted_out: _SortedOut, all_threads: bool) -> str:
    counts = []
    if sorted_out.younger:
        counts.append(f"{plural(sorted_out.younger, 'younger request')} not shown")
    if not all_threads:
        if sorted_out.idle:
            ended = min((s.last_request.ended_seconds_ago for s in sorted_out.idle if s.last_request), default=None)
            last = "" if ended is None else f" (last request ended {duration(ended)} ago)"
            counts.append(f"{plural(len(sorted_out.idle), 'idle thread')}{last}")
        if sorted_out.others:
            counts.append(f"{plural(len(sorted_out.others), 'other thread')} that {_verb(len(sorted_out.others))}")
    line = ", ".join(counts)
    return f"{line}; --all shows them" if not all_threads and (sorted_out.idle or sorted_out.others) else line


def _verb(count: int) -> str:
    return "serves no requests" if count == 1 else "serve no requests"


# ----------------------------------------------------------------------------------------------------------- frames


def _frames(stack: Stack, palette: Palette, source: str) -> Iterator[str]:
    if source == "table":
        return
    if source == "faulthandler":
        if stack.frames_omitted:
            yield "    [the outermost frames are left out: faulthandler shows the innermost 100]"
        if not stack.frames:
            yield "    (no stack of this thread in faulthandler's dump)"
    elif stack.frames_omitted:
        yield f"    [{plural(stack.frames_omitted, 'frame')} between the outermost ones and the rest left out]"
    if not stack.frames and source == "worker" and stack.kind == UNKNOWN_KIND:
        yield f"    (its stack is not known: {SHARED_IDS})"
    elif not stack.frames and source != "faulthandler":
        yield "    (no Python code on this thread)"
    yield from (f"    {line}" for line in traceback(stack.frames, palette))
