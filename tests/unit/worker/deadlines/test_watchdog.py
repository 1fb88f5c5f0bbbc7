"""The watchdog reports, interrupts and kills for requests that are slow and overdue."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import math
import os
import queue
import random
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.interpreters import needs_outside_help, needs_pydll, needs_raise, only_on_cpython
from tests.support.waiting import wait_until
from tests.unit.wsgi import environ, requests_in, serve, snapshot
from wsgi_tracebacker import (
    ConfigurationError,
    HarakiriReport,
    HarakiriTimeout,
    NotInRequest,
    TracebackerMiddleware,
    set_harakiri,
)
from wsgi_tracebacker.text import report as report_format
from wsgi_tracebacker.wire.black_box import file_names, table_header, table_rows
from wsgi_tracebacker.worker import agent
from wsgi_tracebacker.worker.blackbox import box_files
from wsgi_tracebacker.worker.deadlines import watchdog
from wsgi_tracebacker.worker.deadlines.slow_request import SlowRequest
from wsgi_tracebacker.worker.deadlines.thresholds import thresholds
from wsgi_tracebacker.worker.reporting import faults, logs, reporter
from wsgi_tracebacker.worker.reporting.reporter import Repeats
from wsgi_tracebacker.worker.threads.waker import Waker
from wsgi_tracebacker.worker.tracking.handle import HANDLE_KEY
from wsgi_tracebacker.worker.waits.sources import WaitSources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi_tracebacker.model.waits import WaitsFor

NEVER = math.inf


class Logged:
    """What goes out on the harakiri and slow loggers."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str, dict[str, Any]]] = []
        self.reports: list[HarakiriReport] = []

    def emit(self, name: str, level: int, message: str, *arguments: object, **more: Any) -> None:
        self.records.append((name, message % arguments if arguments else message, more.get("content") or {}))

    def of(self, kind: str) -> list[str]:
        return [message for name, message, _ in self.records if name.endswith(kind)]


def wait_for(logged: Logged, kind: str, count: int = 1) -> list[str]:
    wait_until(lambda: len(logged.of(kind)) >= count, lambda: f"{count} of {kind}: {logged.records}")
    return logged.of(kind)


def hanging_until(condition: Callable[[], object]) -> WSGIApplication:
    """An application that ends when something is true."""

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        wait_until(condition, "the test lets it end")
        start_response("200 OK", [])
        return [b""]

    return application


def test_an_overdue_request_is_reported_once_and_again_when_it_has_ended(base: str, logged: Logged) -> None:
    """An ERROR when it is overdue, whose value on_harakiri gets, and one line when it ends."""
    application = TracebackerMiddleware(
        hanging_until(lambda: logged.reports and time.monotonic() > until),
        base,
        harakiri=0.2,
        on_harakiri=logged.reports.append,
    )
    until = time.monotonic() + 0.6
    serve(application, environ("/x"))
    [slow] = wait_for(logged, "slow")
    [overdue] = logged.of("harakiri")
    assert overdue.startswith("harakiri: GET /x ")
    assert "(limit 0.2 s)" in overdue
    assert slow.startswith("slow: GET /x 0.")
    assert "overdue and reported, ended at last" in slow
    [report] = logged.reports
    assert (report.kind, report.action, report.limit_seconds, report.request.path) == ("harakiri", "log", 0.2, "/x")
    assert report.stack is not None
    assert report.stack.frames[-1].function.rpartition(".")[2] == "wait_until"
    with pytest.raises(AttributeError):
        report.pid = 1  # type: ignore[misc]
    table = Path(box_files.path_of(base, 1, file_names.TABLE)).read_bytes()
    kinds = tuple(int(kind == ("log", report.verdict.kind)) for kind in table_header.KINDS)
    assert table_header.decode_header(table).counted == table_header.Counted(harakiri=1, slow=1, harakiri_kinds=kinds)
    assert table_rows.count_requests(table) == 1


def sleeps_to_its_end(_: WSGIEnvironment, start_response: StartResponse) -> Any:
    """Stay in C code up to the end of the body, so that no Python code runs in which anything could be raised."""
    start_response("200 OK", [])
    return iter(functools.partial(time.sleep, 0.8), None)


def catches(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    with contextlib.suppress(HarakiriTimeout):
        while True:
            time.sleep(0.01)
    start_response("200 OK", [])
    return [b""]


def goes_on(_: WSGIEnvironment, __: StartResponse) -> NoReturn:
    while True:
        time.sleep(0.01)


@needs_raise
@pytest.mark.parametrize(
    ("application", "status"),
    [
        (sleeps_to_its_end, "200 OK"),
        (catches, "200 OK"),
        (goes_on, "504 Gateway Timeout"),
    ],
)
def test_the_slow_line_says_that_the_exception_was_raised(
    application: WSGIApplication, status: str, base: str, logged: Logged
) -> None:
    """Only the status tells how the request ended: by itself, with the exception caught, or interrupted."""
    served = serve(TracebackerMiddleware(application, base, harakiri=0.2, harakiri_action="raise"))
    assert served.status == status
    [line] = wait_for(logged, "slow")
    assert "; ended after HarakiriTimeout was raised: " in line
    assert "; HarakiriTimeout raised in its thread" in logged.of("harakiri")[0]


def test_a_slow_request_gets_one_line_when_it_ends(base: str, logged: Logged) -> None:
    """slow= works without harakiri=, and nothing is logged for a request that is not slow."""
    until = [0.0]
    application = TracebackerMiddleware(hanging_until(lambda: time.monotonic() > until[0]), base, slow=0.15)
    serve(application)
    until[0] = time.monotonic() + 0.4
    serve(application, environ("/slow"))
    [line] = wait_for(logged, "slow")
    assert line.startswith("slow: GET /slow 0.")
    assert "; ended: 0." in line
    assert len(line.splitlines()) == 1
    assert logged.of("harakiri") == []


def test_a_storm_logs_a_bounded_number_and_counts_the_rest(base: str, logged: Logged) -> None:
    """A thousand requests that are slow in the same place: one line, and one that says how many more."""
    repeats = Repeats()
    logged_in_full = sum(repeats.admit(("same",), f"GET /{number}", 100.0) for number in range(1_000))
    assert logged_in_full == 1
    assert repeats.summary(159.0) == []
    assert repeats.summary(160.0) == [("GET /0", 999)]
    assert repeats.ends_at() is None


@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0, 20)), max_size=300))
def test_summaries_add_up(storm: list[tuple[int, float]]) -> None:
    """In any order, each report is either logged or counted, and the number of logged ones is bounded."""
    repeats = Repeats()
    now = 0.0
    logged_in_full = counted = in_window = 0
    for key, pause in storm:
        now += pause
        ended = repeats.summary(now)
        counted += sum(count for _, count in ended)
        if repeats.ends_at() is None:
            in_window = 0
        admitted = repeats.admit((key,), f"GET /{key}", now)
        logged_in_full += admitted
        in_window += admitted
        assert in_window <= 20
    counted += sum(count for _, count in repeats.summary(NEVER))
    assert logged_in_full + counted == len(storm)


def test_what_was_counted_is_logged_at_the_end(base: str, logged: Logged) -> None:
    """A worker that stops within the minute logs its summaries."""

    def is_sampled() -> bool:
        [own] = agent._agents.values()
        dog = own.deadlines.watchdog
        return dog is not None and any(
            slow.core.started == slow.token and slow._last_sample is not None for slow in list(dog._slow.values())
        )

    application = TracebackerMiddleware(hanging_until(is_sampled), base, slow=0.05)
    for _ in range(3):
        serve(application)
    [own] = agent._agents.values()
    dog = own.deadlines.watchdog
    assert dog is not None
    wait_until(lambda: not dog._slow, "all have ended")
    agent.stop()
    assert logged.of("slow")[-1] == "slow: 2 more requests in the last minute at the same place as GET /"


def test_the_clock_may_be_set(base: str, logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """By years forward and back, all the time: the report is logged when it is due."""
    monkeypatch.setattr(time, "time", lambda: random.uniform(0, 4e9))
    began = time.monotonic()
    serve(TracebackerMiddleware(hanging_until(lambda: logged.of("harakiri")), base, harakiri=0.3))
    assert 0.3 <= time.monotonic() - began < 5
    assert "(limit 0.3 s)" in logged.of("harakiri")[0]


def test_one_overdue_request_does_not_delay_another(base: str, logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one for which the watchdog itself fails."""
    original = SlowRequest._report_overdue

    def failing(self: SlowRequest, *arguments: Any) -> None:
        if self.core.request_line() == "GET /0":
            raise OSError
        original(self, *arguments)

    monkeypatch.setattr(SlowRequest, "_report_overdue", failing)

    def all_seen() -> bool:
        # The first request starts the agent, and may be overdue after the others.
        has_failed = any("in the watchdog, on one request" in message for _, message, _ in logged.records)
        return has_failed and len(logged.of("harakiri")) >= 2

    application = TracebackerMiddleware(hanging_until(all_seen), base, harakiri=0.2)
    # Different lines of the test call it, so that no report repeats another.
    threads = [
        threading.Thread(target=lambda: serve(application, environ("/0"))),
        threading.Thread(target=lambda: serve(application, environ("/1"))),
        threading.Thread(target=lambda: (serve(application, environ("/2")), None)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {line.split()[2] for line in logged.of("harakiri")} == {"/1", "/2"}
    assert any("in the watchdog, on one request" in message for _, message, _ in logged.records)
    faults.forget()


class Killed(Exception):
    pass


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The calls that would have killed a process."""
    made: list[tuple[object, ...]] = []

    def leave(code: int) -> NoReturn:
        made.append(("_exit", code))
        raise Killed

    monkeypatch.setattr(os, "kill", lambda *arguments: made.append(arguments))
    monkeypatch.setattr(os, "_exit", leave)
    return made


@pytest.mark.parametrize("is_init", [False, True])
def test_kill(
    is_init: bool, base: str, logged: Logged, kills: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its report this process gets SIGKILL; pid 1 exits, because the kernel ignores its own signals."""
    pid = os.getpid()
    if is_init:
        monkeypatch.setattr(os, "getpid", lambda: 1)
    serve(TracebackerMiddleware(hanging_until(lambda: kills), base, harakiri=0.1, harakiri_action="kill"))
    assert kills[0] == (("_exit", 137) if is_init else (pid, signal.SIGKILL))
    [report] = logged.of("harakiri")
    assert "; killing this worker" in report
    faults.forget()


@needs_outside_help
def test_there_is_no_kill_for_a_request_that_ended(
    base: str, logged: Logged, kills: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request ends while its report is logged, and the process lives."""
    ended = threading.Event()
    emit = logged.emit

    def slowly(*arguments: Any, **more: Any) -> None:
        emit(*arguments, **more)
        ended.wait(10)

    monkeypatch.setattr(logs, "emit", slowly)
    serve(TracebackerMiddleware(hanging_until(lambda: logged.records), base, harakiri=0.1, harakiri_action="kill"))
    ended.set()
    wait_for(logged, "slow")
    assert kills == []


def test_a_fault_in_the_report_does_not_keep_the_process_alive(
    base: str, logged: Logged, kills: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator asked for the kill, and a fault of ours must not prevent it."""

    def failing(*_: object) -> NoReturn:
        raise OSError

    monkeypatch.setattr(report_format, "lines", failing)
    serve(TracebackerMiddleware(hanging_until(lambda: kills), base, harakiri=0.1, harakiri_action="kill"))
    assert kills
    faults.forget()


@needs_outside_help
def test_a_fault_while_logging_hangs_does_not_stop_the_watchdog(
    base: str, kills: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The handler never returns from the first of two lines: the request is killed in time, both are on stderr."""
    let_go = threading.Event()
    hanging: list[str] = []

    def hang(_: str, __: int, message: str, *arguments: object, **___: Any) -> None:
        hanging.append(message % arguments)
        let_go.wait(30)

    check, failed = watchdog.Watchdog._check, threading.Event()

    def check_or_fail(self: watchdog.Watchdog, planned: float) -> float:
        if not failed.is_set():
            failed.set()
            raise OSError("of ours")
        return check(self, planned)

    monkeypatch.setattr(logs, "emit", hang)
    monkeypatch.setattr(watchdog.Watchdog, "_check", check_or_fail)
    faults.forget()
    try:
        serve(TracebackerMiddleware(hanging_until(lambda: kills), base, harakiri=0.2, harakiri_action="kill"))
    finally:
        let_go.set()
    assert hanging
    lines = capfd.readouterr().err
    assert "ERROR wsgi_tracebacker (logging hangs): a fault of wsgi_tracebacker, in the watchdog" in lines
    assert "OSError: of ours" in lines
    assert "ERROR wsgi_tracebacker.harakiri (logging hangs): harakiri: " in lines
    faults.forget()


# --- limits of a request's own


def limit_seen(application: WSGIApplication, base: str, request: WSGIEnvironment | None = None, **options: Any) -> Any:
    """The limit of a request that runs now, in seconds since its start; None for none."""
    seen: list[float | None] = []

    def inner(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        result = application(environ, start_response)
        core = agent.serving_core()
        assert core is not None
        overdue_at = thresholds(core, core.started)[1]
        seen.append(None if overdue_at == NEVER else round(overdue_at - core.started, 3))
        return result

    serve(TracebackerMiddleware(inner, base, **options), request)
    return seen[0]


def quick(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [])
    return [b""]


def test_a_mapping_and_a_callable_decide(base: str) -> None:
    """Each request has the limit that they give for it."""
    prefixes = {"/": 10, "/report": 60, "/upload": None}
    assert limit_seen(quick, base, environ("/page"), harakiri=prefixes) == 10
    assert limit_seen(quick, base, environ("/report/x"), harakiri=prefixes) == 60
    assert limit_seen(quick, base, environ("/upload"), harakiri=prefixes) is None
    assert limit_seen(quick, base, environ("/page"), harakiri=lambda request: len(request["PATH_INFO"])) == 5
    assert limit_seen(quick, base, environ("/page"), harakiri=lambda request: None) is None


@pytest.mark.parametrize("wrong", [OSError(), "30", -1, True, object()])
def test_a_callable_that_fails_costs_nobody_a_response(wrong: object, base: str, logged: Logged) -> None:
    """It raises, or does not return a number: that is logged once, and the requests are served without a limit."""

    def decide(_: WSGIEnvironment) -> Any:
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    faults.forget()
    application = TracebackerMiddleware(quick, base, harakiri=decide)
    for _ in range(3):
        assert serve(application).status == "200 OK"
    reporter.current().flush(10.0)
    [line] = [message for _, message, _ in logged.records]
    assert "when the harakiri callable was asked for a limit" in line
    faults.forget()


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_what_is_raised_into_a_callable_gets_through(error: BaseException, base: str, logged: Logged) -> None:
    """A server ends a worker by SystemExit in any running code: it gets the exception, and the request is over."""

    def decide(request: WSGIEnvironment) -> float:
        if request["PATH_INFO"] == "/ends":
            raise error
        return 5

    application = TracebackerMiddleware(quick, base, harakiri=decide)
    for _ in range(2):
        assert serve(application, environ("/ends")).error is error
        assert requests_in(snapshot(base)) == []
    assert serve(application).status == "200 OK"
    assert logged.records == []


def test_set_harakiri(base: str) -> None:
    """The limit counts from the call on, with and without harakiri=; 0 takes it away; the last call counts."""

    def setting(*seconds: float) -> WSGIApplication:
        def application(request: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
            for value in seconds:
                set_harakiri(value)
            return quick(request, start_response)

        return application

    assert limit_seen(setting(7), base) == pytest.approx(7, abs=0.5)
    assert limit_seen(setting(7, 90), base, harakiri=30) == pytest.approx(90, abs=0.5)
    assert limit_seen(setting(7, 0), base, harakiri=30) is None
    assert limit_seen(quick, base, harakiri=30) == 30


def test_set_harakiri_needs_a_request(base: str) -> None:
    """Before the first request, after the last, and in a thread that serves none, it raises NotInRequest."""
    with pytest.raises(NotInRequest, match="no request in flight"):
        set_harakiri(5)
    outcomes: list[object] = []

    def helped(request: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        handles.append(request[HANDLE_KEY])

        def help_out() -> None:
            try:
                set_harakiri(5)
            except NotInRequest as error:
                outcomes.append(str(error))
            request[HANDLE_KEY].set_harakiri(11)

        thread = threading.Thread(target=help_out)
        thread.start()
        thread.join()
        with pytest.raises(ConfigurationError):
            set_harakiri(-1)
        return quick(request, start_response)

    handles: list[Any] = []
    # The handle does the same from any thread.
    assert limit_seen(helped, base) == pytest.approx(11, abs=0.5)
    assert outcomes
    with pytest.raises(NotInRequest):
        set_harakiri(5)
    with pytest.raises(NotInRequest):
        handles[0].set_harakiri(5)
    with pytest.raises(NotInRequest):
        _ = handles[0].age_seconds


def test_set_harakiri_of_a_nested_call_is_the_requests(base: str) -> None:
    """A WSGI call within a request has no deadline of its own."""

    def inner(request: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        set_harakiri(9)
        return quick(request, start_response)

    nested = TracebackerMiddleware(inner, base)

    def outer(request: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        serve(nested, environ("/inner"))
        return quick(request, start_response)

    assert limit_seen(outer, base, harakiri=30) == pytest.approx(9, abs=0.5)


def test_a_shorter_limit_wakes_the_watchdog(base: str, logged: Logged) -> None:
    """It would sleep for half an hour when a request sets itself a limit of 0.2 s."""

    def application(request: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        set_harakiri(0.2)
        wait_for(logged, "harakiri")
        return quick(request, start_response)

    began = time.monotonic()
    assert serve(TracebackerMiddleware(application, base, harakiri=3600)).error is None
    assert time.monotonic() - began < 5


def test_limits_by_a_callable_wake_the_watchdog_only_where_they_get_shorter(
    base: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It plans for the shortest limit so far, and a request with a shorter one is reported in time."""
    woken: list[Waker] = []
    wake = Waker.wake

    def count(waker: Waker) -> None:
        woken.append(waker)
        wake(waker)

    monkeypatch.setattr(Waker, "wake", count)
    application = TracebackerMiddleware(quick, base, harakiri=lambda request: 600.0 / len(request["PATH_INFO"]))
    for path in ["/ab", "/a", "/"] * 100:
        serve(application, environ(path))
    assert 1 <= len(woken) <= 5
    hanging = hanging_until(lambda: logged.of("harakiri"))
    serve(TracebackerMiddleware(hanging, base, harakiri=lambda _: 0.3), environ("/short"))
    # On a busy machine it may be a little late.
    assert re.match(r"harakiri: GET /short [\d.]+ s \(limit 0\.3 s\)", wait_for(logged, "harakiri")[0])


def test_the_report_stands_in_the_stacks_file_until_a_stop(base: str, logged: Logged) -> None:
    """It is written before it is logged, and the file is deleted by an orderly stop."""
    path = box_files.path_of(base, 1, file_names.STACKS)
    serve(TracebackerMiddleware(hanging_until(lambda: logged.of("harakiri")), base, harakiri=0.1))
    with open(path, encoding="utf-8") as file:
        assert re.search(r"harakiri: GET / [\d.]+ s \(limit 0\.1 s\)", file.read())
    agent.stop()
    assert not os.path.exists(path)


def test_requests_that_differ_in_path_or_calls_are_no_repeats(base: str, logged: Logged) -> None:
    """Two views hang in the same line of a function that both call, and each has its report."""
    ends = threading.Event()

    def query() -> None:
        ends.wait(30)

    def one() -> None:
        query()

    def other() -> None:
        query()

    def view(request: WSGIEnvironment, _: StartResponse) -> Iterable[bytes]:
        (one if request["PATH_INFO"] == "/one" else other)()
        return []

    application = TracebackerMiddleware(view, base, harakiri=0.2)
    threads = [threading.Thread(target=serve, args=(application, environ(path))) for path in ("/one", "/other")]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(logged.of("harakiri")) == 2, "both are reported")
    finally:
        ends.set()
        for thread in threads:
            thread.join()


def test_two_hundred_overdue_at_once_are_soon_done(base: str, logged: Logged) -> None:
    """One is reported, the others are counted, and the callable gets all of them soon."""
    seen: list[float] = []
    ends = threading.Event()

    def view(_: WSGIEnvironment, __: StartResponse) -> Iterable[bytes]:
        ends.wait(30)
        return []

    application = TracebackerMiddleware(
        view, base, harakiri=0.5, on_harakiri=lambda report: seen.append(report.late_seconds)
    )
    threads = [threading.Thread(target=serve, args=(application, environ("/x"))) for _ in range(200)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(seen) == len(threads), "all of them were handed over")
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    assert len(logged.of("harakiri")) == 1
    assert max(seen) < 5.0


def test_a_limit_that_is_taken_away_ends_the_recording(base: str, logged: Logged) -> None:
    """It was slow and then exempted, so there is no report and no slow line."""
    from wsgi_tracebacker import set_harakiri

    def view(_: WSGIEnvironment, __: StartResponse) -> Iterable[bytes]:
        (agent_found,) = agent._agents.values()
        dog = agent_found.deadlines.watchdog
        assert dog is not None
        wait_until(lambda: dog._slow, "it is recorded")
        set_harakiri(0)
        dog.wake()
        wait_until(lambda: not dog._slow, "it is recorded no more")
        return []

    serve(TracebackerMiddleware(view, base, harakiri=1.0), environ("/exempt"))
    agent.stop()
    assert logged.of("harakiri") == []
    assert logged.of("slow") == []


def let_it_sleep() -> None:
    """Wait until the watchdog has checked: a stall that begins while it does is not noticed."""
    (found,) = agent._agents.values()
    dog = found.deadlines.watchdog
    assert dog is not None
    begun = time.monotonic()
    dog.wake()
    wait_until(lambda: dog.wakes_at < NEVER and dog._sleeps_at > begun, "the watchdog sleeps")


@needs_pydll
def test_python_that_could_not_run_is_one_line(base: str, logged: Logged) -> None:
    """It names the request that kept the GIL and is still in flight; that request is reported as overdue too."""
    # PyDLL calls with the GIL held.
    libc = ctypes.PyDLL(None)

    def hold(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        let_it_sleep()
        libc.usleep(3_000_000)
        wait_for(logged, "stall")
        wait_for(logged, "harakiri")
        start_response("200 OK", [])
        return [b""]

    serve(TracebackerMiddleware(hold, base, harakiri=1.5), environ("/hold"))
    [line] = logged.of("stall")
    pattern = (
        rf"stall: Python could not run for \d\.\d s, worker 1, pid {os.getpid()}; in flight were GET /hold \(\d\.\d s\)"
    )
    assert re.fullmatch(pattern, line)
    assert "Python could not run before" in logged.of("harakiri")[0]


@needs_pydll
def test_a_request_that_ended_before_python_ran_elsewhere_is_named(base: str, logged: Logged) -> None:
    """It kept the GIL until its end, so the stall's line names it, and there is no report."""
    libc = ctypes.PyDLL(None)

    def hold(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        let_it_sleep()
        libc.usleep(3_000_000)
        start_response("200 OK", [])
        return [b""]

    interval = sys.getswitchinterval()
    try:
        # Another thread asks for the GIL after that time, which is after the end of the request.
        sys.setswitchinterval(5.0)
        serve(TracebackerMiddleware(hold, base, harakiri=1.5), environ("/hold"))
    finally:
        sys.setswitchinterval(interval)
    [line] = wait_for(logged, "stall")
    assert line.endswith("; no request is in flight; ended meanwhile: GET /hold")
    assert logged.of("harakiri") == []


@only_on_cpython("PyPy's gc has no callbacks")
def test_garbage_collections_are_the_cause_of_what_they_take_the_time_of(base: str, logged: Logged) -> None:
    """They are measured while the request is recorded, and nothing of ours is called after it."""
    before = list(gc.callbacks)
    seen: list[int] = []

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        many = [[] for _ in range(200_000)]  # type: ignore[var-annotated]
        while not logged.reports:
            gc.collect()
        seen.append(len(gc.callbacks))
        start_response("200 OK", [])
        return [str(len(many)).encode()]

    wrapped = TracebackerMiddleware(application, base, slow=0.1, harakiri=1.5, on_harakiri=logged.reports.append)
    serve(wrapped, environ("/x"))
    wait_for(logged, "slow")
    [report] = logged.reports
    waits_for = report.request.waits_for
    assert waits_for is not None
    assert (waits_for.kind, waits_for.share is not None and waits_for.share >= 0.5) == ("garbage", True)
    assert f"  because: {waits_for.sentence}\n" in logged.of("harakiri")[0]
    assert seen == [len(before) + 1]
    wait_until(lambda: gc.callbacks == before, "the callback is removed")


def test_the_worker_s_memory_is_measured_when_a_request_becomes_slow_and_at_its_end(base: str, logged: Logged) -> None:
    """Of a request that loads much, both sizes are in its report and in its line."""
    held: list[bytes] = []

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        wait_until(lambda: logged.reports, "it is overdue at once")
        held.append(b"x" * (64 << 20))
        start_response("200 OK", [])
        return [b""]

    wrapped = TracebackerMiddleware(application, base, slow=0.1, harakiri=0.2, on_harakiri=logged.reports.append)
    serve(wrapped, environ("/x"))
    [line] = wait_for(logged, "slow")
    [content] = [content for name, _, content in logged.records if name.endswith("slow")]
    start, end = content["worker"]["memory"]["start_bytes"], content["worker"]["memory"]["end_bytes"]
    assert end - start > 32 << 20
    assert re.search(r"; memory \d\S* to \d\S*$", line)
    [report] = logged.reports
    assert report.memory.start_bytes == start


@only_on_cpython("what other threads wait for is not read from PyPy's frames")
def test_the_timeline_names_the_call_and_what_it_waited_for(base: str, logged: Logged) -> None:
    """Where the application waits for an entry of a queue, that is said, also after its end; no condition is named."""
    entries: queue.Queue[bytes] = queue.Queue()

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        content = entries.get()
        start_response("200 OK", [])
        return [content]

    def publish(report: HarakiriReport) -> None:
        logged.reports.append(report)
        entries.put(b"")

    serve(TracebackerMiddleware(application, base, slow=0.1, harakiri=0.9, on_harakiri=publish), environ("/x"))
    [line] = wait_for(logged, "slow")
    [report] = logged.reports
    [span] = report.timeline
    functions = [frame and frame.function.rpartition(".")[2] for frame in (span.application, span.call, span.innermost)]
    assert functions == ["application", "get", "wait"]
    assert report.request.waits_for is not None
    assert report.request.waits_for.kind == "queue"
    assert span.waits_for == report.request.waits_for.sentence
    assert re.search(r"> \S*queue\.py:\d+ (Queue\.)?get  \(waiting\)  waits for queue\.get", line)


@only_on_cpython("what other threads wait for is not read from PyPy's frames")
def test_a_cause_that_is_not_seen_at_the_last_look_counts_on_at_the_same_stack(
    base: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two tries of SQLite's for a lock, nothing is waited for at that moment."""
    entries: queue.Queue[bytes] = queue.Queue()
    find = WaitSources.find
    known: list[WaitsFor] = []

    def find_once(*arguments: Any, **keywords: Any) -> dict[Any, Any]:
        found = {} if known else find(*arguments, **keywords)
        known.extend(found.values())
        return found

    monkeypatch.setattr(WaitSources, "find", find_once)

    def application(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        content = entries.get()
        start_response("200 OK", [])
        return [content]

    def publish(report: HarakiriReport) -> None:
        logged.reports.append(report)
        entries.put(b"")

    serve(TracebackerMiddleware(application, base, slow=0.1, harakiri=1.5, on_harakiri=publish), environ("/x"))
    [report] = logged.reports
    assert [waits_for.kind for waits_for in known] == ["queue"]
    assert (report.request.waits_for, report.verdict.kind) == (known[0], "waiting")
