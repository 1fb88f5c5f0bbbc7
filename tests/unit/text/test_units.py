"""Durations, ages and counts for people."""

from __future__ import annotations

import pytest

from wsgi_tracebacker.text.units import age, duration, plural


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
    assert duration(seconds) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.25149, "0.251 s"), (0.9994, "0.999 s"), (30.04, "30.0 s")])
def test_a_short_age_has_more_digits(seconds: float, expected: str) -> None:
    """Of an age below a second milliseconds are shown."""
    assert age(seconds) == expected


@pytest.mark.parametrize(("count", "expected"), [(0, "0 requests"), (1, "1 request"), (2, "2 requests")])
def test_only_one_is_singular(count: int, expected: str) -> None:
    """As English has it."""
    assert plural(count, "request") == expected
