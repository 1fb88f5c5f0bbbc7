"""The switch interval is lowered for a moment, and restored in any case."""

from __future__ import annotations

import sys

import pytest

from wsgi_tracebacker.worker.listening.switch_interval import SwitchInterval


def test_an_interval_that_the_application_sets_is_kept() -> None:
    """A value that somebody else has set meanwhile is not overwritten."""
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
