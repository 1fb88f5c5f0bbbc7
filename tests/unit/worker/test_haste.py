"""The switch interval is lowered where that helps, and put back in any case."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from wsgi_tracebacker.worker.haste import Haste, SwitchInterval

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_an_interval_that_the_application_sets_is_kept() -> None:
    """A value that somebody set while ours was in force is not overwritten."""
    before = sys.getswitchinterval()
    interval = SwitchInterval()
    try:
        interval.lower()
        interval.lower()
        sys.setswitchinterval(0.02)
        interval.restore()
        assert sys.getswitchinterval() == pytest.approx(0.02)
        sys.setswitchinterval(before)
        interval.lower()
        interval.restore()
        interval.restore()
        assert sys.getswitchinterval() == before
    finally:
        sys.setswitchinterval(before)


DEFAULT_INTERVAL, OFTEN_SECONDS = 0.005, 0.01


class Served:
    """Clients come often, for a hundred times; each call of theirs takes so long without our haste."""

    def __init__(self, call_seconds: float) -> None:
        self.haste = Haste()
        self.now = 100.0
        self.call_seconds = call_seconds
        #: Of each: whether it was in haste from its beginning, and at its end.
        self.in_haste: list[tuple[bool, bool]] = []
        for _ in range(100):
            self.one(OFTEN_SECONDS)

    def one(self, after_seconds: float) -> None:
        self.now += after_seconds
        self.haste.begin(self.now)
        began = sys.getswitchinterval() < DEFAULT_INTERVAL
        for _ in range(3):
            self.haste.waited(self.call_seconds)
        self.in_haste.append((began, sys.getswitchinterval() < DEFAULT_INTERVAL))
        self.haste.end()
        assert sys.getswitchinterval() == DEFAULT_INTERVAL


@pytest.fixture
def default_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(DEFAULT_INTERVAL)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("default_interval")
def test_where_the_gil_comes_back_soon_anyhow_nothing_is_hastened() -> None:
    """Beside threads that let go of it all the time; but who comes alone is served in haste, as nothing is known."""
    served = Served(0.0003)
    assert served.in_haste[0] == (True, True)
    assert served.in_haste[6:] == [(False, False)] * 94
    served.one(after_seconds=2.0)
    assert served.in_haste[-1] == (True, True)


@pytest.mark.usefixtures("default_interval")
def test_where_the_gil_takes_its_time_most_are_served_in_haste() -> None:
    """Beside threads that compute: one in five is measured by its first call, and hastened for the others."""
    served = Served(DEFAULT_INTERVAL)
    assert sum(began for began, _ in served.in_haste) >= 75
    assert all(ended for _, ended in served.in_haste)
