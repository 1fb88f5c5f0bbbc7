"""Shows one thread to people: the request that it serves, and its stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.model.snapshot import PHASES, UNKNOWN_KIND, UNKNOWN_PHASE, UNREAD_KIND
from wsgi_tracebacker.text.columns import width
from wsgi_tracebacker.text.folding import folded
from wsgi_tracebacker.text.frames import traceback
from wsgi_tracebacker.text.kernel_waits import HOLDS_GIL
from wsgi_tracebacker.text.palette import PLAIN, Palette
from wsgi_tracebacker.text.units import SHARED_IDS, UNREAD_BODY, duration, plural, queued_before
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsgi_tracebacker.model.code_ownership import CodeOwnership
    from wsgi_tracebacker.model.snapshot import Request, Stack

#: A request of this age is shown in yellow: people notice it. One of the next age is shown in red: somebody waits.
_SLOW_SECONDS = 1.0
_STUCK_SECONDS = 10.0

#: The sources of the snapshots that a reader made without the worker.
_FROM_OUTSIDE = ("table", "memory", "faulthandler")

_INDENT = "  "

#: The states of proc_pid_stat(5) in words. A thread in Z or X has ended, and is not in a snapshot.
_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a disk",
    "T": "stopped",
    "t": "traced",
    "I": "idle",
}


def age_style(seconds: float | None, palette: Palette) -> str:
    """How the age of a request is painted."""
    if seconds is None or seconds < _SLOW_SECONDS:
        return ""
    return palette.stuck if seconds >= _STUCK_SECONDS else palette.slow


def request_lines(
    who: str,
    stack: Stack,
    source: str,
    *,
    verdict: str | None = None,
    columns: int | None = None,
    palette: Palette = PLAIN,
) -> Iterator[str]:
    """What a thread serves: the request, and on further lines those that are within it.

    :param who: what to call the thread.
    :param source: of its snapshot.
    :param verdict: of several looks.
    :param columns: continue on the next line beyond so many; None: never.
    """
    facts = [(printable(who), palette.heading)]
    request = stack.request
    if request is None:
        facts.append(("a request, uWSGI does not say which", palette.quiet))
    else:
        facts += _request_facts(request, palette)
    if stack.holds_gil:
        facts.append((HOLDS_GIL, palette.stuck))
    if stack.greenlet is not None:
        facts.append((printable(stack.greenlet), ""))
    if request is not None and request.remote_address:
        facts.append((printable(f"from {request.remote_address}"), palette.quiet))
    if request is not None and request.request_id:
        facts.append((printable(f"id {request.request_id}"), palette.quiet))
    if request is not None and request.trace_id:
        facts.append((printable(f"trace {request.trace_id}"), palette.quiet))
    queued = queued_before(request) if request is not None else None
    if queued is not None:
        facts.append((queued, ""))
    if request is not None and request.note:
        facts.append((printable(f"note: {request.note}"), ""))
    if verdict is not None:
        facts.append((verdict, palette.stuck if verdict.startswith("stuck") else ""))
    if source in _FROM_OUTSIDE:
        facts.append((_ids(stack), palette.quiet))
    yield from _joined(facts, columns, palette)
    for nested in _nested(request):
        yield from _joined([(f"{_INDENT}inside it", ""), *_request_facts(nested, palette)], columns, palette)


def other_thread(stack: Stack, palette: Palette = PLAIN) -> str:
    """The line of the thread that works for a request."""
    return f"{palette.paint(palette.heading, printable(stack.name))}  works for it{kernel_state(stack)}"


def kernel_state(stack: Stack) -> str:
    """``, sleeping in futex_wait_queue``: what the kernel says of a thread, to be added to a line."""
    if stack.greenlet is not None:
        return f", {printable(stack.greenlet)}"
    if stack.state is None:
        return ""
    words = _STATES.get(stack.state) or f"in state {printable(stack.state)}"
    # The kernel writes 0 for a thread that waits for nothing.
    if stack.wait_channel and stack.wait_channel != "0" and stack.state != "R":
        words += f" in {printable(stack.wait_channel)}"
    return f", {words}"


def _request_facts(request: Request, palette: Palette) -> list[tuple[str, str]]:
    target = request.path if request.query is None else f"{request.path}?{request.query}"
    facts = [
        (printable(f"{request.method} {target}"), palette.request),
        (duration(request.age_seconds), age_style(request.age_seconds, palette)),
    ]
    # Nearly all are in the first phase, and the table of requests does not have it.
    if request.phase not in (PHASES[0], UNKNOWN_PHASE):
        facts.append((printable(f"in {request.phase}"), ""))
    return facts


def _joined(facts: Sequence[tuple[str, str]], columns: int | None, palette: Palette) -> Iterator[str]:
    """Facts side by side; one that does not fit begins a new line, indented."""
    line, taken = "", 0
    for text, how in facts:
        if columns is not None and line and taken + len(_INDENT) + width(text) > columns:
            yield line
            line, taken = _INDENT * 2, len(_INDENT)
        line += ("  " if line.strip() else "") + palette.paint(how, text)
        taken += len(_INDENT) + width(text)
    yield line


def _ids(stack: Stack) -> str:
    """The ids by which other tools show the thread, for a snapshot that may not have its stack."""
    ident = "?" if stack.ident is None else f"{stack.ident:#x}"
    return f"thread {ident}, native id {'?' if stack.native_id is None else stack.native_id}"


def _nested(request: Request | None) -> Iterator[Request]:
    # Depth first, without recursion: the sender chooses how deep it goes.
    waiting = list(reversed(request.nested)) if request is not None else []
    while waiting:
        nested = waiting.pop()
        yield nested
        waiting.extend(reversed(nested.nested))


def stack_lines(
    stack: Stack,
    source: str,
    ownership: CodeOwnership,
    *,
    cwd: str | None = None,
    full: bool = False,
    palette: Palette = PLAIN,
) -> Iterator[str]:
    """The stack of one thread, folded or in full, and what is missing of it."""
    if source == "table":
        return
    yield from missing_lines(stack, source)
    if full:
        yield from traceback(stack.frames, palette, ownership)
    else:
        yield from folded(stack.frames, ownership, cwd=cwd, palette=palette)


def missing_lines(stack: Stack, source: str) -> Iterator[str]:
    """What is missing of a stack that is not from a table, and why."""
    if source == "faulthandler":
        if stack.frames_omitted:
            yield "[the outermost frames are left out: faulthandler shows the innermost 100]"
        if not stack.frames:
            yield "(no stack of this thread in faulthandler's dump)"
    elif stack.frames_omitted:
        yield f"[{plural(stack.frames_omitted, 'frame')} between the outermost ones and the rest left out]"
    if not stack.frames and source == "worker" and stack.kind == UNKNOWN_KIND:
        yield f"(its stack is not known: {SHARED_IDS})"
    elif stack.kind == UNREAD_KIND:
        yield f"(no stack: {UNREAD_BODY})"
    elif stack.is_cut:
        yield "[the innermost frames are missing: they changed while they were read]"
    elif not stack.frames and source != "faulthandler":
        yield "(no Python code on this thread)"
