"""What people read of a worker that died."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given

from tests.unit.wire.black_box.test_table_rows import HEADER, row, table
from tests.unit.wire.strategies import postmortems
from wsgi_tracebacker.text.postmortem import lines
from wsgi_tracebacker.wire.black_box import dead_table, table_rows
from wsgi_tracebacker.wire.escape import printable

if TYPE_CHECKING:
    from wsgi_tracebacker.model.report import Postmortem


def test_it_reads_well() -> None:
    """Who died, what was in flight since when and for whom, and the last stacks; no control character."""
    detail = table_rows.detail_bytes(40.0, "127.0.0.1", "id\x1b[31m")
    found = dead_table.read_postmortem(table(row(detail=detail)), "/tmp/tb", 0.0, b"one\ntwo\x1b\n")
    assert found is not None
    head, request, *stacks = lines(found)
    assert head.startswith("worker 3, pid 4711, died with 1 request in flight; started 1970-01-01 ")
    assert request.startswith("  GET /x  (core 0, since 1970-01-01 ")
    assert request.endswith(", request id id\\x1b[31m, from 127.0.0.1)")
    assert stacks == ["its last report or stacks:", "  one", "  two\\x1b"]


def test_stacks_of_faulthandler_are_folded_outermost_call_first() -> None:
    """As in a report: one's own calls, and a line for each run of others; a Python at an unusual place is known."""
    dump = r"""2026-01-31 17:04:00+0100 stall: Python could not run
Current thread 0x1f (most recent call first):
  Garbage-collecting
  File "/src/Lib/re.py", line 9 in match
  File "/srv/caf\xe9.py", line 11 in search
  File "/v/lib/python3.12/site-packages/flask/app.py", line 3 in wsgi_app
  File "/v/lib/python3.12/site-packages/gunicorn/sync.py", line 4 in run
  ...

Thread 0x2f [pool] (most recent call first, approximate line numbers):
  File "/src/Lib/threading.py", line 5 in wait
  File "/src/Lib/threading.py", line 6 in _bootstrap"""
    found = dead_table.read_postmortem(table(row()), "/tmp/tb", 0.0, dump.encode())
    assert found is not None
    assert list(lines(found))[3:] == [
        "  2026-01-31 17:04:00+0100 stall: Python could not run",
        "  Current thread 0x1f (most recent call last):",
        "    Garbage-collecting",
        "    [the outermost frames are left out]",
        "    ... 2 calls of gunicorn and flask",
        "    /srv/café.py:11 search",
        "    ... 1 call of Python: re.py:9 match",
        "",
        "  Thread 0x2f [pool] (most recent call last, approximate line numbers):",
        "    ... 2 calls of Python, then threading.py:5 wait",
    ]
    assert found.stacks == f"{dump}\n"


@pytest.mark.parametrize(
    ("later_seconds", "is_older"), [(1.0, False), (0.0, False), (-0.004, False), (-0.1, True), (-3600.0, True)]
)
def test_stacks_of_a_stall_that_was_over_are_called_so(later_seconds: float, is_older: bool) -> None:
    """When they were written is said, and whether that was before the last request began, by more than a tick."""
    began = HEADER.unix - HEADER.monotonic + 42.0
    found = dead_table.read_postmortem(table(row(42.0)), "/tmp/tb", 0.0, b"one\n", began + later_seconds)
    assert found is not None
    assert found.stacks_written_at == began + later_seconds
    _, _, heading, stack = lines(found)
    assert heading.startswith("its last report or stacks, written 19")
    assert heading.endswith(", before its last request began:") == is_older
    assert stack == "  one"


def test_where_no_request_is_known_none_began_later() -> None:
    """The time that is known then is that of the table."""
    header = HEADER._replace(unrecorded_cores=88)
    found = dead_table.read_postmortem(table(row(0.0), header=header), "/tmp/tb", 0.0, b"one\n", 1.0)
    assert found is not None
    assert "before" not in list(lines(found))[-2]


@given(postmortems)
def test_lines_can_always_be_written(value: Postmortem) -> None:
    """Whatever stands in names and paths, a line is one line and can be encoded."""
    for line in lines(value):
        line.encode("utf-8")
        assert line == printable(line)
