"""A report's text and document: the same said twice, and nothing that could break a log."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.strategies import any_texts, frames, requests, stacks
from wsgi_tracebacker.model.code_ownership import CodeOwnership
from wsgi_tracebacker.model.report import HarakiriReport, HubReport, Memory, OtherRequest, Span, StallReport, Verdict
from wsgi_tracebacker.model.snapshot import Frame, HubState, LastRequest, Note, Request, Stack
from wsgi_tracebacker.model.waits import WaitsFor
from wsgi_tracebacker.text import report as report_format
from wsgi_tracebacker.text.folding import LOG_ELLIPSIS, folded
from wsgi_tracebacker.text.report import hub_lines, one_line, span_line, stall_line
from wsgi_tracebacker.text.waits import with_sentence
from wsgi_tracebacker.wire.documents.report_json import document, stall_document

if TYPE_CHECKING:
    from collections.abc import Iterator

#: As the agent of a worker in /srv makes it.
FOLD = functools.partial(folded, ownership=CodeOwnership("shop"), cwd="/srv", ellipsis=LOG_ELLIPSIS)

HANDLE = Frame("/venv/site-packages/gunicorn/workers/sync.py", 177, "handle_request", "    respiter = self.wsgi()")
VIEW = Frame("/venv/site-packages/flask/app.py", 1498, "Flask.__call__", "    return self.wsgi_app()")
LOAD_ROWS = Frame("/srv/shop/app.py", 44, "load_rows", "    cursor.execute(QUERY)")
EXECUTE = Frame("/venv/site-packages/psycopg/cursor.py", 732, "execute", "    raise ex")
LOCK = with_sentence(WaitsFor("lock", lock="stock", lock_place="app.py:51"))
READ = Frame("/usr/lib/python3.12/socket.py", 708, "SocketIO.readinto")
RENDER = Frame("/srv/shop/app.py", 51, "render", "    return json.dumps(rows)")

MEMORY = Memory(180 << 20, 1434 << 20)

REPORT = HarakiriReport(
    kind="harakiri",
    request=Request("GET", "/report/annual", None, "192.0.2.7", "7f3a", 1.7e9, 30.02, "app"),
    worker=1,
    core=2,
    pid=5903,
    limit_seconds=30.0,
    late_seconds=0.02,
    action="log",
    outcome="logged, still running",
    timeline=(
        Span(15.0, 17.2, LOAD_ROWS, READ, 22, 0, 1, 0.0, 0.0, EXECUTE, LOCK.sentence),
        Span(17.2, 30.0, RENDER, None, 128, 100, 3, 0.98, 0.25),
    ),
    verdict=Verdict("busy", "98% CPU since 17.2 s, moving within render"),
    stack=Stack(
        name="WSGIWorker1Core2",
        ident=1,
        native_id=5905,
        core=2,
        daemon=True,
        state="S",
        wait_channel="futex_wait_queue",
        cpu_seconds=12.5,
        frames=(RENDER,),
        frames_omitted=7,
    ),
    system_call="futex",
    others=(
        OtherRequest(
            0,
            Request(*("POST", "/cart", None, None, None, 1.7e9, 0.5, "app"), waits_for=LOCK),
            RENDER,
        ),
    ),
    memory=MEMORY,
)


def lines(report: HarakiriReport) -> Iterator[str]:
    return report_format.lines(report, FOLD)


def test_the_text() -> None:
    """What it is, where, its age and limit, what was done, where the time went, why, and who else is there."""
    assert list(lines(REPORT)) == [
        (
            "GET /report/annual 30.0 s (limit 30 s), worker 1 core 2, pid 5903, request id 7f3a, from 192.0.2.7,"
            " phase app; logged, still running"
        ),
        (
            "  15.0-17.2 s  shop/app.py:44 load_rows > psycopg/cursor.py:732 execute  (waiting)"
            "  waits for lock stock (app.py:51)"
        ),
        "  17.2-30.0 s  shop/app.py:51 render and 2 other places  (CPU 98%, 25% runnable without a CPU)",
        "  verdict: busy: 98% CPU since 17.2 s, moving within render",
        "  memory: the worker had 180M when the request became slow, and has 1.4G now",
        (
            "  thread: WSGIWorker1Core2, native id 5905, state S, waits in futex_wait_queue, system call futex,"
            " 12.50 s of CPU in all"
        ),
        "Stack (most recent call last):",
        "  [7 frames left out]",
        "  shop/app.py:51 render",
        "    return json.dumps(rows)",
        "1 other request in flight in this worker:",
        "  POST /cart 0.500 s (core 0)  shop/app.py:51 render  waits for lock stock",
    ]


def test_calls_that_are_not_the_applications_are_folded() -> None:
    """As wsgi-tb read folds them, in ASCII; the document has every frame with its source."""
    frames = (HANDLE, VIEW, LOAD_ROWS._replace(column=4, end_column=25), EXECUTE)
    stack = Stack("a", frames=frames)
    expected = [
        "Stack (most recent call last):",
        "  ... 2 calls of gunicorn and flask",
        "  shop/app.py:44 load_rows",
        "    cursor.execute(QUERY)",
        "  ... 1 call of psycopg: psycopg/cursor.py:732 execute",
        "no other request in flight in this worker",
    ]
    report = REPORT._replace(stack=stack, others=())
    assert list(lines(report))[-6:] == expected
    thread = document(report)["thread"]
    assert [(frame["function"], frame["source"]) for frame in thread["frames"]] == [
        (frame.function, frame.source) for frame in frames
    ]
    hub = HubReport(HubState("gevent", "blocked", 1.0), 1, 5903, None, stack, ())
    assert list(hub_lines(hub, FOLD))[1:] == expected


NOTED = REPORT._replace(
    request=REPORT.request._replace(
        notes=(Note(16.0, "loading rows"), Note(18.5, "rendering\n4711")), trace_id="4bf92f3577b34da6a3ce929d0e0e4736"
    )
)


def test_notes_stand_in_the_timeline() -> None:
    """Each below the stretch in which it was made; the newest beside a request that is named among others."""
    first, *rest = lines(NOTED)
    assert "request id 7f3a, trace 4bf92f3577b34da6a3ce929d0e0e4736, from 192.0.2.7" in first
    assert [line.strip().partition("  ")[::2] for line in rest[:4]] == [
        (
            "15.0-17.2 s",
            "shop/app.py:44 load_rows > psycopg/cursor.py:732 execute  (waiting)  waits for lock stock (app.py:51)",
        ),
        ("16.0 s", "note: loading rows"),
        ("17.2-30.0 s", "shop/app.py:51 render and 2 other places  (CPU 98%, 25% runnable without a CPU)"),
        ("18.5 s", "note: rendering\\n4711"),
    ]
    assert "; 16.0 s  note: loading rows; 17.2-30.0 s" in one_line(NOTED._replace(kind="slow", stack=None))
    *_, last = lines(REPORT._replace(others=(OtherRequest(0, NOTED.request),)))
    assert last.endswith("GET /report/annual 30.0 s (core 0, rendering\\n4711)")
    context = document(NOTED)["request"]["context"]
    assert (context["note"], context["trace_id"]) == ("rendering\n4711", "4bf92f3577b34da6a3ce929d0e0e4736")
    assert context["notes"][0] == {"at_seconds": 16.0, "text": "loading rows"}


def test_cpu_is_said_by_the_clock_where_samples_found_a_wait() -> None:
    """A sample is taken where a thread lets go of the GIL; what it computes in between the kernel counts."""
    waits = REPORT.timeline[0]._replace(cpu_share=0.34)
    assert "  (CPU 34% by the clock)  waits for lock stock" in span_line(waits)
    assert "  (CPU 34%)" in span_line(waits._replace(waits_for=None))
    assert "  (waiting)  waits for" in span_line(waits._replace(cpu_share=0.04))


def test_time_before_the_request_got_here_is_said() -> None:
    """Beside where it is from, in the text and in the context; a tenth of a second is the least."""
    queued = REPORT._replace(request=REPORT.request._replace(queued_seconds=1.23))
    assert "from 192.0.2.7, queued 1.2 s before it got here, phase app;" in next(lines(queued))
    assert document(queued)["request"]["context"]["queued_seconds"] == 1.23
    assert "queued" not in next(lines(REPORT._replace(request=REPORT.request._replace(queued_seconds=0.09))))


def test_the_thread_that_works_for_a_request_has_its_stack() -> None:
    """Below that of the request, with what the kernel says of it."""
    worker = Stack("pool_0", native_id=7, state="R", cpu_seconds=1.0, frames=(LOAD_ROWS,))
    *_, name, head, place, source, _ = lines(REPORT._replace(other_thread=worker, others=()))
    assert name == "the thread that works for it: pool_0, native id 7, state R, 1.00 s of CPU in all"
    assert head == "Stack (most recent call last):"
    assert (place, source) == ("  shop/app.py:44 load_rows", "    cursor.execute(QUERY)")
    found = document(REPORT._replace(other_thread=worker))
    assert found["worker"]["other_thread"]["name"] == "pool_0"


def test_one_line_for_one_that_ended() -> None:
    """Its total time and its timeline."""
    ended = REPORT._replace(kind="slow", outcome="ended", stack=None)
    line = one_line(ended)
    assert "\n" not in line
    assert line.startswith("GET /report/annual 30.0 s (limit 30 s), ")
    assert "phase app; ended: 15.0-17.2 s  shop/app.py:44 load_rows" in line
    assert line.endswith("; memory 180M to 1.4G")
    assert document(ended)["worker"]["memory"] == {"start_bytes": 180 << 20, "end_bytes": 1434 << 20}
    assert "memory" not in one_line(ended._replace(memory=Memory(None, 1)))


def test_a_limit_that_nobody_gave_says_how_to_change_it() -> None:
    """In the report, and in the line on a request that has ended."""
    report = REPORT._replace(limit_seconds=60.0, limit_source="default")
    limit = "(limit 60 s, the default: harakiri= or WSGI_TB_HARAKIRI changes it, 0 switches it off)"
    assert next(lines(report)).startswith(f"GET /report/annual 30.0 s {limit}, worker 1 ")
    assert one_line(report).startswith(f"GET /report/annual 30.0 s {limit}, worker 1 ")


def test_many_others_are_counted() -> None:
    """Fifty have a line each; the document has all, and a report on a kill names all."""
    crowd = REPORT._replace(others=REPORT.others * 75)
    found = list(lines(crowd))
    head = found.index("75 other requests in flight in this worker:")
    shown = found[head + 1 : -1]
    assert len(shown) == 50
    assert all(line.startswith("  POST /cart 0.500 s (core 0)  shop/app.py:51 render  waits for") for line in shown)
    assert found[-1] == "  and 25 more"
    assert len(document(crowd)["others"]) == 75
    *_, last = lines(crowd._replace(action="kill"))
    assert last.startswith("  and 25 more: POST /cart 0.500 s (core 0), ")
    assert last.count("POST /cart") == 25, "those that die with it are all named"
    *_, last = lines(REPORT._replace(others=()))
    assert last == "no other request in flight in this worker"
    unknown = OtherRequest(None, Request("GET", "/", None, None, None, 0.0, 2.0, "app"))
    *_, last = lines(REPORT._replace(others=(unknown,)))
    assert last == "  GET / 2.0 s (core ?)"


def test_the_document_says_all_that_the_text_says() -> None:
    """Every value of the report is in it."""
    found = document(REPORT)
    assert found["request"]["path"] == "/report/annual"
    memory = found["worker"].pop("memory")
    assert found["worker"] == {"number": 1, "core": 2, "pid": 5903}
    assert memory == {"start_bytes": 180 << 20, "end_bytes": 1434 << 20}
    assert found["deadline"] == {"limit_seconds": 30.0, "limit_source": "given", "late_seconds": 0.02}
    assert (found["kind"], found["action"], found["outcome"]) == ("harakiri", "log", "logged, still running")
    assert [span["to_seconds"] for span in found["timeline"]] == [17.2, 30.0]
    span = found["timeline"][0]
    assert (span["innermost"]["function"], span["doing"]["call"]["function"]) == ("SocketIO.readinto", "execute")
    assert span["doing"]["waits_for"] == LOCK.sentence
    assert found["timeline"][1]["doing"] == {"call": None, "waits_for": None}
    assert found["verdict"] == {"kind": "busy", "explanation": "98% CPU since 17.2 s, moving within render"}
    thread = found["thread"]
    assert (thread["wait_channel"], thread["system_call"], thread["frames_omitted"]) == ("futex_wait_queue", "futex", 7)
    assert thread["frames"][0]["source"] == "    return json.dumps(rows)"
    other = found["others"][0]
    assert other["request"]["path"] == "/cart"
    assert (other["place"]["function"], other["request"]["waits_for"]["lock"]) == ("render", "stock")
    words = json.dumps(found)
    for name, value in REPORT._asdict().items():
        if isinstance(value, (str, int, float)):
            assert json.dumps(value) in words, name
    assert document(REPORT._replace(stack=None))["thread"] is None


def widths(value: Any) -> list[int]:
    """The number of keys of each dict, however deep."""
    if isinstance(value, dict):
        return [len(value), *(width for member in value.values() for width in widths(member))]
    if isinstance(value, list):
        return [width for member in value for width in widths(member)]
    return []


def test_sentry_keeps_all_of_it() -> None:
    """Of a dict it keeps ten keys."""
    inside = NOTED.request._replace(nested=(NOTED.request,), waits_for=WaitsFor("sleep"))
    assert max(widths(document(REPORT._replace(request=inside)))) <= 10


SPANS = st.builds(
    Span,
    from_seconds=st.floats(0, 1e6),
    to_seconds=st.floats(0, 1e6),
    application=st.one_of(st.none(), frames),
    innermost=st.one_of(st.none(), frames),
    samples=st.integers(1, 100),
    changes=st.integers(0, 100),
    places=st.integers(1, 8),
    cpu_share=st.one_of(st.none(), st.floats(0, 1)),
    run_delay_share=st.one_of(st.none(), st.floats(0, 1)),
    call=st.none() | frames,
    waits_for=st.none() | any_texts,
)
OTHERS = st.builds(OtherRequest, st.integers(0, 9), requests, st.none() | frames)
REPORTS = st.builds(
    HarakiriReport,
    kind=st.sampled_from(["harakiri", "slow"]),
    action=st.sampled_from(["log", "raise", "kill"]),
    outcome=st.just("logged, still running"),
    verdict=st.builds(Verdict, st.sampled_from(["frozen", "busy"]), any_texts),
    request=requests,
    timeline=st.lists(SPANS, max_size=3).map(tuple),
    stack=st.one_of(st.none(), stacks),
    others=st.lists(OTHERS, max_size=3).map(tuple),
    hub=st.none()
    | st.builds(
        HubState,
        st.sampled_from(["gevent", "eventlet"]),
        st.sampled_from(["idle", "running", "blocked"]),
        st.none() | st.floats(0, 1e6),
    ),
    hub_blocked_by=st.none() | OTHERS,
    limit_seconds=st.one_of(st.none(), st.floats(0.001, 1e6)),
    late_seconds=st.floats(0, 1e6),
    limit_source=st.sampled_from(["given", "default", "client_gone"]),
    other_thread=st.none() | stacks,
)


@given(REPORTS)
def test_any_report(report: HarakiriReport) -> None:
    """Whatever names and paths hold: one line is one line, all of it can be encoded, and the document is JSON."""
    for line in [*lines(report), one_line(report)]:
        line.encode("utf-8")
        assert line.isprintable() or not [
            character for character in line if ord(character) < 32 or ord(character) == 127
        ]
    assert json.loads(json.dumps(document(report), allow_nan=False)) == document(report)
    json.dumps(document(report), ensure_ascii=False).encode("utf-8")


def test_a_stall() -> None:
    """Ten requests by name; the document has all."""
    other = REPORT.others[0]
    report = StallReport(3.21, 2, 5903, (other,) * 12, (LastRequest("GET", "/\x1b", 0.5),))
    line = stall_line(report)
    assert line.startswith("Python could not run for 3.2 s, worker 2, pid 5903; in flight were POST /cart (0.500 s), ")
    assert line.endswith(", POST /cart (0.500 s) and 2 more; ended meanwhile: GET /\\x1b")
    found = stall_document(report)
    assert len(found["in_flight"]) == 12
    assert found["ended"] == [{"method": "GET", "path": "/\x1b", "ended_seconds_ago": 0.5}]
    nothing = StallReport(1.0, None, 5903, (), ())
    assert stall_line(nothing) == "Python could not run for 1.0 s, worker ?, pid 5903; no request is in flight"


def test_an_unknown_stack_is_not_called_none() -> None:
    """Where uWSGI's threads share an id, the report names uWSGI's option in place of a traceback."""
    stack = Stack("WSGIWorker2Core1", core=1, kind="unknown")
    text = "\n".join(lines(REPORT._replace(stack=stack)))
    assert "most recent call" not in text
    assert "its stack is not known" in text
    assert "--single-interpreter" in text
