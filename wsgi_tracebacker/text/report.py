"""Shows the reports to people: on an overdue or slow request, a blocked hub, and a stalled worker.

``wire.report_json`` has the same for machines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_tracebacker.model.report import DEFAULT
from wsgi_tracebacker.model.snapshot import UNKNOWN_KIND, UNREAD_KIND
from wsgi_tracebacker.text.units import SHARED_IDS, UNREAD_BODY, age, plural, queued_before, size
from wsgi_tracebacker.text.waits import beside
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from wsgi_tracebacker.model.report import HarakiriReport, HubReport, Memory, OtherRequest, Span, StallReport
    from wsgi_tracebacker.model.snapshot import Frame, Note, Request, Stack

    #: Makes the lines of a stack: ``folding.folded``, with what it needs to know of the worker.
    Fold = Callable[[Sequence[Frame]], Iterable[str]]

#: Beside a limit that nobody gave.
_DEFAULT = "the default: harakiri= or WSGI_TB_HARAKIRI changes it, 0 switches it off"
#: What blocks a hub, if it is no request's greenlet.
NO_REQUEST = "a greenlet that serves no request"

#: How many requests are named in one line; the document has all of them.
_MAX_NAMED = 10
#: How many other requests have a line of their own, as many as fit two screens; the document has all of them.
_MAX_OTHERS_SHOWN = 50
#: A report that is made this much later than the deadline says so.
_LATE_SECONDS = 0.5
#: A thread that uses less CPU than this is shown as waiting.
_WAITING_SHARE = 0.05
#: If a thread is runnable without a CPU for this share of the time, that is shown.
_DELAY_SHARE = 0.1


def lines(report: HarakiriReport, fold: Fold, *, with_stack: bool = True) -> Iterator[str]:
    """The whole report; without the stack where something else will show it."""
    late = ""
    if report.stack is not None and report.late_seconds >= _LATE_SECONDS:
        late = f"; this report is {report.late_seconds:.1f} s late, Python could not run before"
    yield f"{subject(report)}; {report.outcome}{late}"
    if report.request.waits_for is not None:
        yield f"  because: {printable(report.request.waits_for.sentence)}"
    for line in _timeline(report):
        yield f"  {line}"
    yield f"  verdict: {report.verdict.kind}: {printable(report.verdict.explanation)}"
    if report.hub is not None:
        yield f"  hub: {_hub(report)}"
    memory = _memory(report.memory)
    if memory:
        yield f"  memory: the worker had {memory[0]} when the request became slow, and has {memory[1]} now"
    kernel = _kernel(report.stack, report.system_call)
    if kernel:
        yield f"  thread: {kernel}"
    if with_stack:
        yield from stack_lines(report, fold)
    else:
        yield "its stack: in the server's error log when that aborts this worker, else in the line on its end"
    yield from _others(report.others, everyone=report.action == "kill")


def stack_lines(report: HarakiriReport, fold: Fold) -> Iterator[str]:
    """Its thread's stack, and that of the thread that works for it."""
    if report.stack is not None:
        yield from _stack(report.stack, fold)
    if report.other_thread is not None:
        yield f"the thread that works for it: {_kernel(report.other_thread, None)}"
        yield from _stack(report.other_thread, fold)


def _hub(report: HarakiriReport) -> str:
    hub, by = report.hub, report.hub_blocked_by
    if hub is None:
        return ""
    if hub.state != "blocked":
        return f"{hub.library}'s, {hub.state}"
    if by is None:
        whose = NO_REQUEST
    else:
        whose = "this request" if by.core == report.core else f"{target(by.request)} (core {by.core})"
    return f"{hub.library}'s, blocked for {hub.blocked_seconds or 0.0:.1f} s at least by {whose}"


def hub_lines(report: HubReport, fold: Fold) -> Iterator[str]:
    """The whole report on a blocked hub."""
    by = report.by
    if by is None:
        whose = NO_REQUEST
        core = ""
    else:
        request_id = f", request id {printable(by.request.request_id)}" if by.request.request_id else ""
        whose = f"{target(by.request)} {age(by.request.age_seconds)}"
        core = f" core {by.core}{request_id}"
    yield (
        f"{report.hub.library}'s hub is blocked for {report.hub.blocked_seconds or 0.0:.1f} s at least by {whose},"
        f" worker {_number(report.worker)}{core}, pid {report.pid}: it does not give way, and all other greenlets wait"
    )
    yield from _stack(report.stack, fold)
    yield from _others(report.others, everyone=False)


def hub_runs_again(report: HubReport, seconds: float) -> str:
    """The line for the end of a block that was reported."""
    by = NO_REQUEST if report.by is None else target(report.by.request)
    return (
        f"{report.hub.library}'s hub runs again, after it was blocked for {seconds:.1f} s by {by},"
        f" worker {_number(report.worker)}, pid {report.pid}"
    )


def stall_line(report: StallReport) -> str:
    """The line on a time in which Python could not run."""
    flying = [f"{target(other.request)} ({age(other.request.age_seconds)})" for other in report.in_flight]
    ended = [printable(f"{request.method} {request.path}") for request in report.ended]
    return (
        f"Python could not run for {report.stalled_seconds:.1f} s,"
        f" worker {_number(report.worker)}, pid {report.pid};"
        + (f" in flight were {_named(flying)}" if flying else " no request is in flight")
        + (f"; ended meanwhile: {_named(ended)}" if ended else "")
    )


def _named(requests: list[str], most: int = _MAX_NAMED) -> str:
    more = len(requests) - most
    return ", ".join(requests[:most]) + (f" and {more} more" if more > 0 else "")


def one_line(report: HarakiriReport) -> str:
    """The report on a request that has ended: one line with its total time, timeline and the worker's memory."""
    parts = _timeline(report)
    memory = _memory(report.memory)
    if memory:
        parts.append(f"memory {memory[0]} to {memory[1]}")
    return f"{subject(report)}; {report.outcome}" + (f": {'; '.join(parts)}" if parts else "")


def _memory(memory: Memory) -> tuple[str, str] | None:
    if memory.start_bytes is None or memory.end_bytes is None:
        return None
    return size(memory.start_bytes), size(memory.end_bytes)


def _timeline(report: HarakiriReport) -> list[str]:
    """The stretches and the notes, by their time."""
    spans = [(span.from_seconds, span_line(span)) for span in report.timeline]
    notes = [(note.at_seconds, note_line(note)) for note in report.request.notes]
    # A note stands below the stretch in which it was made.
    return [line for _, line in sorted([*spans, *notes], key=lambda entry: entry[0])]


def note_line(note: Note) -> str:
    """``15.2 s  note: charging card 4711``."""
    return f"{note.at_seconds:.1f} s  note: {printable(note.text)}"


def subject(report: HarakiriReport) -> str:
    """Which request it is, its age and limit, and where it is served."""
    request = report.request
    limit = ""
    if report.limit_seconds is not None:
        default = f", {_DEFAULT}" if report.limit_source == DEFAULT else ""
        limit = f" (limit {report.limit_seconds:g} s{default})"
    facts = [
        f"{target(request)} {age(request.age_seconds)}{limit}",
        f"worker {_number(report.worker)} core {_number(report.core)}",
        f"pid {report.pid}",
    ]
    if request.request_id:
        facts.append(f"request id {printable(request.request_id)}")
    if request.trace_id:
        facts.append(f"trace {printable(request.trace_id)}")
    if request.remote_address:
        facts.append(f"from {printable(request.remote_address)}")
    queued = queued_before(request)
    if queued is not None:
        facts.append(queued)
    facts.append(f"phase {request.phase}")
    return ", ".join(facts)


def target(request: Request) -> str:
    """``GET /path``, with the query if it is shown."""
    query = f"?{request.query}" if request.query is not None else ""
    return printable(f"{request.method} {request.path}{query}")


def span_line(span: Span) -> str:
    """``15.0-17.2 s  app.py:44 load_rows > psycopg/cursor.py:732 execute  (waiting)``, and what it waited for."""
    frames = (span.application, span.call) if span.application is not None else (span.innermost,)
    places = [_place(frame) for frame in frames if frame is not None]
    where = " > ".join(places) or "(no stack)"
    more = f" and {plural(span.places - 1, 'other place')}" if span.places > 1 else ""
    own_place = span.application if span.application is not None else span.innermost
    why = f"  {printable(beside(span.waits_for, own_place))}" if span.waits_for is not None else ""
    return f"{span.from_seconds:.1f}-{span.to_seconds:.1f} s  {where}{more}  ({_doing(span)}){why}"


def _doing(span: Span) -> str:
    if span.cpu_share is None:
        return "CPU unknown"
    doing = "waiting" if span.cpu_share < _WAITING_SHARE else f"CPU {span.cpu_share:.0%}"
    if span.waits_for is not None and span.cpu_share >= _WAITING_SHARE:
        # All samples may have found it waiting: it is sampled where it lets go of the GIL.
        doing += " by the clock"
    if span.run_delay_share is not None and span.run_delay_share >= _DELAY_SHARE:
        doing += f", {span.run_delay_share:.0%} runnable without a CPU"
    return doing


def _place(frame: Frame) -> str:
    # With its folder, because a file is often named __init__.py.
    short = "/".join(frame.filename.split("/")[-2:])
    return printable(f"{short}:{_number(frame.lineno)} {frame.function}")


def _stack(stack: Stack, fold: Fold) -> Iterator[str]:
    if stack.kind == UNKNOWN_KIND:
        yield f"its stack is not known: {SHARED_IDS}"
        return
    if stack.kind == UNREAD_KIND:
        yield f"no stack: {UNREAD_BODY}"
        return
    yield "Stack (most recent call last):"
    if stack.frames_omitted:
        yield f"  [{plural(stack.frames_omitted, 'frame')} left out]"
    yield from (f"  {line}" for line in fold(stack.frames))


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)


def _kernel(stack: Stack | None, system_call: str | None) -> str:
    if stack is None:
        return ""
    facts = [printable(stack.name)]
    if stack.greenlet is not None:
        facts.append(f"a greenlet, {printable(stack.greenlet)}")
    if stack.native_id is not None:
        facts.append(f"native id {stack.native_id}")
    if stack.state is not None:
        facts.append(f"state {printable(stack.state)}")
    if stack.wait_channel:
        facts.append(f"waits in {printable(stack.wait_channel)}")
    if system_call:
        facts.append(f"system call {printable(system_call)}")
    if stack.cpu_seconds is not None:
        facts.append(f"{stack.cpu_seconds:.2f} s of CPU in all")
    return ", ".join(facts)


def _others(others: tuple[OtherRequest, ...], *, everyone: bool) -> Iterator[str]:
    """The other requests, the oldest first, each with its place and what it waits for."""
    if not others:
        yield "no other request in flight in this worker"
        return
    yield f"{plural(len(others), 'other request')} in flight in this worker:"
    for other in others[:_MAX_OTHERS_SHOWN]:
        yield f"  {_other(other)}"
    rest = others[_MAX_OTHERS_SHOWN:]
    if rest:
        # All requests that die with this one are named.
        named = f": {_named([_name(other) for other in rest], len(rest))}" if everyone else ""
        yield f"  and {len(rest)} more{named}"


def _other(other: OtherRequest) -> str:
    waits_for = other.request.waits_for
    where = _place(other.place) if other.place is not None else ""
    why = printable(beside(waits_for.sentence, other.place)) if waits_for is not None else ""
    return "  ".join(part for part in (_name(other), where, why) if part)


def _name(other: OtherRequest) -> str:
    request = other.request
    note = f", {printable(request.note)}" if request.note else ""
    return f"{target(request)} {age(request.age_seconds)} (core {_number(other.core)}{note})"
