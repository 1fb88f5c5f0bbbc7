"""A core, and its request as a value: one request, never two halves."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.support.interpreters import drop_what_nobody_has
from tests.support.programs import PROJECT
from wsgi_tracebacker.worker.options.settings import from_options
from wsgi_tracebacker.worker.tracking.core import APP, BODY, Core, Lease
from wsgi_tracebacker.worker.tracking.describe import describe, describe_last


def core(**stores: Any) -> Core:
    made = Core(0, 1, 2, None)
    made.settings = from_options(socket="/x", environment={})
    made.environ, made.started = {}, stores.pop("started", 100.0)
    made.write_row({"REQUEST_METHOD": "GET", "PATH_INFO": stores.pop("path", "/path")}, made.started)
    for name, value in stores.items():
        setattr(made, name, value)
    return made


def test_a_request_is_described_with_its_age() -> None:
    """Start and age come from the monotonic clock, whatever the wall clock does."""
    found = describe(core(), 100.0, 103.5, 1_000_000.0)
    assert found is not None
    assert (found.method, found.path, found.age_seconds, found.started_at) == ("GET", "/path", 3.5, 999_996.5)


def test_a_request_that_began_after_the_clock_was_read_has_no_age_below_zero() -> None:
    """The clock was read before the request began: the age is 0."""
    found = describe(core(), 100.0, 99.0, 50.0)
    assert found is not None
    assert (found.age_seconds, found.started_at) == (0.0, 50.0)


@pytest.mark.parametrize("stores", [{"started": 101.0}, {"started": 0.0}, {"environ": None}, {"settings": None}])
def test_another_request_is_not_described(stores: dict[str, Any]) -> None:
    """A request that has ended, or is ending, has no value."""
    assert describe(core(**stores), 100.0, 103.0, 0.0) is None


def test_a_row_that_holds_the_request_before_is_not_used() -> None:
    """The table's file had vanished, and the row was exchanged while this request was written to the old one."""
    found = describe(
        core(path="/before", started=99.0, environ={"REQUEST_METHOD": "PUT", "PATH_INFO": "/now"}), 99.0, 103.0, 0.0
    )
    assert found is not None
    assert found.path == "/before"
    late = core(path="/before", started=99.0, environ={"REQUEST_METHOD": "PUT", "PATH_INFO": "/now"})
    late.started = 100.0
    found = describe(late, 100.0, 103.0, 0.0)
    assert found is not None
    assert (found.method, found.path) == ("PUT", "/now")


def test_nested_requests_of_an_earlier_one_are_left_out() -> None:
    """What was called within a former request of this core is no part of this one; what has ended neither."""
    outer = core(nested=[core(path="/former", started=99.0), core(path="/now", started=100.5), core(started=0.0)])
    found = describe(outer, 100.0, 103.0, 0.0)
    assert found is not None
    assert [inner.path for inner in found.nested] == ["/now"]


def test_there_is_a_last_request_only_while_idle() -> None:
    """In flight, or before the first request, there is no last one."""
    assert describe_last(core(), 5.0) is None
    assert describe_last(core(started=0.0), 5.0) is None
    ended = describe_last(core(started=0.0, ended=3.0), 5.0)
    assert ended is not None
    assert (ended.path, ended.ended_seconds_ago) == ("/path", 2.0)


def test_without_reference_counts_a_body_is_seen_as_dropped_when_it_was_collected() -> None:
    """The request of a body that is read is in flight there too; and the core's next body is another one."""
    program = """
import gc, sys
if hasattr(sys, "getrefcount"):
    del sys.getrefcount
from wsgi_tracebacker.worker.tracking.core import BODY, Core
made = Core(0, 1, None, None)
made.phase, made.started = BODY, 5.0
held = made.lease
seen = [made.body_was_dropped()]
held = None
gc.collect()
seen.append(made.body_was_dropped())
held = made.lease
seen.append(made.body_was_dropped())
print(seen)
"""
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True, timeout=30).stdout
    assert printed == "[False, True, False]\n"


def test_the_lease_of_a_body_shows_that_it_was_dropped() -> None:
    """While somebody holds the lease the body exists; while the callable runs there is none to drop."""
    made = core(phase=BODY)
    held: Lease | None = made.lease
    assert not made.body_was_dropped()
    assert held is not None
    held = None
    drop_what_nobody_has()
    assert made.body_was_dropped()
    made.phase = APP
    assert not made.body_was_dropped()


def test_the_thread_that_serves() -> None:
    """The thread that called, then the one that reads the body; the next request starts anew."""
    made = core(phase=APP, reader_ident=9)
    assert made.serving_ident() == 1
    made.phase = BODY
    assert made.serving_ident() == 9
    made.end(5.0)
    assert made.reader_ident == 1
