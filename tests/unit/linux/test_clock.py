"""Requests are measured with a clock that no test and no tool of the application replaces."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any
from unittest import mock

import freezegun
import pytest

from tests.support.interpreters import only_on_cpython
from tests.unit.wsgi import environ, request_in_flight, serve
from wsgi_tracebacker import HarakiriReport, TracebackerMiddleware
from wsgi_tracebacker.linux import clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

FAR_AWAY = "2031-05-05 12:00:00"


def mocked() -> AbstractContextManager[Any]:
    replaced = ExitStack()
    for name in ("monotonic", "time", "strftime", "clock_gettime"):
        replaced.enter_context(mock.patch(f"time.{name}", return_value=1.0))
    return replaced


TOOLS = pytest.mark.parametrize(
    "replaced",
    [
        lambda: freezegun.freeze_time(FAR_AWAY),
        pytest.param(
            lambda: freezegun.freeze_time(FAR_AWAY, tick=True),
            marks=only_on_cpython("freezegun's clock ticks on CPython only"),
        ),
        lambda: pytest.importorskip("time_machine").travel(FAR_AWAY, tick=False),
        mocked,
    ],
    ids=["freezegun", "freezegun that ticks", "time-machine", "mock"],
)


@TOOLS
def test_the_monotonic_clock_goes_on(replaced: Callable[[], AbstractContextManager[Any]]) -> None:
    """In real seconds, from where it was."""
    before = clock.monotonic()
    with replaced():
        within = clock.monotonic()
    assert before < within < clock.monotonic() < before + 60


@pytest.mark.parametrize("tool", [lambda: freezegun.freeze_time(FAR_AWAY), mocked], ids=["freezegun", "mock"])
def test_dates_are_real(tool: Callable[[], AbstractContextManager[Any]]) -> None:
    """Those in the stacks file and in a snapshot, too. (time-machine replaces the C code of the wall clock.)"""
    before = clock.unix_time()
    with tool():
        assert before <= clock.unix_time() < before + 60
        assert clock.strftime("%Y") != "2031"


@TOOLS
def test_a_request_that_began_before_has_its_real_age(
    replaced: Callable[[], AbstractContextManager[Any]], base: str
) -> None:
    """It is not overdue because a test froze the clock meanwhile."""
    called, go, reports = threading.Event(), threading.Event(), list[HarakiriReport]()

    def wait_for_the_test(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        called.set()
        go.wait(30)
        start_response("200 OK", [])
        return [b""]

    application = TracebackerMiddleware(wait_for_the_test, base, harakiri=60, on_harakiri=reports.append)
    serving = threading.Thread(target=serve, args=(application, environ("/wait")))
    serving.start()
    try:
        assert called.wait(30)
        with replaced():
            request = request_in_flight(base)
    finally:
        go.set()
        serving.join()
    assert 0 <= request["age_seconds"] < 30
    assert reports == []


@TOOLS
def test_a_request_that_begins_meanwhile_is_reported(
    replaced: Callable[[], AbstractContextManager[Any]], base: str
) -> None:
    """After its limit, in real seconds."""
    reports: list[HarakiriReport] = []
    reported = threading.Event()

    def on_harakiri(report: HarakiriReport) -> None:
        reports.append(report)
        reported.set()

    def wait_for_the_report(_: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        reported.wait(30)
        start_response("200 OK", [])
        return [b""]

    application = TracebackerMiddleware(wait_for_the_report, base, harakiri=0.3, on_harakiri=on_harakiri)
    with replaced():
        assert serve(application, environ("/wait")).error is None
    assert 0.3 <= reports[0].request.age_seconds < 30


def test_it_costs_what_the_clock_of_time_costs() -> None:
    """The same C function in another object, no wrapper, where the interpreter allows that."""
    assert clock.monotonic is not time.monotonic
    assert abs(clock.monotonic() - time.monotonic()) < 60
