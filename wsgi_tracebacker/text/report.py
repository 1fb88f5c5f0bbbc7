"""The report on an overdue or slow request: lines for people, one document for machines.

Knows how a report reads, and that text and document say the same. Refuses to know where it is logged.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.text.snapshot import traceback
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_tracebacker.model.report import HarakiriReport, HubReport, OtherRequest, Span, StallReport
    from wsgi_tracebacker.model.snapshot import Frame, Request, Stack

#: Other requests that are named; the document holds all of them.
_MAX_OTHERS_NAMED = 10
#: A report that is so much later than the deadline says so.
_LATE_SECONDS = 0.5
#: A thread with so little CPU waits.
_WAITING_SHARE = 0.05
#: A thread that is runnable without a CPU for that long is worth a word.
_DELAY_SHARE = 0.1


def lines(report: HarakiriReport) -> Iterator[str]:
    """The whole report."""
    late = ""
    if report.stack is not None and report.late_seconds >= _LATE_SECONDS:
        late = f"; this report is {report.late_seconds:.1f} s late, Python could not run before"
    yield f"{subject(report)}; {report.outcome}{late}"
    for span in report.timeline:
        yield f"  {span_line(span)}"
    yield f"  verdict: {report.verdict.kind}: {printable(report.verdict.explanation)}"
    if report.hub is not None:
        yield f"  hub: {_hub(report)}"
    kernel = _kernel(report)
    if kernel:
        yield f"  thread: {kernel}"
    if report.stack is not None:
        yield "Traceback (most recent call last):"
        if report.stack.frames_omitted:
            yield f"  [{report.stack.frames_omitted} frames left out]"
        for line in traceback(report.stack.frames):
            yield f"  {line}"
    yield _others(report.others, everyone=report.action == "kill")


def _hub(report: HarakiriReport) -> str:
    hub, by = report.hub, report.hub_blocked_by
    if hub is None:
        return ""
    if hub.state != "blocked":
        return f"{hub.library}'s, {hub.state}"
    if by is None:
        whose = "a greenlet that serves no request"
    else:
        whose = "this request" if by.core == report.core else f"{target(by.request)} (core {by.core})"
    return f"{hub.library}'s, blocked for {hub.blocked_seconds or 0.0:.1f} s at least by {whose}"


def hub_lines(report: HubReport) -> Iterator[str]:
    """The whole report on a blocked hub."""
    by = report.by
    if by is None:
        whose = "a greenlet that serves no request"
        core = ""
    else:
        request_id = f", request id {printable(by.request.request_id)}" if by.request.request_id else ""
        whose = f"{target(by.request)} {age(by.request)}"
        core = f" core {by.core}{request_id}"
    worker = "?" if report.worker is None else report.worker
    yield (
        f"{report.hub.library}'s hub is blocked for {report.hub.blocked_seconds or 0.0:.1f} s at least by {whose},"
        f" worker {worker}{core}, pid {report.pid}: it does not give way, and all other greenlets wait"
    )
    yield "Traceback (most recent call last):"
    if report.stack.frames_omitted:
        yield f"  [{report.stack.frames_omitted} frames left out]"
    for line in traceback(report.stack.frames):
        yield f"  {line}"
    yield _others(report.others, everyone=False)


def hub_runs_again(report: HubReport, seconds: float) -> str:
    """The line for the end of a block that was reported."""
    by = "a greenlet that serves no request" if report.by is None else target(report.by.request)
    return (
        f"{report.hub.library}'s hub runs again, after it was blocked for {seconds:.1f} s by {by},"
        f" worker {'?' if report.worker is None else report.worker}, pid {report.pid}"
    )


def hub_document(report: HubReport) -> dict[str, Any]:
    """Everything that the text says, as plain dicts, lists, strings and numbers."""
    plain: dict[str, Any] = _plain(
        {
            "kind": "hub",
            "hub": report.hub,
            "request": report.by.request if report.by is not None else None,
            "worker": {
                "number": report.worker,
                "core": report.by.core if report.by is not None else None,
                "pid": report.pid,
            },
            "thread": _thread(report.stack, None),
            "others": [asdict(other) for other in report.others],
        }
    )
    return plain


def stall_line(report: StallReport) -> str:
    """The line that says that Python could not run."""
    flying = [f"{target(other.request)} ({age(other.request)})" for other in report.in_flight]
    ended = [printable(f"{request.method} {request.path}") for request in report.ended]
    return (
        f"Python could not run for {report.stalled_seconds:.1f} s,"
        f" worker {'?' if report.worker is None else report.worker}, pid {report.pid};"
        + (f" in flight were {_named(flying)}" if flying else " no request is in flight")
        + (f"; ended meanwhile: {_named(ended)}" if ended else "")
    )


def _named(requests: list[str]) -> str:
    more = len(requests) - _MAX_OTHERS_NAMED
    return ", ".join(requests[:_MAX_OTHERS_NAMED]) + (f" and {more} more" if more > 0 else "")


def stall_document(report: StallReport) -> dict[str, Any]:
    """Everything that the line says, as plain dicts, lists, strings and numbers."""
    plain: dict[str, Any] = _plain(
        {
            "kind": "stall",
            "stalled_seconds": report.stalled_seconds,
            "worker": {"number": report.worker, "core": None, "pid": report.pid},
            "in_flight": [asdict(other) for other in report.in_flight],
            "ended": report.ended,
        }
    )
    return plain


def one_line(report: HarakiriReport) -> str:
    """The report on a request that has ended: one line with its total time and timeline."""
    timeline = "; ".join(span_line(span) for span in report.timeline)
    return f"{subject(report)}; {report.outcome}" + (f": {timeline}" if timeline else "")


def subject(report: HarakiriReport) -> str:
    """Which request it is, its age and limit, and where it is served."""
    request = report.request
    limit = f" (limit {seconds(report.limit_seconds)})" if report.limit_seconds is not None else ""
    facts = [
        f"{target(request)} {age(request)}{limit}",
        f"worker {'?' if report.worker is None else report.worker} core {'?' if report.core is None else report.core}",
        f"pid {report.pid}",
    ]
    if request.request_id:
        facts.append(f"request id {printable(request.request_id)}")
    if request.remote_address:
        facts.append(f"from {printable(request.remote_address)}")
    facts.append(f"phase {request.phase}")
    return ", ".join(facts)


def target(request: Request) -> str:
    """``GET /path``, with the query if it is shown."""
    query = f"?{request.query}" if request.query is not None else ""
    return printable(f"{request.method} {request.path}{query}")


def seconds(value: float) -> str:
    """A limit: ``30 s``, ``0.25 s``."""
    return f"{value:g} s"


def age(request: Request) -> str:
    """``30.0 s``; short ones with three decimals, ``0.251 s``."""
    return f"{request.age_seconds:.1f} s" if request.age_seconds >= 1 else f"{request.age_seconds:.3f} s"


def span_line(span: Span) -> str:
    """``15.0-17.2 s  app.py:44 load_rows > psycopg/cursor.py:732 execute  (waiting)``."""
    places = [_place(frame) for frame in (span.application, span.innermost) if frame is not None]
    where = " › ".join(places) or "(no Python code)"  # noqa: RUF001  (a guillemet: it reads as "into")
    more = f" and {span.places - 1} other place{'s' if span.places > 2 else ''}" if span.places > 1 else ""
    return f"{span.from_seconds:.1f}–{span.to_seconds:.1f} s  {where}{more}  ({_doing(span)})"  # noqa: RUF001


def _doing(span: Span) -> str:
    if span.cpu_share is None:
        return "CPU unknown"
    doing = "waiting" if span.cpu_share < _WAITING_SHARE else f"CPU {span.cpu_share:.0%}"
    if span.run_delay_share is not None and span.run_delay_share >= _DELAY_SHARE:
        doing += f", {span.run_delay_share:.0%} runnable without a CPU"
    return doing


def _place(frame: Frame) -> str:
    # Two components: a file's name alone is often __init__.py.
    short = "/".join(frame.filename.split("/")[-2:])
    return printable(f"{short}:{'?' if frame.lineno is None else frame.lineno} {frame.function}")


def _kernel(report: HarakiriReport) -> str:
    stack = report.stack
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
    if report.system_call:
        facts.append(f"system call {printable(report.system_call)}")
    if stack.cpu_seconds is not None:
        facts.append(f"{stack.cpu_seconds:.2f} s of CPU in all")
    return ", ".join(facts)


def _others(others: tuple[OtherRequest, ...], *, everyone: bool) -> str:
    if not others:
        return "no other request in flight in this worker"
    # Those that die with it are all named.
    shown = len(others) if everyone else _MAX_OTHERS_NAMED
    named = ", ".join(f"{target(other.request)} {age(other.request)} (core {other.core})" for other in others[:shown])
    rest = f" and {len(others) - shown} more" if len(others) > shown else ""
    one = len(others) == 1
    return f"{len(others)} other request{'' if one else 's'} in flight in this worker: {named}{rest}"


def document(report: HarakiriReport) -> dict[str, Any]:
    """Everything that the text says, as plain dicts, lists, strings and numbers.

    No dict has more than ten keys: Sentry cuts off the rest.
    """
    stack = report.stack
    content: dict[str, Any] = {
        "kind": report.kind,
        "outcome": report.outcome,
        "action": report.action,
        "request": report.request,
        "deadline": {"limit_seconds": report.limit_seconds, "late_seconds": report.late_seconds},
        "worker": {"number": report.worker, "core": report.core, "pid": report.pid},
        "verdict": asdict(report.verdict),
        "timeline": [asdict(span) for span in report.timeline],
        "thread": _thread(stack, report.system_call) if stack is not None else None,
        "others": [asdict(other) for other in report.others],
    }
    if report.hub is not None:
        # Within another dict: ten keys are there already.
        by = report.hub_blocked_by
        content["worker"]["hub"] = {**report.hub._asdict(), "blocked_by": asdict(by) if by is not None else None}
    plain: dict[str, Any] = _plain(content)
    return plain


def _thread(stack: Stack, system_call: str | None) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": stack.name,
        "ident": stack.ident,
        "native_id": stack.native_id,
        "daemon": stack.daemon,
        "state": stack.state,
        "wait_channel": stack.wait_channel,
        "system_call": system_call,
        "cpu_seconds": stack.cpu_seconds,
        "frames_omitted": stack.frames_omitted,
        "frames": stack.frames,
    }
    if stack.greenlet is not None:
        # In the place of what is known of threads only: ten keys.
        del content["daemon"]
        content["greenlet"] = stack.greenlet
    return content


def _plain(value: Any) -> Any:
    # JSON formatters and OpenTelemetry know lists, not tuples; and a lone surrogate of a file name ends an encoder.
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value
