"""What happens where nobody gave a limit, and that an idle worker's watchdog sleeps until a request comes."""

from __future__ import annotations

import ctypes
import math
import os
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.interpreters import needs_pydll, needs_raise
from tests.support.waiting import wait_until
from tests.unit.worker.deadlines.test_watchdog import Logged, hanging_until, wait_for
from tests.unit.wsgi import environ, serve
from wsgi_tracebacker import TracebackerMiddleware
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.options.settings import OPTIONS
from wsgi_tracebacker.worker.threads.waker import Waker
from wsgi_tracebacker.worker.tracking.admission import STARTED_HERE, Admission

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

DEFAULT_SECONDS = 0.2


@pytest.fixture
def short_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONS, "harakiri", OPTIONS["harakiri"]._replace(default=DEFAULT_SECONDS))


def quick(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [])
    return [b"done"]


@pytest.mark.usefixtures("short_default")
@pytest.mark.parametrize("action", [None, pytest.param("raise", marks=needs_raise), "kill"])
def test_a_request_without_a_limit_is_reported_and_no_more(
    action: str | None,
    base: str,
    logged: Logged,
) -> None:
    """Whatever the action is: it is for limits that somebody gave."""
    application = TracebackerMiddleware(
        hanging_until(lambda: logged.reports), base, harakiri_action=action, on_harakiri=logged.reports.append
    )
    served = serve(application, environ("/x"))
    assert (served.status, served.error) == ("200 OK", None)
    [report] = logged.reports
    assert (report.limit_seconds, report.limit_source) == (DEFAULT_SECONDS, "default")
    assert (report.action, report.outcome) == ("log", "logged, still running")
    assert "the default: " in wait_for(logged, "slow")[0]


@pytest.mark.usefixtures("short_default")
def test_a_body_lasts_as_long_as_it_likes(base: str, logged: Logged) -> None:
    """Neither a report nor a line; a callable that was slow before its body has its line when that begins."""
    until = 0.0

    def streams(request: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        if request["PATH_INFO"] == "/slow":
            wait_for(logged, "harakiri")

        def body() -> Iterator[bytes]:
            wait_until(lambda: time.monotonic() > until and len(logged.of("slow")) >= at_least, "the body may end")
            yield b"last"

        return body()

    application = TracebackerMiddleware(streams, base)
    until, at_least = time.monotonic() + 3 * DEFAULT_SECONDS, 0
    assert serve(application, environ("/quick")).chunks == [b"last"]
    assert logged.records == []
    at_least = 1
    assert serve(application, environ("/slow")).chunks == [b"last"]
    agent.stop()
    [line] = logged.of("slow")
    assert "phase body; overdue and reported, its body has begun: " in line


def test_zero_switches_it_off(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the call or in the environment: no watchdog runs."""
    serve(TracebackerMiddleware(quick, base, harakiri=0))
    monkeypatch.setenv("WSGI_TB_HARAKIRI", "0")
    serve(TracebackerMiddleware(quick, base))
    found = agent.running()
    assert found is not None
    assert found.deadlines.watchdog is None
    monkeypatch.delenv("WSGI_TB_HARAKIRI")
    serve(TracebackerMiddleware(quick, base))
    assert found.deadlines.watchdog is not None


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the watchdog wanted to sleep, each time."""
    found: list[float] = []
    wait = Waker.wait

    def note(waker: Waker, poll: object, seconds: float) -> bool:
        running = agent.running()
        if running is not None and running.deadlines.watchdog and running.deadlines.watchdog._waker is waker:
            found.append(seconds)
        return wait(waker, poll, seconds)

    monkeypatch.setattr(Waker, "wait", note)
    return found


def test_an_idle_workers_watchdog_sleeps_until_a_request_comes(
    base: str,
    logged: Logged,
    sleeps: list[float],
) -> None:
    """Each first request after that is reported in time, and each that comes when it may be about to fall asleep."""
    application = TracebackerMiddleware(quick, base, harakiri=0.1)
    hanging = TracebackerMiddleware(hanging_until(lambda: len(logged.of("harakiri")) > reported), base, harakiri=0.1)
    for reported in range(4):
        serve(application)
        if reported % 2:
            # A minute, if reports are counted.
            wait_until(lambda: sleeps[-1] > 10.0, "it sleeps")
            assert STARTED_HERE[0] == 0
        assert serve(hanging, environ(f"/{reported}")).error is None
        age = re.match(rf"harakiri: GET /{reported} (\d+\.\d+) s", logged.of("harakiri")[-1])
        # Asleep it would notice it after a minute, if ever; a tenth of a second is meant, and the machine may be busy.
        assert age is not None
        assert float(age[1]) < 20


def test_a_request_that_begins_long_after_it_was_admitted_is_reported(
    base: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is busy elsewhere in between: the watchdog must not fall asleep over it."""
    idle_core = Admission.idle_core

    def be_late(admission: Admission, request: WSGIEnvironment) -> object:
        time.sleep(0.3)
        return idle_core(admission, request)

    monkeypatch.setattr(Admission, "idle_core", be_late)
    application = TracebackerMiddleware(hanging_until(lambda: logged.of("harakiri")), base, harakiri=0.1)
    assert serve(application, environ("/late")).error is None
    assert logged.of("harakiri")[0].startswith("harakiri: GET /late ")


def _switches(tasks: set[str]) -> int:
    """How often these threads have let go of a CPU by themselves: at each sleep."""
    texts = [Path(f"/proc/self/task/{task}/status").read_text(encoding="ascii") for task in tasks]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)


def test_no_thread_of_an_idle_worker_wakes_up(base: str) -> None:
    """By the kernel's count: a watchdog that looked for requests would wake up twenty times a second."""
    before = set(os.listdir("/proc/self/task"))
    assert serve(TracebackerMiddleware(quick, base, harakiri=0.1)).error is None
    ours = set(os.listdir("/proc/self/task")) - before
    counts: list[int] = []

    def has_been_still() -> bool:
        threading.Event().wait(1.0)
        counts.append(_switches(ours))
        # Once in half a minute the listener looks whether its files are still there.
        return len(counts) > 1 and counts[-1] - counts[-2] <= 1

    wait_until(has_been_still, "they sleep")
    assert len(ours) == 2
    assert has_been_still()


def test_a_body_without_a_limit_does_not_keep_it_awake(base: str, sleeps: list[float]) -> None:
    """Server-sent events last for hours."""

    def events(_: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        wait_until(lambda: sleeps[-1:] == [math.inf], "it sleeps")
        yield b"event"

    assert serve(TracebackerMiddleware(quick, base, harakiri=0.1)).error is None
    assert serve(TracebackerMiddleware(events, base)).chunks == [b"event"]


@needs_pydll
def test_an_idle_watchdog_notices_a_first_request_that_keeps_the_gil(
    base: str,
    logged: Logged,
    sleeps: list[float],
) -> None:
    """It watches from the beginning of the request."""
    libc = ctypes.PyDLL(None)

    def hold(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        libc.usleep(1_300_000)
        wait_for(logged, "stall")
        start_response("200 OK", [])
        return [b""]

    application = TracebackerMiddleware(hold, base, harakiri=0.5)
    serve(TracebackerMiddleware(quick, base, harakiri=0.5))
    wait_until(lambda: sleeps[-1:] == [math.inf], "it sleeps")
    assert serve(application, environ("/hold")).error is None
    assert "in flight were GET /hold" in logged.of("stall")[0]
