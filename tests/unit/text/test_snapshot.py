from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.hostile import is_fit
from tests.unit.wire.strategies import snapshots
from wsgi_tracebacker.model.snapshot import Frame, LastRequest, Note, Request, Snapshot, Stack, Worker
from wsgi_tracebacker.model.waits import WaitsFor
from wsgi_tracebacker.text.snapshot import lines

FRAMES = (
    Frame("/srv/slow.py", 20, "application", "    return dormi5()\n", 20, 11, 19),
    Frame("/srv/slow.py", 4, "dormi", "    time.sleep(60)\n", 4, 4, 18, source_changed=True),
)
SLOW = Request("GET", "/slow", None, "10.0.0.1", "5fa8", 988.0, 12.34, "app")
SERVING = Stack("WSGIWorker1Core0", core=0, state="S", wait_channel="hrtimer_nanosleep", request=SLOW, frames=FRAMES)
IDLE = Stack("WSGIWorker1Core1", core=1, state="S", last_request=LastRequest("GET", "/x", 3.2), frames=FRAMES[:1])
OTHER = Stack("pool", daemon=True, state="R", wait_channel="0", frames=FRAMES[:1])
SNAPSHOT = Snapshot(
    Worker(number=1, pid=42, server="gunicorn", application="app:wsgi", started_at=800.0, requests_in_flight=1),
    taken_at=1000.0,
    stacks=(OTHER, IDLE, SERVING),
)


def shown(snapshot: Snapshot, *, all_threads: bool = False) -> str:
    return "\n".join(lines(snapshot, all_threads=all_threads))


def test_a_worker_is_a_heading_and_its_requests() -> None:
    """What people see of a worker, line by line."""
    assert (
        shown(SNAPSHOT)
        == """\
worker 1  pid 42  gunicorn  app:wsgi  up 3 min 20 s  1 in flight

  WSGIWorker1Core0  GET /slow  12.3 s  from 10.0.0.1  id 5fa8
    /srv/slow.py:20 application
      return dormi5()
             ^^^^^^^^
    /srv/slow.py:4 dormi  (source changed since start)
      time.sleep(60)"""
    )


def test_all_threads_are_those_that_serve_nothing_too() -> None:
    """With all_threads idle and other threads stand below the requests."""
    text = shown(SNAPSHOT, all_threads=True)
    assert "  WSGIWorker1Core1  idle, last request GET /x ended 3.20 s ago, sleeping\n    /srv" in text
    assert "  pool  daemon thread, serves no requests, running\n    /srv" in text
    assert text.count(":20 application") == 3
    assert text.index("GET /slow") < text.index("WSGIWorker1Core1") < text.index("  pool")


def test_the_oldest_request_stands_first() -> None:
    """Requests are sorted by age, whatever their cores are."""
    older = SERVING._replace(name="WSGIWorker1Core7", core=7, request=SLOW._replace(age_seconds=99.0))
    text = shown(SNAPSHOT._replace(stacks=(SERVING, older)))
    assert text.index("Core7") < text.index("Core0")


def test_what_a_request_is_doing_stands_beside_it() -> None:
    """The newest note of the application, and the id of the trace."""
    noted = SLOW._replace(notes=(Note(1.0, "loading"), Note(2.0, "charging\n4711")), trace_id="4bf92f35")
    text = shown(SNAPSHOT._replace(stacks=(SERVING._replace(request=noted),)))
    assert "  trace 4bf92f35  note: charging\\n4711\n" in text


def test_time_before_a_request_got_here_stands_beside_it() -> None:
    """Where a proxy said when it received the request."""
    queued = SLOW._replace(queued_seconds=0.25)
    assert "  queued 0.250 s before it got here\n" in shown(
        SNAPSHOT._replace(stacks=(SERVING._replace(request=queued),))
    )


def test_the_thread_that_works_for_a_request_stands_below_it() -> None:
    """Although it serves no request; not if its name is that of several."""
    waiting = SERVING._replace(request=SLOW._replace(waits_for=WaitsFor("other_thread", "works", thread="pool")))
    text = shown(SNAPSHOT._replace(stacks=(OTHER, IDLE, waiting)))
    assert "  pool  works for it, running\n    /srv/slow.py:20 application" in text
    assert "works for it" not in shown(SNAPSHOT._replace(stacks=(OTHER, OTHER, waiting)))


def test_nested_requests_stand_below_the_one_they_are_in() -> None:
    """A WSGI call inside a request has a line of its own, and so has one inside that."""
    inner = SLOW._replace(path="/inner", age_seconds=1.0)
    middle = SLOW._replace(path="/middle", age_seconds=2.0, nested=(inner,))
    text = shown(SNAPSHOT._replace(stacks=(SERVING._replace(request=SLOW._replace(nested=(middle,))),)))
    assert "    inside it  GET /middle  2.00 s\n    inside it  GET /inner  1.00 s\n    /srv" in text


def test_the_query_is_shown_if_the_worker_sent_it() -> None:
    """A path and its query stand together."""
    stack = SERVING._replace(request=SLOW._replace(query="a=1"))
    assert "GET /slow?a=1  12.3 s" in shown(SNAPSHOT._replace(stacks=(stack,)))


def test_of_uwsgi_only_stacks_are_known() -> None:
    """uWSGI's threads with a core serve, what they serve it does not say; the others are counted."""
    snapshot = Snapshot(
        Worker(number=2, pid=7, server="uWSGI"),
        taken_at=1000.0,
        stacks=(Stack("uWSGIWorker2Core0", core=0, kind="unknown", frames=FRAMES[:1]), Stack("bg", kind="unknown")),
        source="uwsgi",
    )
    text = shown(snapshot)
    assert text.startswith("worker 2  pid 7  uWSGI  1 in flight\n\n  uWSGIWorker2Core0  a request, uWSGI does not say")
    assert "bg" not in text
    assert "  bg  serves no requests\n    (no Python code on this thread)" in shown(snapshot, all_threads=True)


def test_an_unknown_stack_is_not_called_none() -> None:
    """In a sub-interpreter of uWSGI a request has no stack, and a stack no thread: the text names uWSGI's option."""
    serving = SERVING._replace(kind="unknown", frames=())
    stray = Stack("unknown thread", kind="unknown", frames=FRAMES[:1])
    text = shown(SNAPSHOT._replace(stacks=(serving, stray)), all_threads=True)
    assert "(its stack is not known: uWSGI runs this application in a sub-interpreter" in text
    assert "--single-interpreter)" in text
    assert "  unknown thread  which thread this is, is not known\n    /srv" in text


def test_a_phase_is_named_unless_it_is_the_first() -> None:
    """Nearly all requests are within the callable; one whose body is sent is not."""
    text = shown(SNAPSHOT._replace(stacks=(SERVING._replace(request=SLOW._replace(phase="body")),)))
    assert "GET /slow  12.3 s  in body  from" in text


def test_frames_that_were_left_out_are_mentioned() -> None:
    """A stack too deep to be sent in full says how much of it is missing."""
    assert "    [7 frames between the outermost ones" in shown(
        SNAPSHOT._replace(stacks=(SERVING._replace(frames_omitted=7),))
    )


@given(snapshots, st.booleans())
def test_no_control_character_reaches_a_line(snapshot: Snapshot, all_threads: bool) -> None:
    """Whatever is in a snapshot, its lines are UTF-8 without control, direction and surrogate characters."""
    assert all(map(is_fit, lines(snapshot, all_threads=all_threads)))
