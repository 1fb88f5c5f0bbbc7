"""Makes the documents of the reports for log records: what the text says, as dicts, lists, strings and numbers.

No dict has more than ten keys: Sentry cuts off the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsgi_tracebacker.wire.documents.records import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_tracebacker.model.report import HarakiriReport, HubReport, OtherRequest, Span, StallReport
    from wsgi_tracebacker.model.snapshot import Request, Stack


def document(report: HarakiriReport) -> dict[str, Any]:
    """Everything that the text on an overdue or slow request says."""
    stack = report.stack
    content: dict[str, Any] = {
        "kind": report.kind,
        "outcome": report.outcome,
        "action": report.action,
        "request": _request(report.request),
        "deadline": {
            "limit_seconds": report.limit_seconds,
            "limit_source": report.limit_source,
            "late_seconds": report.late_seconds,
        },
        "worker": {"number": report.worker, "core": report.core, "pid": report.pid, "memory": report.memory},
        "verdict": report.verdict,
        "timeline": [_span(span) for span in report.timeline],
        "thread": _thread(stack, report.system_call) if stack is not None else None,
        "others": _others(report.others),
    }
    if report.hub is not None:
        # In another dict, because there are ten keys already.
        content["worker"]["hub"] = {**report.hub._asdict(), "blocked_by": _other(report.hub_blocked_by)}
    if report.other_thread is not None:
        content["worker"]["other_thread"] = _thread(report.other_thread, None)
    return plain(content)


def hub_document(report: HubReport) -> dict[str, Any]:
    """Everything that the text on a blocked hub says."""
    return plain(
        {
            "kind": "hub",
            "hub": report.hub,
            "request": _request(report.by.request) if report.by is not None else None,
            "worker": {
                "number": report.worker,
                "core": report.by.core if report.by is not None else None,
                "pid": report.pid,
            },
            "thread": _thread(report.stack, None),
            "others": _others(report.others),
        }
    )


def stall_document(report: StallReport) -> dict[str, Any]:
    """Everything that the line on a stalled worker says."""
    return plain(
        {
            "kind": "stall",
            "stalled_seconds": report.stalled_seconds,
            "worker": {"number": report.worker, "core": None, "pid": report.pid},
            "in_flight": _others(report.in_flight),
            "ended": report.ended,
        }
    )


def _span(span: Span) -> dict[str, Any]:
    content = span._asdict()
    # In another dict, because there are ten keys with it.
    content["doing"] = {key: content.pop(key) for key in ("call", "waits_for")}
    return content


def _request(request: Request) -> dict[str, Any]:
    content = request._asdict()
    # In another dict, because there are ten keys without them.
    context = {key: content.pop(key) for key in ("notes", "trace_id", "queued_seconds", "nested")}
    context["nested"] = [_request(each) for each in request.nested]
    content["context"] = {"note": request.note, **context}
    waits_for = request.waits_for
    if waits_for is not None:
        # What is not known is left out: so there are never more than ten keys.
        known = {key: value for key, value in waits_for._asdict().items() if value not in (None, ())}
        content["waits_for"] = known
    return content


def _other(other: OtherRequest | None) -> dict[str, Any] | None:
    if other is None:
        return None
    return {"core": other.core, "request": _request(other.request), "place": other.place}


def _others(others: Iterable[OtherRequest]) -> list[dict[str, Any] | None]:
    return [_other(other) for other in others]


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
        # Instead of a key that says nothing of a greenlet, so that there are ten keys.
        del content["daemon"]
        content["greenlet"] = stack.greenlet
    return content
