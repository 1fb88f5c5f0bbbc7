"""How long a request waited before it got here, by what a proxy says in a header."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.unit.wsgi import environ, request_in_flight, serve
from wsgi_tracebacker import TracebackerMiddleware


def queued(base: str, **headers: Any) -> Any:
    """What a snapshot says of a request with these headers."""
    found: list[Any] = []

    def application(_: object, __: object) -> list[bytes]:
        found.append(request_in_flight(base)["queued_seconds"])
        return []

    assert serve(TracebackerMiddleware(application, base, harakiri=30), environ("/", **headers)).error is None
    return found[0]


@pytest.mark.parametrize("header", ["HTTP_X_REQUEST_START", "HTTP_X_QUEUE_START"])
@pytest.mark.parametrize("spelling", ["{:.3f}", "t={:.3f}", "{:.0f}", "t={:.0f}", " t= {:.0f} "])
@pytest.mark.parametrize("ticks_per_second", [1, 10**3, 10**6])
def test_all_spellings_are_known(header: str, spelling: str, ticks_per_second: int, base: str) -> None:
    """Seconds, milliseconds and microseconds, with and without `t=`, with and without a fraction."""
    found = queued(base, **{header: spelling.format((time.time() - 100) * ticks_per_second)})
    assert found == pytest.approx(100, abs=2)


def test_it_is_never_negative(base: str) -> None:
    """A proxy's clock may be ahead."""
    assert queued(base, HTTP_X_REQUEST_START=f"t={time.time() + 100:.3f}") == 0.0


@pytest.mark.parametrize(
    "value",
    ["", "t=", "soon", "-1795979586", "1", "0" * 10, "1" * 11, "t=1e9", "9" * 5000, "t=1795979586,t=1795979587", 7],
)
def test_anything_else_is_not_known(value: object, base: str) -> None:
    """A hostile client may send anything; more than an hour is a wrong clock."""
    assert queued(base, HTTP_X_REQUEST_START=value) is None


def test_the_second_header_counts_if_the_first_is_wrong(base: str) -> None:
    """Only one of them may come from the proxy."""
    assert queued(base, HTTP_X_REQUEST_START="soon", HTTP_X_QUEUE_START=f"{time.time() - 7:.3f}") == pytest.approx(
        7, abs=2
    )


def test_it_is_not_a_part_of_the_age(base: str) -> None:
    """So it shortens no limit; a call within the request has none of its own."""
    found: list[Any] = []

    def inner(_: object, __: object) -> list[bytes]:
        found.append(request_in_flight(base))
        return []

    def application(request: dict[str, Any], _: object) -> list[bytes]:
        serve(
            TracebackerMiddleware(inner, base), environ("/inner", HTTP_X_REQUEST_START=request["HTTP_X_REQUEST_START"])
        )
        return []

    serve(TracebackerMiddleware(application, base), environ(HTTP_X_REQUEST_START=f"{time.time() - 100:.3f}"))
    [request] = found
    assert request["age_seconds"] < 50 < request["queued_seconds"]
    assert [nested["queued_seconds"] for nested in request["nested"]] == [None]
