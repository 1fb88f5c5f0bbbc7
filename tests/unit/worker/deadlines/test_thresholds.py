"""When a request is slow and when overdue."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_tracebacker.worker.deadlines.thresholds import kill_deadline, thresholds
from wsgi_tracebacker.worker.options.settings import from_options
from wsgi_tracebacker.worker.tracking.core import APP, BODY, CLOSE, Core

NEVER = math.inf


def core(own: tuple[float, float, float | None, str] | None = None, **options: Any) -> Core:
    made = Core(0, 1, 2, None)
    made.settings = from_options(environment={}, **options)
    made.started = 100.0
    made.own_limit = own
    return made


@pytest.mark.parametrize(
    ("options", "own", "expected"),
    [
        ({}, None, (130, 160)),
        ({"harakiri": 0}, None, (NEVER, NEVER)),
        ({"harakiri": 30}, None, (115, 130)),
        ({"harakiri": 30, "slow": 5}, None, (105, 130)),
        ({"slow": 5}, None, (105, 160)),
        ({"harakiri": 0, "slow": 5}, None, (105, NEVER)),
        ({"harakiri": 30, "slow": 50}, None, (130, 130)),
        # Its own limit counts from when it was set: here at the age of 20.
        ({"harakiri": 30}, (100.0, 20.0, 10.0, "given"), (125, 130)),
        ({"harakiri": 30}, (100.0, 20.0, 60.0, "given"), (150, 180)),
        ({"harakiri": 30}, (100.0, 20.0, None, "given"), (NEVER, NEVER)),
        ({}, (100.0, 20.0, 4.0, "given"), (122, 124)),
        ({"slow": 5}, (100.0, 20.0, 4.0, "given"), (105, 124)),
        ({"slow": 5}, (100.0, 20.0, None, "given"), (105, NEVER)),
        # Of the request before this one.
        ({"harakiri": 30}, (50.0, 20.0, 1.0, "given"), (115, 130)),
    ],
)
def test_thresholds(
    options: dict[str, Any], own: tuple[float, float, float | None, str] | None, expected: tuple[float, float]
) -> None:
    """Slow is half of the limit if it is not given, and never later than the limit."""
    assert thresholds(core(own, **options), 100.0) == expected


@pytest.mark.parametrize(
    ("options", "phase", "gone", "expected"),
    [
        ({"harakiri": 30}, APP, (100.0, 10.0, 4.0), (112, 114)),
        # It never makes a limit longer.
        ({"harakiri": 30}, APP, (100.0, 29.0, 4.0), (115, 130)),
        ({"harakiri": 30}, APP, (100.0, 10.0, None), (115, 130)),
        # Of the request before this one.
        ({"harakiri": 30}, APP, (50.0, 10.0, 4.0), (115, 130)),
        ({"harakiri": 0}, APP, (100.0, 10.0, 4.0), (112, 114)),
        # By default a body has no limit.
        ({}, BODY, (100.0, 90.0, 4.0), (192, 194)),
        ({}, APP, (100.0, 10.0, 4.0), (112, 114)),
    ],
)
def test_a_client_that_has_gone_leaves_little_time(
    options: dict[str, Any], phase: int, gone: tuple[float, float, float | None], expected: tuple[float, float]
) -> None:
    """From when that is seen, and also to a request without a limit; with kill, it may be killed for it."""
    left = core(harakiri_action="kill", **options)
    left.phase, left.client_gone = phase, gone
    assert thresholds(left, 100.0) == expected
    assert kill_deadline(left, 100.0) == expected[1]


SECONDS = st.one_of(st.none(), st.floats(0.001, 1e6))


@given(SECONDS, SECONDS, st.one_of(st.none(), st.tuples(st.just(100.0), st.floats(0, 1e6), SECONDS, st.just("given"))))
def test_slow_never_comes_after_overdue(
    harakiri: float | None, slow: float | None, own: tuple[float, float, float | None, str] | None
) -> None:
    """Neither is before the start of the request."""
    slow_at, overdue_at = thresholds(core(own, harakiri=harakiri, slow=slow), 100.0)
    assert 100.0 <= slow_at <= overdue_at
    if slow is not None or overdue_at != NEVER:
        assert slow_at < NEVER


@pytest.mark.parametrize("phase", [BODY, CLOSE])
def test_the_default_limit_is_for_the_callable(phase: int) -> None:
    """A body may last, unless somebody gave a limit: downloads and server-sent events do."""
    streaming, limited, own = core(), core(harakiri=60), core((100.0, 20.0, 4.0, "given"))
    for each in (streaming, limited, own):
        each.phase = phase
    assert thresholds(streaming, 100.0) == (NEVER, NEVER)
    assert thresholds(limited, 100.0) == (130, 160)
    assert thresholds(own, 100.0) == (122, 124)


def test_the_default_limit_is_not_for_websockets() -> None:
    """They last; one that was given counts."""
    for made, overdue_at in ((core(), NEVER), (core(harakiri=30), 130)):
        made.environ = {"HTTP_UPGRADE": "WebSocket"}
        assert thresholds(made, 100.0)[1] == overdue_at


def test_no_process_is_killed_for_the_default_limit() -> None:
    """Only for one that was given, by an option or by the request itself."""
    assert kill_deadline(core(harakiri_action="kill"), 100.0) == NEVER
    assert kill_deadline(core(harakiri_action="kill", harakiri=60), 100.0) == 160
    assert kill_deadline(core((100.0, 20.0, 4.0, "given"), harakiri_action="kill"), 100.0) == 124


def test_no_request_has_no_thresholds() -> None:
    """An idle core and one of a stopped agent have none."""
    assert thresholds(core(harakiri=1), 0.0) == (NEVER, NEVER)
    assert thresholds(core(harakiri=1), -1.0) == (NEVER, NEVER)
