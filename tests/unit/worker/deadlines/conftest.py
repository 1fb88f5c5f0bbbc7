"""What tests of deadlines share: the lines that are logged."""

from __future__ import annotations

import pytest

from tests.unit.worker.deadlines.test_watchdog import Logged
from wsgi_tracebacker.worker.reporting import logs, reporter


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Logged:
    made = Logged()
    monkeypatch.setattr(logs, "emit", made.emit)
    # On a machine that stands still for a moment, logging seems to hang.
    monkeypatch.setattr(reporter, "HANGS_AFTER_SECONDS", 60.0)
    return made
