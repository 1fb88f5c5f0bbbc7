from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.strategies import snapshots
from wsgi_tracebacker.model.snapshot import Frame, LastRequest, Request, Snapshot, Stack, Worker
from wsgi_tracebacker.text import snapshot as traceback

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


def shown(snapshot: Snapshot, *, all_threads: bool = False, older_seconds: float | None = None) -> str:
    return "\n".join(traceback.lines(snapshot, all_threads=all_threads, older_seconds=older_seconds))


def test_a_worker_is_a_heading_its_requests_and_a_count() -> None:
    """What people see of a worker, line by line."""
    assert (
        shown(SNAPSHOT)
        == """\
worker 1  pid 42  gunicorn  app:wsgi  up 3 min 20 s  1 in flight

  WSGIWorker1Core0  GET /slow  12.3 s  in app, sleeping in hrtimer_nanosleep  from 10.0.0.1  id 5fa8
    File "/srv/slow.py", line 20, in application
      return dormi5()
             ^^^^^^^^
    File "/srv/slow.py", line 4, in dormi  (source changed since start)
      time.sleep(60)
      ^^^^^^^^^^^^^^

  1 idle thread (last request ended 3.20 s ago), 1 other thread that serves no requests; --all shows them"""
    )


def test_all_shows_the_threads_that_were_counted() -> None:
    """With all_threads idle and other threads stand below the requests, and nothing is counted."""
    text = shown(SNAPSHOT, all_threads=True)
    assert "  WSGIWorker1Core1  idle, last request GET /x ended 3.20 s ago, sleeping\n    File" in text
    assert "  pool  daemon thread, serves no requests, running\n    File" in text
    assert text.count("in application") == 3
    assert "--all" not in text


def test_the_oldest_request_stands_first() -> None:
    """Requests are sorted by age, whatever their cores are."""
    older = SERVING._replace(name="WSGIWorker1Core7", core=7, request=SLOW._replace(age_seconds=99.0))
    text = shown(SNAPSHOT._replace(stacks=(SERVING, older)))
    assert text.index("Core7") < text.index("Core0")


def test_older_leaves_out_younger_requests_and_says_so() -> None:
    """A request that is younger than older_seconds is counted, one as old is shown."""
    assert "  1 younger request not shown, 1 idle thread" in shown(SNAPSHOT, older_seconds=12.35)
    assert "GET /slow" not in shown(SNAPSHOT, older_seconds=12.35)
    assert "GET /slow" in shown(SNAPSHOT, older_seconds=12.34)


def test_nested_requests_stand_below_the_one_they_are_in() -> None:
    """A WSGI call inside a request has a line of its own, and so has one inside that."""
    inner = SLOW._replace(path="/inner", age_seconds=1.0)
    middle = SLOW._replace(path="/middle", age_seconds=2.0, nested=(inner,))
    text = shown(SNAPSHOT._replace(stacks=(SERVING._replace(request=SLOW._replace(nested=(middle,))),)))
    assert "    inside it GET /middle  2.00 s  in app\n    inside it GET /inner  1.00 s  in app\n    File" in text


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
    text = shown(snapshot, older_seconds=5)
    assert text.startswith("worker 2  pid 7  uWSGI  1 in flight\n\n  uWSGIWorker2Core0  a request, uWSGI does not say")
    assert text.endswith("  1 other thread that serves no requests; --all shows them")
    assert "  bg  serves no requests\n    (no Python code on this thread)" in shown(snapshot, all_threads=True)


def test_an_idle_worker_is_two_lines() -> None:
    """A worker that serves nothing has its heading and its count."""
    idle = SNAPSHOT._replace(worker=Worker(), stacks=(IDLE, IDLE))
    assert shown(idle) == "worker  0 in flight\n\n  2 idle threads (last request ended 3.20 s ago); --all shows them"


def test_equal_calls_of_a_recursion_are_folded() -> None:
    """As in Python, three are shown and the others counted; a different line ends the fold."""
    again = Frame("a.py", 2, "again")
    lines = list(traceback.traceback([again] * 9 + [again._replace(lineno=3)] + [again] * 4 + [again]))
    repeated = ['File "a.py", line 2, in again'] * 3
    assert lines == [
        *repeated,
        "[Previous line repeated 6 more times]",
        'File "a.py", line 3, in again',
        *repeated,
        "[Previous line repeated 2 more times]",
    ]
    assert list(traceback.traceback([again] * 4))[-1] == "[Previous line repeated 1 more time]"


def test_frames_that_were_left_out_are_mentioned() -> None:
    """A stack too deep to be sent in full says how much of it is missing."""
    assert "    [7 frames between the outermost ones" in shown(
        SNAPSHOT._replace(stacks=(SERVING._replace(frames_omitted=7),))
    )


@pytest.mark.parametrize(
    ("source", "column", "end_column", "expected"),
    [
        ("    return f(x)\n", 11, 15, ["return f(x)", "       ^^^^"]),
        ("x = größe(1)", 4, 14, ["x = größe(1)", "    ^^^^^^^^"]),
        ('s = "漢字" + f()', 15, 18, ['s = "漢字" + f()', " " * 13 + "^^^"]),
        ('s = "漢字" + f()', 4, 12, ['s = "漢字" + f()', "    ^^^^^^"]),
        ("e\u0301 = f()", 6, 9, ["e\u0301 = f()", "    ^^^"]),
        ("\tif x:\tf()", 7, 10, ["if x:    f()", "         ^^^"]),
        ("s = '\x1b[1m' + f()", 13, 16, [r"s = '\x1b[1m' + f()", " " * 16 + "^^^"]),
        ("    f()", 0, 7, ["f()", "^^^"]),
        ("    f()", 2, 7, ["f()", "^^^"]),
        ("f()", None, None, ["f()"]),
        ("f()", 3, 3, ["f()"]),
        ("f()", 2, 1, ["f()"]),
        ("f()", 100, 200, ["f()"]),
        ("    f()", 0, 2, ["f()"]),
        ("   \n", 0, 2, []),
        (None, 0, 2, []),
    ],
)
def test_carets_stand_below_the_expression_that_runs(
    source: str | None, column: int | None, end_column: int | None, expected: list[str]
) -> None:
    """Columns are bytes of the unstripped line; carets are as wide as a terminal shows what they mark."""
    _, *lines = traceback.traceback([Frame("a.py", 1, "f", source, 1, column, end_column)])
    assert lines == [f"  {line}" for line in expected]


def test_an_expression_of_many_lines_is_marked_to_the_end_of_its_first() -> None:
    """The end column then belongs to another line."""
    lines = list(traceback.traceback([Frame("a.py", 1, "f", "  x = call(  \n", 3, 6, 3)]))
    assert lines[1:] == ["  x = call(", "      ^^^^^"]


def test_a_long_line_is_cut() -> None:
    """Generated code does not fill the screen, and no caret points into what is not shown."""
    source = "x = " + "a + " * 5000 + "f()"
    _, line = traceback.traceback([Frame("a.py", 1, "f", source, 1, len(source) - 3, len(source))])
    assert len(line) < 500
    assert line.endswith(" ...")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-3.0, "0.00 s"),
        (0.004, "0.00 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (99.94, "99.9 s"),
        (99.96, "1 min 40 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (48 * 3600, "2 d 0 h"),
        (100 * 3600, "4 d 4 h"),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float, expected: str) -> None:
    """Never more than two units, and as many digits as are of use."""
    assert traceback.duration(seconds) == expected


def test_colour_adds_nothing_but_colour() -> None:
    """The coloured text without its escape sequences is the plain text."""
    coloured = "\n".join(traceback.lines(SNAPSHOT, palette=traceback.COLOURED))
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == shown(SNAPSHOT)
    assert "\x1b[1;31m12.3 s\x1b[0m" in coloured


def test_a_table_is_aligned() -> None:
    """Columns of numbers end in one column, others begin in one, also beside wide characters."""
    lines = traceback.table(("N", "NAME", "X"), [(1, "漢字", "a"), (None, "b\n", None)], right_aligned=("N",))
    assert list(lines) == ["N  NAME  X", "1  漢字  a", r"-  b\n   -"]


@given(snapshots, st.booleans(), st.none() | st.floats(0, 100))
def test_no_control_character_reaches_a_line(snapshot: Snapshot, all_threads: bool, older: float | None) -> None:
    """Whatever is in a snapshot, its lines are UTF-8 without control, direction and surrogate characters."""
    for line in traceback.lines(snapshot, all_threads=all_threads, older_seconds=older):
        line.encode("utf-8")
        assert not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in line)
        assert not any(0x202A <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069 for c in line)
