"""Killing a worker in which Python cannot run, and nobody else."""

from __future__ import annotations

import _thread
import ctypes
import errno
import functools
import math
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.interpreters import needs_outside_help
from tests.support.stalling import stalling
from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.wire import postmortem_json as postmortem_format
from wsgi_tracebacker.wire import table_layout as layout
from wsgi_tracebacker.worker import agent, black_box_files, faults
from wsgi_tracebacker.worker.fuse import Fuse
from wsgi_tracebacker.worker.requests import Core

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

pytestmark = needs_outside_help

LIMIT_SECONDS, MARGIN_SECONDS = 0.6, 0.4
#: For the guard's CPU time, which others want too, and for a machine that does much else.
LATE_SECONDS = 3.0
#: More than that, where only the end matters.
PATIENCE_SECONDS = 30.0


worker = functools.partial(stalling, limit_seconds=LIMIT_SECONDS, margin_seconds=MARGIN_SECONDS)


def timers_of(pid: int) -> int:
    with open(f"/proc/{pid}/timers", encoding="utf-8") as file:
        return sum(line.startswith("ID:") for line in file)


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_a_stalled_worker_is_killed_and_its_stacks_are_kept(base: str) -> None:
    """The regular expression holds the GIL for ever; timers of the kernel end the process, its stacks written."""
    with worker(base, "stall") as process:
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    stacks = black_box_files.read(black_box_files.path_of(base, 1, layout.STACKS))[0] or b""
    assert b"in backtrack_for_ever" in stacks
    table = black_box_files.read(black_box_files.path_of(base, 1, layout.TABLE))[0] or b""
    postmortem = postmortem_format.of_table(table, base, time.time(), stacks)
    assert postmortem is not None
    assert [(request.method, request.path) for request in postmortem.requests] == [("GET", "/stall")]
    assert postmortem.pid == process.pid


@pytest.mark.parametrize("story", ["stall", "deadlock", "mixed", "own"])
def test_a_stalled_request_is_killed_at_its_own_deadline(base: str, story: str) -> None:
    """With CPU time used or not, beside a request that may take longer, and with no limit but what it gave itself."""
    with worker(base, story) as process:
        began = time.monotonic()
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        took = time.monotonic() - began
    # It said that it was ready a little before it began.
    assert LIMIT_SECONDS + MARGIN_SECONDS <= took < LIMIT_SECONDS + MARGIN_SECONDS + LATE_SECONDS


def test_a_stopped_worker_is_not_killed_for_the_time_it_was_stopped(base: str) -> None:
    """SIGSTOP within a request, for longer than its limit and margin, then SIGCONT: it ends, the next one is served."""
    limit_seconds = 2.0
    with worker(base, "stopped", limit_seconds=limit_seconds) as process:
        wait_until(lambda: timers_of(process.pid) == 4, "the watchdog has set its alarm")
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: state_of(process.pid) == "T", "it is stopped")
        stopped_until = time.monotonic() + limit_seconds + MARGIN_SECONDS + 1.1
        wait_until(lambda: time.monotonic() > stopped_until, "its limit and margin have passed")
        assert state_of(process.pid) == "T"
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert output == "served on\n"
        assert process.returncode == 0


@pytest.mark.parametrize("story", ["idle", "unlimited", "own, long", "young", "busy", "fork"])
def test_who_is_not_overdue_lives(base: str, story: str) -> None:
    """Who keeps the GIL for longer than limit and margin without a request, within one that has no limit or a longer
    one, or just after an old one ended in time; quick requests; and one that forks a child which exits.
    """
    with worker(base, story) as process:
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert output == "served on\n"
        assert process.returncode == 0


class Deadlines:
    """What a fuse asks for deadlines, with cores whose requests never end by themselves."""

    def __init__(self) -> None:
        self.of: dict[Core, float] = {}
        self.woken = 0

    def fuse(self) -> Fuse:
        return Fuse(
            allocate_lock=_thread.allocate_lock,
            start_thread=lambda work: _thread.start_new_thread(work, ()),
            dump_signal=None,
            margin_seconds=60.0,
            deadline_of=lambda core, _: self.of.get(core, math.inf),
            wake=self.wake,
        )

    def wake(self) -> None:
        self.woken += 1

    def request(self, deadline: float) -> Core:
        core = Core(0, 1, 2, None)
        core.started = 100.0
        self.of[core] = deadline
        return core


def test_it_is_armed_for_the_earliest_deadline_in_flight_and_for_no_other() -> None:
    """Whoever begins, ends or gets another limit, in whatever order; with nobody in flight it is not armed."""
    deadlines = Deadlines()
    now = time.monotonic()
    fuse = deadlines.fuse()
    try:
        late, early, without = deadlines.request(now + 100), deadlines.request(now + 50), deadlines.request(math.inf)

        def armed_for() -> int:
            return round(fuse.armed_for - now) if fuse.armed_for else 0

        for core, armed in ((late, 160), (early, 110), (without, 110)):
            fuse.attend(core)
            assert armed_for() == armed
        for deadline, armed in ((now + 200, 160), (math.inf, 160), (now + 50, 110)):
            deadlines.of[early] = deadline
            fuse.attend(early)
            assert armed_for() == armed
        for core, armed in ((early, 160), (late, 0)):
            core.end(now)
            assert armed_for() == armed
        assert late.fuse is early.fuse is without.fuse is None
        # The watchdog finds one that began unseen, and one that ended so.
        early.started = 101.0
        fuse.push([early])
        assert armed_for() == 110
        early.fuse = None
        early.end(now)
        fuse.push([])
        assert armed_for() == 0
    finally:
        fuse.close()


def test_a_request_that_begins_is_not_ended_with_the_one_before() -> None:
    """A dropped body's request may be ended by another thread while its own goes on to the next."""
    deadlines = Deadlines()
    fuse = deadlines.fuse()
    try:
        core = deadlines.request(time.monotonic() + 50)
        fuse.attend(core)
        core.started = 101.0
        fuse.attend(core)
        fuse.request_ended(core)
        assert fuse.armed_for > 0.0
        assert core.fuse is fuse
    finally:
        fuse.close()


def test_a_garbage_collection_while_it_is_armed_may_end_another_request() -> None:
    """A body that was dropped in a cycle is closed wherever a collection comes, within the fuse's lock too."""
    deadlines = Deadlines()
    fuse = deadlines.fuse()
    now = time.monotonic()
    dropped, other = deadlines.request(now + 50), deadlines.request(now + 70)

    class Due(dict):  # type: ignore[type-arg]
        """Is walked while a collection comes."""

        def copy(self) -> Any:
            found = super().copy()
            if dropped.started:
                dropped.end(now)
            return found

    def begin() -> None:
        fuse.attend(dropped)
        fuse._due = Due(fuse._due)
        fuse.attend(other)

    try:
        beginning = threading.Thread(target=begin, daemon=True)
        beginning.start()
        beginning.join(PATIENCE_SECONDS)
        assert not beginning.is_alive()
        assert round(fuse.armed_for - now) == 70 + 60
        assert list(fuse._due) == [other]
    finally:
        fuse.close()


class TooLongError(Exception):
    """An application's own time-out, raised by its signal handler."""


@pytest.mark.parametrize("when", ["begins", "ends"])
def test_a_time_out_by_signal_comes_through_the_fuse(base: str, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """It strikes wherever the main thread is: it means the application, and is no fault of ours."""
    arm = Fuse._arm
    strikes = False

    def time_out(*_: object) -> None:
        raise TooLongError

    def arm_and_strike(fuse: Fuse) -> None:
        nonlocal strikes
        arm(fuse)
        if strikes and threading.current_thread() is threading.main_thread():
            strikes = False
            signal.raise_signal(signal.SIGALRM)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        nonlocal strikes
        strikes = environ["PATH_INFO"] == "/ends"
        start_response("200 OK", [])
        return [b""]

    wrapped = TracebackerMiddleware(application, base, harakiri=60.0, harakiri_action="kill")
    serve(wrapped)
    monkeypatch.setattr(Fuse, "_arm", arm_and_strike)
    before = signal.signal(signal.SIGALRM, time_out)
    try:
        strikes = when == "begins"
        served = serve(wrapped, environ(f"/{when}"))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert isinstance(served.error, TooLongError)
    assert faults.count() == 0


def test_it_wakes_the_watchdog_once_and_not_for_every_request() -> None:
    """It has to look around now and then while requests come, so that it sees for how long the process was stopped."""
    deadlines = Deadlines()
    fuse = deadlines.fuse()
    try:
        for _ in range(3):
            core = deadlines.request(time.monotonic() + 50)
            fuse.attend(core)
            core.end(0.0)
        assert deadlines.woken == 1
        assert fuse.push([])
        core = deadlines.request(time.monotonic() + 50)
        fuse.attend(core)
        assert deadlines.woken == 1
        assert fuse.push([core])
        core.end(0.0)
        assert not fuse.push([])
        fuse.attend(deadlines.request(math.inf))
        assert deadlines.woken == 1
        fuse.attend(deadlines.request(time.monotonic() + 50))
        assert deadlines.woken == 2
    finally:
        fuse.close()


def test_no_request_goes_on_before_there_is_a_fuse(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request of a process makes it; another thread's first one, which may stall at once, waits for that."""
    making, may_be_made = threading.Event(), threading.Event()
    seen: list[Fuse | None] = []

    def make(**options: Any) -> Fuse:
        making.set()
        assert may_be_made.wait(PATIENCE_SECONDS)
        return Fuse(**options)

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        core = agent.serving_core()
        assert core is not None
        seen.append(core.fuse)
        start_response("200 OK", [])
        return [b""]

    monkeypatch.setattr("wsgi_tracebacker.worker.fuse.Fuse", make)
    wrapped = TracebackerMiddleware(application, base, harakiri=60.0, harakiri_action="kill")
    first, second = (threading.Thread(target=serve, args=(wrapped,)) for _ in range(2))
    first.start()
    assert making.wait(PATIENCE_SECONDS)
    second.start()
    second.join(0.3)
    assert seen == []
    may_be_made.set()
    first.join()
    second.join()
    assert [fuse is not None for fuse in seen] == [True, True]


def test_its_alarm_ends_any_sleep_of_the_watchdog() -> None:
    """Also one for which the kernel does not count the time that the process was stopped; and a late one, again."""
    deadlines = Deadlines()
    fuse = deadlines.fuse()
    ppoll, ten_seconds = ctypes.CDLL(None, use_errno=True).ppoll, (ctypes.c_long * 2)(10, 0)
    slept: list[tuple[int, int, float]] = []

    def sleep() -> None:
        began = time.monotonic()
        fuse.alarm(began + 0.1)
        for _ in range(2):
            result = ppoll(None, 0, ten_seconds, None)
            slept.append((result, ctypes.get_errno(), time.monotonic() - began))

    try:
        sleeping = threading.Thread(target=sleep)
        sleeping.start()
        sleeping.join()
    finally:
        fuse.close()
    assert [(result, error) for result, error, _ in slept] == [(-1, errno.EINTR)] * 2
    assert 0.1 <= slept[0][2] < slept[1][2] < 5.0


def test_it_may_be_closed_while_it_is_pushed() -> None:
    """The end of a worker beside its watchdog: no timer is set that was deleted."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    refused: list[OSError] = []
    deadlines = Deadlines()
    core = deadlines.request(time.monotonic() + 60.0)

    def push(fuse: Fuse, begun: threading.Event) -> None:
        try:
            for number in range(100):
                fuse.push([core])
                if number == 1:
                    begun.set()
        except OSError as error:
            refused.append(error)

    try:
        for _ in range(100):
            fuse = deadlines.fuse()
            begun = threading.Event()
            pushing = threading.Thread(target=push, args=(fuse, begun))
            pushing.start()
            begun.wait()
            fuse.close()
            pushing.join()
    finally:
        sys.setswitchinterval(interval)
    assert refused == []
