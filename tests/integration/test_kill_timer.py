"""The kill timer kills a worker in which Python cannot run, and no other worker."""

from __future__ import annotations

import functools
import math
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.interpreters import needs_outside_help
from tests.support.stalling import stalling
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.wire.black_box import dead_table, file_names
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.blackbox import box_files
from wsgi_tracebacker.worker.deadlines.timers.kill_timer import KillTimer
from wsgi_tracebacker.worker.reporting import faults
from wsgi_tracebacker.worker.tracking.core import Core

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

pytestmark = needs_outside_help

LIMIT_SECONDS, MARGIN_SECONDS = 0.6, 0.4
#: On a loaded machine.
LATE_SECONDS = 3.0
#: Where only the end matters.
PATIENCE_SECONDS = 30.0


worker = functools.partial(stalling, limit_seconds=LIMIT_SECONDS, margin_seconds=MARGIN_SECONDS)


def test_a_stalled_worker_is_killed_and_its_stacks_are_kept(base: str) -> None:
    """The regular expression holds the GIL for ever; the timers kill the process after its stacks were written."""
    with worker(base, "stall") as process:
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    stacks = box_files.read(box_files.path_of(base, 1, file_names.STACKS))[0] or b""
    assert b"in backtrack_for_ever" in stacks
    table = box_files.read(box_files.path_of(base, 1, file_names.TABLE))[0] or b""
    postmortem = dead_table.read_postmortem(table, base, time.time(), stacks)
    assert postmortem is not None
    assert [(request.method, request.path) for request in postmortem.requests] == [("GET", "/stall")]
    assert postmortem.pid == process.pid


@pytest.mark.parametrize("story", ["stall", "deadlock", "mixed", "own"])
def test_a_stalled_request_is_killed_at_its_own_deadline(base: str, story: str) -> None:
    """With CPU time used or not, beside a request that may take longer, and with no limit but one of its own."""
    with worker(base, story) as process:
        began = time.monotonic()
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        took = time.monotonic() - began
    # It reports that it is ready just before it begins.
    earliest = LIMIT_SECONDS + MARGIN_SECONDS
    assert earliest <= took < earliest + MARGIN_SECONDS / 2 + LATE_SECONDS


def test_a_worker_that_is_stopped_beyond_the_margin_is_killed(base: str) -> None:
    """The timers use the monotonic clock, and SIGKILL ends a stopped process too."""
    with worker(base, "stopped") as process:
        process.send_signal(signal.SIGSTOP)
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL


@pytest.mark.parametrize("story", ["idle", "unlimited", "own, long", "young", "busy", "fork"])
def test_a_worker_without_an_overdue_request_lives(base: str, story: str) -> None:
    """Its GIL is kept for longer than limit and margin without a request, within a request that has no limit or a
    longer one, or just after an old request ended in time; it serves quick requests; and a child that it forks exits.
    """
    with worker(base, story) as process:
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert output == "served on\n"
        assert process.returncode == 0


def test_a_call_that_is_longer_than_the_margin_kills_no_young_request(base: str) -> None:
    """Whenever it begins between two checks of the watchdog. 500 such calls did not kill a worker."""
    with stalling(base, "young calls", "12", limit_seconds=0.6, margin_seconds=0.1) as process:
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert output == "served on\n"
        assert process.returncode == 0


class Requests:
    """Requests with deadlines far away, watched as the agent does it."""

    margin_seconds = 60.0

    def __init__(self) -> None:
        #: The deadlines of those in flight.
        self.deadlines: dict[Core, float] = {}
        self.woken = 0
        self.timer = KillTimer(
            dump_signal=None,
            margin_seconds=self.margin_seconds,
            serving=lambda: list(self.deadlines),
            deadline_of=lambda core, _: self.deadlines.get(core, math.inf),
            wake=self.wake,
        )

    def wake(self) -> None:
        self.woken += 1

    def limit_changed(self, core: Core) -> None:
        self.timer.watch()

    def request_ended(self, core: Core) -> None:
        self.timer.request_ended()

    def begin(self, deadline: float) -> Core:
        core = Core(0, 1, 2, None)
        core.watcher = self
        core.started = 100.0
        self.deadlines[core] = deadline
        if not self.timer.covers_from <= deadline <= self.timer.covers_to:
            self.timer.watch()
        return core

    def change(self, core: Core, deadline: float) -> None:
        self.deadlines[core] = deadline
        self.limit_changed(core)

    def end(self, core: Core) -> None:
        del self.deadlines[core]
        core.end(101.0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "end", "change", "update"]), st.integers(0, 20), st.integers(1, 200)),
    max_size=60,
)


@given(STEPS)
def test_it_is_never_early_and_at_most_half_a_margin_late(steps: list[tuple[str, int, int]]) -> None:
    """Requests begin, end and get other limits in any order, and the watchdog checks at any moment."""
    requests = Requests()
    # No limit has passed when this ends.
    now = time.monotonic() + 10_000
    try:
        for step, which, seconds in steps:
            cores = list(requests.deadlines)
            # With the same limit, a later request has a later deadline.
            now += 1
            deadline = now + seconds if seconds < 180 else math.inf
            if step == "begin":
                requests.begin(now + 30 if seconds < 100 else deadline)
            elif step == "update":
                assert requests.timer.update() is any(each < math.inf for each in requests.deadlines.values())
            elif cores:
                core = cores[which % len(cores)]
                if step == "end":
                    requests.end(core)
                else:
                    requests.change(core, deadline)
            if requests.deadlines:
                first = min(requests.deadlines.values())
                assert first <= requests.timer.due <= first + requests.margin_seconds / 2
                assert first < math.inf or requests.timer.due == math.inf
        for core in list(requests.deadlines):
            requests.end(core)
        assert not requests.timer.update()
        assert requests.timer.due == math.inf
    finally:
        requests.timer.close()


def test_requests_with_the_same_limit_set_the_timers_once_in_half_a_margin() -> None:
    """The others compare two numbers and do nothing."""
    requests = Requests()
    now = time.monotonic() + 10_000
    half = requests.margin_seconds / 2
    try:
        seen = set()
        for number in range(1_000):
            requests.end(requests.begin(now + number / 1_000 * 2 * half))
            seen.add(requests.timer.due)
        assert len(seen) == 2
        assert requests.woken == 1
    finally:
        requests.timer.close()


def test_the_watchdog_is_woken_when_the_timers_were_not_set() -> None:
    """After a time without requests that have a deadline, and not for each request."""
    requests = Requests()
    now = time.monotonic() + 10_000
    try:
        cores = [requests.begin(now + deadline) for deadline in (100, 50, 200, math.inf)]
        assert requests.woken == 1
        for core in cores:
            requests.end(core)
        assert not requests.timer.update()
        assert requests.timer.covers_from <= math.inf <= requests.timer.covers_to
        requests.begin(math.inf)
        assert requests.woken == 1
        requests.begin(now + 100)
        assert requests.woken == 2
    finally:
        requests.timer.close()


def test_a_garbage_collection_while_it_is_set_may_end_another_request() -> None:
    """A body that was dropped in a cycle is closed in any collection, also while the timer's lock is held."""
    requests = Requests()
    now = time.monotonic() + 10_000
    try:
        other = requests.begin(now + 170)
        dropped = requests.begin(now + 50)

        def deadline_of(core: Core, _: float) -> float:
            deadline = requests.deadlines.get(core, math.inf)
            if core is dropped and dropped.started:
                requests.end(dropped)
            return deadline

        requests.timer._deadline_of = deadline_of
        beginning = threading.Thread(target=requests.begin, args=(now + 40,), daemon=True)
        beginning.start()
        beginning.join(PATIENCE_SECONDS)
        assert not beginning.is_alive()
        assert other in requests.deadlines
        assert now + 40 <= requests.timer.due <= now + 40 + requests.margin_seconds / 2
    finally:
        requests.timer.close()


class TooLongError(Exception):
    """An application's own time-out, raised by its signal handler."""


@pytest.mark.parametrize("when", ["begins", "ends"])
def test_a_time_out_by_signal_comes_through(base: str, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """It may be raised anywhere in the main thread: the server gets it, and it is no fault of ours."""
    update = KillTimer.update
    strikes = False

    def time_out(*_: object) -> None:
        raise TooLongError

    def update_and_raise(timer: KillTimer) -> bool:
        nonlocal strikes
        is_set = update(timer)
        if strikes and threading.current_thread() is threading.main_thread():
            strikes = False
            signal.raise_signal(signal.SIGALRM)
        return is_set

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        nonlocal strikes
        core = agent.serving_core()
        assert core is not None
        core.reports_end = strikes = environ["PATH_INFO"] == "/ends"
        start_response("200 OK", [])
        return [b""]

    wrapped = TracebackerMiddleware(application, base, harakiri=lambda _: next(limits), harakiri_action="kill")
    # The second one has an earlier deadline than the timers are set for.
    limits = iter([600.0, 60.0])
    serve(wrapped)
    monkeypatch.setattr(KillTimer, "update", update_and_raise)
    before = signal.signal(signal.SIGALRM, time_out)
    try:
        strikes = when == "begins"
        served = serve(wrapped, environ(f"/{when}"))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert isinstance(served.error, TooLongError)
    assert faults.count() == 0


def test_a_request_that_did_not_wait_for_the_timers_is_followed_by_one_that_has_them(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request of a process makes them; another one does not wait for that for long."""
    making, may_be_made = threading.Event(), threading.Event()
    seconds_left: list[float] = []

    def make(**options: Any) -> KillTimer:
        making.set()
        assert may_be_made.wait(PATIENCE_SECONDS)
        return KillTimer(**options)

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        own = agent.running()
        assert own is not None
        timer = own.deadlines.kill_timer
        seconds_left.append(timer.due - time.monotonic() if timer is not None else math.inf)
        start_response("200 OK", [])
        return [b""]

    monkeypatch.setattr("wsgi_tracebacker.worker.deadlines.timers.kill_timer.KillTimer", make)
    limits = {"/": 600.0, "/short": 60.0}
    wrapped = TracebackerMiddleware(application, base, harakiri=limits, harakiri_action="kill")
    first = threading.Thread(target=serve, args=(wrapped,))
    first.start()
    assert making.wait(PATIENCE_SECONDS)
    serve(wrapped, environ("/short"))
    assert seconds_left == [math.inf]
    may_be_made.set()
    first.join()
    serve(wrapped, environ("/short"))
    assert seconds_left[-1] <= 61.0


def test_it_may_be_closed_during_an_update() -> None:
    """When a worker stops, no timer is set after it was deleted."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    refused: list[OSError] = []

    def update(requests: Requests, begun: threading.Event) -> None:
        try:
            for number in range(100):
                requests.change(core, time.monotonic() + 10_000 + number % 2 * 1_000)
                if number == 1:
                    begun.set()
        except OSError as error:
            refused.append(error)

    try:
        for _ in range(100):
            requests = Requests()
            core = requests.begin(time.monotonic() + 10_000)
            begun = threading.Event()
            updating = threading.Thread(target=update, args=(requests, begun))
            updating.start()
            begun.wait()
            requests.timer.close()
            updating.join()
    finally:
        sys.setswitchinterval(interval)
    assert refused == []
